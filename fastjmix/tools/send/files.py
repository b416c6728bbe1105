"""Paths → instances. The File Meta Information of a file is read (PS3.10 §7.1), and no value.

Guaranteed: each file is either an instance or skipped with its reason. A file that ends inside an
element is skipped: no program can read that image. A DICOMDIR is an index: the files that it names
are instances, or skipped where they are not there.
Still wrong: all files are found before the first is sent; 100,000 take a minute.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom.errors import InvalidDicomError
from pynetdicom.dsutils import split_dataset

from fastjmix.dicom.head import cut_short
from fastjmix.errors import UnreadableHead
from fastjmix.tools.send.media import MEDIA_DIRECTORY, referenced
from fastjmix.tools.send.walk import EVERY, Names, Skipped, require_there, walk

__all__ = ["Instance", "Names", "Skipped", "find"]

_WANTED: Final = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")


@dataclass(frozen=True, slots=True)
class Instance:
    """A file that can be sent: values of its File Meta Information, and where the data set is."""

    path: Path
    offset: int  # of the data set, in bytes
    size: int  # of the data set, in bytes
    sop_class: str
    sop_instance: str
    transfer_syntax: str

    @property
    def pair(self) -> tuple[str, str]:
        """Returns the presentation context it needs: abstract syntax and transfer syntax."""
        return self.sop_class, self.transfer_syntax


class _NotSendable(Exception):
    """The file is skipped; the text is the reason."""


class _Index(Exception):
    """The file is a DICOMDIR."""


def find(paths: Iterable[Path], names: Names = EVERY) -> tuple[list[Instance], list[Skipped]]:
    """Finds everything sendable in the files and directories named, and everything that is not.

    Directories are walked recursively, in name order; links to directories are not followed, and
    skipped. In them only files whose name fits `names` count. A DICOMDIR that is named itself
    stands for the files that it names. Raises UsageError naming each path that does not exist.
    """
    instances: list[Instance] = []
    skipped: list[Skipped] = []
    named = [Path(path) for path in paths]
    require_there(named)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom, about values that are sent as they are
        for met in _met(named, names):
            if isinstance(met, Instance):
                instances.append(met)
            else:
                skipped.append(met)
    return instances, skipped


def _met(paths: list[Path], names: Names) -> Iterator[Instance | Skipped]:
    for named in paths:
        for met in walk([named], names):
            if isinstance(met, Skipped):
                yield met
                continue
            try:
                yield _instance(met)
            except _Index:
                yield from _of_index(met, names, alone=met == named)


def _of_index(index: Path, names: Names, *, alone: bool) -> Iterator[Instance | Skipped]:
    """Yields the files of a DICOMDIR; in a walked folder only the missing ones."""
    for one in referenced(index):
        if isinstance(one, Skipped):
            yield one
        elif alone and names.match(one.name):
            try:
                yield _instance(one)
            except _Index:
                yield Skipped(one, f"is a DICOMDIR, and {index.name} names it as an instance")


def _instance(path: Path) -> Instance | Skipped:
    """Returns the instance in a file, or the reason why there is none. Raises _Index."""
    try:
        return _head(path)
    except _NotSendable as why:
        return Skipped(path, str(why))
    except OSError as error:
        return Skipped(path, f"cannot be read: {error.strerror or error}")


def _head(path: Path) -> Instance:
    """Returns the instance in a file. Raises _NotSendable, _Index, OSError."""
    try:
        meta, offset = split_dataset(path)
        values = [str(meta.get(keyword, "") or "") for keyword in _WANTED]
    except InvalidDicomError:
        raise _NotSendable("not a DICOM Part 10 file (no preamble and DICM prefix)") from None
    except OSError:
        raise
    except Exception as error:  # pydicom names no common base for what a damaged head can raise
        raise _NotSendable(f"its File Meta Information cannot be read: {error}") from None
    sop_class, sop_instance, transfer_syntax = values
    if sop_class == MEDIA_DIRECTORY:
        raise _Index
    if not all(values):
        raise _NotSendable(
            "its File Meta Information lacks the SOP class, the SOP instance or the transfer syntax"
        )
    if not all(len(value) <= 64 and value.isascii() for value in values):
        raise _NotSendable("a UID in its File Meta Information is none (PS3.5 §9.1)")
    size = _whole(path, offset, transfer_syntax)
    return Instance(path, offset, size, sop_class, sop_instance, transfer_syntax)


def _whole(path: Path, offset: int, transfer_syntax: str) -> int:
    """Returns the data set's size in bytes. Raises _NotSendable for one that is cut, OSError."""
    with path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        size = os.fstat(descriptor).st_size - offset

        def read_at(at: int, length: int) -> bytes:
            return os.pread(descriptor, length, at)

        try:
            where = cut_short(read_at, offset, size, transfer_syntax)
        except UnreadableHead:
            raise _NotSendable("is being changed: it is shorter than it was") from None
    if where:
        raise _NotSendable(f"is truncated: it ends {where}")
    return size
