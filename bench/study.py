"""Studies to send: deterministic, made of plain bytes, of any number of instances and any size.

Wanted: the same bytes on every machine, made quickly; and as many studies with UIDs of their own
as there are associations: a receiver that keeps equal instances once would otherwise look fast.
Guaranteed: `files` writes Part 10 files (PS3.10 §7.1) that any sender can read; `head` and `pixels`
are the data set that must come out. The pixels are noise: a window into one pool, another an
instance.
Still wrong: all instances are CT Image Storage in Explicit VR Little Endian, whatever their name.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
ROOT: Final = "1.2.826.0.1.3680043.8.498.77"
POOL_BYTES: Final = 8 << 20
LONG_FORM: Final = (b"OB", b"OW", b"SQ", b"UN")


@cache
def pool() -> bytes:
    """The noise that all pixels come from: 12 bits in 16, as a CT has them."""
    noise = bytearray(random.Random(20240115).randbytes(POOL_BYTES))
    noise[1::2] = bytes(byte & 0x0F for byte in noise[1::2])
    return bytes(noise)


def element(tag: int, vr: bytes, value: bytes | str) -> bytes:
    """One element in Explicit VR Little Endian (PS3.5 §7.1.2), padded to an even length."""
    data = value.encode() if isinstance(value, str) else value
    data += (b"\0" if vr in (b"UI", b"OB") else b" ") * (len(data) % 2)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in LONG_FORM:
        return head + struct.pack("<HI", 0, len(data)) + data
    return head + struct.pack("<H", len(data)) + data


@dataclass(frozen=True, slots=True)
class Study:
    """`instances` images of `rows` × `columns` × 2 bytes × `frames`; `copy` makes other UIDs."""

    name: str
    instances: int
    rows: int
    columns: int
    frames: int = 1
    copy: int = 0

    def other(self, copy: int) -> Study:
        return replace(self, copy=copy)

    def sized(self, instances: int) -> Study:
        return replace(self, instances=instances)

    @property
    def uid(self) -> str:
        return f"{ROOT}.{1000 + self.copy}.{self.rows}.{self.instances}"

    def instance_uid(self, index: int) -> str:
        return f"{self.uid}.{100000 + index}"

    @property
    def pixel_bytes(self) -> int:
        """Bytes of the pixels of one instance."""
        return self.rows * self.columns * 2 * self.frames

    @property
    def data_bytes(self) -> int:
        """Bytes of all data sets."""
        return sum(len(self.head(i)) + self.pixel_bytes for i in range(self.instances))

    def head(self, index: int) -> bytes:
        """The data set of an instance up to where its pixels begin."""
        series = 1 + (index >= self.instances // 2)
        us = struct.Struct("<H").pack
        multi = element(0x00280008, b"IS", str(self.frames)) if self.frames > 1 else b""
        return b"".join(
            (
                element(0x00080005, b"CS", "ISO_IR 100"),
                element(0x00080016, b"UI", CT),
                element(0x00080018, b"UI", self.instance_uid(index)),
                element(0x00080020, b"DA", "20240115"),
                element(0x00080030, b"TM", "101010"),
                element(0x00080050, b"SH", "A1"),
                element(0x00080060, b"CS", "CT"),
                element(0x00080070, b"LO", "ACME"),
                element(0x00081030, b"LO", "CHEST"),
                element(0x0008103E, b"LO", f"S{series}"),
                element(0x00100010, b"PN", "DOE^JOHN"),
                element(0x00100020, b"LO", "PID1"),
                element(0x00100030, b"DA", "19700101"),
                element(0x00100040, b"CS", "M"),
                element(0x00180015, b"CS", "CHEST"),
                element(0x0020000D, b"UI", self.uid),
                element(0x0020000E, b"UI", f"{self.uid}.{series}"),
                element(0x00200011, b"IS", str(series)),
                element(0x00200013, b"IS", str(index + 1)),
                element(0x00280002, b"US", us(1)),
                element(0x00280004, b"CS", "MONOCHROME2"),
                multi,
                element(0x00280010, b"US", us(self.rows)),
                element(0x00280011, b"US", us(self.columns)),
                element(0x00280100, b"US", us(16)),
                element(0x00280101, b"US", us(12)),
                element(0x00280102, b"US", us(11)),
                element(0x00280103, b"US", us(0)),
                struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, self.pixel_bytes),
            )
        )

    def pixels(self, index: int) -> list[memoryview]:
        """The pixels of an instance, in pieces: nothing is copied however large it is."""
        noise = memoryview(pool())
        at = index * 7919 * 2 % (POOL_BYTES // 2)
        pieces, left = [], self.pixel_bytes
        while left:
            piece = noise[at : at + min(left, POOL_BYTES // 2)]
            pieces.append(piece)
            left -= len(piece)
        return pieces

    def files(self, under: Path) -> Path:
        """Writes the Part 10 files, unless they are there; the directory that holds them."""
        directory = under / f"{self.name}-{self.instances}-{self.copy}"
        if directory.exists():
            return directory
        making = directory.with_suffix(".making")
        making.mkdir(parents=True, exist_ok=True)
        for index in range(self.instances):
            meta = b"".join(
                (
                    element(0x00020001, b"OB", b"\0\1"),
                    element(0x00020002, b"UI", CT),
                    element(0x00020003, b"UI", self.instance_uid(index)),
                    element(0x00020010, b"UI", EXPLICIT),
                    element(0x00020012, b"UI", f"{ROOT}.1"),
                )
            )
            group = element(0x00020000, b"UL", struct.pack("<I", len(meta)))
            with (making / f"{index:06d}.dcm").open("wb") as file:
                file.writelines((bytes(128), b"DICM", group, meta, self.head(index)))
                file.writelines(self.pixels(index))
        return making.rename(directory)


CT_STUDY: Final = Study("ct", 600, 512, 512)
MR_STUDY: Final = Study("mr", 2000, 128, 128)
TINY_STUDY: Final = Study("tiny", 500, 128, 128)
SLIVER_STUDY: Final = Study("sliver", 10_000, 16, 16)
"""Half a kilobyte of pixels: for what depends on the number of instances only."""
