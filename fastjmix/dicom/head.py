"""Reads a data set's head, and whether it is sound, wherever it lies. One reader for all.

Wanted: recovery, `send`, `envelope build` and `envelope verify` understand an instance as reception
did.
Guaranteed: they ask the compiled reader that reception asks (`_core.DataSetReader`). It has one
answer for a data set, however its bytes come. Values are passed over and not read; no more is held
than a step, however large the data set or any of its elements is.
Still wrong: a cut between two elements of the data set itself leaves no trace in the bytes.

UIDs that PS3.5 §9.1 does not allow are read here: whether they are let in is asked at reception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from fastjmix import _core
from fastjmix._core import PIXELS_EITHER, DataSetReader, Head
from fastjmix.dicom.syntaxes import encoding_of
from fastjmix.errors import UnreadableHead

ReadAt = Callable[[int, int], bytes]
"""As pread(2): (offset, length) → as many bytes as there are."""

STEP_BYTES: Final = 1 << 16
"""Bytes that are read at a time behind the first look."""


class Found(NamedTuple):
    """The head of a data set. `fault`: what is wrong with what was read; "" when nothing is."""

    head: Head
    fault: str


def reader_for(transfer_syntax: str) -> DataSetReader:
    """Returns a reader for data sets in a transfer syntax. Raises UnreadableHead."""
    encoding = encoding_of(transfer_syntax)
    if encoding is None:
        raise UnreadableHead(f"transfer syntax {transfer_syntax} holds no elements")
    return DataSetReader(encoding.kind, encoding.pixels, True)


def has_uids(head: Head) -> bool:
    """Tells whether all four UIDs are there."""
    return bool(
        head.study_instance_uid
        and head.series_instance_uid
        and head.sop_instance_uid
        and head.sop_class_uid
    )


def data_set_head(
    read_at: ReadAt, offset: int, size: int, syntax: str, *, whole: bool = False
) -> Found:
    """Returns the head of the data set of `size` bytes at `offset` of a file.

    `whole`: the rest is read too, for its fault. Raises UnreadableHead when there is no head that
    can be understood, or the file is shorter than it should be; OSError.
    """
    reader = reader_for(syntax)
    _read(reader, read_at, offset, size, whole=whole)
    return _found(reader)


def cut_short(read_at: ReadAt, offset: int, size: int, syntax: str) -> str:
    """Returns where the data set of `size` bytes at `offset` of a file provably ends too early: in
    an element that is in no sequence. "" when it does not. A deflated one is inflated to its end.

    Whatever else is wrong with it is asked of its receiver, or of `data_set_head`. Raises
    UnreadableHead when the file is shorter than it should be; OSError.
    """
    if size <= 0:
        return "before its data set begins"
    encoding = encoding_of(syntax)
    if encoding is None:  # no elements: nothing can be proved
        return ""
    reader = DataSetReader(encoding.kind, PIXELS_EITHER, True, True)
    _read(reader, read_at, offset, size, whole=True)
    if not reader.cut:
        return ""
    if reader.broken_at is None:
        return "inside its deflate stream"
    tag = reader.broken_at[1]
    return "in an element's head" if tag is None else f"inside ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _read(reader: DataSetReader, read_at: ReadAt, offset: int, size: int, *, whole: bool) -> None:
    """Feeds a data set in steps, and passes over its values. Raises UnreadableHead, OSError."""
    at, step = 0, _core.HEAD_FIRST_LOOK
    while at < size and not reader.over and (whole or not reader.found):
        passable = min(reader.passable, size - at)
        if passable > step:
            reader.pass_over(passable)
            at += passable
            continue
        data = read_at(offset + at, min(step, size - at))
        if len(data) < min(step, size - at):
            raise UnreadableHead(f"its data set ends after {at + len(data)} of {size} bytes")
        reader.feed(data)
        at += len(data)
        step = STEP_BYTES
    if whole or not reader.found:
        reader.end()


def stream_head(pieces: Iterable[bytes], offset: int, syntax: str) -> Found:
    """Does the same for the whole data set at `offset` of what comes in pieces."""
    reader = reader_for(syntax)
    for piece in pieces:
        reader.feed(piece[offset:])
        offset = max(0, offset - len(piece))
        if reader.over:
            break
    reader.end()
    return _found(reader)


def _found(reader: DataSetReader) -> Found:
    fault = reader.fault.decode()
    if not reader.found:
        raise UnreadableHead(fault)
    return Found(reader.head(), fault)
