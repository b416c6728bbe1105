"""fastjmix.config: the effect of each key of the reference, and of those that it lacks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from fastjmix import config
from fastjmix.config import Credentials, tree
from fastjmix.jmix.write import profiles
from tests.support.configs import HARMONY, ROOT, loaded, written

RECEIVER = "endpoints.dicom_receiver"


def header(credentials: Credentials | None) -> tuple[str, str]:
    assert credentials is not None
    return credentials.header()


# -- whole files -----------------------------------------------------------------------------------


def test_a_harmony_instances_files_load_unmodified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = config.load(HARMONY / "config.toml")
    assert found.name == "harmony-dicom-to-jmix"
    assert found.source == HARMONY / "config.toml"
    assert found.storage_dir == ROOT / "tmp"
    assert found.log == config.LogSettings("debug", ROOT / "tmp" / "harmony_dicom_to_jmix.log")
    (dicom,) = found.dicom
    assert (dicom.pipeline, dicom.endpoint) == ("dicom_to_jmix", "dicom_receiver")
    assert (dicom.host, dicom.port, dicom.ae_title) == ("0.0.0.0", 11113, "JMIX_RECEIVER")
    assert (dicom.max_pdu, dicom.enable_store, dicom.enable_echo) == (32768, True, True)
    assert (dicom.calling, dicom.max_associations, dicom.ack) == (None, 64, "stored")
    assert not dicom.accept_any_called_aet
    assert (dicom.builder.skip_hashing, dicom.builder.skip_listing) == (True, False)
    assert dicom.upstreams[0] == config.Upstream(
        name="jmix_upstream",
        url="https://jmix.example.com:443/api/jmix",
        timeout_secs=300,
        max_retries=3,
        ca_file=None,
        transfer_encoding="auto",
        require_matching_id=False,
        credentials=None,
    )
    (http,) = found.http
    assert (http.pipeline, http.endpoint) == ("jmix_query", "jmix_http")
    assert (http.host, http.port, http.path_prefix) == ("127.0.0.1", 8086, "/jmix")
    assert (http.cert_file, http.key_file, http.credentials) == (None, None, None)
    assert http.upstreams == dicom.upstreams
    assert not http.allow_unauthenticated
    assert found.warnings == ()
    assert found.ignored == (
        "proxy.primary_provider",
        "provider.runbeam",
        "network.dicom_net.interface",
        "network.http_net.interface",
        "services",
        "middleware_types",
    )


def test_our_own_files_write_out_the_defaults(tmp_path: Path) -> None:
    """They have the same effect as a configuration with the fewest keys."""
    ours = config.load(ROOT / "config.toml")
    least = tmp_path / "config.toml"
    least.write_text(
        """
        proxy.id = "fastjmix"
        network.net = {}
        endpoints.dicom_receiver.service = "dicom_scp"
        endpoints.jmix_http.service = "jmix"
        middleware.b.type = "jmix_builder"
        backends.jmix_upstream.service = "jmix_backend"
        backends.jmix_upstream.connection.host = "jmix.example.com"
        backends.jmix_upstream.connection.protocol = "https"
        backends.jmix_upstream.timeout_secs = 300
        [pipelines.dicom_to_jmix]
        networks = ["net"]
        endpoints = ["dicom_receiver"]
        middleware = ["b"]
        backends = ["jmix_upstream"]
        [pipelines.jmix_query]
        networks = ["net"]
        endpoints = ["jmix_http"]
        """
    )
    found = config.load(least)
    assert dataclasses.replace(found, source=ours.source, log=ours.log) == ours
    assert ours.log == config.LogSettings("info", Path("tmp/fastjmix.log").absolute())
    assert found.log == config.LogSettings("info", None)
    assert (ours.ignored, ours.warnings) == ((), ())
    (dicom,), (http,) = ours.dicom, ours.http
    assert (dicom.host, dicom.port, dicom.max_pdu) == ("0.0.0.0", 11113, 131072)
    assert (http.host, http.port, http.path_prefix) == ("127.0.0.1", 8086, "/jmix")
    assert ours.runtime.packers == max(1, len(os.sched_getaffinity(0)) // 2)
    assert ours.runtime == config.Runtime(
        receivers=1,
        packers=ours.runtime.packers,
        lane_bytes=8 << 20,
        grace_secs=10.0,
        drain_secs=900.0,
        retention_secs=30 * 86400.0,
        retention_bytes=50 << 30,
        queue_alarm_secs=3600.0,
    )
    assert dicom.builder == config.Builder(
        profile="harmony",
        digest="sha256",
        skip_hashing=False,
        skip_listing=False,
        durability="fsync",
        release_grace_secs=1.0,
        quiet_secs=30.0,
        max_envelope_bytes=4 << 30,
        max_envelope_instances=10000,
    )


# -- the reference's snippets, as written ----------------------------------------------------------


@pytest.mark.parametrize("base", [HARMONY, ROOT], ids=["harmony", "ours"])
class TestReferenceSnippets:
    def test_dicom_endpoint(self, tmp_path: Path, base: Path) -> None:
        snippet = """
            [endpoints.dicom_receiver.options]
            local_aet = "YOUR_AE_TITLE"
            max_pdu = 32768
            enable_store = true
            enable_echo = true
        """
        (dicom,) = loaded(tmp_path, snippet, base=base).dicom
        assert (dicom.ae_title, dicom.max_pdu) == ("YOUR_AE_TITLE", 32768)

    def test_upstream_server(self, tmp_path: Path, base: Path) -> None:
        snippet = """
            [targets.upstream_jmix]
            connection.host = "your-jmix-server.example.com"
            connection.port = 443
            connection.protocol = "https"
            timeout_secs = 300
        """
        (dicom,) = loaded(tmp_path, snippet, base=base).dicom
        assert dicom.upstreams[0].url == "https://your-jmix-server.example.com:443/api/jmix"
        assert dicom.upstreams[0].timeout_secs == 300

    def test_performance_flags(self, tmp_path: Path, base: Path) -> None:
        snippet = """
            [middleware.jmix_builder.options]
            skip_hashing = true
            skip_listing = true
        """
        (dicom,) = loaded(tmp_path, snippet, base=base).dicom
        assert (dicom.builder.skip_hashing, dicom.builder.skip_listing) == (True, True)

    def test_pdu_size(self, tmp_path: Path, base: Path) -> None:
        snippet = "[endpoints.dicom_receiver.options]\nmax_pdu = 65536"
        found = loaded(tmp_path, snippet, base=base)
        assert (found.dicom[0].max_pdu, found.warnings) == (65536, ())

    def test_authentication(self, tmp_path: Path, base: Path) -> None:
        snippet = """
            [authentications.jmix_auth]
            id = "jmix_auth"
            method = "bearer"
            [authentications.jmix_auth.options]
            token = "your-api-token"
            [backends.jmix_upstream.options]
            authentication_ref = "jmix_auth"
        """
        (dicom,) = loaded(tmp_path, snippet, base=base).dicom
        assert header(dicom.upstreams[0].credentials) == ("Authorization", "Bearer your-api-token")

    def test_aet_table(self, tmp_path: Path, base: Path) -> None:
        snippet = """
            [endpoints.dicom_receiver.options.aet_table]
            MODALITY_CT = { ae_title = "MODALITY_CT", host = "ct.local", port = 104 }
            MODALITY_MR = { ae_title = "MODALITY_MR", host = "mr.local", port = 104 }
        """
        (dicom,) = loaded(tmp_path, snippet, base=base).dicom
        assert dicom.calling is not None
        assert list(dicom.calling) == ["MODALITY_CT", "MODALITY_MR"]
        assert dicom.calling["MODALITY_CT"] == config.CallingAe(
            "MODALITY_CT", "ct.local", 104, None, dicom.builder
        )


# -- rows of the key table: proxy, logging, storage ------------------------------------------------


def test_names(tmp_path: Path) -> None:
    assert loaded(tmp_path, 'proxy.id = "an-id"').name == "harmony-dicom-to-jmix"
    assert loaded(tmp_path, 'proxy.id = "an-id"', "proxy.name").name == "an-id"


def test_pipelines_path_is_relative_to_the_file_or_absolute(tmp_path: Path) -> None:
    main = written(tmp_path / "a", 'proxy.pipelines_path = "other"')
    (tmp_path / "a" / "pipelines").rename(tmp_path / "a" / "other")
    assert len(config.load(main).dicom) == 1
    absolute = f'proxy.pipelines_path = "{tmp_path / "a" / "other"}"'
    main = written(tmp_path / "b", absolute)
    (tmp_path / "b" / "pipelines" / "dicom-to-jmix.toml").unlink()
    assert len(config.load(main).dicom) == 1


def test_pipelines_may_stand_in_the_main_file(tmp_path: Path) -> None:
    main = written(tmp_path)
    rest = tmp_path / "pipelines" / "dicom-to-jmix.toml"
    main.write_text(main.read_text() + rest.read_text())
    rest.unlink()
    rest.parent.rmdir()
    assert len(config.load(main).dicom) == 1


def test_main_file_may_stand_among_its_pipelines(tmp_path: Path) -> None:
    main = written(tmp_path, 'proxy.pipelines_path = "."')
    (tmp_path / "pipelines" / "dicom-to-jmix.toml").rename(tmp_path / "p.toml")
    (tmp_path / ".hidden.toml").write_text("not TOML at all")
    (tmp_path / "notes.txt").write_text("nor this")
    assert len(config.load(main).dicom) == 1


def test_log_level(tmp_path: Path) -> None:
    assert loaded(tmp_path).log.level == "debug"
    assert loaded(tmp_path, 'logging.log_level = "warn"').log.level == "warn"
    assert loaded(tmp_path, without="proxy.log_level").log.level == "info"
    for level in get_args(tree.LogLevel):
        assert loaded(tmp_path, f'proxy.log_level = "{level}"').log.level == level


def test_paths_are_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = written(tmp_path / "etc", 'storage.options.path = "data"')
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = config.load(main)
    assert found.storage_dir == tmp_path / "here" / "data"
    assert found.log.file == tmp_path / "here" / "tmp" / "harmony_dicom_to_jmix.log"


def test_log_file_only_when_asked_for(tmp_path: Path) -> None:
    assert loaded(tmp_path, "logging.log_to_file = false").log.file is None


# -- rows: addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["tcp_config", "http"])
def test_network_table_by_either_name(tmp_path: Path, table: str) -> None:
    found = loaded(
        tmp_path,
        f'network.n.{table}.bind_address = "127.0.0.9"\nnetwork.n.{table}.bind_port = 2000\n'
        'pipelines.jmix_query.networks = ["n"]',
        "network.http_net",
    )
    assert (found.http[0].host, found.http[0].port) == ("127.0.0.9", 2000)


def test_precedence_of_dicom_address_and_port(tmp_path: Path) -> None:
    steps = [
        ("", "network.dicom_net.tcp_config peers.dicom_listener.connection", "0.0.0.0", 11113),
        (
            'network.dicom_net.tcp_config = {bind_address = "10.0.0.1", bind_port = 1001}\n',
            "peers.dicom_listener.connection",
            "10.0.0.1",
            1001,
        ),
        (
            'peers.dicom_listener.connection = {host = "10.0.0.2", port = 1002}\n',
            "",
            "10.0.0.2",
            1002,
        ),
        ('endpoints.dicom_receiver.connection = {host = "10.0.0.3"}\n', "", "10.0.0.3", 1002),
        ("endpoints.dicom_receiver.options.port = 1004\n", "", "10.0.0.3", 1004),
        ('endpoints.dicom_receiver.options.bind_addr = "::1"\n', "", "::1", 1004),
    ]
    said = ""
    for change, without, host, port in steps:
        said += change
        (dicom,) = loaded(tmp_path, said, without).dicom
        assert (dicom.host, dicom.port) == (host, port)
    warnings = loaded(tmp_path, said).warnings
    assert (
        "endpoints.dicom_receiver: the port is 1004 (endpoints.dicom_receiver.options), "
        "not 1001 (network.dicom_net.tcp_config)" in warnings
    )
    assert len(warnings) == 5  # hosts: three lose; ports: two


def test_http_address_of_endpoint_and_peer(tmp_path: Path) -> None:
    peer = 'peers.p.connection = {host = "127.0.0.2", port = 2001}\n'
    refer = 'endpoints.jmix_http.peer_ref = "p"\n'
    (http,) = loaded(tmp_path, peer + refer).http
    assert (http.host, http.port) == ("127.0.0.2", 2001)
    own = 'endpoints.jmix_http.connection.host = "localhost"\n'
    (http,) = loaded(tmp_path, peer + refer + own).http
    assert (http.host, http.port) == ("localhost", 2001)


def test_port_zero_lets_the_system_choose(tmp_path: Path) -> None:
    changes = "network.http_net.http.bind_port = 0\nendpoints.dicom_receiver.options.port = 0"
    found = loaded(tmp_path, changes)
    assert (found.dicom[0].port, found.http[0].port) == (0, 0)


def test_an_endpoint_listens_on_each_network_of_its_pipeline(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        'network.second.tcp_config = {bind_address = "127.0.0.3", bind_port = 11114}\n'
        'pipelines.dicom_to_jmix.networks = ["dicom_net", "network.second"]',
        f"{RECEIVER}.peer_ref",
    )
    assert [(one.host, one.port) for one in found.dicom] == [
        ("0.0.0.0", 11113),
        ("127.0.0.3", 11114),
    ]


def test_several_pipelines_of_each_kind(tmp_path: Path) -> None:
    main = written(tmp_path)
    (tmp_path / "pipelines" / "another.toml").write_text(
        """
        [network.n1.tcp_config]
        bind_port = 11200
        [network.n2.http]
        bind_port = 8200
        [targets.other]
        connection = { host = "other.example.com", protocol = "https" }
        [pipelines.a_dicom]
        networks = ["n1"]
        endpoints = ["a_receiver"]
        middleware = ["a_builder"]
        backends = ["a_upstream"]
        [pipelines.a_query]
        networks = ["n2"]
        endpoints = ["a_http"]
        backends = ["a_upstream"]
        [endpoints.a_receiver]
        service = "dicom_scp"
        [endpoints.a_http]
        service = "jmix"
        [middleware.a_builder]
        type = "jmix_builder"
        [backends.a_upstream]
        service = "jmix_backend"
        target_ref = "targets.other"
        """
    )
    found = config.load(main)
    assert [(one.endpoint, one.port) for one in found.dicom] == [
        ("a_receiver", 11200),
        ("dicom_receiver", 11113),
    ]
    urls = {one.endpoint: one.upstreams[0].url for one in found.http}
    assert urls == {
        "a_http": "https://other.example.com:443/api/jmix",
        # without backends of its own: the upstream of the first DICOM pipeline
        "jmix_http": "https://other.example.com:443/api/jmix",
    }


def test_query_api_alone_has_no_upstream(tmp_path: Path) -> None:
    without = "pipelines.dicom_to_jmix endpoints.dicom_receiver backends.jmix_upstream"
    found = loaded(tmp_path, without=without)
    assert (found.dicom, found.http[0].upstreams) == ((), ())


# -- rows: DICOM -----------------------------------------------------------------------------------

DicomCheck = Callable[[config.DicomListener], bool]


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ('local_aet = "  PADDED  "', lambda one: one.ae_title == "PADDED"),
        ('local_aet = "16_CHARACTERS_AB"', lambda one: one.ae_title == "16_CHARACTERS_AB"),
        ("enable_store = false", lambda one: not one.enable_store and one.enable_echo),
        ("enable_echo = false", lambda one: one.enable_store and not one.enable_echo),
        ("max_associations = 3", lambda one: one.max_associations == 3),
        ('ack = "uploaded"', lambda one: one.ack == "uploaded"),
        ("accept_any_called_aet = true", lambda one: one.accept_any_called_aet),
        ("max_pdu = 16384", lambda one: one.max_pdu == 16384),
        ("", lambda one: one.limits == config.PeerLimits(30.0, 60.0, 300.0, 1000, 512)),
        ("acse_timeout_secs = 1", lambda one: one.limits.acse_timeout_secs == 1),
        ("dimse_timeout_secs = 86400", lambda one: one.limits.dimse_timeout_secs == 86400),
        ("network_timeout_secs = 1.5", lambda one: one.limits.network_timeout_secs == 1.5),
        ("min_bytes_per_sec = 0", lambda one: one.limits.min_bytes_per_sec == 0),
        ("max_half_open = 4096", lambda one: one.limits.max_half_open == 4096),
    ],
)
def test_dicom_options(tmp_path: Path, change: str, holds: DicomCheck) -> None:
    found = loaded(tmp_path, f"[{RECEIVER}.options]\n{change}")
    assert holds(found.dicom[0])
    assert found.warnings == ()


@pytest.mark.parametrize("size", [4096, 16383, 131073, 1048576])
def test_unusual_max_pdu_is_accepted_with_a_warning(tmp_path: Path, size: int) -> None:
    found = loaded(tmp_path, f"{RECEIVER}.options.max_pdu = {size}")
    assert found.dicom[0].max_pdu == size
    assert len(found.warnings) == 1
    assert str(size) in found.warnings[0]


def test_aet_table_overrides(tmp_path: Path) -> None:
    (dicom,) = loaded(
        tmp_path,
        """
        [endpoints.dicom_receiver.options.aet_table.SLOW]
        ae_title = " SLOW_US "
        skip_hashing = false
        skip_listing = true
        profile = "harmony"
        release_grace_secs = 20
        quiet_secs = 300.5
        max_associations = 2
        [endpoints.dicom_receiver.options.aet_table.CT1]
        """,
    ).dicom
    assert dicom.calling is not None
    assert list(dicom.calling) == ["SLOW_US", "CT1"]  # an entry's own name is its AE title
    slow = dicom.calling["SLOW_US"]
    assert (slow.ae_title, slow.host, slow.port, slow.max_associations) == (
        "SLOW_US",
        None,
        None,
        2,
    )
    assert slow.builder == dataclasses.replace(
        dicom.builder,
        skip_hashing=False,
        skip_listing=True,
        release_grace_secs=20,
        quiet_secs=300.5,
    )
    assert dicom.calling["CT1"].builder == dicom.builder


def test_empty_aet_table_lets_everybody_in_and_says_so(tmp_path: Path) -> None:
    found = loaded(tmp_path, f"[{RECEIVER}.options.aet_table]")
    assert found.dicom[0].calling is None
    assert any("aet_table" in warning for warning in found.warnings)


def test_middleware_as_left_and_right(tmp_path: Path) -> None:
    chain = 'pipelines.dicom_to_jmix.middleware = {left = ["jmix_builder"], right = ["passthru"]}'
    assert loaded(tmp_path, chain).dicom[0].builder.skip_hashing
    chain = 'pipelines.dicom_to_jmix.middleware = {right = ["middleware.jmix_builder"]}'
    assert loaded(tmp_path, chain).dicom[0].builder.skip_hashing


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ('digest = "blake3"', "digest", "blake3"),
        ('durability = "page-cache"', "durability", "page-cache"),
        ('profile = "harmony"', "profile", "harmony"),
        ("release_grace_secs = 0", "release_grace_secs", 0.0),
        ("quiet_secs = 5", "quiet_secs", 5.0),
        ("max_envelope_bytes = 1000000", "max_envelope_bytes", 1000000),
        ("max_envelope_instances = 1", "max_envelope_instances", 1),
    ],
)
def test_builder_options(tmp_path: Path, change: str, field: str, value: object) -> None:
    found = loaded(tmp_path, f"[middleware.jmix_builder.options]\n{change}")
    assert getattr(found.dicom[0].builder, field) == value


def test_profile_names_are_those_that_exist() -> None:
    assert get_args(tree.ProfileName) == profiles.NAMES


# -- rows: fastjmix --------------------------------------------------------------------------------


def test_runtime_and_retention(tmp_path: Path) -> None:
    changes = """
        [fastjmix]
        receivers = 2
        packers = 3
        lane_bytes = 1048576
        grace_secs = 0.5
        drain_secs = 7.5
        queue_alarm_secs = 60
        retention = { max_age_days = 0.5, max_bytes = 0 }
    """
    assert loaded(tmp_path, changes).runtime == config.Runtime(
        2, 3, 1 << 20, 0.5, 7.5, 43200.0, 0, 60
    )
    changes = 'fastjmix.retention = { max_age_days = "unlimited", max_bytes = "unlimited" }'
    runtime = loaded(tmp_path, changes).runtime
    assert (runtime.retention_secs, runtime.retention_bytes) == (None, None)


def test_ledger(tmp_path: Path) -> None:
    defaults = config.LedgerSettings(3650 * 86400.0, 10 << 30, patient_data=True)
    assert loaded(tmp_path, "").ledger == defaults
    changes = """
        [fastjmix.ledger]
        max_age_days = "unlimited"
        max_bytes = 1048576
        patient_data = false
    """
    assert loaded(tmp_path, changes).ledger == config.LedgerSettings(None, 1 << 20, False)


def test_alerts(tmp_path: Path) -> None:
    assert loaded(tmp_path, "").alerts == config.AlertSettings()
    changes = """
        [alerts]
        webhook_url = "https://hooks.example/T0/B0?key=x"
        format = "slack"
        every_secs = 60
    """
    found = loaded(tmp_path, changes)
    url = config.Secret("https://hooks.example/T0/B0?key=x")
    assert found.alerts == config.AlertSettings(url, "slack", 60.0)
    assert found.without_upstream_secrets().alerts.webhook_url
    assert not found.without_secrets().alerts.webhook_url


@pytest.mark.parametrize("url", ["hooks.example", "ftp://a/", "https:///x", "https://a/ b"])
def test_a_webhook_is_a_url(tmp_path: Path, url: str) -> None:
    with pytest.raises(config.ConfigError, match=r"(?s)webhook_url.*http or https"):
        loaded(tmp_path, f'[alerts]\nwebhook_url = "{url}"')


# -- accepted without meaning ----------------------------------------------------------------------


def test_accepted_keys_are_named(tmp_path: Path) -> None:
    accepted = """
        proxy.transforms_path = "t"
        proxy.jwks_cache_duration_hours = 24
        proxy.required_env_vars = ["A"]
        proxy.sensitive_field_patterns = ["x"]
        proxy.content_limits = {max_body_size = 1, max_csv_rows = 1, max_xml_depth = 1, \
max_multipart_files = 1, max_form_fields = 1}
        runbeam = {enabled = false, cloud_api_base_url = "x", poll_interval_secs = 1}
        management = {enabled = true, base_path = "admin", network = "http_net"}
        network.http_net.http.force_https = false
        network.http_net.http3 = {anything = 1}
        peers.dicom_listener.timeout_secs = 30
        peers.dicom_listener.max_retries = 3
        peers.dicom_listener.connection.base_path = "/"
        peers.dicom_listener.connection.ca_cert_path = "/x"
        endpoints.dicom_receiver.authentication = "x"
        endpoints.dicom_receiver.options.storage_dir = "x"
        endpoints.dicom_receiver.options.aet = "x"
        endpoints.dicom_receiver.options.incoming_store_port = 1
        endpoints.dicom_receiver.options.persistent_store_scp = true
        endpoints.dicom_receiver.options.use_dcmtk_store = true
        endpoints.jmix_http.options.skip_hashing = true
        endpoints.jmix_http.options.skip_listing = true
        endpoints.jmix_http.options.store_dir = "x"
        middleware.jmix_builder.options.store_dir = "x"
        backends.jmix_upstream.targets = ["upstream_jmix"]
    """
    ignored = set(loaded(tmp_path, accepted).ignored)
    for line in accepted.replace("\\\n", "").splitlines():
        key = line.partition("=")[0].strip()
        assert not key or key in ignored, key


def test_accepted_keys_may_hold_anything(tmp_path: Path) -> None:
    changes = """
        proxy.content_limits = "none"
        backends.jmix_upstream.targets = {x = 1}
    """
    found = loaded(tmp_path, changes)
    assert {"proxy.content_limits", "backends.jmix_upstream.targets"} <= set(found.ignored)


def test_labels_are_accepted_silently(tmp_path: Path) -> None:
    labels = """
        network.http_net.id = "x"
        services.jmix = {id = "x", type = "y"}
        peers.dicom_listener = {id = "x", name = "x", tags = ["x"], type = "dicom"}
        targets.upstream_jmix = {id = "x", name = "x", description = "x", tags = ["x"]}
        pipelines.dicom_to_jmix.id = "x"
        endpoints.jmix_http.id = "x"
        middleware.passthru.id = "x"
        backends.jmix_upstream.id = "x"
    """
    assert loaded(tmp_path, labels).ignored == loaded(tmp_path).ignored


def test_foreign_credentials_may_be_defined(tmp_path: Path) -> None:
    jwt = 'authentications.j = {method = "jwt", options = {issuer = "x", leeway_secs = 5}}'
    (warning,) = loaded(tmp_path, jwt).warnings
    assert warning == "nothing refers to authentications.j: without effect"


def test_wireguard_is_warned_of(tmp_path: Path) -> None:
    (warning,) = loaded(tmp_path, "network.http_net.enable_wireguard = true").warnings
    assert "network.http_net.enable_wireguard" in warning


@pytest.mark.parametrize("base", [HARMONY, ROOT], ids=["harmony", "ours"])
def test_an_envelope_goes_to_each_backend_in_order(tmp_path: Path, base: Path) -> None:
    changes = """
        backends.second = {service = "jmix_backend", connection = {host = "x", protocol = "https"}}
        pipelines.dicom_to_jmix.backends = ["jmix_upstream", "second"]
    """
    found = loaded(tmp_path, changes, base=base)
    assert [one.name for one in found.dicom[0].upstreams] == ["jmix_upstream", "second"]
    assert not any("backends" in warning for warning in found.warnings)


def test_a_backend_stands_once_in_its_pipeline(tmp_path: Path) -> None:
    twice = 'pipelines.dicom_to_jmix.backends = ["jmix_upstream", "jmix_upstream"]'
    with pytest.raises(config.ConfigError, match="a second time"):
        loaded(tmp_path, twice)
