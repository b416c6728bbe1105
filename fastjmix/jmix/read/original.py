"""Has a ZIP still the headers that fastjmix gave it, down to what no reader looks at?

Wanted: one changed byte of a sealed envelope is found wherever it is, in a member's attributes or
its time as well as in its data.
Guaranteed: of an archive that fastjmix sealed, every byte outside the members' data is compared
with what archive.py writes. Nothing is said against a stranger's archive: a header that differs
from ours in two fields or more was written by somebody else.
Still wrong: an archive is taken for ours when at least half of its entries are exactly ours.
Whoever rewrites more than that, with right CRC-32s, is not found here; a signature would find them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from fastjmix.jmix.faults import Fault
from fastjmix.jmix.read.directory import HEADER, Entry
from fastjmix.jmix.read.unzip import Archive
from fastjmix.jmix.write.archive import (
    ATTRIBUTES,
    CLASSIC,
    DATE,
    MADE_BY,
    MADE_BY64,
    STORED,
    TIME,
    UTF8,
    ZIP64,
    check_structure,
)


def changed(file: BinaryIO, archive: Archive) -> Iterator[Fault]:
    """What is no longer as fastjmix wrote it; nothing for an archive of another program.

    `archive` is the same file, whose structure was found well. Raises OSError.
    """
    odd = {name: _odd(info) for name, info in archive.files.items()}
    ours = sum(not fields for fields in odd.values())
    if not ours or ours * 2 < len(odd):
        return
    found = False
    for name, fields in odd.items():
        if len(fields) == 1:
            found = True
            told = f"its {fields[0]} in the central directory was changed since it was sealed"
            yield Fault(name, told, at=archive.offset(name))
    if found or any(odd.values()):  # the others are another program's, and may be anything
        return
    size = file.seek(0, 2)

    def read_at(offset: int, length: int) -> bytes:
        file.seek(offset)
        return file.read(length)

    try:
        check_structure(read_at, size)
    except ValueError as problem:
        yield Fault("archive", str(problem).removeprefix("not an archive that fastjmix sealed: "))


def _odd(entry: Entry) -> list[str]:
    """Fields of a central directory header that fastjmix would have written otherwise."""
    _, maker, version, flags, method, time, date, *_, comment, _, internal, attributes, _ = (
        HEADER.unpack(entry.header)
    )
    fields = {
        "maker": maker in (MADE_BY, MADE_BY64),
        "version needed": version in (ZIP64, CLASSIC),
        "flags": flags == UTF8,
        "method": method == STORED,
        "time": (time, date) == (TIME, DATE),
        "attributes": attributes == ATTRIBUTES,
        "internal attributes": not internal,
        "comment": not comment,
    }
    return [name for name, same in fields.items() if not same]
