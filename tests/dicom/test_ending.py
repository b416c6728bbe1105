"""dicom/ending.py: a file that breaks off is seen to, whatever it breaks off in."""

from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from fastjmix import _core
from tests.support.acceptors import data_set_bytes
from tests.tools.test_left_out import deflated, ends, image


def data_set(path: Path, syntax: str) -> bytes:
    """Sequences of defined and undefined length, within each other, and Pixel Data."""
    inner = Dataset()
    inner.CodeValue = "1"
    outer = Dataset()
    outer.CodeMeaning = "x" * 20
    outer.PurposeOfReferenceCodeSequence = [inner, inner]
    outer["PurposeOfReferenceCodeSequence"].is_undefined_length = True
    outer.is_undefined_length_sequence_item = True
    whole = dcmread(image(path))
    whole.ReferencedImageSequence = [outer, outer]
    whole["ReferencedImageSequence"].is_undefined_length = True
    whole.ReferencedStudySequence = [inner]
    whole.add_new(0x00091010, "UN", b"private" * 99)
    whole.add_new(0x00091011, "OB", b"private" * 100)
    if syntax == JPEG2000Lossless:
        whole.PixelData = encapsulate([b"\xff" * 100, b"\xee" * 80])
        whole["PixelData"].is_undefined_length = True
    else:
        whole.add_new(0x7FE00010, "OW", b"pixels" * 500)
    out = Dataset()
    out.update(whole)
    out.file_meta = whole.file_meta
    out.file_meta.TransferSyntaxUID = UID(syntax)
    out.save_as(path, enforce_file_format=True)
    return data_set_bytes(path)


@pytest.mark.fault("F112")
@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        JPEG2000Lossless,
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_every_cut_inside_an_element_is_seen(tmp_path: Path, syntax: str) -> None:
    """Every length but those at which the data set could end."""
    data = data_set(tmp_path / "whole.dcm", syntax)
    assert ends(data, syntax) == ""
    assert ends(data + bytes(100), syntax) == ""  # padding
    unseen = [length for length in range(len(data)) if not ends(data[:length], syntax)]
    assert [length for length in unseen if not could_end(data[:length], syntax)] == []
    assert len(unseen) < 15


def could_end(data: bytes, syntax: str) -> bool:
    """Whether pydicom reads an element that is put behind these bytes as one of the data set."""
    if syntax == DeflatedExplicitVRLittleEndian:
        inflating = zlib.decompressobj(-15)
        inflating.decompress(data)
        return inflating.eof
    if data.endswith((b"\xff" * 100, b"\xee" * 80)):  # a fragment: some writers end there
        return True
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    order = "<" if little else ">"
    last = struct.pack(order + "HH", 0xFFFC, 0xFFFC)  # Data Set Trailing Padding
    last += struct.pack(order + "L", 4) if implicit else b"OB" + struct.pack(order + "HL", 0, 4)
    found = read_dataset(io.BytesIO(data + last + b"last"), implicit, little)
    return 0xFFFCFFFC in found and found[0xFFFCFFFC].value == b"last"


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_sequences_within_each_other_are_followed_up_to_a_limit(off: int) -> None:
    begin = struct.pack("<HHL", 8, 0x1140, 0xFFFFFFFF)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    reported = ends((begin + item) * (_core.HEAD_DEPTH_MAX + off), ImplicitVRLittleEndian)
    assert reported == ("inside (0008,1140)" if off <= 0 else "")


def test_a_bomb_and_bytes_of_no_kind_prove_nothing_and_cost_little() -> None:
    bomb = deflated(bytes(1 << 26))
    begin = time.process_time()
    assert ends(bomb, DeflatedExplicitVRLittleEndian) == ""
    assert ends(bomb[:-2], DeflatedExplicitVRLittleEndian) == "inside its deflate stream"
    assert time.process_time() - begin < 5
    assert ends(b"\xff" * 100, DeflatedExplicitVRLittleEndian) == ""
    assert ends(b"garbage, that is no element", ExplicitVRLittleEndian) == ""
