"""Reads the PROXY protocol's header, by which a proxy names the client that it forwards.

Sans-I/O. The header is the first that a trusted proxy sends, before TLS and before any protocol.
Versions 1 and 2 are read (haproxy.org, "The PROXY protocol", §2.1 and §2.2): HAProxy sends either,
stunnel the first.

    version 2   0–11   0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A
                12     version (4 bits) 2; command (4 bits): 0 LOCAL, 1 PROXY
                13     family (4 bits): 0 unspecified, 1 IPv4, 2 IPv6, 3 Unix
                       protocol (4 bits): 0 unspecified, 1 stream, 2 datagram
                14–15  length of what follows, big endian
                16–    IPv4: source 4, destination 4, their ports 2 + 2 bytes; IPv6: 16, 16, 2 + 2;
                       then TLVs, which are passed over

    version 1   "PROXY TCP4 SOURCE DESTINATION PORT PORT\\r\\n", or the same with TCP6, or
                "PROXY UNKNOWN …\\r\\n"; 107 bytes at most

Guaranteed: a header ends within HEADER_BYTES_MAX bytes, or is invalid. LOCAL, UNKNOWN, unspecified
and Unix clients have no address: the connection keeps that of the proxy. An IPv4 address in IPv6
form becomes IPv4, so that a client has one address in limits and rules.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Final, NamedTuple

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

HEADER_BYTES_MAX: Final = 2048
"""Bytes of a header: the addresses take 52, the TLVs of TLS (a certificate's subject) some hundred.
A version 2 header could announce 64 KiB."""

HEADER_SECS: Final = 5.0
"""Seconds in which the header must be whole. The proxy sends it at once, on its own accord."""

LINE_BYTES_MAX: Final = 107  # §2.1: the longest line of version 1, with its CRLF

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED_BYTES: Final = 16
_WORD: Final = b"PROXY "
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
_NO_ADDRESS: Final = (0x00, 0x31)  # unspecified; a stream of a Unix socket


class InvalidHeader(ValueError):
    """The first bytes are no header of the PROXY protocol, or not one for a TCP connection."""


class Header(NamedTuple):
    """A whole header: how many bytes it has, and the client's address. `host` None: the connection
    is the proxy's own, or the proxy does not know the client."""

    length: int
    host: str | None = None
    port: int = 0


def missing(data: bytes | bytearray) -> int:
    """Returns how many bytes of the header are still to come, at the least; 0 when it is whole,
    whatever follows it. Raises InvalidHeader."""
    start = bytes(data[:_FIXED_BYTES])
    if not start:
        return len(SIGNATURE)
    if _WORD.startswith(start[: len(_WORD)]):
        return _missing_of_line(bytes(data[:LINE_BYTES_MAX]))
    if not SIGNATURE.startswith(start[: len(SIGNATURE)]):
        raise InvalidHeader("no PROXY protocol header")
    if len(start) < _FIXED_BYTES:
        return _FIXED_BYTES - len(start)
    length = _FIXED_BYTES + int.from_bytes(start[14:16], "big")
    if length > HEADER_BYTES_MAX:
        raise InvalidHeader(f"a PROXY protocol header of {length} bytes")
    return max(0, length - len(data))


def _missing_of_line(line: bytes) -> int:
    if b"\r\n" in line:
        return 0
    if len(line) >= LINE_BYTES_MAX:
        raise InvalidHeader(f"a PROXY protocol line of more than {LINE_BYTES_MAX} bytes")
    return 1 if line.endswith(b"\r") else 2


def parse(data: bytes | bytearray) -> Header:
    """Returns the header at the beginning of `data`, which is whole (`missing` is 0). Raises
    InvalidHeader."""
    if data.startswith(_WORD):
        return _line(bytes(data[:LINE_BYTES_MAX]).partition(b"\r\n")[0])
    command, family = data[12], data[13]
    length = _FIXED_BYTES + int.from_bytes(data[14:16], "big")
    if command == _LOCAL:
        return Header(length)
    if command != _PROXY:
        raise InvalidHeader(f"a PROXY protocol header of version and command {command:02x}")
    if family in _NO_ADDRESS:
        return Header(length)
    if family not in (_TCP4, _TCP6):
        raise InvalidHeader(f"a PROXY protocol header of family and protocol {family:02x}")
    size = 4 if family == _TCP4 else 16
    if length < _FIXED_BYTES + 2 * size + 4:
        raise InvalidHeader(f"a PROXY protocol header of {length} bytes, without whole addresses")
    host = ipaddress.ip_address(bytes(data[_FIXED_BYTES : _FIXED_BYTES + size]))
    ports = _FIXED_BYTES + 2 * size
    return Header(length, str(_plain(host)), int.from_bytes(data[ports : ports + 2], "big"))


def _line(line: bytes) -> Header:
    """Returns the header that a line of version 1 is, without its CRLF."""
    length = len(line) + 2
    words = line.decode("latin-1").split(" ")
    if words[1] == "UNKNOWN":
        return Header(length)
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise InvalidHeader("a PROXY protocol line that is not of TCP4, TCP6 or UNKNOWN")
    try:
        hosts = [ipaddress.ip_address(word) for word in words[2:4]]
        if any("%" in word for word in words):  # a zone of IPv6 may be any text
            raise ValueError
    except ValueError:
        raise InvalidHeader("a PROXY protocol line without addresses") from None
    if any(f"TCP{host.version}" != words[1] for host in hosts):
        raise InvalidHeader("a PROXY protocol line with addresses of another family")
    return Header(length, str(_plain(hosts[0])), _port(words[4]))


def _port(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) <= 5 and int(word) <= 65535):
        raise InvalidHeader("a PROXY protocol line without ports")
    return int(word)


def is_trusted(host: str, proxies: Collection[Network]) -> bool:
    """Returns whether this address is in one of the networks. `host` is a peer's address, as a
    socket gives it; "" (a Unix socket's peer) is in none."""
    if not proxies:
        return False
    try:
        address = _plain(ipaddress.ip_address(host))
    except ValueError:
        return False
    return any(address in network for network in proxies)


def _plain(address: _IpAddress) -> _IpAddress:
    """Returns an address; of an IPv4 one in IPv6 form (::ffff:1.2.3.4) the IPv4 one."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
