"""Names protocols that are not DICOM by their first bytes, for clients at the wrong port.

Guaranteed: nothing of the peer's bytes is in the words but the method of an HTTP request.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple


class Foreign(NamedTuple):
    """A protocol that a client speaks in place of DICOM, and a hint to its administrator."""

    name: str
    hint: str


_HTTP: Final = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|CONNECT|TRACE|PROPFIND|PRI) ")
_TLS_RECORDS: Final = frozenset(range(0x14, 0x19))  # RFC 8446 §5.1: type, then major version 3
_PROXY: Final = Foreign(
    "a PROXY protocol header, as load balancers send it: this port speaks DICOM",
    "turn the PROXY protocol off for this port at the load balancer, or name its address in"
    " proxy_protocol_from",
)
_HL7: Final = Foreign(
    "an HL7 message: this port speaks DICOM", "send HL7 to the interface engine and not here"
)
_PREFIXES: Final = (
    (b"PROXY ", _PROXY),
    (b"\r\n\r\n\0\r\nQUIT\n", _PROXY),
    (b"SSH-", Foreign("an SSH client: this port speaks DICOM", "SSH is at port 22 as a rule")),
    (b"\x0bMSH|", _HL7),
    (b"MSH|", _HL7),
)
_TLS_HINT: Final = (
    "turn TLS off for this destination at the sender, or put a proxy that takes TLS off (stunnel)"
    " in front of this port"
)
_HTTP_HINT: Final = (
    "http clients and health checks belong to the HTTP listener's port; a load balancer may only"
    " open a TCP connection here"
)


def foreign_protocol(start: bytes) -> Foreign | None:
    """Returns the protocol of the first bytes of a connection; None when it is unknown."""
    if start[:1] and start[0] in _TLS_RECORDS and start[1:2] in (b"", b"\x03"):
        return Foreign("a TLS handshake: this port speaks DICOM without TLS", _TLS_HINT)
    if len(start) >= 5 and start[0] & 0x80 and start[2:4] in (b"\x01\x03", b"\x01\x00"):
        name = "a TLS handshake (SSL 2.0 framing): this port speaks DICOM without TLS"
        return Foreign(name, _TLS_HINT)
    method = _HTTP.match(start)
    if method:
        name = f"an HTTP request ({method[1].decode()}): this port speaks DICOM"
        return Foreign(name, _HTTP_HINT)
    return next((found for prefix, found in _PREFIXES if start.startswith(prefix)), None)
