"""An upstream in a thread, whose answer a test changes while it runs."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Scripted(ThreadingHTTPServer):
    """An upstream that answers every envelope with `status`."""

    daemon_threads = True

    def __init__(self) -> None:
        self.status = 201
        super().__init__(("127.0.0.1", 0), _Answer)

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status = self.server.status  # type: ignore[attr-defined]
        text = {"id": str(uuid.uuid4())} if status == 201 else {"error": f"no <b>{status}</b>"}
        body = json.dumps(text).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def serving(server: Scripted) -> Iterator[Scripted]:
    """Serves until the end of the block."""
    thread = threading.Thread(target=server.serve_forever)
    with server:
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
