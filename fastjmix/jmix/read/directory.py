"""Reads the central directory of a ZIP, and the records that locate it.

Wanted: time and memory grow with the bytes of the directory and not faster.
Guaranteed: end records and directory agree; each entry is read once, from the front; its name is
the same to every reader of ZIP, and its ZIP64 sizes are stated once.
Still wrong: times, attributes and versions are not checked: they say nothing about a member's data.

Sources: PKWARE APPNOTE 6.3.10, §4.3.12 to §4.3.16, §4.4, §4.5.3, §4.6.9 (Unicode path field).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from isal.isal_zlib import crc32

from fastjmix.jmix.faults import refuse

if TYPE_CHECKING:
    from fastjmix.jmix.limits import Limits

END: Final = struct.Struct("<4s4H2LH")  # end of central directory record, APPNOTE §4.3.16
END64: Final = struct.Struct("<4sQ2H2L4Q")  # ZIP64 end of central directory record, §4.3.14
LOCATOR64: Final = struct.Struct("<4sLQL")  # ZIP64 end of central directory locator, §4.3.15
# signature, made by, version needed, flags, method, time, date, CRC, sizes packed and unpacked,
# lengths of name, extra field and comment, disk, internal and external attributes, offset (§4.3.12)
HEADER: Final = struct.Struct("<4s6H3L5H2L")
COMMENT_MAX: Final = 0xFFFF
UNSET: Final = 0xFFFFFFFF  # the value is in a ZIP64 field, §4.4.8

UTF8: Final = 0x0800
"""The name is UTF-8 (APPNOTE §4.4.4, bit 11); else it is code page 437 (appendix D)."""
VERSION_MAX: Final = 63
"""Version needed to extract, 6.3: the newest that the specification knows (§4.4.3)."""
ZIP64_FIELD: Final = 0x0001
PATH_FIELD: Final = 0x7075
"""Extra fields that change a size or a name (§4.5.3, §4.6.9)."""


@dataclass(slots=True)
class Entry:
    """An entry of the central directory: name, sizes in bytes, offset of its local file header."""

    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    attributes: int
    offset: int

    @property
    def is_folder(self) -> bool:
        """True for the name of a folder."""
        return self.name.endswith("/")


# -- the end records -----------------------------------------------------------------------------


def find(file: BinaryIO, limits: Limits) -> tuple[int, int, int]:
    """Returns offset, length and number of entries of the directory, from records that agree.

    No bytes may be between the directory, the ZIP64 records, the end record and the end of the
    file: with such bytes two readers can find two archives. Raises EnvelopeError, OSError.
    """
    size = file.seek(0, 2)
    tail_at = max(0, size - END.size - COMMENT_MAX - LOCATOR64.size)
    file.seek(tail_at)
    tail = file.read(size - tail_at)
    at = len(tail) - END.size  # no comment: nothing to search for
    if not (tail.startswith(b"PK\x05\x06", max(at, 0)) and tail.endswith(b"\0\0")):
        at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + END.size > len(tail):
        refuse("archive", "is not a ZIP: it has no end of central directory record")
    _, disk, directory_disk, here, total, length, start, comment = END.unpack_from(tail, at)
    if at + END.size + comment != len(tail):
        what = "has bytes behind its end of central directory record"
        refuse("archive", what, at=tail_at + at + END.size + comment)
    if disk not in (0, 0xFFFF) or directory_disk not in (0, 0xFFFF):
        refuse("archive", "is one part of several", at=tail_at + at)
    stop = tail_at + at
    if at >= LOCATOR64.size and tail.startswith(b"PK\x06\x07", at - LOCATOR64.size):
        narrow = (here, total, length, start)
        stop, (here, total, length, start) = _find64(file, stop - LOCATOR64.size)
        wide = (here, total, length, start)
        for old, new, unset in zip(narrow, wide, (0xFFFF, 0xFFFF, UNSET, UNSET), strict=True):
            if old not in (unset, new):
                refuse("archive", "has two end records that contradict each other", at=stop)
    if start + length != stop or here != total:
        what = "has a central directory that is not where its end record says"
        refuse("archive", what, at=start)
    if not total:
        refuse("archive", "is empty: it has no members", at=start)
    if total > limits.max_members:
        refuse("archive", f"has {total} members; max_members is {limits.max_members}")
    if length > limits.max_directory_bytes:
        limit = limits.max_directory_bytes
        refuse("central directory", f"is {length} bytes; max_directory_bytes is {limit}")
    return start, length, total


def _find64(file: BinaryIO, locator_at: int) -> tuple[int, tuple[int, int, int, int]]:
    """Returns the ZIP64 end record's offset, and (entries here, entries, length, start) from it."""
    file.seek(locator_at)
    _, _, at, _ = LOCATOR64.unpack(file.read(LOCATOR64.size))
    if at + END64.size > locator_at:
        refuse("archive", "has a ZIP64 locator that points outside the file", at=locator_at)
    file.seek(at)
    signature, left, _, _, disk, directory_disk, *wide = END64.unpack(file.read(END64.size))
    if signature != b"PK\x06\x06" or at + 12 + left != locator_at or disk or directory_disk:
        what = "has a ZIP64 locator that does not point to its ZIP64 end record"
        refuse("archive", what, at=locator_at)
    here, total, length, start = wide
    return at, (here, total, length, start)


# -- the entries ---------------------------------------------------------------------------------


def read(file: BinaryIO, start: int, length: int, count: int) -> list[Entry]:
    """Returns the entries of a directory that `find` found, in its order.

    Raises EnvelopeError where an entry cannot be read, OSError.
    """
    file.seek(start)
    data = file.read(length)
    entries: list[Entry] = []
    at = 0
    while at < len(data):
        if not data.startswith(b"PK\x01\x02", at) or at + HEADER.size > len(data):
            refuse("central directory", "cannot be read: an entry has no header", at=start + at)
        entry, at = _entry(data, at, start)
        entries.append(entry)
    if len(entries) != count:
        what = f"has {len(entries)} entries, its end record says {count}"
        refuse("central directory", what, at=start)
    return entries


def _entry(data: bytes, at: int, start: int) -> tuple[Entry, int]:
    """Returns the entry at an offset of a directory that begins at `start`, and where it ends."""
    fields = HEADER.unpack_from(data, at)
    _, _, needed, flags, method, _, _, crc, packed, size, *lengths, _, _, attributes, offset = (
        fields
    )
    name_at = at + HEADER.size
    extra_at = name_at + lengths[0]
    comment_at = extra_at + lengths[1]
    end = comment_at + lengths[2]
    if end > len(data):
        refuse("central directory", "cannot be read: it ends within an entry", at=start + at)
    raw = data[name_at:extra_at]
    # bytes that are not UTF-8 become surrogates, which no name may have
    name = raw.decode("utf-8", "surrogateescape") if flags & UTF8 else raw.decode("cp437")
    if needed & 0xFF > VERSION_MAX:
        refuse(name, f"needs ZIP version {(needed & 0xFF) / 10}", at=start + at)
    extra = data[extra_at:comment_at]
    if extra:
        _check_second_name(extra, raw, name, start + at)
        size, packed, offset = _wide(extra, (size, packed, offset), name, start + at)
    entry = Entry(name, flags, method, crc, packed, size, attributes, offset)
    return entry, end


def extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields (header id, data) of an extra field. Raises ValueError where one is cut short."""
    at = 0
    while at + 4 <= len(extra):
        number, length = struct.unpack_from("<2H", extra, at)
        at += 4 + length
        if at > len(extra):
            raise ValueError("an extra field is cut short")
        yield number, extra[at - length : at]


def _wide(extra: bytes, narrow: tuple[int, int, int], name: str, at: int) -> tuple[int, int, int]:
    """Returns (size, packed, offset): each that is UNSET is in the ZIP64 field, in this order."""
    try:
        found = [data for number, data in extra_fields(extra) if number == ZIP64_FIELD]
    except ValueError as problem:
        refuse(name, f"cannot be read: {problem}", at=at)
    if not found:
        return narrow
    if len(found) > 1:
        refuse(name, "has two ZIP64 fields", at=at)
    values, taken = [], 0
    for value in narrow:
        if value == UNSET:
            if taken + 8 > len(found[0]):
                refuse(name, "has a ZIP64 field that is cut short", at=at)
            value = int.from_bytes(found[0][taken : taken + 8], "little")
            taken += 8
        values.append(value)
    return values[0], values[1], values[2]


def _check_second_name(extra: bytes, raw: bytes, name: str, at: int) -> None:
    """Refuses a Unicode path field that is valid (§4.6.9) and has another name than the header."""
    if b"\x75\x70" not in extra:
        return
    try:
        found = [data for number, data in extra_fields(extra) if number == PATH_FIELD]
    except ValueError as problem:
        refuse(name, f"cannot be read: {problem}", at=at)
    for data in found:
        fits = data[:1] == b"\x01" and data[1:5] == crc32(raw).to_bytes(4, "little")
        if fits and data[5:] != name.encode("utf-8", "surrogateescape"):
            refuse(name, "has a second name in its extra field", at=at)
