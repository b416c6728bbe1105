"""dicom/foreign.py: which protocol a peer spoke in place of DICOM."""

from __future__ import annotations

import pytest

from fastjmix.dicom.foreign import foreign_protocol


@pytest.mark.fault("S40")
@pytest.mark.parametrize(
    "start", [b"", b"\1", b"\2\0\0", b"G", b"\x16\0\0\0", b"get / ", b"\xff" * 16]
)
def test_other_bytes_have_no_name(start: bytes) -> None:
    assert foreign_protocol(start) == ""
