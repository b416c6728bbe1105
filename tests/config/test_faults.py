"""fastjmix.config: wrong files, and their faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.configs import faults, loaded, only

BACKEND = "backends.jmix_upstream"
TARGET = "targets.upstream_jmix"
RECEIVER = "endpoints.dicom_receiver"


# -- one fault each --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "table", "key", "nearest"),
    [
        ("proxy.nam = 1", "proxy", "nam", "name"),
        ("loging.x = 1", "", "loging", "logging"),
        ("middlewares.x = 1", "", "middlewares", "middleware"),
        ("fastjmix.lane_byte = 1", "fastjmix", "lane_byte", "lane_bytes"),
        ("fastjmix.retention.days = 1", "fastjmix.retention", "days", ""),
        ("fastjmix.retention.max_byte = 1", "fastjmix.retention", "max_byte", "max_bytes"),
        ("provider.runbeam.apy = 1", "provider.runbeam", "apy", "api"),
        ('storage.options.bucket = "b"', "storage.options", "bucket", ""),
        ("network.http_net.http.bind_prt = 1", "network.http_net.http", "bind_prt", "bind_port"),
        (f"{TARGET}.timeout = 1", TARGET, "timeout", "timeout_secs"),
        (f"{TARGET}.host = 'x'", TARGET, "host", "connection.host"),
        (f"{RECEIVER}.local_aet = 'X'", RECEIVER, "local_aet", "options.local_aet"),
        (f"{RECEIVER}.options.Max_PDU = 1", f"{RECEIVER}.options", "Max_PDU", "max_pdu"),
        (
            f"{RECEIVER}.options.aet_table.CT1.ae_titel = 'X'",
            f"{RECEIVER}.options.aet_table.CT1",
            "ae_titel",
            "ae_title",
        ),
        (
            "middleware.jmix_builder.options.skip_hashin = true",
            "middleware.jmix_builder.options",
            "skip_hashin",
            "skip_hashing",
        ),
        (
            f"{BACKEND}.options.autentication_ref = 'x'",
            f"{BACKEND}.options",
            "autentication_ref",
            "authentication_ref",
        ),
        ("pipelines.jmix_query.backend = []", "pipelines.jmix_query", "backend", "backends"),
        ('middleware.passthru.options."a b" = 1', "middleware.passthru.options", '"a b"', ""),
    ],
)
def test_unknown_key(tmp_path: Path, change: str, table: str, key: str, nearest: str) -> None:
    fault = only(tmp_path, change)
    assert (fault.table, fault.key, fault.nearest) == (table, key, nearest)
    assert fault.found == "a key that does not exist here"
    assert fault.allowed
    assert fault.file.startswith(str(tmp_path))
    in_pipelines = table.startswith(("pipelines", "endpoints", "middleware", "backends"))
    assert ("dicom-to-jmix" in fault.file) == in_pipelines


@pytest.mark.parametrize(
    ("change", "key", "found", "allowed"),
    [
        # of another type
        (f"{RECEIVER}.options.max_pdu = '32768'", "max_pdu", '"32768"', "an integer from 4096"),
        (f"{RECEIVER}.options.max_pdu = true", "max_pdu", "true", "an integer"),
        (f"{RECEIVER}.options.enable_store = 1", "enable_store", "1", "true or false"),
        (f"{RECEIVER}.options.enable_echo = 'yes'", "enable_echo", '"yes"', "true or false"),
        (f"{RECEIVER}.options = 3", "options", "3", "a table"),
        (f"{RECEIVER}.options.aet_table = ['CT']", "aet_table", "an array", "a table"),
        (f"{RECEIVER}.options.aet_table.CT = 'CT'", "CT", "a string", "a table"),
        (f"{TARGET}.connection.port = 443.0", "port", "443.0", "an integer"),
        ("pipelines.jmix_query.networks = 'http_net'", "networks", '"http_net"', "an array"),
        ("pipelines.jmix_query.networks = ['http_net', 1]", "networks[1]", "1", "a string"),
        ("pipelines.jmix_query.networks = []", "networks", "an array", "one or more"),
        ("pipelines.jmix_query.middleware = 'passthru'", "middleware", '"passthru"', "left"),
        ("network = 1", "network", "not shown", "[network.<name>]"),
        ("proxy = []", "proxy", "an array", "a table"),
        ("targets.upstream_jmix = 'x'", "upstream_jmix", "a string", "a table"),
        ("fastjmix.grace_secs = nan", "grace_secs", "nan", "a number"),
        ("fastjmix.grace_secs = inf", "grace_secs", "inf", "a number from 0"),
        ("fastjmix.retention.max_age_days = nan", "max_age_days", "nan", "unlimited"),
        ("fastjmix.retention.max_bytes = 'all'", "max_bytes", '"all"', "unlimited"),
        # out of bounds
        (f"{RECEIVER}.options.max_pdu = 4095", "max_pdu", "4095", "from 4096"),
        (f"{RECEIVER}.options.max_pdu = 0", "max_pdu", "0", "0, which would mean no limit"),
        (f"{RECEIVER}.options.max_pdu = 1048577", "max_pdu", "1048577", "to 1048576"),
        (f"{RECEIVER}.options.max_associations = 0", "max_associations", "0", "from 1 to 1024"),
        (
            f"{RECEIVER}.options.acse_timeout_secs = 0.9",
            "acse_timeout_secs",
            "0.9",
            "from 1 to 3600",
        ),
        (
            f"{RECEIVER}.options.dimse_timeout_secs = 0",
            "dimse_timeout_secs",
            "0",
            "from 1 to 86400",
        ),
        (f"{RECEIVER}.options.network_timeout_secs = inf", "network_timeout_secs", "inf", "from 1"),
        (f"{RECEIVER}.options.min_bytes_per_sec = -1", "min_bytes_per_sec", "-1", "from 0 to"),
        (f"{RECEIVER}.options.max_half_open = 0", "max_half_open", "0", "from 1 to 4096"),
        (f"{RECEIVER}.options.max_half_open = 4097", "max_half_open", "4097", "from 1 to 4096"),
        (f"{RECEIVER}.options.port = 65536", "port", "65536", "from 0 to 65535"),
        (f"{TARGET}.connection.port = 0", "port", "0", "from 1 to 65535"),
        (f"{TARGET}.timeout_secs = 0", "timeout_secs", "0", "from 1"),
        (f"{TARGET}.max_retries = 11", "max_retries", "11", "from 0 to 10"),
        ("fastjmix.lane_bytes = 1048577", "lane_bytes", "1048577", "a multiple of 4096"),
        ("fastjmix.lane_bytes = 4096", "lane_bytes", "4096", "from 1048576"),
        ("fastjmix.packers = 0", "packers", "0", "from 1 to 64"),
        ("fastjmix.retention.max_age_days = -1", "max_age_days", "-1", "0 or more"),
        # not one of the words
        ("proxy.log_level = 'inof'", "log_level", '"inof"', '"info"'),
        (f"{RECEIVER}.options.ack = 'upload'", "ack", '"upload"', '"stored" or "uploaded"'),
        ("middleware.jmix_builder.options.digest = 'md5'", "digest", '"md5"', '"blake3"'),
        ("middleware.jmix_builder.options.profile = 'x'", "profile", '"x"', '"harmony"'),
        ("middleware.jmix_builder.options.durability = ''", "durability", '""', '"page-cache"'),
        (f"{BACKEND}.options.transfer_encoding = 'gzip'", "transfer_encoding", "gzip", "chunked"),
        (f"{TARGET}.connection.protocol = 'ftp'", "protocol", '"ftp"', '"https"'),
        # not offered
        ("storage.backend = 's3'", "backend", '"s3"', "memory are not offered"),
        ("storage.backend = 'memory'", "backend", '"memory"', "memory are not offered"),
        ("services.jmix.module = 'mine'", "module", '"mine"', "loads no modules"),
        ("middleware_types.passthru.module = 'm'", "module", '"m"', "loads no modules"),
        (f"{RECEIVER}.options.enable_find = true", "enable_find", "true", "not C-FIND"),
        (f"{RECEIVER}.options.enable_move = true", "enable_move", "true", "not C-MOVE"),
        (f"{RECEIVER}.options.enable_get = true", "enable_get", "true", "not C-GET"),
        ("policies.x.rules = ['y']", "policies", "a table", "does not offer access policies"),
        ("rules.x.type = 'y'", "rules", "a table", "does not offer"),
        ("mesh.x.type = 'y'", "mesh", "a table", "does not offer"),
        ("middleware.jwt.type = 'jwt_auth'", "type", '"jwt_auth"', "would be unsafe"),
        ("middleware.passthru.type = 'policies'", "type", '"policies"', '"passthru"'),
        ("middleware.jmix_builder.authentication = 'x'", "authentication", "a key that", "options"),
        (f"{RECEIVER}.service = 'fhir'", "service", '"fhir"', '"dicom_scp"'),
        (f"{BACKEND}.service = 'http'", "service", '"http"', '"jmix_backend"'),
        (f"{TARGET}.connection.protocol = 'dicom'", "protocol", '"dicom"', "for an upstream"),
        # strings that are checked
        (f"{RECEIVER}.options.local_aet = ''", "local_aet", '""', "1 to 16"),
        (f"{RECEIVER}.options.local_aet = '    '", "local_aet", '"    "', "1 to 16"),
        (f"{RECEIVER}.options.local_aet = '17_CHARACTERS_ABC'", "local_aet", "17_", "1 to 16"),
        (f"{RECEIVER}.options.local_aet = 'A\\B'", "local_aet", "A\\\\B", "no backslash"),
        (f'{RECEIVER}.options.local_aet = "A\\nB"', "local_aet", "A\\u000aB", "no control"),
        (f"{RECEIVER}.options.local_aet = 'Ä'", "local_aet", '"Ä"', "ASCII"),
        (f"{TARGET}.connection.host = '127.1'", "host", '"127.1"', "usual form"),
        (f"{TARGET}.connection.host = '2130706433'", "host", "2130706433", "usual form"),
        (f"{TARGET}.connection.host = '0x7f000001'", "host", "0x7f000001", "usual form"),
        (f"{TARGET}.connection.host = '1.2.3.4.5'", "host", "1.2.3.4.5", "usual form"),
        (f"{TARGET}.connection.host = 'https://x.org'", "host", "https://x.org", "a host name"),
        (f"{TARGET}.connection.host = ''", "host", '""', "a host name"),
        (f"{TARGET}.connection.base_path = '/a?b'", "base_path", '"/a?" and more', "no query"),
        (f"{BACKEND}.options.path_prefix = '/a/../b'", "path_prefix", "/a/../b", 'no ".."'),
        (f"{BACKEND}.options.base_url = 'ftp://x.org'", "base_url", "ftp://x.org", "https://"),
        (f"{BACKEND}.options.base_url = 'https://'", "base_url", "https://", "https://"),
        (f"{BACKEND}.options.base_url = 'https://x:99999'", "base_url", "99999", "https://"),
        (f"{BACKEND}.options.base_url = 'https://x/?a'", "base_url", '?" and more', "without"),
        ("network.http_net.http.bind_address = 'a b'", "bind_address", '"a b"', "host name"),
    ],
)
def test_wrong_value(tmp_path: Path, change: str, key: str, found: str, allowed: str) -> None:
    (fault, *_) = (one for one in faults(tmp_path, change) if one.key == key)
    assert found in fault.found
    assert allowed in fault.allowed


def test_nearest_of_a_choice(tmp_path: Path) -> None:
    assert only(tmp_path, "proxy.log_level = 'inof'").nearest == '"info"'
    assert only(tmp_path, "middleware.passthru.type = 'pastru'").nearest == "passthru"


@pytest.mark.parametrize(
    ("changes", "without", "table", "key", "found", "nearest"),
    [
        ("", "middleware.jmix_builder.type", "middleware.jmix_builder", "type", "nothing", ""),
        ("", f"{RECEIVER}.service", RECEIVER, "service", "nothing", ""),
        ("", "pipelines.jmix_query.networks", "pipelines.jmix_query", "networks", "nothing", ""),
        ("", "pipelines.jmix_query.endpoints", "pipelines.jmix_query", "endpoints", "nothing", ""),
        ("", "proxy.name", "proxy", "name", "nothing", ""),
        ("", "logging.log_file_path", "logging", "log_file_path", "nothing", ""),
        ("authentications.a = {}", "", "authentications.a", "method", "nothing", ""),
        # references
        (
            "pipelines.jmix_query.networks = ['http_nett']",
            "",
            "pipelines.jmix_query",
            "networks[0]",
            '"http_nett", and there is no network.http_nett',
            "http_net",
        ),
        (
            "pipelines.jmix_query.endpoints = ['jmix_htpp']",
            "",
            "pipelines.jmix_query",
            "endpoints[0]",
            '"jmix_htpp"',
            "jmix_http",
        ),
        (
            "pipelines.dicom_to_jmix.middleware = ['jmix_builder', 'no_such']",
            "",
            "pipelines.dicom_to_jmix",
            "middleware[1]",
            '"no_such"',
            "",
        ),
        (
            "pipelines.dicom_to_jmix.middleware = {left = ['jmix_bilder'], right = []}",
            "",
            "pipelines.dicom_to_jmix.middleware",
            "left[0]",
            '"jmix_bilder"',
            "jmix_builder",
        ),
        (
            "pipelines.dicom_to_jmix.backends = ['jmix_downstream']",
            "",
            "pipelines.dicom_to_jmix",
            "backends[0]",
            '"jmix_downstream"',
            "jmix_upstream",
        ),
        (f"{RECEIVER}.peer_ref = 'listener'", "", RECEIVER, "peer_ref", '"listener"', "*"),
        (f"{BACKEND}.target_ref = 'upstream'", "", BACKEND, "target_ref", '"upstream"', "*"),
        ("", "targets", BACKEND, "target_ref", "there is no targets.upstream_jmix", ""),
        (
            f"{BACKEND}.options.authentication_ref = 'jmix_auth'",
            "",
            f"{BACKEND}.options",
            "authentication_ref",
            "there is no authentications.(not shown)",
            "",
        ),
        (f"{TARGET}.authentication = 'x'", "", TARGET, "authentication", '"x"', ""),
        # disabled
        (f"{TARGET}.enabled = false", "", BACKEND, "target_ref", "enabled = false", ""),
        ("peers.dicom_listener.enabled = false", "", RECEIVER, "peer_ref", "enabled = false", ""),
        # what a pipeline needs
        ("", "pipelines", "", "pipelines", "none", ""),
        (
            "pipelines.dicom_to_jmix.middleware = ['passthru']",
            "",
            "pipelines.dicom_to_jmix",
            "middleware",
            "no jmix_builder",
            "",
        ),
        (
            "pipelines.dicom_to_jmix.middleware = ['jmix_builder', 'jmix_builder']",
            "",
            "pipelines.dicom_to_jmix",
            "middleware",
            "2 jmix_builder",
            "",
        ),
        (
            "pipelines.dicom_to_jmix.backends = []",
            "",
            "pipelines.dicom_to_jmix",
            "backends",
            "none",
            "",
        ),
        ("", f"{BACKEND}.target_ref", BACKEND, "target_ref", "no address", ""),
        ("", f"{TARGET}.connection.host", BACKEND, "target_ref", "no address", ""),
        # two answers to one question
        (
            f"{BACKEND}.options = {{base_url = 'http://a', url = 'http://b'}}",
            "",
            f"{BACKEND}.options",
            "url",
            "another URL",
            "",
        ),
        (f"{TARGET}.url = 'https://a'", "", TARGET, "url", "connection.host", ""),
        (
            "network.http_net.tcp_config.bind_port = 1",
            "",
            "network.http_net",
            "http",
            "a table beside",
            "",
        ),
        (
            f"{RECEIVER}.options.aet_table = {{A = {{ae_title = 'X'}}, B = {{ae_title = ' X'}}}}",
            "",
            f"{RECEIVER}.options.aet_table.B",
            "ae_title",
            '"X" again',
            "",
        ),
        (
            f"{RECEIVER}.options.aet_table.A_NAME_THAT_IS_TOO_LONG = {{}}",
            "",
            f"{RECEIVER}.options.aet_table.A_NAME_THAT_IS_TOO_LONG",
            "ae_title",
            "is no AE title",
            "",
        ),
        (
            "network.http_net.http = {bind_address = '127.0.0.1', bind_port = 11113}",
            "",
            "pipelines.jmix_query",
            "endpoints",
            "where endpoints.dicom_receiver of pipelines.dicom_to_jmix listens",
            "",
        ),
        (
            f"fastjmix.lane_bytes = 1048576\n{RECEIVER}.options.max_pdu = 300000",
            "",
            f"{RECEIVER}.options",
            "max_pdu",
            "300000",
            "",
        ),
        # TLS
        (
            "network.dicom_net.tcp_config.cert_path = 'c.pem'",
            "",
            "network.dicom_net.tcp_config",
            "cert_path",
            "speaks DICOM",
            "",
        ),
        (
            f"network.http_net.http.cert_path = '{__file__}'",
            "",
            "network.http_net.http",
            "key_path",
            "nothing",
            "",
        ),
        (
            f"{TARGET}.connection.ca_cert_path = '/no/such.pem'",
            "",
            f"{TARGET}.connection",
            "ca_cert_path",
            "No such file",
            "",
        ),
        # who may ask
        (
            "network.http_net.http.bind_address = '0.0.0.0'",
            "",
            "endpoints.jmix_http.options",
            "authentication_ref",
            "can be reached from other machines",
            "",
        ),
    ],
)
def test_meaning(
    tmp_path: Path,
    changes: str,
    without: str,
    table: str,
    key: str,
    found: str,
    nearest: str,
) -> None:
    fault = only(tmp_path, changes, without)
    assert (fault.table, fault.key) == (table, key)
    assert found in fault.found
    assert fault.allowed
    assert nearest == "*" or fault.nearest == nearest


@pytest.mark.parametrize("method", ["jwt", "mutual_tls", "custom"])
def test_methods_that_are_not_offered(tmp_path: Path, method: str) -> None:
    said = f"""
        authentications.a = {{ method = "{method}", options = {{ issuer = "x" }} }}
        {BACKEND}.options.authentication_ref = "a"
    """
    fault = only(tmp_path, said)
    assert (fault.table, fault.key) == (f"{BACKEND}.options", "authentication_ref")
    assert method in fault.found


# -- associations of all listeners together -------------------------------------------------------


def listeners(*most: int) -> str:
    """Returns DICOM listeners of one pipeline with these max_associations, each on its own port."""
    return "".join(
        f"""
        endpoints.r{n}.service = "dicom_scp"
        endpoints.r{n}.options = {{ port = {11200 + n}, max_associations = {one} }}
        """
        for n, one in enumerate(most)
    ) + "pipelines.dicom_to_jmix.endpoints = [{}]\n".format(
        ", ".join(f'"r{n}"' for n in range(len(most)))
    )


@pytest.mark.parametrize("receivers", [1, 8])
@pytest.mark.parametrize(
    ("most", "at", "together"),
    [((1024, 1024), 1, 2048), ((1, 1024), 1, 1025), ((512, 512, 1, 7), 2, 1032)],
)
def test_more_associations_of_all_listeners_than_lanes_can_be_numbered(
    tmp_path: Path, receivers: int, most: tuple[int, ...], at: int, together: int
) -> None:
    change = f"fastjmix.receivers = {receivers}\n" + listeners(*most)
    fault = only(tmp_path, change)
    assert fault.file == str(tmp_path / "pipelines" / "dicom-to-jmix.toml")
    assert (fault.table, fault.key) == (f"endpoints.r{at}.options", "max_associations")
    assert fault.found == f"{most[at]}; the {len(most)} DICOM listeners have {together} together"
    assert fault.allowed.startswith("1024 or fewer for all DICOM listeners together")


@pytest.mark.parametrize("most", [(1024,), (512, 512), (1, 1000, 23)])
def test_as_many_associations_of_all_listeners_as_lanes_can_be_numbered(
    tmp_path: Path, most: tuple[int, ...]
) -> None:
    found = loaded(tmp_path, listeners(*most))
    assert sum(one.max_associations for one in found.dicom) == 1024


def test_an_endpoint_on_two_networks_counts_twice(tmp_path: Path) -> None:
    fault = only(
        tmp_path,
        """
        network.second.tcp_config = { bind_address = "127.0.0.3", bind_port = 11114 }
        pipelines.dicom_to_jmix.networks = ["dicom_net", "second"]
        endpoints.dicom_receiver.options.max_associations = 600
        """,
        "endpoints.dicom_receiver.peer_ref",
    )
    assert fault.found == "600; the 2 DICOM listeners have 1200 together"
