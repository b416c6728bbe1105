"""Writes and reads File Meta Information; reads the descriptive elements of a data set.

Wanted: a received data set becomes a DICOM file without a change to its bytes, and a series is
described from the head of one instance.
Guaranteed: `FileMeta.render` gives preamble and File Meta Information as PS3.10 §7.1 orders them.
`describe` never raises and never reads pixel data; a value that it cannot read is "" or None.
Elements are stepped over in compiled code (`_core.read_values`), as in the search for the UIDs: a
head that is made to be slow, or nested without end, takes milliseconds at most.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from struct import error as StructError
from typing import Any, Final

from pydicom.valuerep import VR

from fastjmix import _core
from fastjmix.dicom.charsets import CharacterSets, character_sets, decode
from fastjmix.dicom.syntaxes import DEFLATED_KIND, kind_of
from fastjmix.errors import UnreadableHead

IMPLEMENTATION_CLASS_UID: Final = "2.25.243247878885852621453916350932683823793"
"""Ours, under the UUID root (PS3.5 §B.2); it never changes."""

IMPLEMENTATION_VERSION_NAME: Final = "FASTJMIX_0_1"
"""SH, at most 16 characters (PS3.10 Table 7.1-1)."""

TEMPLATES_KEPT: Final = 256
"""Templates that are kept, by SOP class, transfer syntax and AE titles. The peer chooses these, so
the number is bounded."""

DESCRIPTIONS_KEPT: Final = 256
"""Descriptions that are kept. Instances of one series share theirs, and more series than these
rarely arrive by turns. Each value has at most 1 KB: 4 MB in all."""

_short = Struct("<2H2sH")  # group, element, VR, 16-bit length (PS3.5 Table 7.1-2)
_length32 = Struct("<I")
_length16 = Struct("<H")


# -- out: File Meta Information (PS3.10 §7.1) ------------------------------------------------


def _element(element: int, vr: bytes, value: bytes) -> bytes:
    """Returns an element of group 0002, padded to an even length (PS3.5 §6.2)."""
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return _short.pack(0x0002, element, vr, len(value)) + value


def _ae(element: int, title: str) -> bytes:
    """Returns an AE element; nothing for an empty title. A character that no AE has becomes "?"."""
    kept = "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in title.strip(" \0"))[:16]
    return _element(element, b"AE", kept.encode("ascii")) if kept else b""


class FileMeta:
    """Preamble and File Meta Information of like instances: all but the instance's UID."""

    __slots__ = ("_after", "_before", "_class", "_rest")

    def __init__(self, sop_class_uid: str, transfer_syntax_uid: str, source: bytes) -> None:
        version = _short.pack(0x0002, 0x0001, b"OB", 0) + _length32.pack(2) + b"\x00\x01"
        self._before = bytes(128) + b"DICM" + _short.pack(0x0002, 0x0000, b"UL", 4)
        self._class = (
            version
            + _element(0x0002, b"UI", sop_class_uid.encode("ascii", "replace"))
            + _short.pack(0x0002, 0x0003, b"UI", 0)[:-2]
        )
        self._after = (
            _element(0x0010, b"UI", transfer_syntax_uid.encode("ascii", "replace"))
            + _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode())
            + _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode())
            + source
        )
        self._rest = len(self._class) + 2 + len(self._after)

    def render(self, sop_instance_uid: bytes) -> bytes:
        """Returns the bytes before the data set in the file of this instance.

        The UID's padding is replaced by the one of PS3.5 §9.1.
        """
        uid = sop_instance_uid.rstrip(b"\0 ")
        length = len(uid)
        if length & 1:
            uid += b"\0"
            length += 1
        return b"".join(
            (
                self._before,
                _length32.pack(self._rest + length),
                self._class,
                _length16.pack(length),
                uid,
                self._after,
            )
        )


@lru_cache(maxsize=TEMPLATES_KEPT)
def file_meta_prefix(
    sop_class_uid: str, transfer_syntax_uid: str, calling_ae: str, called_ae: str
) -> FileMeta:
    """Returns the template for instances of one SOP class, from one AE to another.

    The calling AE title is Source (0002,0016) and Sending AE (0002,0017), the called one is
    Receiving AE (0002,0018).
    """
    source = _ae(0x0016, calling_ae) + _ae(0x0017, calling_ae) + _ae(0x0018, called_ae)
    return FileMeta(sop_class_uid, transfer_syntax_uid, source)


# -- in: the descriptive elements ------------------------------------------------------------

TEXT_CHARS_MAX: Final = 256
"""Characters of a name or a description that are kept, in memory until the seal. An LO has at most
64, a PN three times 64 (PS3.5 §6.2)."""
TEXT_BYTES_MAX: Final = 4 * TEXT_CHARS_MAX
"""Bytes of a text that are decoded: no character takes more than four. It bounds the names of
character sets too."""
CODE_CHARS_MAX: Final = 64
"""Characters of a code, a date or a UID that are kept: the longest, a UID, has 64."""

CHARACTER_SET: Final = 0x00080005
STUDY_DATE: Final = 0x00080020
ACCESSION_NUMBER: Final = 0x00080050
MODALITY: Final = 0x00080060
STUDY_DESCRIPTION: Final = 0x00081030
SERIES_DESCRIPTION: Final = 0x0008103E
PATIENT_NAME: Final = 0x00100010
PATIENT_ID: Final = 0x00100020
PATIENT_BIRTH_DATE: Final = 0x00100030
PATIENT_SEX: Final = 0x00100040
BODY_PART: Final = 0x00180015
STUDY_UID: Final = 0x0020000D
SERIES_UID: Final = 0x0020000E
SERIES_NUMBER: Final = 0x00200011
INSTANCE_NUMBER: Final = 0x00200013
WANTED: Final = {
    CHARACTER_SET, STUDY_DATE, ACCESSION_NUMBER, MODALITY, STUDY_DESCRIPTION, SERIES_DESCRIPTION,
    PATIENT_NAME, PATIENT_ID, PATIENT_BIRTH_DATE, PATIENT_SEX, BODY_PART, STUDY_UID, SERIES_UID,
    SERIES_NUMBER, INSTANCE_NUMBER,
}  # fmt: skip

_SHARED: Final = WANTED - {INSTANCE_NUMBER}

_integer = re.compile(rb"[+-]?[0-9]{1,12}")
_control: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_blanks: Final = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], " ")
_PERSON_DELIMITERS: Final = b"^=\\"
_vrs: Final = frozenset(vr.value.encode() for vr in VR if len(vr.value) == 2)


@dataclass(frozen=True, slots=True)
class Description:
    """The descriptive elements of a data set. One that is absent is "" or None.

    `patient_name` is the element's text: components with their carets, component groups
    (alphabetic, ideographic, phonetic) joined by "=".
    """

    study_instance_uid: str = ""
    series_instance_uid: str = ""
    patient_name: str = ""
    study_date: str = ""
    modality: str = ""
    series_number: int | None = None
    series_description: str = ""
    body_part: str = ""
    instance_number: int | None = None
    patient_id: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    study_description: str = ""
    accession_number: str = ""


def describe(head: bytes, transfer_syntax_uid: str) -> Description:
    """Returns the descriptive elements of a data set from its first bytes. Never raises.

    `head` is Head.elements, or any first part of a data set, of which incomplete elements are left
    out. The head of a deflated data set is given inflated.
    """
    try:
        found = _core.read_values(head, _kind(head, transfer_syntax_uid), WANTED)
    except Exception:  # the instance is kept without a description
        return Description()
    return _described(found)


def _described(found: Mapping[int, bytes]) -> Description:
    """Returns the description that these elements give. Never raises."""

    def of(tag: int) -> bytes:
        return found.get(tag, b"")

    sets = character_sets(of(CHARACTER_SET)[:TEXT_BYTES_MAX])
    return Description(
        study_instance_uid=_plain(of(STUDY_UID)),
        series_instance_uid=_plain(of(SERIES_UID)),
        patient_name=_person(of(PATIENT_NAME), sets),
        study_date=_plain(of(STUDY_DATE)),
        modality=_plain(of(MODALITY)),
        series_number=integer_string(of(SERIES_NUMBER)),
        series_description=_text(of(SERIES_DESCRIPTION), sets),
        body_part=_plain(of(BODY_PART)),
        instance_number=integer_string(of(INSTANCE_NUMBER)),
        patient_id=_text(of(PATIENT_ID), sets),
        patient_birth_date=_plain(of(PATIENT_BIRTH_DATE)),
        patient_sex=_plain(of(PATIENT_SEX)),
        study_description=_text(of(STUDY_DESCRIPTION), sets),
        accession_number=_text(of(ACCESSION_NUMBER), sets),
    )


@lru_cache(maxsize=DESCRIPTIONS_KEPT)
def _remembered(*elements: Any) -> Description:
    """Returns the same for tags, followed by their values in the same order."""
    half = len(elements) // 2
    return _described(dict(zip(elements[:half], elements[half:], strict=True)))


def describe_series(elements: bytes) -> Description:
    """Returns the description that instances of a series share, from Head.elements. Never raises.

    It has no `instance_number`, so that equal heads have one Description: of all but the first of a
    series the values are read, which takes a tenth of decoding them.
    """
    try:
        found = _core.read_values(elements, 1, _SHARED)
    except Exception:  # as in `describe`
        return Description()
    return _remembered(*found, *found.values())


def integer_string(value: bytes) -> int | None:
    """Returns the first value of an IS element (PS3.5 §6.2); None when it is not an integer."""
    first = value.partition(b"\\")[0].strip(b" \0")
    return int(first) if _integer.fullmatch(first) else None


def _kind(head: bytes, transfer_syntax_uid: str) -> int:
    """Returns how elements are read (`_core.read_head`). Some senders name one encoding and send
    another: implicit VR under an explicit name is found there, element by element, the reverse
    here."""
    kind = kind_of(transfer_syntax_uid)
    if kind == DEFLATED_KIND:
        return 1
    # The length of a first element of 16 KB or more may look like a VR: only a defined one counts.
    return 1 if kind == 0 and head[4:6] in _vrs else kind


def _text(value: bytes, sets: CharacterSets, delimiters: bytes = b"\\") -> str:
    """Returns decoded text for JSON: without padding, lone surrogates and control characters, up to
    TEXT_CHARS_MAX."""
    text = decode(value.strip(b" \0")[:TEXT_BYTES_MAX], sets, delimiters)
    return _printable(text.encode("utf-8", "replace").decode("utf-8"))[:TEXT_CHARS_MAX]


def _plain(value: bytes) -> str:
    """Returns a value that no character set applies to (UI, CS, DA), up to CODE_CHARS_MAX."""
    return _printable(value.strip(b" \0")[:CODE_CHARS_MAX].decode("latin-1"))


def _printable(text: str) -> str:
    """Returns text with a blank for each control character (Unicode's Cc: C0 with NUL, DEL, C1),
    without blanks at either end. No VR that is read here allows them (PS3.5 §6.2)."""
    return text.translate(_blanks).strip() if _control.search(text) else text.strip(" ")


def _person(value: bytes, sets: CharacterSets) -> str:
    """Returns a PN (PS3.5 §6.2.1). It is decoded before it is split: in ISO 2022 IR 87 and similar
    sets the codes of "=" and "^" are halves of ideographs."""
    groups = _text(value, sets, _PERSON_DELIMITERS).split("=")
    return "=".join(group.strip() for group in groups).rstrip("=")


# -- in: File Meta Information (PS3.10 §7.1) ---------------------------------------------------

_long_vrs: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_UIDS: Final = {
    0x0002: "sop_class_uid",
    0x0003: "sop_instance_uid",
    0x0010: "transfer_syntax_uid",
}


def read_file_meta(member: bytes) -> tuple[dict[str, str], int]:
    """Reads File Meta Information out of the first bytes of a Part 10 file (PS3.10 §7.1).

    Returns `sop_class_uid`, `sop_instance_uid` and `transfer_syntax_uid`, and the offset of the
    data set. Raises UnreadableHead when there is none, or not all of it is here.
    """
    found: dict[str, str] = {}
    at = 132
    try:
        if member[128:132] != b"DICM":
            raise UnreadableHead('no File Meta Information: "DICM" is not there')
        end = 144 + int.from_bytes(member[140:144], "little")  # (0002,0000): length of the rest
        while at < end:
            group, element, vr, length = _short.unpack_from(member, at)
            at += _short.size
            if vr in _long_vrs:
                (length,) = _length32.unpack_from(member, at)
                at += _length32.size
            if group != 2 or at + length > min(end, len(member)):
                raise UnreadableHead("no File Meta Information: its elements cannot be followed")
            if element in _UIDS:
                found[_UIDS[element]] = member[at : at + length].rstrip(b"\0 ").decode("ascii")
            at += length
    except (StructError, UnicodeDecodeError) as problem:
        raise UnreadableHead(f"no File Meta Information: {problem}") from problem
    if len(found) < len(_UIDS):
        raise UnreadableHead("no File Meta Information: it lacks a UID")
    return found, end
