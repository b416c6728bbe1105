"""Another configuration while the api serves: real connections, real certificates."""

from __future__ import annotations

import http.client
import queue
import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fastjmix.config import Credentials, HttpListener, Secret
from fastjmix.config.tree import AlertSettings
from fastjmix.spool import tally
from tests.api.test_alerts import Webhook
from tests.support.apis import BASE, LISTENER, UPSTREAM, Gateway, in_thread, running
from tests.support.envelopes import ID, envelope
from tests.support.gateway import until
from tests.support.upstreams import authority

STATUS = "/api/node/status"


def locked(token: str) -> HttpListener:
    return replace(LISTENER, credentials=Credentials("bearer", token=Secret(token)))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@contextmanager
def connected(gateway: Gateway, listener: int = 0) -> Iterator[http.client.HTTPConnection]:
    """A connection that is kept open."""
    port = gateway.ports[listener]
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.connect()
        yield connection


def asked(connection: http.client.HTTPConnection, path: str, **headers: str) -> int:
    """The status of an answer on that very connection."""
    before = connection.sock
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    answer.read()
    assert connection.sock is before
    return answer.status


# -- credentials -----------------------------------------------------------------------------------


def test_a_connection_that_is_open_needs_the_new_token(tmp_path: Path) -> None:
    with running(tmp_path, locked("old")) as gateway, connected(gateway) as connection:
        assert asked(connection, STATUS, **bearer("old")) == 200
        gateway.configure({0: locked("new")})
        assert asked(connection, STATUS, **bearer("old")) == 401
        assert asked(connection, STATUS, **bearer("new")) == 200
        assert asked(connection, "/healthz") == 200


def test_who_follows_the_status_with_the_old_token_is_ended(tmp_path: Path) -> None:
    with running(tmp_path, locked("old")) as gateway, connected(gateway) as connection:
        connection.request("GET", "/api/node/events", headers=bearer("old"))
        answer = connection.getresponse()
        assert answer.readline().startswith(b"retry:")
        gateway.configure({0: locked("old")}, name="renamed")
        while b'"name":"renamed"' not in (line := answer.readline()):
            assert line, "the same token is no reason to end it"
        gateway.configure({0: locked("new")})
        answer.read()  # to its end


def test_hosts_that_are_allowed(tmp_path: Path) -> None:
    with running(tmp_path, LISTENER) as gateway:
        named = {"Host": "pacs.example"}
        assert gateway.ask("GET", STATUS, headers=named).status == 421
        gateway.configure({0: replace(LISTENER, allowed_hosts=("pacs.example",))})
        assert gateway.ask("GET", STATUS, headers=named).status == 200


# -- listeners -------------------------------------------------------------------------------------


def test_listeners_come_and_go(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path, LISTENER) as gateway:
        added = gateway.listen()
        gateway.configure({0: LISTENER, added: replace(locked("x"), endpoint="second")})
        assert gateway.ask("GET", STATUS).status == 200
        assert gateway.ask("GET", STATUS, listener=added).status == 401
        assert gateway.ask("GET", STATUS, headers=bearer("x"), listener=added).status == 200
        gateway.configure({added: replace(locked("x"), endpoint="second")})
        gateway.sockets[0].close()  # the supervisor's
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", gateway.ports[0]), timeout=5)
        assert "http_listener_closed endpoint=jmix_http" in capfd.readouterr().err
        assert gateway.ask("GET", STATUS, headers=bearer("x"), listener=added).status == 200


def test_another_path_and_an_upstream_for_posts(tmp_path: Path) -> None:
    with running(tmp_path, LISTENER) as gateway, connected(gateway) as connection:
        assert asked(connection, f"{BASE}/{ID}") == 404
        assert gateway.post(envelope()).status == 501
        gateway.configure({0: replace(LISTENER, path_prefix="/other", upstreams=(UPSTREAM,))})
        gateway.put(envelope())
        assert asked(connection, f"/other/api/jmix/{ID}") == 200
        assert asked(connection, f"{BASE}/{ID}") == 404
        assert asked(connection, "/healthz") == 200


def test_a_post_under_way_ends_as_it_began(tmp_path: Path) -> None:
    """The first half of its body comes before the change; the upstream is removed by it."""
    body = envelope(ID)
    with running(tmp_path, replace(LISTENER, upstreams=(UPSTREAM,))) as gateway:
        with connected(gateway) as connection:
            connection.putrequest("POST", BASE)
            connection.putheader("Content-Type", "application/zip")
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body[:100])
            until(lambda: list(gateway.spool.building.iterdir()), "the body is being received")
            gateway.configure({0: LISTENER})
            connection.send(body[100:])
            with in_thread(lambda: gateway.outcome("delivered")):
                assert connection.getresponse().status == 201
        assert gateway.post(envelope()).status == 501


# -- certificates ----------------------------------------------------------------------------------


def handshake(gateway: Gateway, ca_file: Path) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=ca_file)
    plain = socket.create_connection(("127.0.0.1", gateway.ports[0]), timeout=20)
    return context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_a_renewed_certificate_drops_no_connection(tmp_path: Path) -> None:
    """The files keep their names, as certbot and most others leave them."""
    old, new, pair = tmp_path / "old", tmp_path / "new", tmp_path / "pair.pem"
    for directory in (old, new):
        directory.mkdir()
        authority(directory)
    shutil.copy(old / "upstream.pem", pair)
    listener = replace(LISTENER, cert_file=pair, key_file=pair)
    get = f"GET {STATUS} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with running(tmp_path, listener) as gateway, handshake(gateway, old / "ca.pem") as before:
        before.sendall(get)
        assert before.recv(12) == b"HTTP/1.1 200"
        shutil.copy(new / "upstream.pem", pair)
        gateway.configure({0: listener})
        handshake(gateway, new / "ca.pem").close()
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(gateway, old / "ca.pem")
        before.sendall(get)
        seen = b""
        while b"HTTP/1.1 200" not in seen:
            seen += (more := before.recv(65536))
            assert more


def test_a_certificate_that_cannot_be_used_leaves_the_one_before(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ca_file, _ = authority(tmp_path)
    pair = tmp_path / "upstream.pem"
    listener = replace(LISTENER, cert_file=pair, key_file=pair)
    with running(tmp_path, listener) as gateway:
        handshake(gateway, ca_file).close()
        pair.write_text("nothing")
        broken = gateway.listen()
        gateway.configure({0: listener, broken: replace(listener, endpoint="new")})
        handshake(gateway, ca_file).close()
    logged = capfd.readouterr().err
    assert "http_listener_failed endpoint=jmix_http" in logged
    assert "http_listener_failed endpoint=new" in logged


# -- alerts, bounds --------------------------------------------------------------------------------


@pytest.fixture
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "LOOK_SECS", 0.0)
    monkeypatch.setattr(tally, "REST", 0.0)


def alerts(hook: Webhook) -> AlertSettings:
    return AlertSettings(Secret(hook.url), every_secs=0.05)


def test_what_the_old_webhook_did_not_take_goes_to_the_new_one(
    tmp_path: Path, look_often: None
) -> None:
    """The old one answers 503; its pause would double to five minutes."""
    old, new = Webhook(*[503] * 50), Webhook()
    try:
        with running(tmp_path, LISTENER, alerts=alerts(old)) as gateway:
            gateway.put(envelope())
            gateway.spool.reject(ID, {"reason": "no", "status": 400})
            old.next(), old.next(), old.next()
            gateway.configure({0: LISTENER}, alerts=alerts(new), name="renamed")
            assert new.next()["name"] == "rejected"
            gateway.configure({0: LISTENER}, alerts=AlertSettings())
            gateway.spool.requeue(ID)
            with pytest.raises(queue.Empty):
                new.posts.get(timeout=1)
            gateway.configure({0: LISTENER}, alerts=alerts(new))
            over = new.next()
            assert (over["status"], over["node"]) == ("resolved", "renamed")
    finally:
        old.close()
        new.close()


def test_an_alarm_and_marks_of_the_disk(tmp_path: Path, look_often: None) -> None:
    with running(tmp_path, LISTENER) as gateway:
        gateway.put(envelope())
        assert gateway.get("/readyz").status == 200
        assert "has waited" not in gateway.get("/readyz").body.decode()
        soon = replace(gateway.config.runtime, queue_alarm_secs=0.0)
        gateway.configure({0: LISTENER}, runtime=soon, soft_reserve_bytes=1 << 60)
        answer = gateway.get("/readyz")
        assert answer.status == 503
        assert "has waited" in answer.body.decode()
        assert "the storage is nearly full" in answer.body.decode()
