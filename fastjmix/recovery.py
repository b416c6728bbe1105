"""What a crash left in building/ becomes an envelope, or nothing.

Wanted: every instance that was acknowledged is in an envelope; no half of one is.
Guaranteed: members are found by walking local file headers from the first byte, by their sizes
(never by searching for signatures: an instance may carry a ZIP of its own), and each is verified by
its CRC-32. What follows the last whole member was never acknowledged and is cut. The envelope keeps
its id. Digests are computed again from the bytes.
Still wrong: a damaged member in the middle cannot be told from a torn tail; the rest behind it is
kept in rejected/ for a person.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import blake3
from isal.isal_zlib import crc32

from fastjmix import _core, log
from fastjmix.dicom.association import syntax_kind
from fastjmix.dicom.dataset import describe_head, inflate_head, read_file_meta
from fastjmix.failpoints import reach
from fastjmix.jmix import profiles
from fastjmix.jmix.archive import Member, data_offset, walk
from fastjmix.jmix.envelope import Contents, Options
from fastjmix.packing import write_documents
from fastjmix.spool import Draft, Leftover, Spool, Ticket

BLOCK: Final = 1 << 20
"""Bytes read at a time."""

HEAD_BYTES: Final = 1 << 16
"""Bytes of a data set that are searched for its UIDs first; doubled until they are found."""

META_BYTES: Final = 4096
"""File Meta Information is at most 1 KB: it fitted in a lane's control block."""


def recover(spool: Spool, leftover: Leftover, origin: str) -> Ticket | None:
    """Seals a leftover draft, or deletes it when nothing in it was promised.

    Returns the ticket of the sealed envelope. Raises OSError.
    """
    promised = leftover.recipe.get("ack") == "stored"
    if not promised or not (leftover.directory / "envelope.zip").exists():
        shutil.rmtree(leftover.directory)
        return None
    draft = spool.reopen(leftover)
    recovered = _Recovered(draft, leftover.recipe)
    for member in _whole_members(draft):
        recovered.take(member)
    reach("recovery.walked")
    if not recovered.members:
        draft.abandon()
        return None
    ticket = recovered.seal(origin)
    reach("recovery.sealed")
    log.get().warning(
        "envelope_recovered",
        envelope=ticket.id,
        instances=ticket.instances,
        bytes=ticket.size_bytes,
    )
    return ticket


def _whole_members(draft: Draft) -> Iterator[Member]:
    """Members from the front, as long as they are whole and their CRC is right."""
    size = os.fstat(draft.descriptor).st_size

    def read_at(offset: int, length: int) -> bytes:
        return os.pread(draft.descriptor, length, offset)

    documents = (b"manifest.json", b"payload/metadata.json")
    for member, _ in walk(read_at, size):
        if member.name in documents or member.name.startswith(b"payload/audit"):
            return  # the seal had begun: it is made anew
        checksum = 0
        for block in _blocks(draft, data_offset(member), member.size):
            checksum = crc32(block, checksum)
        if checksum != member.crc:
            return
        yield member


def _blocks(draft: Draft, offset: int, size: int) -> Iterator[bytes]:
    for at in range(offset, offset + size, BLOCK):
        yield os.pread(draft.descriptor, min(BLOCK, offset + size - at), at)


class _Recovered:
    """The contents of an envelope, read back from its members."""

    def __init__(self, draft: Draft, recipe: Mapping[str, Any]) -> None:
        self._draft = draft
        self._recipe = recipe
        self._profile = profiles.get(recipe["profile"])
        self._contents = Contents(self._profile.member_name)
        self.members: list[Member] = []

    def take(self, member: Member) -> None:
        """One whole member: what it is comes from its own bytes."""
        start = data_offset(member)
        first = os.pread(self._draft.descriptor, META_BYTES, start)
        meta, length = read_file_meta(first)
        syntax = meta["transfer_syntax_uid"]
        head, head_bytes = self._head(start + length, member.size - length, syntax)
        self._contents.add(
            head.study_instance_uid.decode(),
            head.series_instance_uid.decode(),
            meta["sop_class_uid"],
            meta["sop_instance_uid"],
            syntax,
            head.instance_number,
            member.size,
            self._digest(member),
            lambda: describe_head(head_bytes, syntax),
        )
        self.members.append(member)
        self._draft.end = start + member.size

    def _head(self, offset: int, size: int, syntax: str) -> tuple[_core.Head, bytes]:
        """The head of a data set and its bytes, however far it reaches. Raises ValueError."""
        length = HEAD_BYTES
        while True:
            data = os.pread(self._draft.descriptor, min(length, size), offset)
            whole = len(data) >= size
            kind = syntax_kind(syntax)
            if kind == 3:
                head = _core.read_head(inflate_head(data), 1, True)
            else:
                head = _core.read_head(data, kind, whole)
            if head is not None:
                return head, data
            length *= 2

    def _digest(self, member: Member) -> bytes | None:
        if self._recipe["skip_hashing"]:
            return None
        hasher: Any = blake3.blake3() if self._recipe["digest"] == "blake3" else hashlib.sha256()
        for block in _blocks(self._draft, data_offset(member), member.size):
            hasher.update(block)
        return bytes(hasher.digest())

    def seal(self, origin: str) -> Ticket:
        """To outbox/, under the same id. Raises OSError."""
        recipe = self._recipe
        sealed_at = time.time()
        options = Options(
            self._draft.id,
            sealed_at,
            recipe["digest"],
            recipe["skip_hashing"],
            recipe["skip_listing"],
        )
        documents = self._profile.documents(self._contents, options)
        tail, size = write_documents(documents, self.members, self._draft.end)
        ticket = Ticket(
            id=self._draft.id,
            pipeline=recipe["pipeline"],
            upstream=recipe["upstream"],
            ack=recipe["ack"],
            studies=tuple(self._contents.studies),
            calling_ae=recipe["calling_ae"],
            instances=len(self.members),
            size_bytes=size,
            sealed_at=sealed_at,
            origin=origin,
        )
        return self._draft.seal(tail, ticket)
