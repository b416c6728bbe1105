"""The head of a data set that stands in a file: as far as its UIDs, wherever they are.

Wanted: recovery and `envelope build` understand an instance as the packer did.
Guaranteed: no more is read than twice what is needed.
Still wrong: a data set without its UIDs is read as far as `most` allows, at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastjmix import _core
from fastjmix.dicom.association import syntax_kind
from fastjmix.dicom.dataset import inflate_head

HEAD_BYTES: Final = 1 << 16
"""Bytes of a data set that are searched for its UIDs first; doubled until they are found."""


def data_set_head(
    read_at: Callable[[int, int], bytes],
    offset: int,
    size: int,
    syntax: str,
    most: int | None = None,
) -> tuple[_core.Head, bytes]:
    """The head of the data set of `size` bytes at `offset`, and its bytes, however far it reaches.

    `read_at` as pread(2). Raises ValueError when it cannot be understood, or has no UIDs within the
    first `most` bytes.
    """
    length = HEAD_BYTES
    while True:
        data = read_at(offset, min(length, size))
        whole = len(data) >= size
        kind = syntax_kind(syntax)
        if kind == 3:
            head = _core.read_head(inflate_head(data), 1, True)
        else:
            head = _core.read_head(data, kind, whole)
        if head is not None:
            return head, data
        length *= 2
        if most is not None and length > most:
            raise ValueError(f"no UIDs in its first {most} bytes")
