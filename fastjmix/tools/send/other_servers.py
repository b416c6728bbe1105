"""Names a server that is no DICOM acceptor: by its first bytes, or by a TLS handshake.

Still wrong: a server that says nothing before it is asked in its own protocol, and speaks no TLS,
has no name here.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

_STARTS: Final = (
    (b"HTTP/", "HTTP"),
    (b"<", "HTTP"),  # a page without a head, HTTP/0.9
    (b"\x15\x03", "TLS"),  # RFC 8446 §5.1: an alert, and major version 3
    (b"SSH-", "SSH"),
    (b"220", "FTP or SMTP"),
)

HANDSHAKE_SECS: Final = 3.0
"""Seconds for the handshake by which a silent TLS server is recognized, at most."""


def other_protocol(start: bytes) -> str:
    """Returns ", but ..." with the protocol that a server's first bytes belong to; "" for none."""
    return next((f", but {name}" for first, name in _STARTS if start.startswith(first)), "")


def speaks_tls(host: str, port: int, seconds: float) -> bool:
    """Tries a TLS handshake on a connection of its own; no certificate is looked at.

    Returns True where a server answers it, be it with an alert.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    limit = min(seconds, HANDSHAKE_SECS)
    try:
        with (
            socket.create_connection((host, port), limit) as plain,
            context.wrap_socket(plain),
        ):
            return True
    except ssl.SSLError as problem:
        return "ALERT" in (problem.reason or "")
    except OSError:
        return False
