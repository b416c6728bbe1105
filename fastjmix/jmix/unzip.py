"""A stranger's ZIP, read strictly: structure first, members on request.

Wanted: an archive is accepted or refused for a reason its author can act on, and costs a bounded
amount of memory whichever it is.
Guaranteed: one reading only. The end records, the central directory and every local file header
agree with each other, so that no other ZIP reader sees another archive; no name can leave the
folder it is unpacked in; only methods 0 and 8 (APPNOTE §4.4.5); nothing encrypted, no links, no
member twice, none sharing bytes with another. A member's data are exactly as long as both of its
sizes say, packed and unpacked, and have its CRC-32. Every bound is a field of `Limits`, and the
refusal names it; one of structure names the byte. Opens no file: takes an open one.
Still wrong: times, attributes and versions of a stranger's archive are believed; original.py looks
at those of archives that were sealed here.
"""

from __future__ import annotations

import itertools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal, NoReturn

from isal.isal_zlib import crc32

from fastjmix.errors import EnvelopeError, printable

END: Final = struct.Struct("<4s4H2LH")  # end of central directory record, APPNOTE §4.3.16
END64: Final = struct.Struct("<4sQ2H2L4Q")  # ZIP64 end of central directory record, §4.3.14
LOCATOR64: Final = struct.Struct("<4sLQL")  # ZIP64 end of central directory locator, §4.3.15
LOCAL: Final = struct.Struct("<4s5H3L2H")  # local file header, §4.3.7
COMMENT_MAX: Final = 0xFFFF
UNSET: Final = 0xFFFFFFFF  # the value is in a ZIP64 field, §4.4.8

FLAGS_REFUSED: Final = 0x0001 | 0x0020 | 0x0040 | 0x2000
"""Encrypted, patched data, strong encryption, masked headers (APPNOTE §4.4.4)."""
DESCRIPTOR: Final = 0x0008
"""Sizes and CRC-32 follow the data: the local file header does not know them."""
METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
LINK: Final = 0o120000
FILE_TYPE: Final = 0o170000

PIECE_BYTES: Final = 1 << 20
"""Bytes unpacked at once: large enough to make the call itself cheap."""
Bound = Literal["max_manifest_bytes", "max_metadata_bytes"]
"""The field of `Limits` that bounds a document."""
SHOWN: Final = 120
"""Characters of a stranger's text that an error message repeats."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one envelope may ask of its reader; each is named in the refusal it causes."""

    max_members: int = 100_000
    """Members; twenty times the largest study seen in one envelope."""
    max_directory_bytes: int = 16 << 20
    """The central directory, which zipfile reads whole; 160 bytes for each of `max_members`."""
    max_manifest_bytes: int = 16 << 20
    """manifest.json unpacked; with a listing, about 150 bytes an instance."""
    max_metadata_bytes: int = 32 << 20
    """metadata.json or files.json unpacked; about 300 bytes an instance."""
    max_unpacked_bytes: int = 256 << 30
    """All members unpacked: what `verify_hashes` may have to read."""
    max_name_bytes: int = 1024
    """A member's name."""


DEFAULT_LIMITS: Final = Limits()


class Fault(EnvelopeError):
    """What is wrong, and where: a member or a part of the archive, and the byte at which it, or its
    header, begins."""

    def __init__(self, where: str, what: str, hint: str = "", *, at: int | None = None) -> None:
        place = "" if at is None else f", byte {at}"
        super().__init__(f"{escaped(where)}{place}: {what}", hint)
        self.where = escaped(where)
        self.what = what
        self.at = at


Tell = Callable[[EnvelopeError], object]
"""Hears of a fault in a member. Who raises it refuses the archive; who returns hears of the next,
and the member is left out."""


def strict(fault: EnvelopeError) -> NoReturn:
    """The first fault is one too many."""
    raise fault


class Archive:
    """A ZIP whose structure has been checked.

    `files`: name → ZipInfo, in the order of the central directory; `sizes`: name → bytes unpacked.
    `folders`: paths without their last slash, those with an entry of their own and those that a
    name implies.

    Raises EnvelopeError where the archive as a whole cannot be read, and whatever `tell` raises for
    a member; OSError.
    """

    def __init__(self, file: BinaryIO, limits: Limits, tell: Tell = strict) -> None:
        self._file = file
        self._limits = limits
        directory, count = _end(file, limits)
        try:
            infos = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, ValueError, struct.error, RuntimeError) as problem:
            # RuntimeError: it asks for something of ZIP that zipfile does not have.
            refuse("central directory", f"cannot be read: {problem}", at=directory)
        if len(infos) != count:
            told = f"has {len(infos)} entries, its end record says {count}"
            refuse("central directory", told, at=directory)
        self.files, infos = _members(infos, limits, tell)
        self.folders = folders_of(info.filename for info in infos)
        _refuse_clashes(self.files, self.folders, tell)
        self._starts = _data_starts(file, infos, directory, tell)
        self.files = {name: info for name, info in self.files.items() if name in self._starts}
        self.sizes = {name: info.file_size for name, info in self.files.items()}

    def read(self, name: str, bound: Bound) -> bytes:
        """A member unpacked. Raises EnvelopeError when absent, larger than `bound`, or damaged."""
        info = self.files.get(name)
        if info is None:
            refuse(name, "is missing")
        limit: int = getattr(self._limits, bound)
        if info.file_size > limit:
            refuse(name, f"is {info.file_size} bytes; {bound} is {limit}")
        return b"".join(self.pieces(name))

    def offset(self, name: str) -> int:
        """Where a member's local file header begins."""
        return self.files[name].header_offset

    def pieces(self, name: str) -> Iterator[bytes]:
        """A member unpacked in pieces of at most PIECE_BYTES. Raises EnvelopeError."""
        info, start = self.files[name], self._starts[name]
        raw = self._raw(info, start)
        checksum, size = 0, 0
        for piece in raw if info.compress_type == zipfile.ZIP_STORED else _inflate(info, raw):
            checksum = crc32(piece, checksum)
            size += len(piece)
            yield piece
        if size != info.file_size:
            _damaged(info, f"ends {info.file_size - size} bytes early")
        if checksum != info.CRC:
            _damaged(info, "its CRC-32 is not that of its data")

    def _raw(self, info: zipfile.ZipInfo, start: int) -> Iterator[bytes]:
        """A member's data as they are in the file."""
        for at in range(0, info.compress_size, PIECE_BYTES):
            wanted = min(PIECE_BYTES, info.compress_size - at)
            self._file.seek(start + at)  # others read between two pieces
            piece = self._file.read(wanted)
            if len(piece) != wanted:
                _damaged(info, "the file ends within it")
            yield piece


def _inflate(info: zipfile.ZipInfo, raw: Iterator[bytes]) -> Iterator[bytes]:
    """A DEFLATE stream that ends where both sizes say, and nowhere else. Raises EnvelopeError."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    left = info.file_size
    try:
        for packed in itertools.chain(raw, (b"",)):  # at the end: what zlib had no room for yet
            while not stream.eof:
                # one byte more than announced tells a lie, without unpacking all of it
                piece = stream.decompress(packed, min(PIECE_BYTES, left + 1))
                packed = stream.unconsumed_tail
                left -= len(piece)
                if left < 0:
                    _damaged(info, f"goes on behind the {info.file_size} bytes it announces")
                if piece:
                    yield piece
                elif not packed:
                    break
            if stream.eof and (packed or stream.unused_data):
                _damaged(info, "has bytes behind the end of its DEFLATE stream")
    except zlib.error as problem:
        _damaged(info, f"its DEFLATE stream is none: {problem}")
    if not stream.eof:
        _damaged(info, "its DEFLATE stream does not end")


def _damaged(info: zipfile.ZipInfo, what: str) -> NoReturn:
    refuse(info.filename, f"is damaged: {what}", at=info.header_offset)


def _end(file: BinaryIO, limits: Limits) -> tuple[int, int]:
    """Offset of the central directory and number of its entries, from records that agree.

    Nothing may lie between the directory, the ZIP64 records, the end record and the end of the
    file: what lies there is how two readers are shown two archives.
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
        told = "has bytes behind its end of central directory record"
        refuse("archive", told, at=tail_at + at + END.size + comment)
    if disk not in (0, 0xFFFF) or directory_disk not in (0, 0xFFFF):
        refuse("archive", "is one part of several", at=tail_at + at)
    stop = tail_at + at
    if at >= LOCATOR64.size and tail.startswith(b"PK\x06\x07", at - LOCATOR64.size):
        narrow = (here, total, length, start)
        stop, (here, total, length, start) = _end64(file, stop - LOCATOR64.size)
        wide = (here, total, length, start)
        for old, new, unset in zip(narrow, wide, (0xFFFF, 0xFFFF, UNSET, UNSET), strict=True):
            if old not in (unset, new):
                refuse("archive", "has two end records that contradict each other", at=stop)
    if start + length != stop or here != total:
        told = "has a central directory that is not where its end record says"
        refuse("archive", told, at=start)
    if total > limits.max_members:
        refuse("archive", f"has {total} members; max_members is {limits.max_members}")
    if length > limits.max_directory_bytes:
        limit = limits.max_directory_bytes
        refuse("central directory", f"is {length} bytes; max_directory_bytes is {limit}")
    return start, total


def _end64(file: BinaryIO, locator_at: int) -> tuple[int, tuple[int, int, int, int]]:
    """The ZIP64 end record's offset, and (entries here, entries, length, start) from it."""
    file.seek(locator_at)
    _, _, at, _ = LOCATOR64.unpack(file.read(LOCATOR64.size))
    if at + END64.size > locator_at:
        refuse("archive", "has a ZIP64 locator that points outside the file", at=locator_at)
    file.seek(at)
    signature, left, _, _, disk, directory_disk, *wide = END64.unpack(file.read(END64.size))
    if signature != b"PK\x06\x06" or at + 12 + left != locator_at or disk or directory_disk:
        told = "has a ZIP64 locator that does not point to its ZIP64 end record"
        refuse("archive", told, at=locator_at)
    here, total, length, start = wide
    return at, (here, total, length, start)


def _members(
    infos: list[zipfile.ZipInfo], limits: Limits, tell: Tell
) -> tuple[dict[str, zipfile.ZipInfo], list[zipfile.ZipInfo]]:
    """The files by name, and the entries that can be used."""
    files: dict[str, zipfile.ZipInfo] = {}
    good: list[zipfile.ZipInfo] = []
    seen: set[str] = set()
    unpacked = 0
    for info in infos:
        try:
            _check_name(info, limits)
            _check_kind(info)
            if info.filename in seen:
                refuse(info.filename, "is in the archive twice", at=info.header_offset)
        except EnvelopeError as fault:
            tell(fault)
            continue
        seen.add(info.filename)
        good.append(info)
        unpacked += info.file_size
        if not info.is_dir():
            files[info.filename] = info
    if unpacked > limits.max_unpacked_bytes:
        limit = limits.max_unpacked_bytes
        refuse("archive", f"unpacks to {unpacked} bytes; max_unpacked_bytes is {limit}")
    return files, good


def _check_name(info: zipfile.ZipInfo, limits: Limits) -> None:
    name, at = info.orig_filename, info.header_offset
    name_fault(name.removesuffix("/"), limits, at=at)
    if info.filename != name:
        refuse(name, "has a second name in its extra field", at=at)


def name_fault(name: str, limits: Limits, *, at: int | None = None) -> None:
    """Raises EnvelopeError for a name that could leave its folder, or mean another on its way."""
    if len(name.encode("utf-8", "surrogateescape")) > limits.max_name_bytes:
        told = f"has a name longer than max_name_bytes, {limits.max_name_bytes}"
        refuse(name, told, at=at)
    if any("\ud800" <= character <= "\udfff" for character in name):
        refuse(name, "has a name that is not UTF-8", at=at)
    if "\\" in name or any(ord(character) < 0x20 or character == "\x7f" for character in name):
        refuse(name, "has a backslash, NUL or control character in its name", at=at)
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        refuse(name, "has an absolute name", at=at)
    if any(part in ("", ".", "..") for part in name.split("/")):
        refuse(name, "has an empty part, '.' or '..' in its name", at=at)


def _check_kind(info: zipfile.ZipInfo) -> None:
    name, at = info.filename, info.header_offset
    if info.flag_bits & FLAGS_REFUSED:
        refuse(name, "is encrypted or patched: such members are not accepted", at=at)
    if info.compress_type not in METHODS:
        refuse(name, f"uses compression method {info.compress_type}; 0 and 8 are accepted", at=at)
    if info.external_attr >> 16 & FILE_TYPE == LINK:
        refuse(name, "is a symbolic link", at=at)
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        refuse(name, "is stored, yet its two sizes differ", at=at)
    if info.is_dir() and info.file_size:
        refuse(name, "is a directory with content", at=at)


def folders_of(names: Iterable[str]) -> set[str]:
    """Every folder, without its last slash: those named (with it), and those that names imply."""
    found: set[str] = set()
    for name in names:
        path = name.rpartition("/")[0]
        while path and path not in found:
            found.add(path)
            path = path.rpartition("/")[0]
    return found


def _refuse_clashes(files: dict[str, zipfile.ZipInfo], folders: set[str], tell: Tell) -> None:
    for both in sorted(files.keys() & folders):
        at = files.pop(both).header_offset
        tell(Fault(both, "is a file and a folder at once", at=at))


def _data_starts(
    file: BinaryIO, infos: list[zipfile.ZipInfo], directory: int, tell: Tell
) -> dict[str, int]:
    """Where each member's data begin. No two members share bytes, and none reaches into the central
    directory."""
    starts: dict[str, int] = {}
    ordered = sorted(infos, key=lambda info: info.header_offset)
    ends = [info.header_offset for info in ordered[1:]] + [directory]
    for info, end in zip(ordered, ends, strict=True):
        try:
            start = _data_start(file, info)
            if start + info.compress_size > end:
                refuse(info.filename, "overlaps the next member", at=info.header_offset)
        except EnvelopeError as fault:
            tell(fault)
        else:
            starts[info.filename] = start
    return starts


def _data_start(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where a member's data begin; its local file header must say what the directory says."""
    at = info.header_offset
    file.seek(at)
    data = file.read(LOCAL.size)
    if len(data) < LOCAL.size or not data.startswith(b"PK\x03\x04"):
        told = "has no local file header where the central directory says"
        refuse(info.filename, told, at=at)
    fields: tuple[int, ...] = LOCAL.unpack(data)
    _, _, flags, method, _, _, crc, packed, unpacked, name_length, extra_length = fields
    name = file.read(name_length).decode("utf-8" if flags & 0x800 else "cp437", "replace")
    same = name == info.filename and method == info.compress_type and not flags & FLAGS_REFUSED
    if not flags & DESCRIPTOR:
        same = same and crc == info.CRC
        wide = _sizes64(file.read(extra_length)) if UNSET in (packed, unpacked) else (0, 0)
        same = same and info.compress_size == (wide[1] if packed == UNSET else packed)
        same = same and info.file_size == (wide[0] if unpacked == UNSET else unpacked)
    if not same:
        told = "has a local file header that contradicts the central directory"
        refuse(info.filename, told, at=at)
    return at + LOCAL.size + name_length + extra_length


def _sizes64(extra: bytes) -> tuple[int, int]:
    """(unpacked, packed) from a local header's ZIP64 field, which has both (§4.5.3); else (-1, -1),
    which no size is."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1 and length >= 16 and len(extra) >= 20:
            unpacked, packed = struct.unpack_from("<2Q", extra, 4)
            return unpacked, packed
        extra = extra[4 + length :]
    return -1, -1


def shortened(text: str) -> str:
    """A stranger's text, short enough for a message."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def refuse(where: str, what: str, hint: str = "", *, at: int | None = None) -> NoReturn:
    """Raises Fault. `where` is a member's name, or a part of the archive."""
    raise Fault(where, what, hint, at=at)


def escaped(name: str) -> str:
    """A stranger's name, short, and without control characters that could draw a lie."""
    return shortened(printable(name))
