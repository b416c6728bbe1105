"""tools/envelope/fetch.py: a server may be slow, large, silent or faulty: the caller gets an
error in time.
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from fastjmix.tools.envelope import fetch
from tests.support.envelopes import members
from tests.support.gateway import run_command
from tests.support.sealed import sealed
from tests.tools.test_envelope import give, served

DATA = sealed(members())
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/zip\r\n"


@contextlib.contextmanager
def answering(serve: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """Runs a server that does this with each connection, its request unread; yields its URL."""
    over = threading.Event()
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def one(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:
                serve(connection, over)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while not over.is_set():
                    threads.append(threading.Thread(target=one, args=listening.accept()[:1]))
                    threads[-1].start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            over.set()
            listening.shutdown(socket.SHUT_RDWR)
            acceptor.join(20)
            for thread in threads:
                thread.join(20)


def trickled(*parts: bytes) -> Callable[[socket.socket, threading.Event], None]:
    """Returns a server that sends the parts as they are, then bytes of the last one over and over,
    one every 20 ms.
    """

    def serve(connection: socket.socket, over: threading.Event) -> None:
        for part in parts:
            connection.sendall(part)
        at = 0
        while not over.wait(0.02):
            connection.sendall(parts[-1][at % len(parts[-1]) :][:1])
            at += 1

    return serve


SLOW = {
    "says nothing": lambda _, over: over.wait(30),
    "trickles its status line": trickled(b"HTTP/1.1 200 OK"),
    "trickles a header": trickled(HEAD, b"X-A: a"),
    "trickles headers": trickled(HEAD, b"X: y\r\n"),
    "trickles interim answers": trickled(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "trickles its body": trickled(HEAD + b"Content-Length: 9999999\r\n\r\n", b"PK"),
    "trickles chunks": trickled(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "stops in its body": lambda connection, over: (
        connection.sendall(HEAD + b"Content-Length: 999\r\n\r\nPK"),
        over.wait(30),
    ),
}


@pytest.mark.fault("S31")
@pytest.mark.parametrize("how", SLOW)
def test_a_server_that_is_slow_in_any_way_is_given_up(how: str) -> None:
    with answering(SLOW[how]) as url:
        started = time.monotonic()
        with pytest.raises(fetch.FetchError, match=r"takes longer than 0.3 s"):
            fetch.fetch(url, token=None, secs=0.3)
        assert time.monotonic() - started < 5


@pytest.mark.fault("S31")
def test_redirects_without_end_are_given_up() -> None:
    def serve(connection: socket.socket, _: threading.Event) -> None:
        connection.recv(4096)
        where = f"Location: /{time.monotonic()}\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(b"HTTP/1.1 302 Found\r\nConnection: close\r\n" + where.encode())

    with answering(serve) as url, pytest.raises(fetch.FetchError):
        fetch.fetch(url, token=None, secs=20)


@pytest.mark.fault("S31")
def test_a_server_that_does_not_shake_hands_is_given_up() -> None:
    with (
        answering(SLOW["says nothing"]) as url,
        pytest.raises(fetch.FetchError, match="takes longer"),
    ):
        fetch.fetch(url.replace("http:", "https:"), token=None, secs=0.3)


def test_a_server_that_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SILENCE_SECS", 0.2)
    for how in ("says nothing", "stops in its body"):
        with answering(SLOW[how]) as url, pytest.raises(fetch.FetchError, match="timed out"):
            fetch.fetch(url, token=None, secs=20)


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("said", ["length", "chunked", "nothing"])
def test_bytes_that_are_fetched(off: int, said: str) -> None:
    def serve(connection: socket.socket, _: threading.Event) -> None:
        connection.recv(4096)
        if said == "length":
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(DATA) + DATA)
        elif said == "chunked":
            chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(DATA), DATA)
            connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)
        else:
            connection.sendall(HEAD + b"\r\n" + DATA)

    with answering(serve) as url:
        if off > 0:
            with pytest.raises(fetch.FetchError, match="larger than"):
                fetch.fetch(url, token=None, limit=len(DATA) - off)
        else:
            with fetch.fetch(url, token=None, limit=len(DATA) - off) as file:
                assert file.read() == DATA


def test_a_length_over_the_limit_is_refused_before_its_body() -> None:
    def serve(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(4096)
        connection.sendall(HEAD + b"Content-Length: 1001\r\n\r\n")
        over.wait(30)

    with answering(serve) as url, pytest.raises(fetch.FetchError, match="larger than 1000 bytes"):
        fetch.fetch(url, token=None, limit=1000, secs=20)


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "http://localhost:99999/x",
        "http://localhost:port/x",
        "http://localhost:0/x",
        "http:///x",
        "http://localhost/\u00fc b",
        "http://localhost/a b",
        "http://ex ample/x",
        "://x",
        "http://\udcff/",
    ],
)
def test_what_is_no_url_is_the_callers_fault(url: str) -> None:
    with pytest.raises((fetch.UrlError, fetch.FetchError)):
        fetch.fetch(url, token=None, secs=10)


@pytest.mark.parametrize("token", ["s3cret\nX: y", "s3cret\u00fc", "\x00s3cret"])
def test_a_token_that_no_header_may_have_is_not_repeated(token: str) -> None:
    with pytest.raises(fetch.UrlError) as caught:
        fetch.fetch("http://127.0.0.1:9/", token=token, secs=10)
    assert "s3cret" not in str(caught.value)


def test_the_command_gives_up_in_time_and_says_so() -> None:
    with answering(SLOW["trickles its body"]) as url:
        done = run_command("envelope", "verify", f"{url}/e.zip", "--max-secs", "0.5")
    assert done.returncode == 1
    assert f"{url}/e.zip: takes longer than 0.5 s. More are given by --max-secs." in done.stderr
    assert "Traceback" not in done.stderr
    output = run_command("envelope", "verify", "--help").stdout
    for word in ("--max-secs", "14400", "--max-bytes", "64 GiB"):
        assert word in output


def test_what_a_server_may_not_do() -> None:
    def refuse(url: str, words: str, limit: int = 1 << 20, token: str | None = None) -> None:
        with (
            pytest.raises((fetch.FetchError, fetch.UrlError), match=words),
            fetch.fetch(url, token=token, limit=limit),
        ):
            pass

    with served(give(b"x" * 1000)) as (url, _):
        refuse(url, "larger than 999 bytes", limit=999)
    with served(give(b"x" * 10, 20)) as (url, _):
        refuse(url, "broke off|IncompleteRead")
    refuse("file:///etc/passwd", "only http")
    refuse("ftp://x/y", "only http")
    refuse("http://me:pass@localhost/x", "has a password in it")


def test_a_token_stays_with_its_origin() -> None:
    with served(give(sealed(members()))) as (other, asked_there):

        def elsewhere(handler: http.server.BaseHTTPRequestHandler) -> None:
            handler.send_response(302)
            where = handler.path[1:] or f"{other}/e"
            handler.send_header("Location", where)
            handler.end_headers()

        with served(elsewhere) as (url, asked):
            fetch.fetch(f"{url}/", token="t0ken", limit=1 << 20).close()
            assert asked == [("/", "Bearer t0ken")]
            assert asked_there == [("/e", None)]
            with pytest.raises(fetch.FetchError):
                fetch.fetch(f"{url}/file:///etc/passwd", token=None, limit=10)
