"""Verifies an envelope and the data sets in it: passes a reader of DICOM to jmix/read/verify.py.

Wanted: an envelope with an unreadable instance is not valid.
Guaranteed: each Part 10 file is read as reception reads it (dicom/head.py), in the same pass as its
hash. A file without File Meta Information is not checked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from fastjmix._core import DataSetReader
from fastjmix.dicom.dataset import read_file_meta
from fastjmix.dicom.head import has_uids, reader_for
from fastjmix.errors import UnreadableHead
from fastjmix.jmix.limits import DEFAULT_LIMITS, Limits
from fastjmix.jmix.read.report import Report
from fastjmix.jmix.read.verify import Verification
from fastjmix.tools.envelope.arguments import check_public_key, path_of
from fastjmix.tools.envelope.opening import Folder

if TYPE_CHECKING:
    from fastjmix.jmix.keys import RecipientKey

META_BYTES_MAX: Final = 1 << 16
"""Bytes of a file in which its File Meta Information must end; else its data set is not checked."""


class InstanceCheck:
    """Reads a Part 10 file in pieces. `end` returns what is wrong with its data set, or ""."""

    def __init__(self) -> None:
        self._start = bytearray()
        self._reader: DataSetReader | None = None
        self._no_instance = False
        self._unreadable = ""

    def feed(self, piece: bytes) -> None:
        """Takes the next bytes of the file."""
        if self._reader is not None:
            self._reader.feed(piece)
        elif not self._no_instance and not self._unreadable:
            self._start += piece
            if len(self._start) >= META_BYTES_MAX:
                self._begin()

    def _begin(self) -> None:
        """Reads the File Meta Information, and starts reading the data set."""
        start = bytes(self._start)
        self._start.clear()
        try:
            meta, offset = read_file_meta(start[:META_BYTES_MAX])
        except UnreadableHead:
            self._no_instance = True
            return
        try:
            self._reader = reader_for(meta["transfer_syntax_uid"])
        except UnreadableHead as problem:
            self._unreadable = str(problem)
            return
        self._reader.feed(start[offset:])

    def end(self) -> str:
        """Returns what is wrong with the data set, after the last piece; "" when nothing is."""
        if self._reader is None and not self._no_instance and not self._unreadable:
            self._begin()
        if self._reader is None:
            return self._unreadable
        self._reader.end()
        if self._reader.fault:
            return self._reader.fault.decode()
        return "" if has_uids(self._reader.head()) else "its data set lacks a UID"


def verify(
    source: Path | str | BinaryIO,
    *,
    public_key: bytes | None = None,
    key: RecipientKey | None = None,
    limits: Limits = DEFAULT_LIMITS,
    now: float | None = None,
    seen: Callable[[int], object] = lambda _: None,
) -> Report:
    """Verifies an envelope, as fastjmix.verify documents."""
    check_public_key(public_key)
    path = path_of(source) if isinstance(source, (str, Path)) else None
    verification = Verification(
        public_key=public_key, key=key, now=now, seen=seen, inspect=InstanceCheck
    )
    with verification.collecting_faults():
        if path is None:
            assert not isinstance(source, (str, Path))
            verification.verify_zip(source, limits)
        elif path.is_dir():
            verification.verify_container(Folder(path, limits, verification.report.add_fault))
        else:
            with path.open("rb") as file:
                verification.verify_zip(file, limits)
    return verification.report
