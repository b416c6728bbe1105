"""Does a data set end where its elements end? A walk from length to length (PS3.5 §7).

Wanted: a file that was cut on its way is recognised, whatever it is cut in.
Guaranteed: only what is proved is said: an element whose length passes the end, a sequence that is
not closed, a deflate stream without its end. Values are passed over and never decoded, and no more
than `WINDOW` bytes are held.
Still wrong: a cut between two elements of the data set itself leaves no trace in the bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Final, NamedTuple

from fastjmix.dicom.syntaxes import DEFLATED_KIND, encoding_of

ReadAt = Callable[[int, int], bytes]
"""As pread(2): (offset, length) → as many bytes as there are."""

WINDOW: Final = 1 << 16
"""Bytes that are read at once: the heads of most instances are in the first."""

DEPTH_MAX: Final = 1024
"""Sequences within each other that are followed: no sound data set has so many, and each costs
memory. Nothing is said of a deeper one."""

UNDEFINED: Final = 0xFFFFFFFF
PIXEL_DATA: Final = (0x7FE0, 0x0010)
ITEM: Final = (0xFFFE, 0xE000)
ITEM_END: Final = (0xFFFE, 0xE00D)
SEQUENCE_END: Final = (0xFFFE, 0xE0DD)
LONG: Final = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
"""Value representations with a length of 32 bit behind two reserved bytes (PS3.5 Table 7.1-1)."""

BIG_ENDIAN: Final = 2
IMPLICIT: Final = 0
"""See `syntaxes.Encoding`."""


class _Element(NamedTuple):
    """Where an element's value begins and how long it is; `implicit`: what is inside is."""

    tag: tuple[int, int]
    start: int
    length: int
    implicit: bool


class _Level(NamedTuple):
    """A sequence (`items`), or an item of undefined length, that the walk is in."""

    tag: tuple[int, int]
    items: bool
    implicit: bool


class _Unknown(Exception):
    """The bytes follow no rule that is known here: nothing can be proved."""


class _Short(Exception):
    """The bytes end too early; the text says in what."""


def cut_short(read_at: ReadAt, size: int, syntax: str) -> str:
    """Returns in what a data set of `size` bytes provably ends too early; "" when in nothing."""
    if not size:
        return "ends before its data set begins"
    encoding = encoding_of(syntax)
    if encoding is None:  # no elements: nothing can be proved
        return ""
    if encoding.kind == DEFLATED_KIND:
        return _deflated(read_at, size)
    try:
        _Walk(_Window(read_at, size), encoding.kind).run()
    except _Unknown:
        return ""
    except _Short as where:
        return str(where)
    return ""


def _deflated(read_at: ReadAt, size: int) -> str:
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    at = 0
    try:
        while at < size and not inflating.eof:
            data = read_at(at, WINDOW)
            if not data:
                break
            at += len(data)
            while data and not inflating.eof:
                inflating.decompress(data, WINDOW)
                data = inflating.unconsumed_tail
    except zlib.error:
        return ""
    return "" if inflating.eof else "ends inside its deflate stream"


class _Window:
    """Some bytes of the data set, around where the walk is."""

    def __init__(self, read_at: ReadAt, size: int) -> None:
        self._read_at, self.size = read_at, size
        self._start, self._held = 0, b""

    def get(self, at: int, length: int) -> bytes:
        """Returns as many of `length` bytes as there are."""
        if not self._start <= at <= at + length <= self._start + len(self._held):
            self._start, self._held = at, self._read_at(at, min(WINDOW, self.size - at))
        return self._held[at - self._start : at - self._start + length]


class _Walk:
    """One pass over a data set that is not deflated."""

    def __init__(self, window: _Window, kind: int) -> None:
        order = ">" if kind == BIG_ENDIAN else "<"
        self._window, self._at = window, 0
        self._tag_and_length = struct.Struct(order + "HHL").unpack
        self._tag = struct.Struct(order + "HH").unpack
        self._short = struct.Struct(order + "H").unpack
        self._long = struct.Struct(order + "L").unpack
        self._implicit, self._big = kind == IMPLICIT, kind == BIG_ENDIAN
        self._levels: list[_Level] = []
        self._fragments = 0
        self._last = ""

    def run(self) -> None:
        """Raises _Short, _Unknown."""
        while self._at < self._window.size:
            head = self._window.get(self._at, 12)
            if not self._levels and not any(head) and self._is_padding(len(head)):
                return
            if len(head) < 8:
                raise _Short(self._inside("an element's head"))
            if self._levels and self._levels[-1].items:
                self._item(head)
            else:
                self._element(head)
            if self._at > self._window.size:
                missing = self._at - self._window.size
                raise _Short(f"ends inside {self._last}, {missing} bytes too early")
        if self._levels and not self._has_fragments():
            raise _Short(self._inside("a sequence"))

    def _is_padding(self, length: int) -> bool:
        """Tells whether only zeros follow, which some writers leave behind a data set."""
        at = self._at
        if length == 1 and self._big:  # the first byte of a tag
            return False
        while at < self._window.size:
            data = self._window.get(at, min(WINDOW, self._window.size - at))
            if not data or any(data):
                return False
            at += len(data)
        return True

    def _has_fragments(self) -> bool:
        """Tells whether only the last delimiter of Pixel Data is missing, as some writers omit it
        (the first item is the offset table)."""
        return len(self._levels) == 1 and self._levels[0].tag == PIXEL_DATA and self._fragments > 1

    def _inside(self, what: str) -> str:
        return f"ends inside {_shown(self._levels[0].tag)}" if self._levels else f"ends in {what}"

    def _item(self, head: bytes) -> None:
        group, element, length = self._tag_and_length(head[:8])
        tag, level = (group, element), self._levels[-1]
        self._at += 8
        self._last = _shown(level.tag)
        if tag == SEQUENCE_END:
            self._levels.pop()
        elif tag != ITEM:
            raise _Unknown
        elif length == UNDEFINED:
            self._enter(_Level(level.tag, False, level.implicit))
        else:
            self._fragments += level.tag == PIXEL_DATA
            self._at += length

    def _element(self, head: bytes) -> None:
        found = self._read(head)
        self._last = _shown(found.tag)
        self._at = found.start
        if found.tag == ITEM_END and self._levels:
            self._levels.pop()
        elif found.tag[0] == 0xFFFE:
            raise _Unknown
        elif found.length == UNDEFINED:
            self._fragments = 0
            self._enter(_Level(found.tag, True, found.implicit))
        else:
            self._at += found.length

    def _read(self, head: bytes) -> _Element:
        implicit = self._levels[-1].implicit if self._levels else self._implicit
        group, element, length = self._tag_and_length(head[:8])
        tag = (group, element)
        if implicit or group == 0xFFFE:
            return _Element(tag, self._at + 8, length, implicit)
        vr = head[4:6]
        if not (vr.isalpha() and vr.isupper()):
            raise _Unknown
        if vr not in LONG:
            return _Element(tag, self._at + 8, self._short(head[6:8])[0], False)
        if len(head) < 12:
            raise _Short(f"ends inside {_shown(tag)}")
        (length,) = self._long(head[8:12])
        # the value of an UN of undefined length is implicit VR (PS3.5 §6.2.2)
        return _Element(tag, self._at + 12, length, vr == b"UN")

    def _enter(self, level: _Level) -> None:
        if len(self._levels) == DEPTH_MAX:
            raise _Unknown
        self._levels.append(level)


def _shown(tag: tuple[int, int]) -> str:
    return f"({tag[0]:04X},{tag[1]:04X})"
