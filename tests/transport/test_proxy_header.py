"""The PROXY protocol's header, by the tables of its specification (§2.1, §2.2)."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastjmix.transport.proxy_header import (
    HEADER_BYTES_MAX,
    LINE_BYTES_MAX,
    SIGNATURE,
    Header,
    InvalidHeader,
    is_trusted,
    missing,
    parse,
)

FOUR = ipaddress.ip_address("192.0.2.7").packed + ipaddress.ip_address("10.0.0.1").packed
SIX = ipaddress.ip_address("2001:db8::7").packed + ipaddress.ip_address("2001:db8::1").packed
MAPPED = ipaddress.ip_address("::ffff:192.0.2.7").packed + SIX[16:]
PORTS = struct.pack(">HH", 40_000, 104)
TLV = struct.pack(">BH", 0x02, 8) + b"hospital"


def second(command: int, family: int, body: bytes) -> bytes:
    """Returns a header of version 2."""
    return SIGNATURE + struct.pack(">BBH", command, family, len(body)) + body


VALID = [
    (second(0x21, 0x11, FOUR + PORTS), "192.0.2.7", 40_000),
    (second(0x21, 0x11, FOUR + PORTS + TLV), "192.0.2.7", 40_000),
    (second(0x21, 0x21, SIX + PORTS + TLV), "2001:db8::7", 40_000),
    (second(0x21, 0x21, MAPPED + PORTS), "192.0.2.7", 40_000),
    (second(0x21, 0x31, bytes(216)), None, 0),
    (second(0x21, 0x00, b""), None, 0),
    (second(0x20, 0x00, b""), None, 0),
    (second(0x20, 0x11, FOUR + PORTS), None, 0),
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 40000 104\r\n", "192.0.2.7", 40_000),
    (b"PROXY TCP6 2001:db8::7 ::1 40000 104\r\n", "2001:db8::7", 40_000),
    (b"PROXY UNKNOWN\r\n", None, 0),
    (b"PROXY UNKNOWN " + b"x" * (LINE_BYTES_MAX - 16) + b"\r\n", None, 0),
]
HEADERS = [header for header, _, _ in VALID]


@pytest.mark.parametrize(("header", "host", "port"), VALID)
def test_a_header_names_the_client(header: bytes, host: str | None, port: int) -> None:
    assert missing(header) == 0
    assert parse(header + b"\x01rest") == Header(len(header), host, port)


@given(st.sampled_from(HEADERS), st.binary(max_size=300), st.data())
def test_its_end_is_found_whatever_arrives_together(
    header: bytes, rest: bytes, data: st.DataObject
) -> None:
    """`missing` never asks for a byte behind the header, and any split gives the same end."""
    at = data.draw(st.integers(0, len(header) - 1))
    assert 0 < missing(header[:at]) <= len(header) - at
    assert missing(header + rest) == 0
    have = b""
    while count := missing(have):
        have = header[: len(have) + count]
    assert have == header


INVALID = [
    (b"\x01\x00\x00\x00", "no PROXY protocol header"),
    (b"GET / HTTP/1.1\r\n", "no PROXY protocol header"),
    (b"PROXX", "no PROXY protocol header"),
    (SIGNATURE[:11] + b"x", "no PROXY protocol header"),
    (second(0x11, 0x11, FOUR + PORTS), "version and command 11"),
    (second(0x22, 0x11, FOUR + PORTS), "version and command 22"),
    (second(0x21, 0x12, FOUR + PORTS), "family and protocol 12"),
    (second(0x21, 0x41, FOUR + PORTS), "family and protocol 41"),
    (second(0x21, 0x11, FOUR + PORTS[:3]), "without whole addresses"),
    (second(0x21, 0x21, FOUR + PORTS), "without whole addresses"),
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 40000\r\n", "not of TCP4"),
    (b"PROXY UDP4 192.0.2.7 10.0.0.1 40000 104\r\n", "not of TCP4"),
    (b"PROXY TCP4 192.0.2.007 10.0.0.1 40000 104\r\n", "without addresses"),
    (b"PROXY TCP6 fe80::1%\x1b[31m\n ::1 40000 104\r\n", "without addresses"),
    (b"PROXY TCP4 ::1 ::1 40000 104\r\n", "another family"),
    (b"PROXY TCP6 ::1 10.0.0.1 40000 104\r\n", "another family"),
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 65536 104\r\n", "without ports"),
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 -1 104\r\n", "without ports"),
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 \xb2 104\r\n", "without ports"),
    (b"PROXY \r\n", "not of TCP4"),
]


@pytest.mark.parametrize(("data", "why"), INVALID)
def test_what_is_no_header_is_invalid(data: bytes, why: str) -> None:
    with pytest.raises(InvalidHeader, match=why):
        parse(data[: len(data) + missing(data)])


def test_bytes_of_a_header() -> None:
    room = HEADER_BYTES_MAX - len(SIGNATURE) - 4 - len(FOUR + PORTS)
    for more, taken in ((-1, True), (0, True), (1, False)):
        header = second(0x21, 0x11, FOUR + PORTS + bytes(room + more))
        if taken:
            assert missing(header) == 0
            assert parse(header).length == HEADER_BYTES_MAX + more
        else:
            with pytest.raises(InvalidHeader, match=f"of {HEADER_BYTES_MAX + 1} bytes"):
                missing(header[:16])


def test_bytes_of_a_line() -> None:
    line = b"PROXY UNKNOWN ".ljust(LINE_BYTES_MAX - 2, b"x")
    for length, taken in ((LINE_BYTES_MAX - 3, True), (LINE_BYTES_MAX - 2, True)):
        assert (missing(line[:length] + b"\r\n") == 0) is taken
    with pytest.raises(InvalidHeader, match="more than 107"):
        missing(line + b"x\r\n")


def test_which_addresses_are_proxies() -> None:
    networks = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/64")]
    for host, trusted in (
        ("10.255.0.1", True), ("11.0.0.1", False), ("::ffff:10.0.0.1", True), ("fd00::5", True),
        ("fd00:0:0:1::5", False), ("", False), ("fe80::1%lo", False),
    ):  # fmt: skip
        assert is_trusted(host, networks) is trusted, host
    assert not is_trusted("10.0.0.1", ())
