"""dicom/foreign.py: which protocol a peer spoke in place of DICOM."""

from __future__ import annotations

import pytest

from fastjmix.dicom.foreign import foreign_protocol


@pytest.mark.fault("S40")
@pytest.mark.parametrize(
    "start", [b"", b"\1", b"\2\0\0", b"G", b"\x16\0\0\0", b"get / ", b"\xff" * 16]
)
def test_other_bytes_have_no_name(start: bytes) -> None:
    assert foreign_protocol(start) is None


@pytest.mark.fault("S40")
@pytest.mark.parametrize(
    ("start", "name", "hint"),
    [
        (b"\x16\x03\x01\x02\0", "a TLS handshake: this port speaks DICOM without TLS", "stunnel"),
        (b"\x80\x2e\x01\x03\x01", "a TLS handshake (SSL 2.0 framing)", "turn TLS off"),
        (
            b"GET / HTTP/1.1",
            "an HTTP request (GET): this port speaks DICOM",
            "HTTP listener's port",
        ),
        (b"PROXY TCP4 ", "a PROXY protocol header", "load balancer"),
        (b"MSH|^~", "an HL7 message", "interface engine"),
        (b"SSH-2.0", "an SSH client", "port 22"),
    ],
)
def test_a_protocol_has_its_name_and_what_to_do(start: bytes, name: str, hint: str) -> None:
    found = foreign_protocol(start)
    assert found is not None
    assert found.name.startswith(name)
    assert hint in found.hint
