"""Joins the envelopes of a study in one ZIP, which is made while it is sent.

Wanted: a client gets all of a study in one request, also when late images made several envelopes.
Guaranteed: each envelope is a member of the ZIP as it is, byte for byte, `<n>-<id>.zip`, the oldest
first. Members are STORED with their sizes and their CRC-32 in front, so that every reader opens the
ZIP, from a pipe too; ZIP64 where a value needs it. The same envelopes give the same bytes: a range
of them can be asked for. There is no temporary file, and one piece is in memory. All files are open
before the first byte is sent; none is missed because it was moved.
The ZIP is a container of envelopes, and no envelope: it has no manifest of its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import BinaryIO, Final, NamedTuple

from aiohttp import web
from isal.isal_zlib import crc32, crc32_combine

from fastjmix.httpd import limits
from fastjmix.httpd.responses import HttpError
from fastjmix.httpd.sending import send_zip
from fastjmix.jmix.write.archive import Member, central_directory, local_header, walk

NAME: Final = "study.zip"
"""The file's name for people who keep the ZIP. A study's UID comes from outside."""

NO_FILE: Final = -1


class Part(NamedTuple):
    """One envelope: its id, and its open archive."""

    id: str
    file: BinaryIO


class _Segment(NamedTuple):
    """Bytes of the ZIP from `start` on: `head`, and then `size` bytes of a file."""

    start: int
    head: bytes
    file: int
    size: int


class JoinedParts:
    """The ZIP of some envelopes, to be read at any offset.

    `size` is in bytes; `tag` differs between any two such ZIPs. Making it reads the headers of each
    archive; one that fastjmix did not make is read to its end. Raises OSError.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        members: list[Member] = []
        self._segments: list[_Segment] = []
        at = 0
        for number, part in enumerate(parts, 1):
            descriptor = part.file.fileno()
            size = os.fstat(descriptor).st_size
            name = f"{number}-{part.id}.zip".encode()
            crc = archive_crc(descriptor, size)
            members.append(Member(name, crc, size, at))
            segment = _Segment(at, local_header(name, crc, size), descriptor, size)
            self._segments.append(segment)
            at += len(segment.head) + size
        directory = central_directory(members, at)
        self._segments.append(_Segment(at, directory, NO_FILE, 0))
        self.size = at + len(directory)
        self.tag = f"parts-{crc32(directory):08x}-{self.size:x}"

    def read(self, size: int, offset: int) -> bytes:
        """Returns up to `size` bytes at `offset`; none behind the end, or where a file is short.

        Raises OSError.
        """
        for segment in reversed(self._segments):
            if segment.start <= offset:
                inside = offset - segment.start
                if inside < len(segment.head):
                    return segment.head[inside : inside + size]
                inside -= len(segment.head)
                if segment.file == NO_FILE:
                    return b""
                return os.pread(segment.file, min(size, segment.size - inside), inside)
        return b""


def require_few(count: int, more: Mapping[str, str]) -> None:
    """Raises HttpError 400 for more envelopes than one ZIP joins; `more` has the link to a list."""
    if count > limits.PARTS_MAX:
        what = f"the study has {count} envelopes, and one ZIP joins {limits.PARTS_MAX} at most"
        raise HttpError(400, f"{what}: take them one by one from the list", more)


async def send_parts(
    request: web.Request, parts: Sequence[Part], more: Mapping[str, str]
) -> web.StreamResponse:
    """Responds to GET or HEAD with the ZIP of these envelopes, whose files stay open meanwhile.

    `more` are further headers.
    """
    joined = await asyncio.to_thread(JoinedParts, parts)
    return await send_zip(request, joined, NAME, more)


def archive_crc(descriptor: int, size: int) -> int:
    """Returns the CRC-32 of an archive of `size` bytes. Raises OSError.

    The members that fastjmix wrote are not read: the CRC-32 in the header of each is combined with
    those of the bytes between them.
    """
    crc = at = 0
    for member, start in walk(lambda offset, count: os.pread(descriptor, count, offset), size):
        crc = crc32(os.pread(descriptor, start - at, at), crc)
        crc = crc32_combine(crc, member.crc, member.size)
        at = start + member.size
    while at < size and (piece := os.pread(descriptor, min(limits.PIECE_BYTES, size - at), at)):
        crc = crc32(piece, crc)
        at += len(piece)
    return int(crc)
