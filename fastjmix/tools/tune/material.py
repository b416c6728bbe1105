"""The data sets that are sent: in memory, of the site's own files or like a CT's or an MR's.

A sample is read once and kept, so that the sender waits for no disk.

Guaranteed: bounded by bytes and by number; whole studies as far as that goes, since files are taken
in the order of their paths; each SOP Instance UID once; only what a gateway can accept, the rest is
counted. Synthetic data sets are valid, uncompressed and do not repeat their pixels.
Still wrong: a directory sorted by anything but studies gives a sample of many small envelopes.
"""

from __future__ import annotations

import random
import struct
import uuid
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

import pydicom

from fastjmix.tools import send

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
MR: Final = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"

KINDS: Final = {"ct": (CT, "CT", 512), "mr": (MR, "MR", 128)}
"""SOP class, modality, rows and columns of 16 bit: 0.5 MB and 33 KB an instance."""

MAX_PAIRS: Final = 128
"""Presentation contexts in one association (PS3.8 §9.3.2.2)."""

LOOKED_AT: Final = 64
"""Files that are examined at a time, until the sample is full."""


@dataclass(frozen=True, slots=True)
class Item:
    """One instance, as it is sent."""

    sop_class: str
    sop_instance: str
    transfer_syntax: str
    study: str
    data: bytes

    @property
    def pair(self) -> tuple[str, str]:
        return self.sop_class, self.transfer_syntax


@dataclass(frozen=True, slots=True)
class Material:
    """`name` in words; `left_out`: files that no gateway would accept, or that came twice."""

    name: str
    items: tuple[Item, ...]
    left_out: int = 0

    @property
    def size(self) -> int:
        return sum(len(item.data) for item in self.items)


def part_of(whole: Material, share: float, least: int) -> Material:
    """Returns the first instances, which have about this share of the bytes; `least` at least."""
    wanted, size, count = whole.size * share, 0, 0
    for item in whole.items:
        if size >= wanted and count >= least:
            break
        size += len(item.data)
        count += 1
    return replace(whole, items=whole.items[:count])


def pairs(items: Sequence[Item]) -> list[tuple[str, str]]:
    """Returns the presentation contexts that are needed, in order of first need."""
    return list(dict.fromkeys(item.pair for item in items))


# -- of a directory --------------------------------------------------------------------------------


def of_directory(directory: Path, most_bytes: int, most_instances: int) -> Material:
    """Returns a sample of the DICOM files below a directory, or of one file.

    Raises UsageError when nothing there can be sent, or when it does not exist.
    """
    items: list[Item] = []
    seen: set[str] = set()
    kinds: set[tuple[str, str]] = set()
    size = left_out = 0
    for instance in _instances(directory):
        if items and size + instance.size > most_bytes:
            break
        study = _study(instance)
        twice = instance.sop_instance in seen
        if not study or twice or (instance.pair not in kinds and len(kinds) == MAX_PAIRS):
            left_out += 1
            continue
        with instance.path.open("rb") as file:
            file.seek(instance.offset)
            data = file.read()
        seen.add(instance.sop_instance)
        kinds.add(instance.pair)
        items.append(
            Item(instance.sop_class, instance.sop_instance, instance.transfer_syntax, study, data)
        )
        size += len(data)
        if len(items) >= most_instances:
            break
    if not items:
        raise send.UsageError(f"there is no DICOM file in {directory} that could be sent")
    items.sort(key=lambda item: item.study)  # stable: within a study the order of paths
    return Material(str(directory), tuple(items), left_out)


def _instances(directory: Path) -> Iterator[send.Instance]:
    if not directory.is_dir():
        yield from send.find([directory])[0]
        return
    paths = iter(sorted(path for path in directory.rglob("*") if path.is_file()))
    while some := list(islice(paths, LOOKED_AT)):
        yield from send.find(some)[0]


def _study(instance: send.Instance) -> str:
    """Returns the Study Instance UID; "" for what a careful SCP refuses."""
    asked = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that are passed on as they are
            head = pydicom.dcmread(
                instance.path, specific_tags=list(asked), stop_before_pixels=True
            )
    except Exception:  # pydicom names no common base for what a damaged file can raise
        return ""
    own = (head.get("SOPClassUID"), head.get("SOPInstanceUID"))
    if own != (instance.sop_class, instance.sop_instance) or not head.get("SeriesInstanceUID"):
        return ""
    return str(head.get("StudyInstanceUID") or "")


# -- made up ---------------------------------------------------------------------------------------


def synthetic(kind: str, most_bytes: int, most_instances: int, studies: int) -> Material:
    """Returns `studies` synthetic studies of equal size, of a kind in KINDS."""
    sop_class, modality, side = KINDS[kind]
    size = side * side * 2
    each = max(1, min(most_bytes // size, most_instances) // studies)
    chance = random.Random(1)
    pool = chance.randbytes(2 * size)
    items = []
    for _ in range(studies):
        study, series = _uid(), _uid()
        for number in range(each):
            instance = _uid()
            start = chance.randrange(size)
            head = _head(sop_class, instance, study, series, modality, number + 1, side)
            pixels = _element(0x7FE0, 0x0010, b"OW", pool[start : start + size])
            items.append(Item(sop_class, instance, EXPLICIT_LITTLE, study, head + pixels))
    return Material(f"synthetic, {modality}-like", tuple(items))


def _uid() -> str:
    return f"2.25.{uuid.uuid4().int}"  # PS3.5 §B.2


def _head(
    sop_class: str,
    instance: str,
    study: str,
    series: str,
    modality: str,
    number: int,
    side: int,
) -> bytes:
    """Returns the elements before the pixels, in the order of the tags."""
    texts = [
        (0x0008, 0x0016, b"UI", sop_class),
        (0x0008, 0x0018, b"UI", instance),
        (0x0008, 0x0020, b"DA", "20240115"),
        (0x0008, 0x0060, b"CS", modality),
        (0x0008, 0x103E, b"LO", "TUNING"),
        (0x0010, 0x0010, b"PN", "TUNING^NOBODY"),
        (0x0010, 0x0020, b"LO", "TUNING"),
        (0x0018, 0x0015, b"CS", "HEAD"),
        (0x0020, 0x000D, b"UI", study),
        (0x0020, 0x000E, b"UI", series),
        (0x0020, 0x0011, b"IS", "1"),
        (0x0020, 0x0013, b"IS", str(number)),
        (0x0028, 0x0004, b"CS", "MONOCHROME2"),
    ]
    shorts = [(0x0010, side), (0x0011, side), (0x0100, 16), (0x0101, 12), (0x0102, 11), (0x0103, 0)]
    samples = _element(0x0028, 0x0002, b"US", struct.pack("<H", 1))
    encoded = [_element(g, e, vr, text.encode()) for g, e, vr, text in texts]
    encoded.insert(-1, samples)
    encoded += [_element(0x0028, e, b"US", struct.pack("<H", value)) for e, value in shorts]
    return b"".join(encoded)


def _element(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    """Returns an element in explicit VR little endian (PS3.5 §7.1.2), padded to an even length
    (§6.2)."""
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    if vr == b"OW":
        return struct.pack("<HH2sHL", group, element, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value
