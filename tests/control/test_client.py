"""A tool's requests to a node over its local socket."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fastjmix.control.client import ControlClient, NodeAway, NodeRefused
from fastjmix.control.listening import ControlSocket
from fastjmix.control.peer import peer_of
from fastjmix.control.place import address
from fastjmix.spool import Spool
from tests.support.unprivileged import run_python_unprivileged


def answering(storage: Path, *answers: bytes) -> threading.Thread:
    """Answers so many connections with these bytes, whatever they ask."""
    one = ControlSocket(storage)
    one.socket.setblocking(True)

    def work() -> None:
        with one.socket:
            for answer in answers:
                connection, _ = one.socket.accept()
                with connection:
                    asked = b""
                    while not asked.endswith((b"}", b"\r\n\r\n")) or (
                        asked.startswith(b"POST") and not asked.endswith(b"}")
                    ):
                        asked += connection.recv(1 << 16)
                    connection.sendall(answer)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def response(status: str, body: object) -> bytes:
    text = json.dumps(body).encode()
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(text), text)


def test_an_answer_and_a_refusal(tmp_path: Path) -> None:
    told = response("200 OK", {"node": 1})
    thread = answering(tmp_path, told, response("503 No", {"error": "not now"}), b"HTTP/1.1 nope")
    client = ControlClient(tmp_path)
    assert client.get("/x") == {"node": 1}
    with pytest.raises(NodeRefused, match="not now") as refused:
        client.post("/x", {"ids": []})
    assert refused.value.status == 503
    with pytest.raises(NodeAway, match="does not answer") as away:
        client.get("/x")
    assert away.value.exit_code == 3
    thread.join(10)


def test_events_end_with_the_node(tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nretry: 2000\n\n"
    thread = answering(tmp_path, head + b'event: status\ndata: {"n": 1}\n\ndata: {"n": 2}\n\n')
    assert [event["n"] for event in ControlClient(tmp_path).events("/x")] == [1, 2]
    thread.join(10)


def test_a_full_backlog_is_waited_for(tmp_path: Path) -> None:
    """Where many ask at once: connect(2) of such a socket says EAGAIN and waits for nobody."""
    with ExitStack() as stack:
        spool = Spool(tmp_path, durable=False)
        spool.prepare()  # a node runs
        stack.callback(spool.release)
        one = ControlSocket(tmp_path).socket
        one.listen(0)
        stack.enter_context(one)
        waits = stack.enter_context(socket.socket(socket.AF_UNIX))
        with address(tmp_path) as where:
            waits.connect(where)
        answers: list[Any] = []
        asks = threading.Thread(target=lambda: answers.append(ControlClient(tmp_path).get("/x")))
        asks.start()
        asks.join(0.2)  # it finds the backlog full
        one.settimeout(10)
        one.accept()[0].close()
        connection, _ = one.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(response("200 OK", {"node": 1}))
        asks.join(10)
        assert answers == [{"node": 1}]


@pytest.mark.parametrize("left", ["nothing", "socket", "no directory"])
def test_no_node(tmp_path: Path, left: str) -> None:
    storage = tmp_path / "none" if left == "no directory" else tmp_path
    if left == "socket":
        ControlSocket(tmp_path).socket.close()
    with pytest.raises(NodeAway, match="does not run") as away:
        ControlClient(storage).get("/x")
    assert away.value.exit_code == 3


def test_the_socket_of_another_user(tmp_path: Path) -> None:
    one = ControlSocket(tmp_path)
    (tmp_path / "control.sock").chmod(0)
    code = (
        "import sys; from pathlib import Path\n"
        "from fastjmix.control.client import ControlClient\n"
        "try: ControlClient(Path(sys.argv[1])).get('/x')\n"
        "except Exception as problem: print(type(problem).__name__, problem.exit_code, problem)"
    )
    with one.socket:
        done = run_python_unprivileged("-c", code, tmp_path)
    assert done.stdout.startswith("UsageError 2"), done
    assert "belongs to another user" in done.stdout


def test_the_kernel_says_who_is_there(tmp_path: Path) -> None:
    import os
    import socket

    mine, theirs = socket.socketpair(socket.AF_UNIX)
    with mine, theirs:
        found = peer_of(theirs)
    assert (found.pid, found.uid, found.allowed) == (os.getpid(), os.getuid(), True)
    assert found.named().startswith(f"uid {os.getuid()}")
    assert found._replace(uid=4_000_000).named() == "uid 4000000"
    assert not found._replace(uid=4_000_000).allowed
