"""Every defined term of Specific Character Set, with and without code extensions (F106).

The texts are written here, and DCMTK's `dcmconv +U8` says what each is, too. Where it cannot (its
iconv has no ISO 2022 IR 87 and 159, it knows no IR 203, and refuses what stands alone though it
needs others), the texts are those of PS3.5 Annexes H to K.
"""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from fastjmix.dicom.charsets import character_sets, decode
from fastjmix.dicom.dataset import describe, file_meta_prefix
from tests.support import wire
from tests.support.acceptors import dcmtk
from tests.support.nightly import by_form

RIGHT_HALVES = {  # number of the term: escape sequence, codec, a name
    "100": (b"\x1b-A", "iso8859-1", "Buc^Jérôme"),
    "101": (b"\x1b-B", "iso8859-2", "Wałęsa^Žofie"),
    "109": (b"\x1b-C", "iso8859-3", "Ĥaŭs^Ŝipo"),
    "110": (b"\x1b-D", "iso8859-4", "Ķēniņš^Ŧ"),
    "144": (b"\x1b-L", "iso8859-5", "Люкceмбypг^Я"),
    "127": (b"\x1b-G", "iso8859-6", "قباني^لنزار"),
    "126": (b"\x1b-F", "iso8859-7", "Διονυσιος^Α"),
    "138": (b"\x1b-H", "iso8859-8", "שרון^דבורה"),
    "148": (b"\x1b-M", "iso8859-9", "Çavuşoğlu^Ğ"),
    "166": (b"\x1b-T", "tis-620", "นามสกุล^ชื่อ"),
    "203": (b"\x1b-b", "iso8859-15", "Œuvre^€"),
    "13": (b"\x1b)I", "shift_jis", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
    "149": (b"\x1b$)C", "euc_kr", "김희중^洪吉洞"),
    "58": (b"\x1b$)A", "gb2312", "张^小东"),
}
BY_DCMTK = set(RIGHT_HALVES) - {"203"}


def escaped(number: str, text: str) -> bytes:
    """Returns each component with its escape, as PS3.5 §6.1.2.5.3 asks."""
    escape, codec, _ = RIGHT_HALVES[number]
    return b"^".join(escape + part.encode(codec) for part in text.split("^"))


def table() -> list[tuple[str, bytes, str, bool]]:
    """Specific Character Set, bytes, text, and whether DCMTK can write it."""
    rows = [
        ("", b"Doe^John", "Doe^John", True),
        ("ISO_IR 6", b"Doe^John", "Doe^John", False),
        ("ISO_IR 192", "Wang^小东=王^小东".encode(), "Wang^小东=王^小东", True),
        ("GB18030", "Wang=王^小东".encode("gb18030"), "Wang=王^小东", True),
        ("GBK", "Wang=王^小东".encode("gbk"), "Wang=王^小东", True),
        # PS3.5 H.3.1 and H.3.2
        (
            "\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
            False,
        ),
        (
            "ISO 2022 IR 13\\ISO 2022 IR 87",
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J"
            b"=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
            "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
            False,
        ),
        ("\\ISO 2022 IR 159", b'A^\x1b$(D0!0"\x1b(B', "A^丂丄", False),
        ("\\ISO 2022 IR 87\\ISO 2022 IR 159", b"A=\x1b$B;3\x1b$(D0!\x1b(B^B", "A=山丂^B", False),
        ("\\ISO 2022 IR 87", b"A\x1b(J~\x1b(B~", "A\u203e~", False),
        # PS3.5 I.2 and K.2
        (
            "\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            "Hong^Gildong=洪^吉洞=홍^길동",
            True,
        ),
        (
            "\\ISO 2022 IR 58",
            b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
            "Zhang^XiaoDong=张^小东",
            True,
        ),
        ("\\ISO 2022 IR 58\\ISO 2022 IR 149", b"\x1b$)A\xd5\xc5^\x1b$)C\xfb\xf3", "张^洪", True),
        (
            "ISO 2022 IR 100\\ISO 2022 IR 126\\ISO 2022 IR 144",
            b"\xc0^\x1b-F\xc4\xe9^\x1b-L\xbb\xee",
            "À^Δι^Лю",
            True,
        ),
        ("ISO 2022 IR 100\\ISO 2022 IR 126", b"\xc0\x1b-F\xc4\x1b-A\xc0^\xc0", "ÀΔÀ^À", True),
        # as senders write it, and as no standard allows
        ("\\ISO_IR 192", "Grüße".encode(), "Grüße", False),
        ("UTF-8", "Grüße".encode(), "Grüße", False),
        ("iso_ir 100", b"Gr\xfc\xdfe", "Grüße", False),
        ("ISO 2022 IR 58", b"Zhang=\x1b$)A\xd5\xc5", "Zhang=张", False),
        ("ISO 2022 IR 149", b"\xb1\xe8", "김", False),
        ("\\ISO 2022 IR 58", b"\x1b$)A\xd5\xc5^\xd0\xa1", "张^小", False),
        ("\\ISO 2022 IR 58", b"A\x1b-A\xc0", "AÀ", False),
        ("", b"Gr\xfc\xdfe", "Grüße", False),
        ("cp1251", b"Gr\xfc\xdfe", "Grüße", False),
    ]
    for number, (_, codec, text) in RIGHT_HALVES.items():
        known = number in BY_DCMTK
        rows += [
            (f"ISO 2022 IR 6\\ISO 2022 IR {number}", escaped(number, text), text, known),
            (f"\\ISO 2022 IR {number}", b"X^Y=" + escaped(number, text), f"X^Y={text}", known),
            (
                f"ISO 2022 IR 100\\ISO 2022 IR {number}",
                b"\xc0=" + escaped(number, text) + b"=\xc0",
                f"À={text}=À",
                known,
            ),
        ]
        if number not in ("149", "58"):
            rows.append((f"ISO_IR {number}", text.encode(codec), text, known))
            rows.append((f"ISO 2022 IR {number}", text.encode(codec), text, False))
    return rows


def described(terms: str, name: bytes) -> bytes:
    """Returns a data set with this Specific Character Set and Patient's Name, and like texts."""
    plain = wire.data_set()
    at = plain.index(b"\x10\0\x10\0PN")
    parts = [
        wire.element(0x00080005, b"CS", terms.encode()),
        plain[plain.index(b"\x08\0\x16\0") : at],
        wire.element(0x00100010, b"PN", name),
        plain[at + 8 + plain[at + 6] :],
    ]
    return b"".join(parts)


def by_dcmtk(directory: Path, terms: str, name: bytes) -> str:
    """Returns Patient's Name as dcmconv converts it to UTF-8."""
    plain, converted = directory / "plain.dcm", directory / "converted.dcm"
    meta = file_meta_prefix(wire.CT, wire.EXPLICIT, "A", "B").render(b"1.2.3.9")
    plain.write_bytes(meta + described(terms, name))
    subprocess.run([dcmtk("dcmconv"), "+U8", plain, converted], check=True, timeout=20)
    return str(dcmread(converted).PatientName).rstrip("=")


@pytest.mark.fault("F106")
@pytest.mark.parametrize(("terms", "name", "text", "known"), table())
def test_every_defined_term(
    tmp_path: Path, terms: str, name: bytes, text: str, known: bool
) -> None:
    assert describe(described(terms, name), wire.EXPLICIT).patient_name == text
    if known:
        assert by_dcmtk(tmp_path, terms, name) == text


@pytest.mark.fault("F106")
def test_names_in_several_sets_are_those_of_dcmtk(tmp_path: Path) -> None:
    """Any sets in one value, in any order, with plain text between them."""
    for seed in range(by_form(25, 1000)):
        chosen = random.Random(seed)
        numbers = chosen.sample(sorted(BY_DCMTK - {"13"}), chosen.randrange(1, 5))
        terms = "\\".join(["", *(f"ISO 2022 IR {number}" for number in numbers)])
        name, text = b"Plain", "Plain"
        for number in chosen.choices(numbers, k=chosen.randrange(1, 5)):
            escape, codec, sample = RIGHT_HALVES[number]
            part = sample.partition("^")[0][:3]
            join = chosen.choice(("^", " ", ""))
            name += join.encode() + escape + part.encode(codec)
            text += join + part
            if name.count(b"^") == 4:
                break
        found = describe(described(terms, name), wire.EXPLICIT).patient_name
        assert found == text == by_dcmtk(tmp_path, terms, name), (seed, terms, name)


@pytest.mark.fault("F106")
@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.sampled_from([row[0] for row in table()]), max_size=3).map("\\".join),
    st.lists(
        st.one_of(
            st.binary(max_size=6),
            st.sampled_from([row[0] for row in RIGHT_HALVES.values()]),
            st.sampled_from([b"\x1b$B", b"\x1b$(D", b"\x1b(B", b"\x1b(J", b"\x1b", b"^", b"\n"]),
        ),
        max_size=12,
    ).map(b"".join),
)
def test_any_bytes_are_a_text(terms: str, value: bytes) -> None:
    sets = character_sets(terms.encode())
    text = decode(value, sets, b"^=\\")
    if sets.extends and not sets.codec:
        for escape, _, _ in RIGHT_HALVES.values():
            assert escape.decode() not in text
