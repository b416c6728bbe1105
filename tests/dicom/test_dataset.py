"""dicom/dataset.py: File Meta Information byte for byte, and heads of every kind described."""

from __future__ import annotations

import io
import json
import struct
import warnings
from dataclasses import asdict, fields
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastjmix.dicom import dataset
from fastjmix.dicom.dataset import (
    CODE_CHARS_MAX,
    TEXT_CHARS_MAX,
    Description,
    describe,
    file_meta_prefix,
    integer_string,
)
from tests import reference

DATA = Path(pydicom.__file__).parent / "data"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG = "1.2.840.10008.1.2.4.50"
CT = "1.2.840.10008.5.1.4.1.1.2"

uids = st.from_regex(r"\A[0-9]{1,4}(\.[0-9]{1,9}){0,6}\Z").filter(lambda uid: len(uid) <= 64)
titles = st.text(st.characters(codec="ascii", exclude_categories=["C"], exclude_characters="\\"),
                 max_size=16)  # fmt: skip

NOTHING = Description()


# -- File Meta Information -------------------------------------------------------------------


@settings(deadline=None)
@given(uids, uids, uids, titles, titles)
def test_file_meta_is_pydicoms(
    sop_class: str, instance: str, syntax: str, calling: str, called: str
) -> None:
    calling, called = calling.strip() or "CALLING", called.strip() or "CALLED"
    ours = (dataset.IMPLEMENTATION_CLASS_UID, dataset.IMPLEMENTATION_VERSION_NAME)
    expected = reference.file_meta(sop_class, instance, syntax, calling, called, ours)
    template = file_meta_prefix(sop_class, syntax, calling, called)
    assert template.render(instance.encode()) == expected
    for padded in (instance + "\0", instance + " "):
        assert template.render(padded.encode()) == expected


@pytest.mark.parametrize("length", range(1, 65))
def test_pydicom_reads_the_file(length: int) -> None:
    uid = ("1.2." + "3" * 64)[:length].rstrip(".").ljust(length, "4")
    head = file_meta_prefix(CT, EXPLICIT, "MODALITY", "JMIX_RECEIVER").render(uid.encode())
    assert len(head) % 2 == 0
    element = struct.pack("<2H2sH", 0x0010, 0x0010, b"PN", 8) + b"DOE^JOHN"
    file = pydicom.dcmread(io.BytesIO(head + element))
    meta = file.file_meta
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (CT, uid)
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert meta.TransferSyntaxUID == EXPLICIT
    assert meta.FileMetaInformationGroupLength == len(head) - 144
    assert meta.SourceApplicationEntityTitle == "MODALITY"
    assert meta.SendingApplicationEntityTitle == "MODALITY"
    assert meta.ReceivingApplicationEntityTitle == "JMIX_RECEIVER"
    assert str(file.PatientName) == "DOE^JOHN"


@pytest.mark.parametrize(
    ("title", "kept"),
    [
        ("  PADDED  ", "PADDED"),
        ("", None),
        ("   \0", None),
        ("A\\B", "A?B"),
        ("A\nB\x1b", "A?B?"),
        ("Ä", "?"),
        ("X" * 20, "X" * 16),
    ],
)
def test_titles_that_an_ae_cannot_hold(title: str, kept: str | None) -> None:
    head = file_meta_prefix(CT, EXPLICIT, title, title).render(b"1.2")
    meta = pydicom.dcmread(io.BytesIO(head), force=True).file_meta
    for keyword in ("Source", "Sending", "Receiving"):
        assert meta.get(f"{keyword}ApplicationEntityTitle") == kept


def test_implementation_identifiers_are_legal() -> None:
    assert pydicom.uid.UID(dataset.IMPLEMENTATION_CLASS_UID).is_valid
    assert len(dataset.IMPLEMENTATION_VERSION_NAME) <= 16


# -- describing ------------------------------------------------------------------------------


def files() -> list[Path]:
    found = [*DATA.glob("test_files/*.dcm"), *DATA.glob("charset_files/*.dcm")]
    assert len(found) > 90
    return sorted(found)


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_as_pydicom_describes_it(path: Path) -> None:
    file = path.read_bytes()
    parts = reference.split_file(file)
    if parts is None:  # a bare data set: nothing says how it is encoded
        assert "meta" in path.name.lower() or path.name == "rtstruct.dcm"
        return
    assert asdict(describe(parts[1], parts[0])) == reference.describe(file)


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("chrArab", "قباني^لنزار"),  # ISO_IR 127
        ("chrFren", "Buc^Jérôme"),  # ISO_IR 100
        ("chrFrenMulti", "Buc^Jérôme"),
        ("chrGerm", "Äneas^Rüdiger"),
        ("chrGreek", "Διονυσιος"),
        ("chrH31", "Yamada^Tarou=山田^太郎=やまだ^たろう"),  # \ISO 2022 IR 87
        ("chrH32", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),  # ISO 2022 IR 13\ISO 2022 IR 87
        ("chrI2", "Hong^Gildong=洪^吉洞=홍^길동"),  # \ISO 2022 IR 149
        ("chrRuss", "Люкceмбypг"),
        ("chrX1", "Wang^XiaoDong=王^小東"),  # ISO_IR 192
        ("chrX2", "Wang^XiaoDong=王^小东"),  # GB18030
    ],
)
def test_character_sets(name: str, patient: str) -> None:
    parts = reference.split_file((DATA / f"charset_files/{name}.dcm").read_bytes())
    assert parts is not None
    assert describe(parts[1], parts[0]).patient_name == patient


LONG = frozenset({b"SQ", b"UN", b"OB", b"UT"})


def element(tag: int, vr: bytes, value: bytes, syntax: str = EXPLICIT) -> bytes:
    """Returns an element; the value is padded with a space."""
    value += b" " * (len(value) % 2)
    order = ">" if syntax == BIG else "<"
    head = struct.pack(f"{order}2H", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT:
        return head + struct.pack("<I", len(value)) + value
    if vr in LONG:
        return head + vr + struct.pack(f"{order}HI", 0, len(value)) + value
    return head + vr + struct.pack(f"{order}H", len(value)) + value


KNOWN = (
    (0x00080005, b"CS", b"ISO_IR 192"),
    (0x00080020, b"DA", b"20240115"),
    (0x00080060, b"CS", b"CT"),
    (0x00081030, b"LO", "Prüfung".encode()),
    (0x0008103E, b"LO", "Thorax · nativ".encode()),
    (0x00100010, b"PN", "MÜLLER^JÖRG".encode()),
    (0x00100020, b"LO", "Nº 7".encode()),
    (0x00100030, b"DA", b"19700131"),
    (0x00100040, b"CS", b"O "),
    (0x00180015, b"CS", b"CHEST"),
    (0x0020000D, b"UI", b"1.2.3\0"),
    (0x0020000E, b"UI", b"1.2.3.4\0"),
    (0x00200011, b"IS", b" 7 "),
    (0x00200013, b"IS", b"+12"),
)
EXPECTED = Description(
    "1.2.3", "1.2.3.4", "MÜLLER^JÖRG", "20240115", "CT", 7, "Thorax · nativ", "CHEST", 12,
    "Nº 7", "19700131", "O", "Prüfung",
)  # fmt: skip


def head(syntax: str = EXPLICIT, **changed: bytes) -> bytes:
    """Returns the head of a data set; `changed` maps "t" + eight hexadecimal digits to a value."""
    change = {int(tag[1:], 16): value for tag, value in changed.items()}
    return b"".join(element(tag, vr, change.get(tag, value), syntax) for tag, vr, value in KNOWN)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG, DEFLATED, JPEG, "1.2.3.4.private"])
def test_every_encoding(syntax: str) -> None:
    encoded = head(syntax if syntax in (IMPLICIT, BIG) else EXPLICIT)
    assert describe(encoded, syntax) == EXPECTED
    # Further elements, pixel data among them, are not looked at.
    pixels = struct.pack("<2H2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + b"\xff" * 99
    assert describe(encoded + pixels, syntax) == EXPECTED


def test_the_encoding_is_not_the_one_that_was_named() -> None:
    assert describe(head(IMPLICIT), EXPLICIT) == EXPECTED
    assert describe(head(EXPLICIT), IMPLICIT) == EXPECTED
    # A first element so long that its length reads like two letters is still implicit.
    odd = element(0x00080000, b"", b"x" * 0x5A5A, IMPLICIT)
    assert describe(odd + head(IMPLICIT), IMPLICIT) == EXPECTED


def test_sequences_of_undefined_length_are_stepped_over() -> None:
    item, item_end = b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0\0\0\0\0"
    inner = element(0x0020000D, b"UI", b"9.9.9\0") + element(0x00080060, b"CS", b"XX")
    for vr in (b"SQ", b"UN"):
        within = inner
        if vr == b"UN":  # PS3.5 §6.2.2: what is in it is implicit
            within = element(0x0020000D, b"", b"9.9.9\0", IMPLICIT)
        sequence = (
            struct.pack("<2H2sHI", 0x0008, 0x1140, vr, 0, 0xFFFFFFFF)
            + (item + within + item_end) * 2
            + b"\xfe\xff\xdd\xe0\0\0\0\0"
        )
        parts = [element(tag, vr_, value) for tag, vr_, value in KNOWN]
        assert describe(b"".join((*parts[:4], sequence, *parts[4:])), EXPLICIT) == EXPECTED


def test_the_first_of_two_counts() -> None:
    assert describe(head() + head(t00100010=b"SOMEONE^ELSE"), EXPLICIT) == EXPECTED


def test_elements_out_of_order() -> None:
    parts = [element(tag, vr, value) for tag, vr, value in KNOWN]
    late = element(0x00280010, b"US", b"\0\1")
    assert describe(b"".join((parts[0], late, *parts[1:])), EXPLICIT) == EXPECTED


@pytest.mark.parametrize("cut", range(len(head())))
def test_whether_a_data_set_is_whole_is_reported(cut: int) -> None:
    found = describe(head()[:cut], EXPLICIT)
    for field in fields(Description):
        value = getattr(found, field.name)
        assert value in (getattr(EXPECTED, field.name), getattr(NOTHING, field.name))


# -- text ------------------------------------------------------------------------------------


def test_halves_of_ideographs_are_not_delimiters() -> None:
    # In JIS X 0208 春 is 3D 55, "=U", and 杉 is 3F 79; 綻 is 3E 5E, which ends in "^".
    name = "HARU^SUGI=春綻^杉=はる^すぎ"
    encoded = b"=".join(
        b"^".join(part.encode("iso2022_jp") for part in group.split("^"))
        for group in name.split("=")
    )
    assert encoded.count(b"=") > 2
    found = describe(head(t00080005=b"\\ISO 2022 IR 87", t00100010=encoded), EXPLICIT)
    assert found.patient_name == name


@pytest.mark.parametrize(
    ("element_text", "shown"),
    [
        (b"DOE^JOHN^^^ ", "DOE^JOHN^^^"),
        (b" DOE^JOHN\0\0", "DOE^JOHN"),
        (b"=IDEO^GRAPHIC", "=IDEO^GRAPHIC"),
        (b"A^B==C^D", "A^B==C^D"),
        (b"A^B = C^D ", "A^B=C^D"),
        (b"A^B==", "A^B"),
        (b"", ""),
        (b" ", ""),
        (b"M\xdcLLER^J\xd6RG", "MÜLLER^JÖRG"),
    ],
)
def test_person_names(element_text: bytes, shown: str) -> None:
    assert describe(head(t00080005=b"", t00100010=element_text), EXPLICIT).patient_name == shown


@pytest.mark.parametrize(
    "character_set",
    [
        b"ISO_IR 999", b"NONSENSE", b"unicode_escape", b"punycode", b"zip", b"rot13", b"\0\0",
        b"a\0b", b"\\\\", b"\xff\xfe", b"ISO_IR 192\\ISO 2022 IR 87", b"X" * 64, b"ISO 2022 IR 1e9",
        b"utf_7", b"undefined", b"base64", b"\\ISO_IR 192",
    ],
)  # fmt: skip
def test_unknown_character_sets_cost_at_most_the_text(character_set: bytes) -> None:
    found = describe(head(t00080005=character_set, t00100010=b"DOE^JOHN"), EXPLICIT)
    assert found.patient_name == "DOE^JOHN"
    assert found.study_instance_uid == "1.2.3"


@pytest.mark.parametrize(
    "spelling", [b"ISO_IR 192", b"ISO IR 192", b"ISO-IR 192", b"iso_ir 192", b"UTF-8", b" UTF8\0"]
)
def test_spellings_of_a_character_set(spelling: bytes) -> None:
    assert describe(head(t00080005=spelling), EXPLICIT) == EXPECTED


def test_undecodable_text_is_replaced() -> None:
    found = describe(head(t00080005=b"ISO_IR 192", t00100010=b"D\xffE^J"), EXPLICIT)
    assert found.patient_name == "D\ufffdE^J"
    # A surrogate in UTF-8 must not reach JSON.
    found = describe(head(t00080005=b"ISO_IR 192", t0008103E=b"\xed\xa0\x80"), EXPLICIT)
    assert found.series_description.encode("utf-8")


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (b"7", 7), (b" 7 ", 7), (b"+7\0", 7), (b"-3", -3), (b"0012", 12), (b"1\\2", 1), (b"", None),
        (b" ", None), (b"1.5", None), (b"1_0", None), (b"x", None), (b"--1", None),
        (b"9" * 13, None), ("٣".encode(), None),
    ],
)  # fmt: skip
def test_integer_strings(value: bytes, number: int | None) -> None:
    assert integer_string(value) == number


# -- limits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("over", [-1, 0, 1])
@pytest.mark.parametrize("character", ["x", "\U0001f9b4"])
def test_a_text_is_kept_up_to_its_limit(character: str, over: int) -> None:
    """Texts of any characters; UTF-8 has the longest."""
    long = character * (TEXT_CHARS_MAX + over)
    found = describe(
        head(t00080005=b"ISO_IR 192", t0008103e=long.encode(), t00100010=long.encode()), EXPLICIT
    )
    assert found.series_description == long[:TEXT_CHARS_MAX]
    assert found.patient_name == long[:TEXT_CHARS_MAX]


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_a_code_is_kept_up_to_its_limit(over: int) -> None:
    long = "M" * (CODE_CHARS_MAX + over)
    assert describe(head(t00080060=long.encode()), EXPLICIT).modality == long[:CODE_CHARS_MAX]


# -- whatever comes --------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(max_size=400), st.sampled_from([IMPLICIT, EXPLICIT, BIG, "", "x"]))
def test_junk_is_described_as_nothing_much(junk: bytes, syntax: str) -> None:
    json.dumps(asdict(describe(junk, syntax))).encode()


@settings(deadline=None, max_examples=300)
@given(st.data(), st.sampled_from([IMPLICIT, EXPLICIT, BIG]))
def test_damaged_heads_never_raise(data: st.DataObject, syntax: str) -> None:
    damaged = bytearray(head(syntax))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    found = asdict(describe(bytes(damaged), syntax))
    json.dumps(found, ensure_ascii=False).encode()


def test_endless_nesting_is_survived() -> None:
    deeper = struct.pack("<2H2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + (
        b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    )
    first = element(0x00080020, b"DA", b"20240115")
    assert describe(first + deeper * 5000, EXPLICIT) == Description(study_date="20240115")


def test_warnings_stay_as_they_were() -> None:
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        describe(head(t00080005=b"NONSENSE", t00100010=b"\x1b$Z\xff"), EXPLICIT)
    assert not seen
    assert list(warnings.filters) == before
