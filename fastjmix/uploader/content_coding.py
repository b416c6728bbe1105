"""Undoes the Content-Encoding of an upstream's answer (RFC 9110 §8.4.1), within a bound.

Wanted: an answer that was compressed unasked, as some servers and proxies do, is understood.
Guaranteed: no more than `size_max` bytes are made of a body, whatever its ratio; nothing is raised;
an unknown coding, and bytes that are not in the coding they name, stay as they are.
Still wrong: br and zstd are not known. We ask for identity; servers that ignore that send gzip.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Final

_WINDOWS: Final[Mapping[str, tuple[int, ...]]] = {
    "gzip": (31,),
    "x-gzip": (31,),
    "deflate": (15, -15),  # some servers leave the zlib header out
}


def decoded(body: bytes, coding: str, size_max: int) -> bytes:
    """Returns at most `size_max` decoded bytes of the body.

    A body that was cut gives its beginning.
    """
    for window in _WINDOWS.get(coding.strip().lower(), ()):
        try:
            return zlib.decompressobj(window).decompress(body, size_max)
        except zlib.error:
            continue
    return body
