"""Reads a ZIP of any program strictly: structure first, members on request.

Wanted: an archive is refused for a reason that its author can act on, and costs a bounded amount of
memory.
Guaranteed: the end records, the central directory and every local file header agree with each
other, so that no other ZIP reader finds other members; no name can leave the folder it is unpacked
in; only methods 0 and 8 (APPNOTE §4.4.5); nothing encrypted, no links, no member twice, no two
members that share bytes. A member's data are exactly as long as both of its sizes state, packed and
unpacked, and have its CRC-32. Every bound is a field of `Limits`, and the error names it; an error
of structure names the byte. The caller opens the file.
Still wrong: times, attributes (but for links) and versions are not checked: they say nothing about
a member's data.
"""

from __future__ import annotations

import itertools
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, NoReturn

from isal.isal_zlib import crc32

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.faults import Fault, OnFault, raise_fault, refuse
from fastjmix.jmix.limits import FREE_BYTES, Bound, Limits
from fastjmix.jmix.member_names import folders_of, name_fault
from fastjmix.jmix.read import directory
from fastjmix.jmix.read.directory import UNSET, UTF8, ZIP64_FIELD, Entry, extra_fields

LOCAL: Final = struct.Struct("<4s5H3L2H")  # local file header, APPNOTE §4.3.7

FLAGS_REFUSED: Final = 0x0001 | 0x0020 | 0x0040 | 0x2000
"""Encrypted, patched data, strong encryption, masked headers (APPNOTE §4.4.4)."""
DESCRIPTOR: Final = 0x0008
"""Sizes and CRC-32 follow the data: the local file header does not know them."""
METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
LINK: Final = 0o120000
FILE_TYPE: Final = 0o170000

PIECE_BYTES: Final = 1 << 20
"""Bytes unpacked at once: large enough to make the call itself cheap."""


class Archive:
    """A ZIP whose structure has been checked.

    `files`: name → Entry, in the order of the central directory; `sizes`: name → bytes unpacked.
    `folders`: paths without their last slash, those with an entry of their own and those that a
    name implies.

    Raises EnvelopeError where the archive as a whole cannot be read, and whatever `on_fault` raises
    for a member; OSError.
    """

    def __init__(self, file: BinaryIO, limits: Limits, on_fault: OnFault = raise_fault) -> None:
        self._file = file
        self._limits = limits
        start, length, count = directory.find(file, limits)
        entries = directory.read(file, start, length, count)
        self.files, entries = _members(entries, limits, on_fault)
        _check_ratio(self.files.values(), start + length, limits)
        self.folders = folders_of((entry.name for entry in entries), limits)
        _refuse_clashes(self.files, self.folders, on_fault)
        self._starts = _data_starts(file, entries, start, on_fault)
        for name in self.files.keys() - self._starts.keys():
            del self.files[name]
        self.sizes = {name: entry.size for name, entry in self.files.items()}

    def member(self, name: str, bound: Bound) -> PackedMember:
        """Returns a member that can be read without its archive. Raises EnvelopeError when it is
        absent or larger than `bound`."""
        entry = self.files.get(name)
        if entry is None:
            refuse(name, "is missing")
        limit: int = getattr(self._limits, bound)
        if entry.size > limit:
            refuse(name, f"is {entry.size} bytes; {bound} is {limit}")
        return PackedMember(self._file, entry, self._starts[name])

    def read(self, name: str, bound: Bound) -> bytes:
        """Returns a member unpacked. Raises EnvelopeError when absent, larger than `bound`,
        damaged."""
        return b"".join(self.member(name, bound).pieces())

    def offset(self, name: str) -> int:
        """Returns the offset of a member's local file header."""
        return self.files[name].offset

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yields a member unpacked, in pieces of at most PIECE_BYTES. Raises EnvelopeError."""
        return PackedMember(self._file, self.files[name], self._starts[name]).pieces()


@dataclass(frozen=True, slots=True)
class PackedMember:
    """One member of an archive, without the rest of the archive in memory."""

    file: BinaryIO
    entry: Entry
    start: int

    @property
    def size(self) -> int:
        """Bytes, unpacked."""
        return self.entry.size

    def pieces(self) -> Iterator[bytes]:
        """Yields the unpacked data in pieces of at most PIECE_BYTES. Raises EnvelopeError when it
        is damaged.
        """
        entry = self.entry
        checksum, size = 0, 0
        for piece in self._raw() if entry.method == zipfile.ZIP_STORED else self._inflated():
            checksum = crc32(piece, checksum)
            size += len(piece)
            yield piece
        if size != entry.size:
            _damaged(entry, f"ends {entry.size - size} bytes early")
        if checksum != entry.crc:
            _damaged(entry, "its CRC-32 is not that of its data")

    def _inflated(self) -> Iterator[bytes]:
        return _inflate(self.entry, self._raw())

    def _raw(self) -> Iterator[bytes]:
        """Yields the data as they are in the file."""
        for at in range(0, self.entry.packed, PIECE_BYTES):
            wanted = min(PIECE_BYTES, self.entry.packed - at)
            self.file.seek(self.start + at)  # others read between two pieces
            piece = self.file.read(wanted)
            if len(piece) != wanted:
                _damaged(self.entry, "the file ends within it")
            yield piece


def _inflate(entry: Entry, raw: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the data of a DEFLATE stream. Raises EnvelopeError unless it ends where both sizes
    say."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    left = entry.size
    try:
        for packed in itertools.chain(raw, (b"",)):  # at the end: what zlib had no room for yet
            while not stream.eof:
                # one byte more than announced is enough to find that it goes on
                piece = stream.decompress(packed, min(PIECE_BYTES, left + 1))
                packed = stream.unconsumed_tail
                left -= len(piece)
                if left < 0:
                    _damaged(entry, f"goes on behind the {entry.size} bytes it announces")
                if piece:
                    yield piece
                elif not packed:
                    break
            if stream.eof and (packed or stream.unused_data):
                _damaged(entry, "has bytes behind the end of its DEFLATE stream")
    except zlib.error as problem:
        _damaged(entry, f"its DEFLATE stream is none: {problem}")
    if not stream.eof:
        _damaged(entry, "its DEFLATE stream does not end")


def _damaged(entry: Entry, what: str) -> NoReturn:
    refuse(entry.name, f"is damaged: {what}", at=entry.offset)


def _members(
    entries: list[Entry], limits: Limits, on_fault: OnFault
) -> tuple[dict[str, Entry], list[Entry]]:
    """Returns the files by name, and the entries without a fault."""
    files: dict[str, Entry] = {}
    good: list[Entry] = []
    seen: set[str] = set()
    unpacked = 0
    for entry in entries:
        try:
            name_fault(entry.name.removesuffix("/"), limits, at=entry.offset)
            _check_kind(entry)
            if entry.name in seen:
                refuse(entry.name, "is in the archive twice", at=entry.offset)
        except EnvelopeError as fault:
            on_fault(fault)
            continue
        seen.add(entry.name)
        good.append(entry)
        unpacked += entry.size
        if not entry.is_folder:
            files[entry.name] = entry
    if unpacked > limits.max_unpacked_bytes:
        limit = limits.max_unpacked_bytes
        refuse("archive", f"unpacks to {unpacked} bytes; max_unpacked_bytes is {limit}")
    return files, good


def _check_ratio(files: Iterable[Entry], size: int, limits: Limits) -> None:
    unpacked = sum(entry.size for entry in files)
    if unpacked > FREE_BYTES + limits.max_ratio * size:
        what = f"unpacks to {unpacked} bytes, more than max_ratio, {limits.max_ratio}, of each"
        refuse("archive", what)


def _check_kind(entry: Entry) -> None:
    name, at = entry.name, entry.offset
    if entry.flags & FLAGS_REFUSED:
        refuse(name, "is encrypted or patched: such members are not accepted", at=at)
    if entry.method not in METHODS:
        refuse(name, f"uses compression method {entry.method}; 0 and 8 are accepted", at=at)
    if entry.attributes >> 16 & FILE_TYPE == LINK:
        refuse(name, "is a symbolic link", at=at)
    if entry.method == zipfile.ZIP_STORED and entry.packed != entry.size:
        refuse(name, "is stored, yet its two sizes differ", at=at)
    if entry.is_folder and entry.size:
        refuse(name, "is a directory with content", at=at)


def _refuse_clashes(files: dict[str, Entry], folders: set[str], on_fault: OnFault) -> None:
    for both in sorted(files.keys() & folders):
        at = files.pop(both).offset
        on_fault(Fault(both, "is a file and a folder at once", at=at))


def _data_starts(
    file: BinaryIO, entries: list[Entry], stop: int, on_fault: OnFault
) -> dict[str, int]:
    """Returns where each member's data begin. No two members share bytes, and none reaches
    behind `stop`, where the central directory begins."""
    starts: dict[str, int] = {}
    ordered = sorted(entries, key=lambda entry: entry.offset)
    ends = [entry.offset for entry in ordered[1:]] + [stop]
    for entry, end in zip(ordered, ends, strict=True):
        try:
            start = _data_start(file, entry, end, stop)
        except EnvelopeError as fault:
            on_fault(fault)
        else:
            starts[entry.name] = start
    return starts


def _data_start(file: BinaryIO, entry: Entry, end: int, stop: int) -> int:
    """Returns where a member's data begin. They end at `end` or before. Its local file header
    must agree with the directory, and be before `stop`."""
    at = entry.offset
    data = b""
    if at + LOCAL.size <= stop:
        file.seek(at)
        data = file.read(LOCAL.size)
    if not data.startswith(b"PK\x03\x04"):
        what = "has no local file header where the central directory says"
        refuse(entry.name, what, at=at)
    fields: tuple[int, ...] = LOCAL.unpack(data)
    _, _, flags, method, _, _, crc, packed, unpacked, name_length, extra_length = fields
    start = at + LOCAL.size + name_length + extra_length
    if start + entry.packed > end:  # before more is read, so that no byte is read for two members
        refuse(entry.name, "overlaps the next member", at=at)
    name = file.read(name_length).decode("utf-8" if flags & UTF8 else "cp437", "replace")
    same = name == entry.name and method == entry.method and not flags & FLAGS_REFUSED
    if not flags & DESCRIPTOR:
        same = same and crc == entry.crc
        wide = _sizes64(file.read(extra_length)) if UNSET in (packed, unpacked) else (0, 0)
        same = same and entry.packed == (wide[1] if packed == UNSET else packed)
        same = same and entry.size == (wide[0] if unpacked == UNSET else unpacked)
    if not same:
        what = "has a local file header that contradicts the central directory"
        refuse(entry.name, what, at=at)
    return start


def _sizes64(extra: bytes) -> tuple[int, int]:
    """(unpacked, packed) from a local header's ZIP64 field, which has both (§4.5.3); else (-1, -1),
    which no size is."""
    try:
        found = [data for number, data in extra_fields(extra) if number == ZIP64_FIELD]
    except ValueError:
        return -1, -1
    if len(found) != 1 or len(found[0]) < 16:
        return -1, -1
    unpacked, packed = struct.unpack_from("<2Q", found[0])
    return unpacked, packed
