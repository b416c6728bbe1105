"""Asks a running node over its local socket. Imports no HTTP library but Python's own."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from fastjmix.control.place import address
from fastjmix.errors import FastjmixError, UsageError
from fastjmix.spool.lock import holder

ANSWER_SECS: Final = 60.0
"""Seconds that an answer may take: those of the longest batch of actions, and some more."""


START_SECS: Final = 5.0
"""Seconds that a node which begins is waited for."""


class NodeAway(FastjmixError):
    """No node runs on this storage directory, or it does not answer."""

    exit_code = 3


class NodeRefused(FastjmixError):
    """The node has answered, and not done it. `status` is HTTP's, `answer` the object that came."""

    def __init__(self, message: str, status: int, answer: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.status = status
        self.answer = answer


class _Connection(http.client.HTTPConnection):
    """An HTTP connection over the local socket of a storage directory."""

    def __init__(self, storage: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._storage = storage

    def connect(self) -> None:
        """Connects. Raises OSError."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(self.timeout)
            with address(self._storage) as where:
                made.connect(where)
        except BaseException:
            made.close()
            raise
        self.sock = made


def _connected(storage: Path, timeout: float) -> _Connection:
    """Returns an open connection. Raises NodeAway, UsageError, OSError.

    While a node holds the storage directory, one that begins, serves again soon, or has its backlog
    full (EAGAIN, unix(7)), is waited for.
    """
    deadline = time.monotonic() + START_SECS
    while True:
        connection = _Connection(storage, timeout)
        try:
            connection.connect()
        except PermissionError as problem:
            raise UsageError(
                f"{storage}: its node belongs to another user: {problem.strerror}",
                "Run the command as that user, or as root.",
            ) from problem
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as problem:
            runs = holder(storage) is not None
            if runs and time.monotonic() < deadline:
                time.sleep(START_SECS / 50)
                continue
            why = "does not answer" if runs else "does not run"
            hint = "Its log says why." if runs else "Start it, with this configuration."
            raise NodeAway(f"the fastjmix of {storage} {why}", hint) from problem
        return connection


class ControlClient:
    """Requests to the node of a storage directory.

    Each method raises NodeAway, NodeRefused, UsageError for a socket that is not the caller's.
    """

    def __init__(self, storage: Path, timeout: float = ANSWER_SECS) -> None:
        self._storage = storage
        self._timeout = timeout

    def get(self, path: str) -> dict[str, Any]:
        """Returns the object that a GET is answered with."""
        return self._ask("GET", path, None)

    def post(self, path: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the object that a POST is answered with."""
        return self._ask("POST", path, json.dumps(content).encode())

    def events(self, path: str) -> Iterator[dict[str, Any]]:
        """Yields the data of server-sent events until the node ends."""
        with self._exchange("GET", path, None) as answer:
            while line := answer.readline():
                name, _, data = line.partition(b":")
                if name == b"data":
                    yield json.loads(data)

    def _ask(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        with self._exchange(method, path, body) as answer:
            found: dict[str, Any] = json.loads(answer.read())
        return found

    @contextlib.contextmanager
    def _exchange(
        self, method: str, path: str, body: bytes | None
    ) -> Iterator[http.client.HTTPResponse]:
        """Lends an answer that is a success."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection = _connected(self._storage, self._timeout)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            if answer.status >= 300:
                raise _refusal(answer)
            yield answer
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as problem:
            raise NodeAway(
                f"the fastjmix on {self._storage} does not answer: {problem}",
                "Try again; its log says more.",
            ) from problem
        finally:
            connection.close()


def _refusal(answer: http.client.HTTPResponse) -> NodeRefused:
    """Returns the error for an answer that is no success: {"error": …} says why."""
    why, found = f"the node answers with HTTP {answer.status}", None
    with contextlib.suppress(ValueError, KeyError, TypeError):
        found = json.loads(answer.read())
        why = str(found["error"])
    return NodeRefused(why, answer.status, found if isinstance(found, dict) else {})
