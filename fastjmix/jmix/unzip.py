"""A stranger's ZIP, read strictly: structure first, members on request.

Wanted: an archive is accepted or refused for a reason its author can act on, and costs a bounded
amount of memory whichever it is.
Guaranteed: one reading only. The end records, the central directory and every local file header
agree with each other, so that no other ZIP reader sees another archive; no name can leave the
folder it is unpacked in; only methods 0 and 8 (APPNOTE §4.4.5); nothing encrypted, no links, no
member twice, none sharing bytes with another. Every bound is a field of `Limits`, and the refusal
names it. Opens no file: takes an open one.
Still wrong: a DEFLATE stream that goes on behind its declared size is cut there and not reported.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal, NoReturn

from fastjmix.errors import EnvelopeError

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


class Archive:
    """A ZIP whose structure has been checked.

    `files`: name → ZipInfo, in the order of the central directory. `folders`: paths without their
    last slash, those with an entry of their own and those that a name implies.

    Raises EnvelopeError, OSError.
    """

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self._limits = limits
        directory, count = _end(file, limits)
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError) as problem:
            refuse("central directory", f"cannot be read: {problem}")
        infos = self._zip.infolist()
        if len(infos) != count:
            refuse("central directory", f"has {len(infos)} entries, its end record says {count}")
        self.files = _members(infos, limits)
        self.folders = _folders(infos)
        _refuse_clashes(self.files, self.folders)
        _refuse_overlaps(file, infos, directory)

    def read(self, name: str, bound: Bound) -> bytes:
        """A member unpacked. Raises EnvelopeError when absent, larger than `bound`, or damaged."""
        info = self.files.get(name)
        if info is None:
            refuse(name, "is missing")
        limit: int = getattr(self._limits, bound)
        if info.file_size > limit:
            refuse(name, f"is {info.file_size} bytes; {bound} is {limit}")
        return b"".join(self.pieces(name))

    def pieces(self, name: str) -> Iterator[bytes]:
        """A member unpacked in pieces of at most PIECE_BYTES. Raises EnvelopeError."""
        info = self.files[name]
        left = info.file_size
        try:
            with self._zip.open(info) as source:
                # read() without a size would unpack a whole lie at once
                while piece := source.read(PIECE_BYTES):
                    left -= len(piece)
                    yield piece
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as problem:
            refuse(name, f"is damaged: {problem}")
        if left:
            refuse(name, f"ends {left} bytes early")


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
        refuse("archive", "has bytes behind its end of central directory record")
    if disk not in (0, 0xFFFF) or directory_disk not in (0, 0xFFFF):
        refuse("archive", "is one part of several")
    stop = tail_at + at
    if at >= LOCATOR64.size and tail.startswith(b"PK\x06\x07", at - LOCATOR64.size):
        narrow = (here, total, length, start)
        stop, (here, total, length, start) = _end64(file, stop - LOCATOR64.size)
        wide = (here, total, length, start)
        for old, new, unset in zip(narrow, wide, (0xFFFF, 0xFFFF, UNSET, UNSET), strict=True):
            if old not in (unset, new):
                refuse("archive", "has two end records that contradict each other")
    if start + length != stop or here != total:
        refuse("archive", "has a central directory that is not where its end record says")
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
        refuse("archive", "has a ZIP64 locator that points outside the file")
    file.seek(at)
    signature, left, _, _, disk, directory_disk, *wide = END64.unpack(file.read(END64.size))
    if signature != b"PK\x06\x06" or at + 12 + left != locator_at or disk or directory_disk:
        refuse("archive", "has a ZIP64 locator that does not point to its ZIP64 end record")
    here, total, length, start = wide
    return at, (here, total, length, start)


def _members(infos: list[zipfile.ZipInfo], limits: Limits) -> dict[str, zipfile.ZipInfo]:
    files: dict[str, zipfile.ZipInfo] = {}
    unpacked = 0
    for info in infos:
        _check_name(info, limits)
        _check_kind(info)
        unpacked += info.file_size
        if not info.is_dir():
            files[info.filename] = info
    if len({info.filename for info in infos}) != len(infos):
        refuse(_first_twice(infos), "is in the archive twice")
    if unpacked > limits.max_unpacked_bytes:
        limit = limits.max_unpacked_bytes
        refuse("archive", f"unpacks to {unpacked} bytes; max_unpacked_bytes is {limit}")
    return files


def _check_name(info: zipfile.ZipInfo, limits: Limits) -> None:
    name = info.orig_filename
    if len(name.encode("utf-8", "surrogateescape")) > limits.max_name_bytes:
        refuse(name, f"has a name longer than max_name_bytes, {limits.max_name_bytes}")
    if "\\" in name or any(ord(character) < 0x20 for character in name):
        refuse(name, "has a backslash, NUL or control character in its name")
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        refuse(name, "has an absolute name")
    if any(part in ("", ".", "..") for part in name.removesuffix("/").split("/")):
        refuse(name, "has an empty part, '.' or '..' in its name")
    if info.filename != name:
        refuse(name, "has a second name in its extra field")


def _check_kind(info: zipfile.ZipInfo) -> None:
    name = info.filename
    if info.flag_bits & FLAGS_REFUSED:
        refuse(name, "is encrypted or patched: such members are not accepted")
    if info.compress_type not in METHODS:
        refuse(name, f"uses compression method {info.compress_type}; 0 and 8 are accepted")
    if info.external_attr >> 16 & FILE_TYPE == LINK:
        refuse(name, "is a symbolic link")
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        refuse(name, "is stored, yet its two sizes differ")
    if info.is_dir() and info.file_size:
        refuse(name, "is a directory with content")


def _first_twice(infos: list[zipfile.ZipInfo]) -> str:
    seen: set[str] = set()
    for info in infos:
        if info.filename in seen:
            return info.filename
        seen.add(info.filename)
    return ""


def _folders(infos: list[zipfile.ZipInfo]) -> set[str]:
    """Every folder, without its last slash: those with an entry, and those that names imply."""
    found: set[str] = set()
    for info in infos:
        path = info.filename if info.is_dir() else info.filename.rpartition("/")[0]
        path = path.removesuffix("/")
        while path and path not in found:
            found.add(path)
            path = path.rpartition("/")[0]
    return found


def _refuse_clashes(files: Mapping[str, zipfile.ZipInfo], folders: set[str]) -> None:
    if both := files.keys() & folders:
        refuse(min(both), "is a file and a folder at once")


def _refuse_overlaps(file: BinaryIO, infos: list[zipfile.ZipInfo], directory: int) -> None:
    """No two members share bytes, and none reaches into the central directory."""
    ordered = sorted(infos, key=lambda info: info.header_offset)
    ends = [info.header_offset for info in ordered[1:]] + [directory]
    for info, end in zip(ordered, ends, strict=True):
        if _data_start(file, info) + info.compress_size > end:
            refuse(info.filename, "overlaps the next member")


def _data_start(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where a member's data begin; its local file header must say what the directory says."""
    file.seek(info.header_offset)
    data = file.read(LOCAL.size)
    if len(data) < LOCAL.size or not data.startswith(b"PK\x03\x04"):
        refuse(info.filename, "has no local file header where the central directory says")
    fields: tuple[int, ...] = LOCAL.unpack(data)
    _, _, flags, method, _, _, crc, packed, unpacked, name_length, extra_length = fields
    name = file.read(name_length).decode("utf-8" if flags & 0x800 else "cp437", "replace")
    same = name == info.filename and method == info.compress_type and not flags & FLAGS_REFUSED
    if not flags & DESCRIPTOR:
        same = same and crc == info.CRC
        same = same and packed in (UNSET, info.compress_size)
        same = same and unpacked in (UNSET, info.file_size)
    if not same:
        refuse(info.filename, "has a local file header that contradicts the central directory")
    return info.header_offset + LOCAL.size + name_length + extra_length


def shortened(text: str) -> str:
    """A stranger's text, short enough for a message."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def refuse(where: str, what: str, hint: str = "") -> NoReturn:
    """Raises EnvelopeError. `where` is a member's name, or a part of the archive."""
    raise EnvelopeError(f"{shortened(where)}: {what}", hint)
