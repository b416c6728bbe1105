"""Writes the tail of an archive: its documents and the central directory."""

from __future__ import annotations

from collections.abc import Sequence

from isal.isal_zlib import crc32

from fastjmix.jmix.write.archive import Member, central_directory, local_header
from fastjmix.jmix.write.envelope import Document


def write_documents(documents: Sequence[Document], members: list[Member], end: int) -> list[bytes]:
    """Returns the buffers to append at offset `end`: the documents, then the central directory,
    with the documents first.
    """
    tail: list[bytes] = []
    first: list[Member] = []
    offset = end
    for document in documents:
        checksum = crc32(document.data)
        header = local_header(document.name, checksum, len(document.data))
        first.append(Member(document.name, checksum, len(document.data), offset))
        tail += [header, document.data]
        offset += len(header) + len(document.data)
    tail.append(central_directory([*first, *members], offset))
    return tail
