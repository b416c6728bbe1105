"""Names protocols that are not DICOM by their first bytes, for clients at the wrong port.

Guaranteed: nothing of the peer's bytes is in the name but the method of an HTTP request.
"""

from __future__ import annotations

import re

_HTTP = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|CONNECT|TRACE|PROPFIND|PRI) ")
_TLS_RECORDS = frozenset(range(0x14, 0x19))  # RFC 8446 §5.1: type, then major version 3
_PREFIXES = (
    (b"PROXY ", "a PROXY protocol header, as load balancers send it"),
    (b"\r\n\r\n\0\r\nQUIT\n", "a PROXY protocol header, as load balancers send it"),
    (b"SSH-", "an SSH client"),
    (b"\x0bMSH|", "an HL7 message"),
    (b"MSH|", "an HL7 message"),
)


def foreign_protocol(start: bytes) -> str:
    """Returns the protocol of the first bytes of a connection; "" when it is unknown."""
    if start[:1] and start[0] in _TLS_RECORDS and start[1:2] in (b"", b"\x03"):
        return "a TLS handshake: this port speaks DICOM without TLS"
    if len(start) >= 5 and start[0] & 0x80 and start[2:4] in (b"\x01\x03", b"\x01\x00"):
        return "a TLS handshake (SSL 2.0 framing): this port speaks DICOM without TLS"
    method = _HTTP.match(start)
    if method:
        return f"an HTTP request ({method[1].decode()}): this port speaks DICOM"
    for prefix, name in _PREFIXES:
        if start.startswith(prefix):
            return f"{name}: this port speaks DICOM"
    return ""
