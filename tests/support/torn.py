"""The states that a power cut may leave: all that a recorded run allows, in fresh directories.

A run of the real packer is recorded with strace. Between two barriers (fdatasync of a file, fsync
of a directory) a disk may have written any of the data in any order, some of them in part; names
follow in the order in which they were made, as on any file system with a journal, up to any of
them.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SUBSETS_MAX = 12
"""So many writes or fewer between two barriers: all their subsets."""

SECTOR = 512
"""A disk writes whole sectors: a write is torn at one."""

CALLS = (
    "openat,mkdir,renameat2,pwritev2,pwrite64,write,ftruncate,fdatasync,fsync,unlink,unlinkat,rmdir"
)


@dataclass
class Inode:
    """A file: what was done to its data, in order; the first `durable` of it for certain."""

    writes: list[tuple[int, bytes | None]] = field(default_factory=list)
    durable: int = 0


@dataclass
class Disk:
    """Everything that the program has printed so far. Names are relative to the spool."""

    names: list[tuple[str, str, str | Inode | None]] = field(default_factory=list)
    durable: int = 0
    files: dict[str, Inode] = field(default_factory=dict)

    def make(self, at: Path, names: int, lost: set[tuple[int, int]], torn: bool) -> None:
        """The first so many names, and the data without the writes in `lost`."""
        for kind, name, other in self.names[:names]:
            path = at / name
            if kind == "mkdir":
                path.mkdir(exist_ok=True)
            elif kind == "create":
                assert isinstance(other, Inode)
                path.write_bytes(_data(other, lost, torn))
            elif kind == "rename":
                path.rename(at / str(other))
            elif kind == "rmdir":
                path.rmdir()
            else:
                path.unlink()

    def pending(self) -> list[tuple[int, int]]:
        """Writes that may be lost: (identity of the inode, number of the write)."""
        inodes = {id(o): o for _, _, o in self.names if isinstance(o, Inode)}
        return [
            (key, n) for key, one in inodes.items() for n in range(one.durable, len(one.writes))
        ]


def _data(inode: Inode, lost: set[tuple[int, int]], torn: bool) -> bytes:
    data = bytearray()
    for number, (offset, written) in enumerate(inode.writes):
        if (id(inode), number) in lost:
            if not torn or written is None or offset + len(written) <= len(data):
                continue
            kept = random.randrange(len(written) // SECTOR + 1) * SECTOR
            written = written[:kept] + bytes(len(written) - kept)  # its length, without its bytes
        if written is None:
            del data[offset:]
            data += bytes(offset - len(data))
            continue
        data += bytes(max(0, offset - len(data)))
        data[offset : offset + len(written)] = written
    return bytes(data)


class Recording:
    """A trace of `CALLS` (strace -y -xx), one call after the other."""

    def __init__(self, trace: list[str], spool: Path, *, barriers: bool = True) -> None:
        self._spool = str(spool)
        self._barriers = barriers
        self._lines = trace
        self.disk = Disk()
        self.promised: set[str] = set()
        """SOP Instance UIDs whose commit was noted in a journal: they may have been answered."""
        self._written: dict[str, list[str]] = {}

    def states(self) -> Iterator[Disk]:
        """The disk after each call that changed something."""
        for line in self._lines:
            if self._take(line):
                yield self.disk

    def _take(self, line: str) -> bool:
        found = re.match(r"(?:\d+ +)?\d+\.\d+ (\w+)\((.*)\) += (\d+)", line)
        if found is None:
            return False
        call, reported = found[1], found[2]
        texts = [
            bytes.fromhex(t.replace("\\x", "")) for t in re.findall(r'"((?:\\x..)*)"', reported)
        ]
        if call in ("pwritev2", "pwrite64", "write", "ftruncate", "fdatasync", "fsync"):
            path = self._below(_unescaped(re.findall(r"^\d+<(.*?)>", reported)[0]))
            return path is not None and self._on_file(call, path, reported, texts)
        base = re.match(r"(?:AT_FDCWD|\d+)<(.*?)>", reported)
        root = _unescaped(base[1]) if base else ""
        paths = [self._below(str(Path(root) / text.decode())) for text in texts]
        if paths[0] is None:
            return False
        return self._on_name(call, reported, [path or "" for path in paths])

    def _below(self, path: str) -> str | None:
        path = path.removesuffix(" (deleted)")
        return path[len(self._spool) + 1 :] if path.startswith(self._spool + "/") else None

    def _on_file(self, call: str, path: str, told: str, texts: list[bytes]) -> bool:
        disk = self.disk
        if (
            call == "fsync"
        ):  # a directory: with it every name that was made before is in the journal
            disk.durable = len(disk.names)
            return True
        inode = disk.files.get(path)
        if inode is None:
            return False
        if call == "fdatasync":
            inode.durable = len(inode.writes) if self._barriers else 0
        elif call == "ftruncate":
            inode.writes.append((int(told.rsplit(", ", 1)[1]), None))
        else:
            data = b"".join(texts)
            offset = sum(len(d or b"") for _, d in inode.writes) if call == "write" else -1
            if call == "pwritev2":
                offset = int(told.rsplit(", ", 2)[1])
            elif call == "pwrite64":
                offset = int(told.rsplit(", ", 1)[1])
            inode.writes.append((offset, data))
            self._note(path, data)
        return True

    def _note(self, path: str, data: bytes) -> None:
        directory, _, name = path.rpartition("/")
        if name == "envelope.zip" and (uid := re.search(rb"1\.2\.826\.\d+", data)):
            self._written.setdefault(directory, []).append(uid[0].decode())
        elif name == "promised":
            self.promised |= set(self._written.get(directory, ()))

    def _on_name(self, call: str, told: str, paths: list[str]) -> bool:
        disk = self.disk
        path = paths[0]
        if call == "openat":
            if "O_CREAT" not in told or path in disk.files:
                return False
            disk.files[path] = Inode()
            disk.names.append(("create", path, disk.files[path]))
        elif call == "renameat2":
            disk.names.append(("rename", path, paths[1]))
            disk.files = {_moved(name, path, paths[1]): one for name, one in disk.files.items()}
        elif call == "mkdir":
            disk.names.append(("mkdir", path, None))
        else:
            removed = "rmdir" if call == "rmdir" or "AT_REMOVEDIR" in told else "unlink"
            disk.names.append((removed, path, None))
            disk.files.pop(path, None)
        return True


def _moved(name: str, source: str, target: str) -> str:
    inside = name == source or name.startswith(source + "/")
    return target + name[len(source) :] if inside else name


def _unescaped(text: str) -> str:
    return bytes.fromhex(text.replace("\\x", "")).decode() if text.startswith("\\x") else text


def cuts(disk: Disk, most: int) -> Iterator[tuple[int, set[tuple[int, int]], bool]]:
    """(names, lost writes, torn): all that may be, or `most` of it at random."""
    names = range(disk.durable, len(disk.names) + 1)
    pending = disk.pending()
    if len(pending) <= SUBSETS_MAX and (1 << len(pending)) * len(names) <= most:
        for size in range(len(pending) + 1):
            for some in itertools.combinations(pending, size):
                for count in names:
                    yield count, set(some), bool(size) and random.random() < 0.5
        return
    for _ in range(most):
        lost = {one for one in pending if random.random() < random.choice((0.2, 0.5, 0.8))}
        yield random.choice(names), lost, random.random() < 0.5
