"""Digests of members, and the two forms of `security.payload_hash`.

The writer and the verifier share this code. Its independent twins are in tests/reference.py.

    TREE    the published description, made concrete by jmix-php: one line a file and a folder
    STREAM  jmix-rs and jmix-js: path, line feed, content of each file; no folders, no sizes

Guaranteed: no member is held as a whole. Paths are relative to the payload folder and ordered by
their UTF-8 bytes.
Still wrong: readers that order by UTF-16 units, or that compare numeric names as numbers, differ
for names outside what JMIX writers make.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple, Protocol

import blake3


class Hash(Protocol):
    """The methods that hashlib's and blake3's objects have in common."""

    def update(self, data: bytes | memoryview, /) -> object: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...


class File(NamedTuple):
    """A file of the payload: path below the payload folder, size in bytes, digest in lower-case
    hexadecimal. The digest is "" where hashing is skipped."""

    path: str
    size: int
    digest: str


def new_hash(algorithm: str) -> Hash:
    """Returns a new hash object for "sha256" or "blake3". Raises ValueError for any other name."""
    if algorithm == "sha256":
        return hashlib.sha256()
    if algorithm == "blake3":
        return blake3.blake3()
    raise ValueError(f"unknown digest {algorithm!r}")


def digest_of(pieces: Iterable[bytes], algorithms: Collection[str]) -> dict[str, str]:
    """Returns the lower-case hexadecimal digests of all pieces together, by algorithm.

    Exhausts `pieces` even when there are no algorithms.
    """
    hashes = {algorithm: new_hash(algorithm) for algorithm in algorithms}
    for piece in pieces:
        for one in hashes.values():
            one.update(piece)
    return {algorithm: one.hexdigest() for algorithm, one in hashes.items()}


def tree_hash(algorithm: str, files: Iterable[File], folders: Iterable[str]) -> str:
    """Returns the TREE form: the algorithm's name, ":", and the digest of the sorted lines.

    A line is "file:<path>:<size>:<hex digest>" or "dir:<path>", ended by a line feed. `folders` are
    paths below the payload folder; they include those that only a file's name implies.
    """
    lines = {file.path: f"file:{file.path}:{file.size}:{file.digest}\n" for file in files}
    lines |= {path: f"dir:{path}\n" for path in folders}
    found = new_hash(algorithm)
    # UTF-8 sorts as its code points do.
    found.update("".join([lines[path] for path in sorted(lines)]).encode())
    return f"{algorithm}:{found.hexdigest()}"


class StreamHash:
    """The STREAM form, computed while the payload is read, file by file.

    `in_order` is False once a file came before one with a smaller path: the digest is then not the
    payload's hash.
    """

    def __init__(self, algorithm: str) -> None:
        self._algorithm = algorithm
        self._hash = new_hash(algorithm)
        self._last: bytes | None = None
        self.in_order = True

    def hash_file(self, path: str, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yields the pieces of the next file, each after it was hashed."""
        name = path.encode()
        if self._last is not None and name <= self._last:
            self.in_order = False
        self._last = name
        self._hash.update(name + b"\n")
        for piece in pieces:
            self._hash.update(piece)
            yield piece

    def hexdigest(self) -> str:
        """Returns the digest of the files so far, in lower-case hexadecimal."""
        return self._hash.hexdigest()

    def __str__(self) -> str:
        return f"{self._algorithm}:{self.hexdigest()}"


def stream_hash(
    algorithm: str, paths: Iterable[str], read: Callable[[str], Iterable[bytes]]
) -> str:
    """Returns the STREAM form of the files at `paths`, in whatever order they are given.

    `read` gives the pieces of the file at a path.
    """
    found = StreamHash(algorithm)
    for path in sorted(paths):
        for _ in found.hash_file(path, read(path)):
            pass
    return str(found)


def payload_hashes(
    algorithm: str,
    files: Collection[File],
    folders: Iterable[str],
    read: Callable[[str], Iterable[bytes]],
) -> Iterator[str]:
    """Yields both forms, TREE first: STREAM reads everything again, in its own order."""
    yield tree_hash(algorithm, files, folders)
    yield stream_hash(algorithm, [file.path for file in files], read)
