"""Reads the head of a data set: as far as its UIDs, wherever they are. One reader for all.

Wanted: recovery and `envelope build` understand an instance as reception did when it took it.
Guaranteed: one rule says what the head is (`head_in`; its compiled half, find_head in
_core/head.pxi, is what the receiver asks in the lane). A data set is looked at when it has certain
lengths: so it has one answer, however its bytes come, and a file gives the answer that the lane
gave if the limit is the same, or a larger one. No more is read of a file, or held, than the limit
and one byte, however large the data set or any of its elements is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastjmix import _core
from fastjmix.dicom.association import syntax_kind
from fastjmix.dicom.dataset import inflate_head
from fastjmix.errors import UnreadableHead

DEFLATED_KIND: Final = 3
"""See `syntax_kind`."""


def head_in(
    data: bytes, kind: int, *, complete: bool, limit: int
) -> tuple[_core.Head, bytes] | None:
    """Returns the head in the first bytes of a data set, and its bytes, which `describe_head`
    describes.

    `complete`: there are no more; None when more are needed: never if these are more than `limit`,
    then what they show counts. Raises UnreadableHead. Any UID may be absent (b"").
    """
    try:
        if kind != DEFLATED_KIND:
            head = _core.read_head(data, kind, complete, limit)
            return None if head is None else (head, data[: head.length])
        inflated = inflate_head(data)
        no_more = complete or inflated.over or len(data) > limit
        head = _core.read_head(inflated.data, 1, no_more)
    except ValueError as problem:
        raise UnreadableHead(str(problem)) from problem
    if head is not None and inflated.broken and not has_uids(head):
        raise UnreadableHead("not a deflate stream")
    return None if head is None else (head, data)


def has_uids(head: _core.Head) -> bool:
    """Tells whether all four UIDs are there."""
    return bool(
        head.study_instance_uid
        and head.series_instance_uid
        and head.sop_instance_uid
        and head.sop_class_uid
    )


def data_set_head(
    read_at: Callable[[int, int], bytes], offset: int, size: int, syntax: str, limit: int
) -> tuple[_core.Head, bytes]:
    """Does the same for the data set of `size` bytes at `offset` of a file. `read_at` is as
    pread(2).

    Raises UnreadableHead when it cannot be understood within `limit` bytes, or is shorter than it
    should be; OSError.
    """
    kind = syntax_kind(syntax)
    length = min(_core.HEAD_FIRST_LOOK, limit + 1)
    while True:
        data = read_at(offset, min(length, size))
        if len(data) < min(length, size):
            raise UnreadableHead(f"its data set ends after {len(data)} of {size} bytes")
        found = head_in(data, kind, complete=length >= size, limit=limit)
        if found is not None:
            return found
        if length > limit:
            raise UnreadableHead(f"no UIDs in its first {limit} bytes")
        length = min(2 * length, limit + 1)
