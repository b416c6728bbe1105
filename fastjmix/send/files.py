"""Paths → instances. Only the File Meta Information of a file is read (PS3.10 §7.1).

Wanted: a directory as it comes from a CD or an export, with whatever else lies in it.
Guaranteed: each file that is met is either an instance or skipped with its reason.
Still wrong: all files are found before the first is sent; 100,000 take half a minute.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom.errors import InvalidDicomError
from pynetdicom.dsutils import split_dataset

from fastjmix.send.peer import UsageError

MEDIA_DIRECTORY: Final = "1.2.840.10008.1.3.10"

_WANTED: Final = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")


@dataclass(frozen=True, slots=True)
class Instance:
    """A file that can be sent: what its File Meta Information says, and where the data set is."""

    path: Path
    offset: int  # of the data set, in bytes
    size: int  # of the data set, in bytes
    sop_class: str
    sop_instance: str
    transfer_syntax: str

    @property
    def pair(self) -> tuple[str, str]:
        """The presentation context it needs: (abstract syntax, transfer syntax)."""
        return self.sop_class, self.transfer_syntax


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was left alone, and why."""

    path: Path
    reason: str


class _NotSendable(Exception):
    """Why a file is skipped."""


def find(paths: Iterable[Path]) -> tuple[list[Instance], list[Skipped]]:
    """Everything sendable in the files and directories named, and everything that is not.

    Directories are walked recursively, in name order; links to directories are not followed.
    Raises UsageError for a path that does not exist.
    """
    instances: list[Instance] = []
    skipped: list[Skipped] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about values that are passed on as they are
        for path in _walk(paths):
            try:
                instances.append(_head(path))
            except _NotSendable as why:
                skipped.append(Skipped(path, str(why)))
            except OSError as error:
                skipped.append(Skipped(path, f"cannot be read: {error.strerror or error}"))
    return instances, skipped


def _walk(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(inner for inner in path.rglob("*") if inner.is_file())
        elif path.exists():
            yield path
        else:
            raise UsageError(f"{path}: no such file or directory")


def _head(path: Path) -> Instance:
    """What the File Meta Information says, and where the data set begins."""
    if not path.is_file():  # to open a FIFO would be to wait for somebody who writes
        raise _NotSendable("not a regular file")
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
        raise _NotSendable("a DICOMDIR is an index of files, not an instance")
    if not all(values):
        raise _NotSendable(
            "its File Meta Information lacks the SOP class, the SOP instance or the transfer syntax"
        )
    if not all(len(value) <= 64 and value.isascii() for value in values):
        raise _NotSendable("a UID in its File Meta Information is none (PS3.5 §9.1)")
    size = path.stat().st_size - offset
    return Instance(path, offset, size, sop_class, sop_instance, transfer_syntax)
