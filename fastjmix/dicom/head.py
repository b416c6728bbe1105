"""Reads the head of a data set, and its faults, from a file or a stream.

Recovery, `send`, `envelope build` and `envelope verify` use it.

Guaranteed: it understands a data set as reception does, because both use the compiled reader
(`_core.DataSetReader`), whose answer does not depend on how the bytes are split. Values are skipped
and not read. No more than STEP_BYTES are held, however large the data set or an element is.
Still wrong: a cut between two top-level elements cannot be seen in the bytes.

UIDs that PS3.5 §9.1 does not allow are accepted here: only reception refuses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from fastjmix import _core
from fastjmix._core import PIXELS_EITHER, DataSetReader, Head
from fastjmix.dicom.syntaxes import encoding_of
from fastjmix.errors import UnreadableHead

ReadAt = Callable[[int, int], bytes]
"""(offset, length) → as many bytes of the file as there are, like pread(2)."""

STEP_BYTES: Final = 1 << 16
"""Bytes that are read at a time after the first read."""


class Found(NamedTuple):
    """The head of a data set. `fault` describes an error in the part that was read, or is ""."""

    head: Head
    fault: str


def reader_for(transfer_syntax: str) -> DataSetReader:
    """Returns a reader for data sets in a transfer syntax. Raises UnreadableHead."""
    encoding = encoding_of(transfer_syntax)
    if encoding is None:
        raise UnreadableHead(f"transfer syntax {transfer_syntax} holds no elements")
    return DataSetReader(encoding.kind, encoding.pixels, True)


def has_uids(head: Head) -> bool:
    """Returns whether all four UIDs are there."""
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

    `whole`: the rest is read too, for its fault. Raises UnreadableHead when the head cannot be
    read, or the file is shorter than it should be; OSError.
    """
    reader = reader_for(syntax)
    _read(reader, read_at, offset, size, whole=whole)
    return _found(reader)


def cut_short(read_at: ReadAt, offset: int, size: int, syntax: str) -> str:
    """Returns the place where the data set of `size` bytes at `offset` of a file provably ends too
    early: in an element that is in no sequence. "" when it does not. A deflated one is inflated to
    its end.

    No other fault is found: see `data_set_head`. Raises UnreadableHead when the file is shorter
    than it should be; OSError.
    """
    if size <= 0:
        return "before its data set begins"
    encoding = encoding_of(syntax)
    if encoding is None:  # no elements: nothing can be found
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
    """Feeds a data set in steps, and skips its values. Raises UnreadableHead, OSError."""
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
    """Returns the same for the whole data set at `offset` of a stream of pieces."""
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
