"""Writes an envelope's archive to a descriptor, member by member.

Wanted: data are read once, whatever their size.
Guaranteed: the archive has the headers that the packer writes (jmix/write/archive.py). A member's
header is written after its data, when the CRC-32 is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from isal.isal_zlib import crc32

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.digests import Hash
from fastjmix.jmix.faults import escaped
from fastjmix.jmix.write.archive import Member, data_offset, local_header
from fastjmix.jmix.write.documents import write_documents
from fastjmix.jmix.write.envelope import Document
from fastjmix.spool.files import read_pieces, write_all


class ZipOut:
    """An archive in a new file. `descriptor` is open for reading and writing."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._members: list[Member] = []
        self._end = 0

    def put(
        self,
        name: bytes,
        size: int,
        pieces: Iterable[bytes],
        where: str,
        seen: Callable[[int], object],
        hasher: Hash | None = None,
    ) -> Member:
        """Writes a member of `size` bytes; `where` names it in errors.

        Raises EnvelopeError when there are more or fewer, OSError.
        """
        at = self._end + len(local_header(name, 0, size))
        stop, checksum = at + size, 0
        for piece in pieces:
            if at + len(piece) > stop:
                at = -1
                break
            checksum = crc32(piece, checksum)
            if hasher is not None:
                hasher.update(piece)
            at = write_all(self._descriptor, [piece], at)
            seen(len(piece))
        if at != stop:
            raise EnvelopeError(f"{escaped(where)}: changed while it was read")
        member = Member(name, checksum, size, self._end)
        write_all(self._descriptor, [local_header(name, checksum, size)], self._end)
        self._end = stop
        self._members.append(member)
        return member

    def finish(self, documents: Sequence[Document]) -> int:
        """Writes documents and central directory; returns the archive's size. Raises OSError."""
        tail = write_documents(documents, self._members, self._end)
        return write_all(self._descriptor, tail, self._end)

    def reader(self) -> Callable[[bytes], Iterator[bytes]]:
        """Returns a function that reads the pieces of a member that was put, by its name."""
        known: dict[bytes, Member] = {}

        def read(name: bytes) -> Iterator[bytes]:
            if not known:
                known.update((member.name, member) for member in self._members)
            member = known[name]
            return self.range(data_offset(member), member.size)

        return read

    def range(self, start: int, size: int) -> Iterator[bytes]:
        """Yields the bytes that were written there. Raises OSError."""
        return read_pieces(self._descriptor, start, size)


class Appending:
    """A file that grows at its end. `size` in bytes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = 0

    def append(self, buffers: Sequence[bytes]) -> None:
        """Appends the buffers. Raises OSError."""
        self.size = write_all(self._descriptor, buffers, self.size)

    def overwrite(self, data: bytes, offset: int) -> None:
        """Replaces bytes at an offset. Raises OSError."""
        write_all(self._descriptor, [data], offset)
