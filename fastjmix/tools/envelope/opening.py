"""Opens an envelope: a ZIP or a folder.

Guaranteed: of a ZIP, what jmix/read/unzip.py guarantees; of a folder, that only regular files below
it are read and no link is followed.
Still wrong: a folder can change while it is read. A file that grew or shrank meanwhile is found;
one that was replaced by another of the same size is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.faults import OnFault, foreseen, raise_fault, refuse
from fastjmix.jmix.limits import DEFAULT_LIMITS, Bound, Limits
from fastjmix.jmix.member_names import name_fault
from fastjmix.jmix.read.container import Envelope, envelope_in
from fastjmix.jmix.read.report import Report
from fastjmix.jmix.read.unzip import PIECE_BYTES, Archive
from fastjmix.tools.envelope.arguments import path_of


class Folder:
    """A folder as a container. Creating one raises EnvelopeError, and whatever `on_fault` raises;
    OSError."""

    def __init__(self, path: Path, limits: Limits, on_fault: OnFault = raise_fault) -> None:
        self._path = path
        self._limits = limits
        self.sizes: dict[str, int] = {}
        self.folders: set[str] = set()
        self._walk(path, "", on_fault)

    def _walk(self, path: Path, below: str, on_fault: OnFault) -> None:
        for inner in sorted(path.iterdir()):
            name = below + inner.name
            try:
                name_fault(name, self._limits)
                self._take(inner, name)
            except EnvelopeError as fault:
                on_fault(fault)
                continue
            if len(self.sizes) + len(self.folders) > self._limits.max_members:
                refuse(name, f"is one more than max_members, {self._limits.max_members}")
            if name in self.folders:
                self._walk(inner, f"{name}/", on_fault)

    def _take(self, inner: Path, name: str) -> None:
        if inner.is_symlink():
            refuse(name, "is a symbolic link")
        if inner.is_dir():
            self.folders.add(name)
        elif inner.is_file():
            self.sizes[name] = inner.stat().st_size
        else:
            refuse(name, "is neither a file nor a folder")

    def offset(self, _name: str) -> int | None:
        """Returns None: a file has no place in an archive."""
        return None

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yields a file's bytes. Raises EnvelopeError when its size has changed; OSError."""
        left = self.sizes[name]
        with (self._path / name).open("rb") as file:
            while left >= 0 and (piece := file.read(PIECE_BYTES)):
                left -= len(piece)
                yield piece
        if left:
            refuse(name, "changed while it was read")

    def read(self, name: str, bound: Bound) -> bytes:
        """Returns a file's bytes. Raises EnvelopeError when absent or larger than `bound`;
        OSError."""
        size = self.sizes.get(name)
        if size is None:
            refuse(name, "is missing")
        limit: int = getattr(self._limits, bound)
        if size > limit:
            refuse(name, f"is {size} bytes; {bound} is {limit}")
        return b"".join(self.pieces(name))


def open_envelope(source: Path | str, limits: Limits = DEFAULT_LIMITS) -> Envelope:
    """Opens a ZIP or a folder, as fastjmix.open_envelope documents."""
    path = path_of(source)
    with foreseen():
        if path.is_dir():
            report = Report()
            folder = Folder(path, limits, report.add_fault)
            report.raise_faults()
            return envelope_in(folder)
        file = path.open("rb")
        try:
            return envelope_in(Archive(file, limits), file)
        except BaseException:
            file.close()
            raise
