"""Finds the instance that a member of a draft holds: from its own bytes, or else from its note.

Wanted: recovery puts every member into the study and series into which reception put it.
Guaranteed: the head is read by the reader that reception used (dicom/head.py). If that cannot read
it, the facts are those that reception noted: the study in the recipe, series and number in the
journal (`note_of`), SOP class and instance in the member's own File Meta Information. So no version
of this program refuses an instance that another accepted.

Most instances have no note: their UIDs can be read in the first bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from fastjmix import _core
from fastjmix._core import Arrival
from fastjmix.dicom.dataset import integer_string, read_file_meta
from fastjmix.dicom.head import data_set_head, has_uids
from fastjmix.dicom.syntaxes import DEFLATED_KIND, kind_of
from fastjmix.errors import UnreadableHead
from fastjmix.jmix.write.archive import Member, data_offset
from fastjmix.spool import Recipe

META_BYTES: Final = 4096
"""File Meta Information is at most 1 KB: it fitted in a lane's control block."""

_SEPARATOR: Final = b"\\"


class Facts(NamedTuple):
    """Study and series of an instance, and what else the envelope needs of it.

    `elements` are the argument of dataset.describe; `fault` says what is wrong with the data set.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    instance_number: int | None
    elements: bytes
    fault: str


def note_of(arrival: Arrival) -> bytes:
    """Returns the journal's note of an instance; b"" for one whose head is easy to read."""
    plain = arrival.head_length <= _core.HEAD_FIRST_LOOK
    if plain and kind_of(arrival.transfer_syntax_uid.decode()) != DEFLATED_KIND:
        return b""
    number = arrival.instance_number
    digits = b"" if number is None else b"%d" % number
    return arrival.series_instance_uid + _SEPARATOR + digits


def facts_of(
    read_at: Callable[[int, int], bytes], member: Member, recipe: Recipe, note: bytes
) -> Facts:
    """Returns the facts of a member whose CRC-32 is right.

    `read_at` takes an offset and a length. `note` is b"" where there is none. Raises UnreadableHead
    when neither the member's bytes nor recipe and note give the facts, OSError.
    """
    start = data_offset(member)
    meta, length = read_file_meta(read_at(start, min(META_BYTES, member.size)))
    syntax = meta["transfer_syntax_uid"]
    sop = meta["sop_class_uid"], meta["sop_instance_uid"], syntax
    try:
        at, size = start + length, member.size - length
        head, fault = data_set_head(read_at, at, size, syntax, whole=True)
        if not has_uids(head):
            raise UnreadableHead("its data set lacks a UID")
    except UnreadableHead:
        study, (series, _, number) = recipe.study, note.partition(_SEPARATOR)
        if not study or not series:
            raise
        return Facts(study, series.decode(), *sop, integer_string(number), b"", "")
    study, series = head.study_instance_uid.decode(), head.series_instance_uid
    return Facts(study, series.decode(), *sop, head.instance_number, head.elements, fault)
