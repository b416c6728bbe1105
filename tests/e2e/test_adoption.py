"""A running node is given another configuration, and every process goes by it."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import ssl
import time
import uuid
from collections.abc import Mapping
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import pytest

from fastjmix.spool import Spool, Ticket
from tests.api.test_alerts import Webhook
from tests.support import wire
from tests.support.gateway import (
    Gateway,
    Peer,
    Store,
    get,
    run_command,
    running,
    until,
    write_config,
)
from tests.support.nightly import by_form
from tests.support.sealed import sealed_envelope
from tests.support.upstreams import authority

AUTHORIZED: Final = """
[authentications.{name}]
method = "bearer"
options.token = "{token}"
"""

SECOND: Final = """
[network.second.http]
bind_address = "127.0.0.1"
bind_port = 0
"""

SECOND_ENDPOINT: Final = """
[pipelines.second]
networks = ["second"]
endpoints = ["second"]
middleware = ["passthru"]
backends = []

[endpoints.second]
service = "jmix"
options.path_prefix = "/second"
"""

BUSY: Final = 4
"""Times as long as alone may a thing last beside other tests."""

SOON: Final = "release_grace_secs = 0.1"


class Node(Gateway):
    """A gateway whose files can be written anew."""

    def __init__(self, directory: Path, upstream: int, **parts: Any) -> None:
        self.directory = directory
        self._generation = 1
        super().__init__(directory, upstream, **parts)

    def write(self, upstream: int, **parts: str) -> None:
        """Writes the files anew."""
        write_config(self.directory, upstream, **parts)

    def reload(self) -> None:
        """Waits until every process goes by the files."""
        self._generation += 1
        self.child.send_signal(signal.SIGHUP)
        self.wait_for(rf"supervisor reloaded generation={self._generation}\b")


def send(node: Gateway, instance: str) -> None:
    with Peer(node.dicom_port) as peer:
        assert peer.associate()[0] == 2
        assert peer.store(wire.data_set(instance), instance) == 0
        peer.release()


def outbox(directory: Path, count: int) -> None:
    """Puts envelopes into the storage before a node begins."""
    spool = Spool(directory / "spool", durable=False)
    spool.prepare()
    for _ in range(count):
        made, envelope_id = spool.new_upload(), str(uuid.uuid4())
        made.write_bytes(sealed_envelope(envelope_id))
        ticket = Ticket(
            id=envelope_id,
            pipeline="dicom_to_jmix",
            upstreams=("jmix_upstream",),
            ack="stored",
            studies=("1.2.3",),
            calling_ae="CT1",
            instances=1,
            size_bytes=made.stat().st_size,
            sealed_at=time.time(),
            origin="packer-0",
        )
        spool.admit(made, ticket)
    spool.release()


@pytest.mark.fault("F30")
def test_500_envelopes_that_waited_for_a_token_are_delivered_within_5_s(tmp_path: Path) -> None:
    """Without the reload the next probe would come after a minute."""
    token_file = tmp_path / "token"
    token_file.write_text("right")
    outbox(tmp_path / "node", 500)
    backend = 'authentication_ref = "up"'
    with running(Store(tmp_path, "--token-file", str(token_file))) as store:
        wrong = AUTHORIZED.format(name="up", token="wrong")
        with running(Node(tmp_path / "node", store.port, fastjmix=wrong, backend=backend)) as node:
            node.wait_for(r"error .* upstream_held .*status=401")
            right = AUTHORIZED.format(name="up", token="right")
            node.write(store.port, fastjmix=right, backend=backend)
            node.reload()
            until(lambda: len(node.envelopes("sent")) == 500, "all are delivered")
            assert node.envelopes("outbox") == []
            came = node.wait_for(r"^(\S+) .* upstream_changed")[1]
            last = node.wait_for(r"^(\S+) .* envelope_uploaded", 500)[1]
            took = datetime.fromisoformat(last) - datetime.fromisoformat(came)
            assert took.total_seconds() < by_form(5 * BUSY, 5)
            assert "wrong" not in node.log()


def test_a_token_file_that_changed_is_read_by_the_command(tmp_path: Path) -> None:
    """`fastjmix reload` reads it again, though no file of the configuration has changed."""
    known, own = tmp_path / "known", tmp_path / "own"
    known.write_text("right")
    own.write_text("wrong\n")
    outbox(tmp_path / "node", 1)
    backend = 'authentication_ref = "up"'
    table = f'[authentications.up]\nmethod = "bearer"\noptions.token_file = "{own}"\n'
    with (
        running(Store(tmp_path, "--token-file", str(known))) as store,
        running(Node(tmp_path / "node", store.port, fastjmix=table, backend=backend)) as node,
    ):
        node.wait_for(r"error .* upstream_held .*status=401")
        own.write_text("right\n")
        said = run_command("reload", "-c", "config.toml", "--json", cwd=tmp_path / "node")
        assert said.returncode == 0, said.stdout + said.stderr
        assert json.loads(said.stdout)["generation"] == 2
        until(lambda: len(node.envelopes("sent")) == 1, "it is delivered")
        assert "wrong" not in node.log() + said.stdout


def test_an_upstream_goes_and_comes_back(tmp_path: Path) -> None:
    """Its envelopes wait in outbox/ meanwhile; an association that runs goes on."""
    with (
        running(Store(tmp_path)) as store,
        running(Node(tmp_path / "node", store.port, builder=SOON)) as node,
    ):
        with Peer(node.dicom_port) as peer:
            assert peer.associate()[0] == 2
            assert peer.store(wire.data_set("1.2.3.1"), "1.2.3.1") == 0
            file = node.directory / "pipelines" / "dicom-to-jmix.toml"
            file.write_text(file.read_text().replace("jmix_upstream", "another"))
            node.reload()
            node.wait_for(r"uploader upstream_removed upstream=jmix_upstream")
            assert peer.store(wire.data_set("1.2.3.2"), "1.2.3.2") == 0
            peer.release()
        node.wait_for(r"uploader upstream_unknown upstream=jmix_upstream")
        node.write(store.port, builder=SOON)
        node.reload()
        node.wait_sent(1)
        assert node.envelopes("outbox") == []


def test_the_api_asks_for_another_token_on_connections_that_are_open(tmp_path: Path) -> None:
    def parts(token: str) -> Mapping[str, str]:
        own = AUTHORIZED.format(name="api", token=token)
        return {"fastjmix": own, "http": 'authentication_ref = "api"'}

    def asked(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        connection.request("GET", "/api/node/status", headers=headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    with running(Node(tmp_path, 9, **parts("old"))) as node:
        node.wait_for("http_listening")
        connection = HTTPConnection("127.0.0.1", node.http_port, timeout=20)
        assert (asked("old"), asked("new")) == (200, 401)
        node.write(9, **parts("new"))
        node.reload()
        assert (asked("old"), asked("new")) == (401, 200)
        connection.close()


def test_an_http_listener_comes_and_goes(tmp_path: Path) -> None:
    with running(Node(tmp_path, 9)) as node:
        node.wait_for("http_listening endpoint=jmix_http")
        node.write(9, fastjmix=SECOND, http=SECOND_ENDPOINT)
        node.reload()
        url = node.wait_for(r"api http_listening endpoint=second url=(\S+)")[1]
        assert get(f"{url}/healthz")[0] == 200
        assert get(f"{node.http}/healthz")[0] == 200
        node.write(9)
        node.reload()
        node.wait_for("http_listener_closed endpoint=second")
        port = int(url.rpartition(":")[2])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        assert get(f"{node.http}/healthz")[0] == 200


def test_a_renewed_certificate_is_shown_and_drops_no_connection(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for directory in (old, new):
        directory.mkdir()
        authority(directory)
    pair = tmp_path / "pair.pem"
    shutil.copy(old / "upstream.pem", pair)
    pair.chmod(0o600)

    def handshake(ca: Path) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=ca / "ca.pem")
        plain = socket.create_connection(("127.0.0.1", node.http_port), timeout=20)
        return context.wrap_socket(plain, server_hostname="127.0.0.1")

    with running(Node(tmp_path / "node", 9)) as node:
        file, table = node.directory / "config.toml", "[network.http_net.http]"
        files = f'cert_path = "{pair}"\nkey_path = "{pair}"'
        file.write_text(file.read_text().replace(table, f"{table}\n{files}"))
        node.reload()
        with handshake(old) as before:
            shutil.copy(new / "upstream.pem", pair)
            node.reload()
            handshake(new).close()
            with pytest.raises(ssl.SSLCertVerificationError):
                handshake(old)
            before.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert before.recv(12) == b"HTTP/1.1 200"


def test_another_webhook_hears_of_what_is_wrong(tmp_path: Path) -> None:
    """An upstream that cannot be reached is a warning; the first webhook knows it already."""
    first, second = Webhook(), Webhook()
    hook = '[alerts]\nwebhook_url = "{}"\nevery_secs = 0.1'
    try:
        with running(Node(tmp_path, 9, fastjmix=hook.format(first.url), builder=SOON)) as node:
            send(node, "1.2.3.1")
            assert first.next()["name"] == "upstream_paused"
            node.write(9, fastjmix=hook.format(second.url), builder=SOON)
            node.reload()
            with running(Store(tmp_path / "up")) as store:
                node.write(store.port, fastjmix=hook.format(second.url), builder=SOON)
                node.reload()
                over = second.next()
                assert (over["name"], over["status"]) == ("upstream_paused", "resolved")
            assert first.posts.empty()
    finally:
        first.close()
        second.close()


def test_the_ledger_deletes_at_once_what_another_age_does_not_keep(tmp_path: Path) -> None:
    def rejections() -> list[Any]:
        found: list[Any] = json.loads(get(f"{node.http}/api/node/status")[2])["rejections"]
        return found

    with running(Node(tmp_path, 9)) as node:
        with Peer(node.dicom_port) as peer:
            assert peer.associate(called=b"NOBODY")[0] == 3
        node.wait_for("http_listening")
        until(rejections, "the ledger has the rejection")
        node.write(9, fastjmix="[fastjmix.ledger]\nmax_age_days = 0")
        node.reload()
        until(lambda: not rejections(), "the ledger has it no longer")


def test_every_process_logs_by_it(tmp_path: Path) -> None:
    """Another level, another form, a file: an association in which each process has a line."""
    file = tmp_path / "log" / "fastjmix.log"
    table = f'[logging]\nlog_to_file = true\nlog_file_path = "{file}"\nformat = "json"'

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in file.read_text().splitlines()]

    def by_whom() -> set[str]:
        return {line["process"] for line in lines()}

    with (
        running(Store(tmp_path)) as store,
        running(Node(tmp_path / "node", store.port, builder=SOON)) as node,
    ):
        node.write(store.port, builder=SOON, fastjmix=table)
        main = node.directory / "config.toml"
        main.write_text(main.read_text().replace('log_level = "info"', 'log_level = "debug"'))
        node.child.send_signal(signal.SIGHUP)
        until(lambda: file.exists() and "reloaded" in file.read_text(), "it is adopted")
        send(node, "1.2.3.1")
        node.wait_sent(1)
        get(f"{node.http}/healthz?a=query")  # a line at debug
        wanted = {"supervisor", "receiver-0", "packer-0", "uploader", "api"}
        until(lambda: by_whom() >= wanted, "each process has a line")
        assert "debug" in {line["level"] for line in lines()}
