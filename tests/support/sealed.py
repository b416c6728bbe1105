"""Archives as a packer seals them, by the product's own writer: small ones, and very large ones."""

from __future__ import annotations

from pathlib import Path

from isal.isal_zlib import crc32

from fastjmix.jmix.write.archive import Member, central_directory, local_header
from tests.support.envelopes import envelope_members

MEGABYTE = 1 << 20


def sealed(content: dict[str, bytes]) -> bytes:
    """An archive with these members, in this order."""
    parts: list[bytes] = []
    members: list[Member] = []
    end = 0
    for name, data in content.items():
        header = local_header(name.encode(), crc32(data), len(data))
        members.append(Member(name.encode(), crc32(data), len(data), end))
        parts += [header, data]
        end += len(header) + len(data)
    return b"".join([*parts, central_directory(members, end)])


def sealed_envelope(envelope_id: str | None = None, image: bytes = b"DICM") -> bytes:
    """A valid harmony envelope as a packer would have sealed it."""
    return sealed(envelope_members(envelope_id, image=image))


def big(path: Path, size: int) -> Path:
    """A sealed archive of about `size` bytes that takes no room on disk: its image is a hole."""
    manifest = b"{}"
    checksum = 0
    for start in range(0, size, MEGABYTE):
        checksum = crc32(bytes(min(MEGABYTE, size - start)), checksum)
    with path.open("wb") as file:
        members: list[Member] = []
        for name, crc, length, data in (
            (b"payload/hole", checksum, size, None),
            (b"manifest.json", crc32(manifest), len(manifest), manifest),
        ):
            members.append(Member(name, crc, length, file.tell()))
            file.write(local_header(name, crc, length))
            if data is None:
                file.seek(length, 1)
            else:
                file.write(data)
        file.write(central_directory(members, file.tell()))
    return path
