"""Computes the ETag that an S3 service gives to an object, from the bytes that went there.

MD5 of an object that came in one request; of one that came in parts MD5 of the parts' digests, and
their number. A service that encrypts with keys of its own gives another: that proves nothing, and
the bytes are read back (s3.py).
"""

from __future__ import annotations

import hashlib


class PartDigests:
    """The digests of an object's parts, each of `part_bytes` but the last."""

    def __init__(self, part_bytes: int) -> None:
        self._part_bytes = part_bytes
        self._part = _md5()
        self._in_part = 0
        self._whole = _md5()
        self._digests: list[bytes] = []
        self.size = 0

    def update(self, piece: bytes | bytearray) -> None:
        """Adds the next bytes."""
        self._whole.update(piece)
        self.size += len(piece)
        view = memoryview(piece)
        while view:
            within = view[: self._part_bytes - self._in_part]
            self._part.update(within)
            self._in_part += len(within)
            view = view[len(within) :]
            if self._in_part == self._part_bytes:
                self._end_part()

    def etags(self) -> frozenset[str]:
        """Returns the ETags of these bytes as one body, and as parts."""
        parts = [*self._digests, *([self._part.digest()] if self._in_part else [])]
        joined = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
        return frozenset({self._whole.hexdigest(), f"{joined}-{len(parts)}"})

    def _end_part(self) -> None:
        self._digests.append(self._part.digest())
        self._part = _md5()
        self._in_part = 0


def _md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)
