"""Decodes text by Specific Character Set (PS3.3 §C.12.1.1.2), with and without code extensions.

Guaranteed: any bytes give a text. A defined escape sequence (PS3.3 Tables C.12-3 and C.12-4) never
stays in it, declared or not. Bytes that belong to no declared set are read as Latin-1, which most
senders mean that declare none.

pydicom's decoder is not used: it keeps the escapes of ISO 2022 IR 58, and does not know IR 203.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

ESCAPE: Final = b"\x1b"

_ASCII, _ROMAJI = b"(B", b"(J"
_DOUBLE: Final = {b"$B": "iso2022_jp_2", b"$@": "iso2022_jp_2", b"$(D": "iso2022_jp_2"}
"""Left halves (G0) of two bytes a character: JIS X 0208 (two editions), JIS X 0212."""

_G0: Final = {escape: escape for escape in (_ASCII, _ROMAJI, *_DOUBLE)}
_G1: Final = {
    b"-A": "iso8859-1",
    b"-B": "iso8859-2",
    b"-C": "iso8859-3",
    b"-D": "iso8859-4",
    b"-F": "iso8859-7",
    b"-G": "iso8859-6",
    b"-H": "iso8859-8",
    b"-L": "iso8859-5",
    b"-M": "iso8859-9",
    b"-T": "tis-620",
    b"-b": "iso8859-15",
    b")I": "shift_jis",
    b"$)C": "euc_kr",
    b"$)A": "gb2312",
}
_INITIAL: Final = {
    "6": "",
    "100": "iso8859-1",
    "101": "iso8859-2",
    "109": "iso8859-3",
    "110": "iso8859-4",
    "144": "iso8859-5",
    "127": "iso8859-6",
    "126": "iso8859-7",
    "138": "iso8859-8",
    "148": "iso8859-9",
    "166": "tis-620",
    "203": "iso8859-15",
    "13": "shift_jis",
    "149": "euc_kr",
    "58": "gb2312",
}
"""The right half (G1) before any escape, by the number of a defined term."""

_WHOLE: Final = {
    "192": "utf-8",
    "UTF-8": "utf-8",  # not a defined term, but in use
    "UTF8": "utf-8",
    "GB18030": "gb18030",
    "GBK": "gbk",
}
"""Terms that stand alone: no code extensions."""

_term = re.compile(r"ISO.?(2022)?.?IR.?(\d{1,3})")
_escape = re.compile(b"\x1b(" + b"|".join(map(re.escape, (*_G0, *_G1))) + b")")
_single = re.compile(rb"[\x80-\xff]+|[^\x80-\xff\x1b^=\\\t\n\f\r]+|[\x00-\x7f]")
_double = re.compile(rb"[\x80-\xff]+|(?:[!-~]{2})+|[\x00-\x7f]")
_RESETS: Final = (b"\t", b"\n", b"\f", b"\r")


@dataclass(frozen=True, slots=True)
class CharacterSets:
    """The value of Specific Character Set: `codec` for a whole text; else the halves before the
    first escape, `g0` and `g1`.

    `other` is the right half of a text that has selected none yet: the first that is declared.
    """

    codec: str = ""
    g0: bytes = _ASCII
    g1: str = ""
    other: str = "iso8859-1"
    extends: bool = False


def character_sets(value: bytes) -> CharacterSets:
    """Reads a Specific Character Set. A term that is not known counts as ISO_IR 6."""
    terms = [term.strip(" \0").upper() for term in value.decode("latin-1").split("\\")]
    found = [_term.fullmatch(term) for term in terms]
    numbers = [term if one is None else one[2] for term, one in zip(terms, found, strict=True)]
    for number in numbers:
        if number in _WHOLE:  # alone, or (not allowed) behind an empty value
            return CharacterSets(codec=_WHOLE[number])
    halves = [_INITIAL.get(number, "") for number in numbers]
    return CharacterSets(
        g0=_ROMAJI if numbers[0] == "13" else _ASCII,
        g1=halves[0],
        other=next(filter(None, halves), "iso8859-1"),
        extends=len(terms) > 1 or any(one is not None and one[1] for one in found),
    )


def decode(value: bytes, sets: CharacterSets, delimiters: bytes) -> str:
    """Returns the text. After each of `delimiters`, and at the end of a line, the initial sets are
    selected again (PS3.5 §6.1.2.5.3)."""
    first = sets.g1 or sets.other
    if sets.codec or not sets.extends or ESCAPE not in value:
        return value.decode(sets.codec or first, "replace")
    g0, g1, last = sets.g0, sets.g1, sets.other
    text = []
    at = 0
    while at < len(value):
        escape = _escape.match(value, at)
        if escape is not None:
            g0, g1 = _G0.get(escape[1], g0), _G1.get(escape[1], g1)
            last, at = g1 or last, escape.end()
            continue
        run = (_double if g0 in _DOUBLE else _single).match(value, at)
        assert run is not None  # any byte is one
        # Some senders do not repeat an escape after a delimiter, and mean the last right half.
        text.append(_decoded(run[0], g0, g1 or last))
        at = run.end()
        if run[0] in _RESETS or (run[0] in delimiters and g0 not in _DOUBLE):
            g0, g1 = sets.g0, sets.g1
    return "".join(text)


def _decoded(run: bytes, g0: bytes, g1: str) -> str:
    """Decodes bytes of one set. A byte without its other half is read as ASCII."""
    if run[0] >= 0x80:
        return run.decode(g1, "replace")
    if g0 in _DOUBLE and len(run) > 1:
        return (ESCAPE + g0 + run + ESCAPE + b"(B").decode(_DOUBLE[g0], "replace")
    text = run.decode("ascii")
    return text.replace("~", "\u203e") if g0 == _ROMAJI else text
