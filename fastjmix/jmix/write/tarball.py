"""Writes and reads the payload as a tar, the plaintext of an encrypted envelope, as a stream.

Wanted: each JMIX library's own form of tar, written without a temporary copy. A tar of any program
is read without ever returning a name that leaves the payload.
Guaranteed: constant memory for any member. Equal members give equal bytes: owner 0, modes 0644 and
0755, one given time. Reading accepts files and folders only, each name once, every byte accounted
for: as many data as a header announces, nothing but zeros after the end.
Still wrong: the names of all members are kept while reading, to find one that comes twice
(MEMBERS_MAX bounds them); owners, modes and times are ignored when a tar is read.

    dialect  format                       first          folders  names
    php      ustar (pax where too large)  –              none     as below payload/
    js       ustar (pax where too large)  payload/       yes      payload/…
    rs       GNU                          ./             yes      as below payload/

Sources: POSIX.1-2017 pax (ustar and pax headers); GNU tar manual, "Basic Tar Format" (types L, K).
"""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, NoReturn

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.faults import Fault
from fastjmix.jmix.limits import Limits
from fastjmix.jmix.member_names import name_fault

DIALECTS: Final = ("php", "js", "rs")

BLOCK: Final = tarfile.BLOCKSIZE
"""Headers and data are padded to it: 512 bytes."""
END: Final = bytes(2 * BLOCK)
EMPTY: Final = ".jmix-empty"
"""The only member that jmix-php writes for an empty payload: its archiver writes no empty tar."""

HEADER_MAX: Final = 1 << 16
"""Bytes of an extended header (pax, GNU long name) that is read: a name has at most NAME_MAX."""
NAME_MAX: Final = 1024
MEMBERS_MAX: Final = 200_000
"""Members of a tar, folders included, also those that only a name implies: twice what an archive
may have."""
NAMES_BYTES_MAX: Final = 32 << 20
"""All their paths together: twice what an archive's directory may have."""
SHOWN: Final = 120

PAX_DIGITS_MAX: Final = 6
"""Digits of a pax record's length: HEADER_MAX has five."""

_limits: Final = Limits(max_name_bytes=NAME_MAX)
_prefix: Final = {"php": "", "js": "payload/", "rs": ""}


class Plain(NamedTuple):
    """A file of the payload: its path below payload/, size in bytes, and its bytes in pieces."""

    path: str
    size: int
    pieces: Callable[[], Iterable[bytes]]


# -- writing -------------------------------------------------------------------------------------


def tar_size(dialect: str, members: Sequence[Plain]) -> int:
    """Returns the bytes that `tar` will yield. Raises EnvelopeError for a name that fits no
    header."""
    size = len(END)
    for header, member in _headers(dialect, members, 0):
        size += len(header) + (_padded(member.size) if member is not None else 0)
    return size


def tar(dialect: str, members: Sequence[Plain], modified: int = 0) -> Iterator[bytes]:
    """Yields the tar of a payload, in the given order, each folder before the first file in it.

    `modified`: Unix seconds, where the dialect has a time. Raises EnvelopeError when a member's
    data are not as long as its size says.
    """
    for header, member in _headers(dialect, members, modified):
        yield header
        if member is None:
            continue
        left = member.size
        for piece in member.pieces():
            left -= len(piece)
            if left < 0:
                break
            yield piece
        if left:
            raise EnvelopeError(f"{member.path}: has not the {member.size} bytes that it should")
        if padding := _padded(member.size) - member.size:
            yield bytes(padding)
    yield END


def _headers(
    dialect: str, members: Sequence[Plain], modified: int
) -> Iterator[tuple[bytes, Plain | None]]:
    """Yields each header, with its member or None for a folder."""
    if dialect == "php":
        for member in members or (Plain(EMPTY, 0, tuple),):
            yield _header(dialect, member.path, member.size, 0), member
        return
    prefix = _prefix[dialect]
    folders: set[str] = set()
    folder_time = modified if dialect == "rs" else 0
    yield _header(dialect, prefix or "./", None, folder_time), None
    for member in members:
        for folder in _folders(member.path):
            if folder not in folders:
                folders.add(folder)
                yield _header(dialect, f"{prefix}{folder}/", None, folder_time), None
        yield _header(dialect, prefix + member.path, member.size, modified), member


def _folders(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _header(dialect: str, name: str, size: int | None, modified: int) -> bytes:
    """Returns the header of a file, or of a folder when `size` is None."""
    info = tarfile.TarInfo(name)
    info.mtime = modified
    if size is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    else:
        info.size, info.mode = size, 0o644
    try:
        if dialect == "rs":
            return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    except ValueError as problem:
        raise EnvelopeError(f"{name[:SHOWN]}: fits in no tar header: {problem}") from None


def _padded(size: int) -> int:
    return -size % BLOCK + size


# -- reading -------------------------------------------------------------------------------------


def untar(dialect: str, pieces: Iterable[bytes]) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """Yields (path below payload/, size, pieces) of each file. Skips the rest of a file that the
    caller did not read.

    Raises EnvelopeError naming the member and its offset in the tar.
    """
    source = _Source(pieces)
    seen: dict[str, bool] = {}  # path → is it a file?
    held = 0
    while True:
        start = source.offset
        info = _next(source)
        if info is None:
            break
        if len(seen) >= MEMBERS_MAX:
            _refuse(start, info.name, f"is one more than MEMBERS_MAX, {MEMBERS_MAX}")
        folder = info.type == tarfile.DIRTYPE
        path = _path(dialect, info.name, start, folder=folder)
        if not path:
            continue
        if path in seen and not (folder and not seen[path]):
            _refuse(start, path, "comes twice")
        for parent in _folders(path):
            held += len(parent) if parent not in seen else 0
            if seen.setdefault(parent, False):
                _refuse(start, path, "lies in what is a file")
        held += len(path) if path not in seen else 0
        if held > NAMES_BYTES_MAX:
            _refuse(start, path, f"is a name more than NAMES_BYTES_MAX, {NAMES_BYTES_MAX}, allows")
        seen[path] = not folder
        if folder:
            continue
        body = source.take(info.size)
        if not (path == EMPTY and not info.size):
            yield path, info.size, body
        for _ in body:
            pass
        source.padding(info.size)
    source.end()


class _Source:
    """The bytes of a sequence of pieces; `offset` counts those that were read."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._held = memoryview(b"")
        self.offset = 0

    def take(self, size: int) -> Iterator[bytes]:
        """Yields exactly `size` bytes. Raises EnvelopeError when there are fewer."""
        while size:
            if not self._held:
                piece = next(self._pieces, None)
                if piece is None:
                    _refuse(self.offset, "the tar", f"ends {size} bytes early")
                self._held = memoryview(piece)
                continue
            given = self._held[:size]
            self._held = self._held[len(given) :]
            size -= len(given)
            self.offset += len(given)
            yield bytes(given)

    def read(self, size: int) -> bytes:
        """Returns exactly `size` bytes. Raises EnvelopeError when there are fewer."""
        return b"".join(self.take(size))

    def padding(self, size: int) -> None:
        """Reads the zeros that fill the last block after `size` bytes. Raises EnvelopeError."""
        if any(self.read(-size % BLOCK)):
            _refuse(self.offset, "the tar", "has bytes between its members")

    def end(self) -> None:
        """Reads the rest. Raises EnvelopeError when it is not zeros."""
        for piece in itertools.chain([bytes(self._held)], self._pieces):
            if piece.count(0) != len(piece):
                _refuse(self.offset, "the tar", "goes on behind its end")


def _next(source: _Source) -> tarfile.TarInfo | None:
    """Returns the next member, with its extended headers applied; None at the end."""
    name: str | None = None
    size: int | None = None
    while True:
        start = source.offset
        block = source.read(BLOCK)
        if not any(block):
            if name is not None or size is not None:
                _refuse(start, "the tar", "ends with an extended header")
            return None
        info = _parse(block, start)
        if info.type == tarfile.GNUTYPE_LONGNAME:
            name = _text(_extended(source, info, start).rstrip(b"\0"), start)
        elif info.type == tarfile.XHDTYPE:
            fields = _pax(_extended(source, info, start), start)
            name = fields.get("path", name)
            size = _number(fields["size"], start) if "size" in fields else size
        elif info.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
            info.name = info.name if name is None else name
            info.size = info.size if size is None else size
            if info.type == tarfile.DIRTYPE and info.size:
                _refuse(start, info.name, "is a folder with content")
            return info
        else:
            _refuse(start, info.name, f"is neither a file nor a folder, but of type {info.type!r}")


def _parse(block: bytes, start: int) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as problem:
        _refuse(start, "the tar", f"has no header where one should be: {problem}")
    if info.size < 0:
        _refuse(start, info.name, "has a negative size")
    return info


def _extended(source: _Source, info: tarfile.TarInfo, start: int) -> bytes:
    if info.size > HEADER_MAX:
        _refuse(start, info.name, f"is an extended header of more than HEADER_MAX, {HEADER_MAX}")
    data = source.read(info.size)
    source.padding(info.size)
    return data


def _pax(data: bytes, start: int) -> dict[str, str]:
    """Returns the records "<length> <key>=<value>\\n". Refuses those that would change a member's
    meaning."""
    fields: dict[str, str] = {}
    at = 0
    while at < len(data):
        digits = data[at : at + PAX_DIGITS_MAX + 1].partition(b" ")[0]
        length = int(digits) if digits.isdigit() and len(digits) <= PAX_DIGITS_MAX else 0
        record = data[at : at + length]
        at += length
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) != length or not record.endswith(b"\n") or not equals:
            _refuse(start, "the tar", "has an extended header that is not in the form of pax")
        if key.startswith(b"GNU.sparse") or key in (b"linkpath", b"charset", b"hdrcharset"):
            _refuse(start, "the tar", f"has an extended header with {_text(key, start)}")
        if _text(key, start) in fields:
            _refuse(start, "the tar", f"has an extended header with {_text(key, start)} twice")
        fields[_text(key, start)] = _text(value, start)
    return fields


def _number(text: str, start: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        _refuse(start, "the tar", "has a size that is not a number")
    return int(text)


def _text(data: bytes, start: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        _refuse(start, "the tar", "has an extended header that is not UTF-8")


def _path(dialect: str, name: str, start: int, *, folder: bool) -> str:
    """Returns the path below payload/; empty for the folder itself."""
    path = name.removesuffix("/") if folder else name
    if dialect == "rs":
        if folder and path == ".":
            return ""
        path = path.removeprefix("./")
    elif dialect == "js":
        if folder and path == "payload":
            return ""
        if not path.startswith("payload/"):
            _refuse(start, name, "does not lie in payload/")
        path = path.removeprefix("payload/")
    try:
        name_fault(path, _limits)
    except Fault as fault:
        _refuse(start, path, fault.what)
    if len(path) > 1 and path[1] == ":":
        _refuse(start, path, "has the name of a drive")
    return path


def _refuse(offset: int, name: str, what: str) -> NoReturn:
    shown = name.encode("unicode_escape").decode()[:SHOWN]
    raise EnvelopeError(f"payload, tar offset {offset}: {shown}: {what}")
