"""The process api through its entry point, on real sockets, with http.client, curl and raw
bytes.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastjmix.config import Credentials, Secret
from fastjmix.errors import ConfigError
from fastjmix.httpd import connection_limit, limits
from fastjmix.spool import Retention
from tests.support.apis import (
    BASE,
    LISTENER,
    UPSTREAM,
    Gateway,
    curl,
    running,
)
from tests.support.envelopes import ID, STUDY, envelope
from tests.support.upstreams import authority


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running(tmp_path) as found:
        yield found


# -- the reference's commands --------------------------------------------------------------------


def test_the_three_commands_of_the_reference(gateway: Gateway, tmp_path: Path) -> None:
    data = envelope(ID)
    gateway.put(data)
    base = f"http://127.0.0.1:{gateway.ports[0]}/jmix/api/jmix"
    assert curl(f"{base}?studyInstanceUid={STUDY}") == data
    assert json.loads(curl(f"{base}/{ID}/manifest"))["id"] == ID
    target = tmp_path / "envelope.zip"
    curl(f"{base}/{ID}", "-H", "Accept: application/zip", "-o", str(target))
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[0] == "manifest.json"


def test_curl_resumes_a_download(gateway: Gateway, tmp_path: Path) -> None:
    data = envelope(ID, image=os.urandom(100_000))
    gateway.put(data)
    target = tmp_path / "envelope.zip"
    target.write_bytes(data[:50_000])
    curl(f"http://127.0.0.1:{gateway.ports[0]}{BASE}/{ID}", "-C", "-", "-o", str(target))
    assert target.read_bytes() == data


# -- one envelope --------------------------------------------------------------------------------


def test_the_archive(gateway: Gateway) -> None:
    data = envelope(ID)
    gateway.put(data)
    answer = gateway.get(f"{BASE}/{ID}")
    assert (answer.status, answer.body) == (200, data)
    assert answer.headers["Content-Type"] == "application/zip"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{ID}.zip"'
    assert answer.headers["ETag"] == f'"{ID}-{len(data):x}"'
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "private, no-store"
    head = gateway.ask("HEAD", f"{BASE}/{ID}")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(data))
    part = gateway.get(f"{BASE}/{ID}", Range="bytes=2-5")
    assert (part.status, part.body) == (206, data[2:6])
    assert gateway.get(f"{BASE}/{ID}", If_None_Match=head.headers["ETag"]).status == 304
    assert gateway.get(f"{BASE}/{ID}", Accept="application/json").status == 406
    assert gateway.get(f"{BASE}/{ID.upper()}").body == data


def test_the_manifest_is_the_archives_own(gateway: Gateway) -> None:
    gateway.put(envelope(ID))
    with zipfile.ZipFile(gateway.spool.path("outbox", ID)) as archive:
        expected = archive.read("manifest.json")
    answer = gateway.get(f"{BASE}/{ID}/manifest")
    assert (answer.status, answer.body) == (200, expected)
    assert answer.headers["Content-Type"] == "application/json"
    assert gateway.get(f"{BASE}/{ID}/manifest", Accept="application/zip").status == 406
    assert gateway.ask("HEAD", f"{BASE}/{ID}/manifest").headers["Content-Length"] == str(
        len(expected)
    )


@pytest.mark.parametrize(
    "path",
    [
        "/jmix",
        "/jmix/api",
        "/api/jmix",
        f"{BASE}/{ID}",
        f"{BASE}/{ID}/manifest",
        f"{BASE}/{ID}/metadata",
        f"{BASE}/nonsense",
        f"{BASE}/nonsense/manifest",
        f"{BASE}/..%2f..%2fetc%2fpasswd",
        f"{BASE}/%00",
        f"{BASE}?studyInstanceUid=1.2.3.test",
        f"{BASE}?studyInstanceUid=../../etc",
    ],
)
def test_unknown_is_404(gateway: Gateway, path: str) -> None:
    answer = gateway.get(path)
    assert answer.status == 404
    assert list(answer.json) == ["error"]


def test_options_and_methods(gateway: Gateway) -> None:
    for path in (BASE, f"{BASE}/{ID}", f"{BASE}/{ID}/manifest"):
        answer = gateway.ask("OPTIONS", path)
        assert (answer.status, answer.body) == (204, b"")
        assert {"GET", "HEAD", "OPTIONS"} <= set(answer.headers["Allow"].split(", "))
        assert ("POST" in answer.headers["Allow"]) == (path == BASE)
        refused = gateway.ask("DELETE", path)
        assert refused.status == 405
        assert "GET" in refused.headers["Allow"]
        assert refused.json["error"]


@pytest.mark.fault("F80")
def test_a_download_survives_delivery_and_removal(gateway: Gateway) -> None:
    """The archive was open before the 200, so that its name may change."""
    data = envelope(ID, image=os.urandom(24 << 20))
    gateway.put(data)
    with socket.create_connection(("127.0.0.1", gateway.ports[0])) as connection:
        connection.sendall(
            b"GET %s/%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (BASE.encode(), ID.encode())
        )
        received = connection.recv(1000)
        gateway.spool.deliver(ID, {"status": 201})
        Retention(gateway.spool, -1.0).run()
        while len(received) < len(data):
            piece = connection.recv(1 << 20)
            assert piece
            received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        while len(body) < len(data):
            body += connection.recv(1 << 20)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == data
    assert gateway.get(f"{BASE}/{ID}").status == 404


# -- for whom ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [f"{BASE}/{ID}", f"{BASE}/{ID}/manifest", "/metrics", BASE, "/x"])
def test_a_host_name_that_is_not_ours_is_not_served(gateway: Gateway, path: str) -> None:
    """DNS rebinding: a browser here requests http://attacker.example:8086/…, which is 127.0.0.1."""
    gateway.put(envelope(ID))
    for host in ("attacker.example", "127.0.0.1.attacker.example:80", "10.0.0.1", "localhost.", ""):
        answer = gateway.get(path, Host=host)
        assert (answer.status == 421) == ("attacker" in host or host == "10.0.0.1"), host
    assert gateway.get("/readyz", Host="attacker.example").status == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.9.9.9:1", "[::1]"])
def test_this_machine_by_any_of_its_names_is_served(gateway: Gateway, host: str) -> None:
    gateway.put(envelope(ID))
    assert gateway.get(f"{BASE}/{ID}", Host=host).status == 200


def test_names_of_a_proxy_are_allowed_by_name(tmp_path: Path) -> None:
    with running(tmp_path, replace(LISTENER, allowed_hosts=("Jmix.hospital.example",))) as one:
        one.put(envelope(ID))
        for host, status in (("jmix.hospital.example:8086", 200), ("hospital.example", 421)):
            assert one.get(f"{BASE}/{ID}", Host=host).status == status


def test_with_credentials_any_host_may_be_named(tmp_path: Path) -> None:
    credentials = Credentials(method="bearer", token=Secret("a-token"))
    with running(tmp_path, replace(LISTENER, credentials=credentials)) as one:
        one.put(envelope(ID))
        asked = {"Host": "any.example", "Authorization": "Bearer a-token"}
        assert one.get(f"{BASE}/{ID}", **asked).status == 200
        assert one.get(f"{BASE}/{ID}", Host="any.example").status == 401


# -- health and numbers --------------------------------------------------------------------------


def test_health(gateway: Gateway) -> None:
    assert gateway.get("/healthz").json == {"status": "live"}
    assert gateway.get("/readyz").json == {"status": "ready"}
    gateway.spool.building.rename(gateway.spool.root / "gone")
    answer = gateway.get("/readyz")
    assert (answer.status, answer.json["status"]) == (503, "not ready")
    assert "not writable" in answer.json["reasons"][0]
    assert gateway.get("/healthz").status == 200


@pytest.mark.fault("F34")
@pytest.mark.parametrize(("age", "warned"), [(3000, False), (4000, True)])
def test_the_oldest_that_waits_is_shown_and_warned_of(
    gateway: Gateway, age: int, warned: bool
) -> None:
    """The node is ready all the same: it can receive."""
    gateway.put(envelope(ID))
    os.utime(gateway.spool.path("outbox", ID), (time.time() - age,) * 2)
    text = gateway.get("/metrics").body.decode()
    shown = [line for line in text.splitlines() if line.startswith("fastjmix_outbox_oldest_age")]
    assert age <= float(shown[0].split()[1]) < age + 60
    answer = gateway.get("/readyz")
    assert (answer.status, answer.json["status"]) == (200, "ready")
    assert ["queue_alarm_secs" in one for one in answer.json.get("warnings", [])] == [True] * warned


def test_metrics(gateway: Gateway) -> None:
    gateway.channels.metrics.add("instances_received_total", 41)
    gateway.channels.metrics.set("outbox_envelopes", 3)
    answer = gateway.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }
    assert samples["fastjmix_instances_received_total"] == 41
    assert samples["fastjmix_outbox_envelopes"] == 3
    assert samples["fastjmix_storage_free_bytes"] > 0
    assert samples["fastjmix_build"] == 1


# -- access -------------------------------------------------------------------------------------

BASIC = "Basic " + base64.b64encode(b"user:pass:word").decode()


@pytest.mark.fault("S14")
@pytest.mark.parametrize(
    ("credentials", "right", "wrong"),
    [
        (
            Credentials(method="bearer", token=Secret("s3cret")),
            {"Authorization": "Bearer s3cret"},
            {"Authorization": "Bearer s3cre"},
        ),
        (
            Credentials(method="basic", username=Secret("user"), password=Secret("pass:word")),
            {"Authorization": BASIC},
            {"Authorization": "Basic dXNlcjpwYXNz"},
        ),
        (
            Credentials(method="api_key", api_key=Secret("key"), header_name="X-Site-Key"),
            {"x-site-key": "key"},
            {"X-API-Key": "key"},
        ),
    ],
)
def test_credentials(
    tmp_path: Path, credentials: Credentials, right: dict[str, str], wrong: dict[str, str]
) -> None:
    listener = replace(LISTENER, credentials=credentials, upstreams=(UPSTREAM,))
    with running(tmp_path, listener) as gateway:
        gateway.put(envelope(ID))
        paths = (f"{BASE}/{ID}", f"{BASE}/{ID}/manifest", "/metrics", "/no/where", BASE)
        for path in paths:
            for headers in ({}, wrong):
                for method in ("GET", "POST", "OPTIONS"):
                    answer = gateway.ask(method, path, headers=headers)
                    assert answer.status == 401
                    assert answer.headers["WWW-Authenticate"]
                    assert "credentials" in answer.json["error"]
        for path in ("/healthz", "/readyz"):
            assert gateway.get(path).status == 200
        for path in paths[:3]:
            assert gateway.ask("GET", path, headers=right).status == 200


@pytest.mark.parametrize("path", ["/", "/page/page.css", "/healthz", "/metrics", "/no/where"])
def test_no_response_names_the_versions_of_its_server(gateway: Gateway, path: str) -> None:
    assert gateway.get(path).headers["Server"] == "fastjmix"


@pytest.mark.fault("S14")
def test_a_public_listener_wants_credentials(tmp_path: Path) -> None:
    public = replace(LISTENER, host="0.0.0.0")
    with pytest.raises(ConfigError, match="reachable"), running(tmp_path, public):
        pass
    with running(tmp_path, replace(public, allow_unauthenticated=True)) as gateway:
        assert gateway.get("/readyz").status == 200


def test_several_listeners_and_prefixes(tmp_path: Path) -> None:
    prefixes = ("/jmix", "/", "/a/b/")
    listeners = [replace(LISTENER, path_prefix=prefix) for prefix in prefixes]
    with running(tmp_path, *listeners) as gateway:
        gateway.put(envelope(ID))
        for number, path in enumerate((BASE, "/api/jmix", "/a/b/api/jmix")):
            assert gateway.ask("GET", f"{path}/{ID}", listener=number).status == 200
            assert gateway.ask("GET", "/healthz", listener=number).status == 200
            page = gateway.ask("GET", "/", listener=number)
            assert f'data-collection="{path}"' in page.body.decode()
        assert gateway.ask("GET", f"{BASE}/{ID}", listener=1).status == 404


def test_https(tmp_path: Path) -> None:
    ca_file, _ = authority(tmp_path)
    pair = tmp_path / "upstream.pem"
    with running(tmp_path, replace(LISTENER, cert_file=pair, key_file=pair)) as gateway:
        gateway.put(envelope(ID))
        url = f"https://127.0.0.1:{gateway.ports[0]}{BASE}/{ID}"
        assert curl("--cacert", str(ca_file), url) == envelope(ID)
        too_old = ["curl", "-sS", "--cacert", str(ca_file), "--tls-max", "1.1", url]
        assert subprocess.run(too_old, check=False, stderr=subprocess.DEVNULL).returncode == 35


@pytest.mark.fault("S21")
def test_a_caller_without_a_tls_handshake_counts_and_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TLS connection is counted from its accept on, and its handshake is limited in time."""
    monkeypatch.setattr(limits, "MAX_CONNECTIONS_EACH", 5)
    monkeypatch.setattr(connection_limit, "HANDSHAKE_SECS", 2.0)
    ca_file, _ = authority(tmp_path)
    pair = tmp_path / "upstream.pem"
    with running(tmp_path, replace(LISTENER, cert_file=pair, key_file=pair)) as gateway:
        address = ("127.0.0.1", gateway.ports[0])
        with contextlib.ExitStack() as held:
            silent = [held.enter_context(socket.create_connection(address, 20)) for _ in range(8)]
            for one in silent[5:]:  # closed at once
                with contextlib.suppress(ConnectionResetError):
                    assert one.recv(1) == b""
            for one in silent[:5]:  # the accepted ones stay until their time is over
                one.setblocking(False)
                with pytest.raises(BlockingIOError):
                    one.recv(1)
            for one in silent[:5]:
                one.settimeout(20)
                with contextlib.suppress(ConnectionResetError):
                    assert one.recv(1) == b""
        gateway.put(envelope(ID))
        url = f"https://127.0.0.1:{gateway.ports[0]}{BASE}/{ID}"
        assert curl("--cacert", str(ca_file), "--retry", "5", "--retry-all-errors", url) == (
            envelope(ID)
        )


def test_tls_files_that_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("not a certificate")
    broken = replace(LISTENER, cert_file=tmp_path / "cert.pem", key_file=tmp_path / "key.pem")
    with pytest.raises(ConfigError, match=r"cert\.pem"), running(tmp_path, broken):
        pass


# -- the process ---------------------------------------------------------------------------------


CHILD = """
import os, socket, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.support.apis import LISTENER, settings
from fastjmix.api import server as api; from fastjmix import log
from fastjmix.ipc.channels import Channels
from fastjmix.spool import Spool
from fastjmix.ipc.metrics import MetricsPage
root = Path(sys.argv[2])
config = settings(root, (LISTENER,), 1.0)
log.setup("info", root / "log", "api")
spool = Spool(config.storage_dir)
spool.prepare()
mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
links = Channels(os.eventfd(0), os.eventfd(0), {"api": mine}, MetricsPage(1).row(0))
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
api.run(config, spool, links, [listening])
"""


def test_a_process_of_its_own(tmp_path: Path) -> None:
    """SIGTERM ends it with 0, SIGINT does not; the log has no query values."""
    arguments = [sys.executable, "-c", CHILD, str(Path(__file__).parents[2]), str(tmp_path)]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        base = f"http://127.0.0.1:{port}"
        assert json.loads(curl(f"{base}/readyz")) == {"status": "ready"}
        child.send_signal(signal.SIGINT)
        query = f"{base}{BASE}?studyInstanceUid=1.2.840.99.7"
        assert subprocess.run(["curl", "-s", "--fail", query], check=False).returncode == 22
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
    lines = (tmp_path / "log").read_text().splitlines()
    requests = [line for line in lines if " http_request " in line]
    assert len(requests) == 2
    assert f"method=GET path={BASE} status=404" in requests[1]
    assert any(" http_listening " in line and f"127.0.0.1:{port}" in line for line in lines)
    assert not any("1.2.840.99.7" in line for line in lines)
