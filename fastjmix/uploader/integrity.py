"""Checks that an archive in outbox/ is still what was sealed, before and while it is sent.

Wants the path of an archive and its ticket.
Guaranteed: the structure is checked against the archive's own central directory before the first
byte goes, and every byte against a CRC-32 as it goes. The last bytes are handed over only when all
before them were right. So a flipped bit, wherever it is, leaves the upstream without a whole
envelope.

An archive that was sealed here is made of extents that have a CRC-32 each: its members' data (from
their headers), and the headers and the directory (from the bytes that the structure's check has
read). One that the API received has a single extent, whose CRC-32 the ticket has kept.

Still wrong: CRC-32 finds accidents. A person who can write to the disk can write a CRC-32, too.
"""

from __future__ import annotations

import os
import zipfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from isal.isal_zlib import crc32

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.limits import Limits
from fastjmix.jmix.read.unzip import Archive
from fastjmix.jmix.write.archive import check_structure, local_header, walk
from fastjmix.spool import Ticket
from fastjmix.spool.reading import open_archive

PIECE_BYTES: Final = 1 << 20
"""Bytes in one read."""

MANIFEST_BYTES_MAX: Final = 64 << 20
"""Bytes of a manifest read for comparison: 300,000 files listed with their digests."""


class Damaged(Exception):
    """The archive is not what was sealed. The text names the difference, and its place."""


class Extents:
    """The CRC-32 of each part of a file: part n ends where part n + 1 begins."""

    def __init__(self) -> None:
        self.ends = array("Q")
        self.checksums = array("I")

    def add(self, size: int, checksum: int) -> None:
        """Adds one more part. An empty one is left out."""
        if size:
            self.ends.append((self.ends[-1] if self.ends else 0) + size)
            self.checksums.append(checksum)


class BodyCheck:
    """A check of the bytes of a file, once and in order, against its extents."""

    def __init__(self, extents: Extents) -> None:
        self._extents = extents
        self._part = 0
        self._offset = 0
        self._checksum = 0

    def update(self, piece: bytes | bytearray) -> None:
        """Checks the next piece, before it is handed over.

        Raises Damaged when it ends a part that differs from what was sealed.
        """
        ends = self._extents.ends
        view = memoryview(piece)
        while view:
            if self._part == len(ends):
                raise Damaged(f"it goes on behind byte {self._offset}, where it was to end")
            within = view[: ends[self._part] - self._offset]
            self._checksum = crc32(within, self._checksum)
            self._offset += len(within)
            view = view[len(within) :]
            if self._offset == ends[self._part]:
                self._end_part()

    def finish(self) -> None:
        """Checks that there was no more to come. Raises Damaged."""
        if self._part < len(self._extents.ends):
            raise Damaged(
                f"it ends at byte {self._offset}, and was to have {self._extents.ends[-1]}"
            )

    def _end_part(self) -> None:
        part, self._part = self._part, self._part + 1
        if self._checksum != self._extents.checksums[part]:
            start = self._extents.ends[part - 1] if part else 0
            raise Damaged(f"bytes {start} to {self._offset - 1} are not those that were sealed")
        self._checksum = 0


class ArchiveReader:
    """An archive read from the disk once more, piece by piece. Raises OSError."""

    def __init__(self, archive: Path, extents: Extents) -> None:
        self._check = BodyCheck(extents)
        self._file = open_archive(archive)
        # Bytes that are still in memory prove nothing about the disk.
        os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def step(self) -> int:
        """Reads and checks the next piece. Returns its size, 0 behind the last.

        Raises Damaged, OSError.
        """
        try:
            piece = self._file.read(PIECE_BYTES)
            self._check.update(piece)
            if not piece:
                self._check.finish()
        except BaseException:
            self._file.close()
            raise
        os.posix_fadvise(self._file.fileno(), 0, self._file.tell(), os.POSIX_FADV_DONTNEED)
        if not piece:
            self._file.close()
        return len(piece)


def examine(archive: Path, ticket: Ticket) -> Extents:
    """Checks an archive's size and structure, and returns what its bytes must be.

    Reads its headers and its central directory, no member's data. Raises Damaged,
    FileNotFoundError, OSError.
    """
    with open_archive(archive) as file:
        size = os.fstat(file.fileno()).st_size
        if size != ticket.size_bytes:
            raise Damaged(f"{size} bytes, sealed with {ticket.size_bytes}")
        try:
            if ticket.crc32 is None:
                return _sealed_here(file.fileno(), size)
            Archive(file, Limits())
        except (ValueError, EnvelopeError) as problem:
            raise Damaged(str(problem)) from problem
    received = Extents()
    received.add(size, ticket.crc32)
    return received


def _sealed_here(descriptor: int, size: int) -> Extents:
    """Returns the extents of an archive that a packer sealed. Raises ValueError, EnvelopeError."""

    def read_at(offset: int, length: int) -> bytes:
        return os.pread(descriptor, length, offset)

    check_structure(read_at, size)
    found = Extents()
    end = 0
    for member, start in walk(read_at, size):
        if not member.size and member.crc:
            raise ValueError(f"{member.name!r} is empty, and its CRC-32 is not that of nothing")
        header = local_header(member.name, member.crc, member.size)
        found.add(len(header), crc32(header))
        found.add(member.size, member.crc)
        end = start + member.size
    checksum = 0
    for piece in _pieces(descriptor, end, size):
        checksum = crc32(piece, checksum)
    found.add(size - end, checksum)
    return found


def _pieces(descriptor: int, start: int, stop: int) -> Iterator[bytes]:
    while start < stop and (piece := os.pread(descriptor, min(PIECE_BYTES, stop - start), start)):
        yield piece
        start += len(piece)


def manifest(archive: Path) -> bytes:
    """Returns manifest.json of an archive that `examine` accepted. Raises OSError, BadZipFile."""
    with (
        open_archive(archive) as file,
        zipfile.ZipFile(file) as opened,
        opened.open("manifest.json") as member,
    ):
        return member.read(MANIFEST_BYTES_MAX)
