"""Bounds on the memory and time that one envelope may cost its reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Bound = Literal["max_manifest_bytes", "max_metadata_bytes"]
"""The field of `Limits` that bounds a document."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one envelope; the error for exceeding one names it."""

    max_members: int = 100_000
    """Members; twenty times the largest study seen in one envelope."""
    max_directory_bytes: int = 16 << 20
    """The central directory, which is read whole; 160 bytes for each of `max_members`."""
    max_manifest_bytes: int = 16 << 20
    """manifest.json unpacked; with a listing, about 150 bytes an instance."""
    max_metadata_bytes: int = 32 << 20
    """metadata.json or files.json unpacked; about 300 bytes an instance."""
    max_unpacked_bytes: int = 256 << 30
    """All members unpacked: `verify_hashes` may have to read as much."""
    max_name_bytes: int = 1024
    """A member's name."""
    max_depth: int = 256
    """Components of a member's name; each but the last is a folder that the name implies."""
    max_folders: int = 100_000
    """Folders, including those that only a name implies: one for each of `max_members`."""
    max_folder_bytes: int = 16 << 20
    """All folders' paths together, as many bytes as a directory may have; a name can imply 255."""
    max_ratio: int = 100
    """Bytes that all members unpack to, for each byte of the archive, beyond `FREE_BYTES`: DEFLATE
    makes a thousand of one, medical images less than ten."""


FREE_BYTES: Final = 16 << 30
"""Bytes that an archive may unpack to, however small it is: reading them takes half a minute."""

DEFAULT_LIMITS: Final = Limits()
