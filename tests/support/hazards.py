"""Trouble around a gateway that works: for the soak and the random kills.

LengthOnly   an upstream that knows only Content-Length: of a chunked body it reads nothing
Tickets      a ticket in outbox/ that cannot be read for a while, and then again
Inodes       all free inodes of the spool's file system are taken for a while
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import http.client
import itertools
import os
import random
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PIECE = 64 << 10
LOOK_SECS = 1.0
AT_FDCWD = -100
RENAME_EXCHANGE = 2

ANSWERS_TO_NOTHING = (
    lambda: (201, b'{"status": "stored"}'),
    lambda: (201, b'{"id": "%s"}' % str(uuid.uuid4()).encode()),
    lambda: (201, b""),
    lambda: (200, b"{}"),
    lambda: (400, b'{"error": "not a ZIP"}'),
    lambda: (500, b"Internal Server Error"),
)
"""Answers of such servers to a body in which they found no byte."""


def exchange(one: Path, other: Path) -> None:
    """Gives each the other's name, at once. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(one))


def delete_whole(directory: Path) -> None:
    """Deletes a directory in which processes are at work: nobody finds a half of it."""
    gone = directory.with_name(f"{directory.name}.gone")
    directory.rename(gone)
    shutil.rmtree(gone)


# -- the upstream ----------------------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: LengthOnly

    def do_POST(self) -> None:
        length = self.headers["Content-Length"]
        if length is None:
            self.server.unread += 1
            self.close_connection = True
            status, said = random.choice(ANSWERS_TO_NOTHING)()
            self._answer(status, said)
            return
        self._pass_on("POST", int(length))

    def do_GET(self) -> None:
        self._pass_on("GET", 0)

    def do_OPTIONS(self) -> None:
        self._pass_on("OPTIONS", 0)

    def _pass_on(self, method: str, length: int) -> None:
        behind = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        with contextlib.closing(behind):
            try:
                behind.putrequest(method, self.path)
                for name in ("Content-Type", "Accept"):
                    if self.headers[name]:
                        behind.putheader(name, self.headers[name])
                behind.putheader("Content-Length", str(length))
                behind.endheaders()
                while length > 0:
                    piece = self.rfile.read(min(PIECE, length))
                    if not piece:
                        raise EOFError("the sender has gone")
                    behind.send(piece)
                    length -= len(piece)
                answer = behind.getresponse()
                said = answer.read()
            except (OSError, EOFError, http.client.HTTPException):
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self._answer(502, b"no upstream")
                return
            self._answer(answer.status, said, answer.headers["Retry-After"])

    def _answer(self, status: int, said: bytes, retry_after: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        """Says nothing: the ledger does."""


class LengthOnly(ThreadingHTTPServer):
    """Stands before a store on port `behind` of this machine. `unread` counts bodies it did not
    see.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.unread = 0
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, *_: Any) -> None:
        """Ignores a connection that a kill broke."""

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


# -- the disk --------------------------------------------------------------------------------------


class Tickets:
    """Tickets in outbox/ that cannot be read: a directory or a FIFO is in their place."""

    def __init__(self, spool: Path) -> None:
        self._outbox = spool / "outbox"
        self._beside = spool / "hazards"
        self.hidden = 0

    @contextlib.contextmanager
    def one_unreadable(self, rng: random.Random) -> Iterator[bool]:
        """Makes one that waits unreadable, if there is one, until the end of the block. Yields
        whether there was.
        """
        self._beside.mkdir(exist_ok=True)
        deadline = time.monotonic() + LOOK_SECS
        while not (tickets := sorted(self._outbox.glob("*.json"))) and time.monotonic() < deadline:
            time.sleep(0.005)  # most envelopes are there for a moment only
        ticket = rng.choice(tickets) if tickets else self._outbox / "none.json"
        stand_in = self._beside / f"{uuid.uuid4()}.stand-in"
        if rng.random() < 0.5:
            stand_in.mkdir()
        else:
            os.mkfifo(stand_in)
        there = True
        try:
            exchange(ticket, stand_in)
            self.hidden += 1
        except OSError:  # it has been delivered
            there = False
        try:
            yield there
        finally:
            if there:
                self._give_back(ticket, stand_in)
            with contextlib.suppress(OSError):
                stand_in.rmdir() if stand_in.is_dir() else stand_in.unlink()

    def _give_back(self, ticket: Path, stand_in: Path) -> None:
        """Puts the ticket back, unless the envelope was on its way already and has been delivered:
        then what stood in for its ticket went with it. Raises OSError."""
        try:
            exchange(ticket, stand_in)
        except FileNotFoundError:
            if ticket.with_suffix(".zip").exists():
                raise


class Inodes:
    """The inodes of the file system that a spool is on."""

    def __init__(self, spool: Path) -> None:
        self._beside = spool / "hazards" / "inodes"
        self.ran_out = 0

    @contextlib.contextmanager
    def none_free(self) -> Iterator[None]:
        """Takes all inodes that are free now until the end of the block."""
        self._beside.mkdir(parents=True, exist_ok=True)
        try:
            try:
                for number in itertools.count():
                    os.close(os.open(self._beside / str(number), os.O_CREAT | os.O_EXCL, 0o600))
            except OSError as problem:
                if problem.errno != errno.ENOSPC:
                    raise
                self.ran_out += 1
            yield
        finally:
            shutil.rmtree(self._beside)
