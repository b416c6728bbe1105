"""Finds the instance that a member of a draft holds: from its own bytes, or else from its note.

Wanted: recovery gives every member the place that reception gave it.
Guaranteed: the head is read by the reader that reception had (heads.py), within the limit that it
had: the recipe says which. Should it ever not be understood, it is placed by what reception noted:
the study in the recipe, series and number in the journal (`note_of`), SOP class and instance in the
member's own File Meta Information. So no version of this program refuses what another took.

Most instances have no note: their UIDs stand plainly in the first bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from fastjmix import _core
from fastjmix._core import Arrival
from fastjmix.dicom.association import is_uid, syntax_kind
from fastjmix.dicom.dataset import integer_string, read_file_meta
from fastjmix.errors import UnreadableHead
from fastjmix.heads import DEFLATED_KIND, data_set_head, has_uids
from fastjmix.jmix.archive import Member, data_offset

META_BYTES: Final = 4096
"""File Meta Information is at most 1 KB: it fitted in a lane's control block."""

_SEPARATOR: Final = b"\\"


class Facts(NamedTuple):
    """Where an instance belongs; `head` is what `describe_head` describes."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    instance_number: int | None
    head: bytes


def note_of(arrival: Arrival, head: bytes) -> bytes:
    """Returns the journal's note of an instance with this head; none for a head that is easy to
    read.
    """
    plain = len(head) <= _core.HEAD_FIRST_LOOK
    if plain and syntax_kind(arrival.transfer_syntax_uid.decode()) != DEFLATED_KIND:
        return b""
    number = arrival.instance_number
    told = b"" if number is None else b"%d" % number
    return arrival.series_instance_uid + _SEPARATOR + told


def facts_of(
    read_at: Callable[[int, int], bytes], member: Member, recipe: Mapping[str, Any], note: bytes
) -> Facts:
    """Returns the facts of a member whose CRC-32 is right. `read_at` is as pread(2); `note` is b""
    where there is none.

    Raises UnreadableHead when neither its bytes nor what was noted say it, OSError.
    """
    start = data_offset(member)
    meta, length = read_file_meta(read_at(start, min(META_BYTES, member.size)))
    syntax = meta["transfer_syntax_uid"]
    sop = meta["sop_class_uid"], meta["sop_instance_uid"], syntax
    try:
        head, data = data_set_head(
            read_at, start + length, member.size - length, syntax, _limit(recipe)
        )
        if not has_uids(head):
            raise UnreadableHead("its data set lacks a UID")
    except UnreadableHead:
        study, (series, _, number) = str(recipe.get("study", "")), note.partition(_SEPARATOR)
        if not is_uid(study.encode()) or not is_uid(series):
            raise
        return Facts(study, series.decode(), *sop, integer_string(number), b"")
    study, series = head.study_instance_uid.decode(), head.series_instance_uid
    return Facts(study, series.decode(), *sop, head.instance_number, data)


def _limit(recipe: Mapping[str, Any]) -> int:
    """Returns the limit that reception had; the largest there is for a draft that does not say
    it."""
    told = recipe.get("head_bytes")
    known = isinstance(told, int) and 0 < told <= _core.HEAD_BYTES_MAX
    return told if known and isinstance(told, int) else _core.HEAD_BYTES_MAX
