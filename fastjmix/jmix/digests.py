"""Hashes over the files of an envelope that is already there: the verifier's side.

Wanted: the two forms of `security.payload_hash` that exist, from their definitions, independent of
the code that writes envelopes, so that each is the other's witness.
Guaranteed: pieces in, hexadecimal text out; no member is ever held whole.
Still wrong: paths are ordered by their UTF-8 bytes; readers that order by UTF-16 units or that
compare numeric names as numbers differ for names outside what JMIX writers make.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple, Protocol

import blake3


class Hash(Protocol):
    """What hashlib and blake3 have in common."""

    def update(self, data: bytes | memoryview, /) -> object: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...


class Member(NamedTuple):
    """A file of the payload: its path below the payload folder, size in bytes, digest in hex."""

    path: str
    size: int
    digest: str


def new_hash(algorithm: str) -> Hash:
    """ "sha256" or "blake3". Raises ValueError for any other."""
    if algorithm == "sha256":
        return hashlib.sha256()
    if algorithm == "blake3":
        return blake3.blake3()
    raise ValueError(f"unknown digest {algorithm!r}")


def digest_of(pieces: Iterable[bytes], algorithms: Collection[str]) -> dict[str, str]:
    """Lower-case hex digests by algorithm, of all pieces; exhausts `pieces` in any case."""
    hashes = {algorithm: new_hash(algorithm) for algorithm in algorithms}
    for piece in pieces:
        for one in hashes.values():
            one.update(piece)
    return {algorithm: one.hexdigest() for algorithm, one in hashes.items()}


def tree_hash(algorithm: str, members: Iterable[Member], folders: Iterable[str]) -> str:
    """The TREE form: "sha256:" and the digest of one line a file and a folder, ordered by path.

    `folders` are paths below the payload folder, those that only names imply included. A line is
    "file:<path>:<size>:<hex digest>" or "dir:<path>".
    """
    lines = {member.path: f"file:{member.path}:{member.size}:{member.digest}" for member in members}
    lines |= {path: f"dir:{path}" for path in folders}
    text = new_hash(algorithm)
    for path in sorted(lines, key=str.encode):
        text.update(f"{lines[path]}\n".encode())
    return f"{algorithm}:{text.hexdigest()}"


def stream_hash(
    algorithm: str, paths: Iterable[str], read: Callable[[str], Iterable[bytes]]
) -> str:
    """The STREAM form (jmix-rs, jmix-js): path, line feed, content, for each file by path."""
    text = new_hash(algorithm)
    for path in sorted(paths, key=str.encode):
        text.update(path.encode() + b"\n")
        for piece in read(path):
            text.update(piece)
    return f"{algorithm}:{text.hexdigest()}"


def payload_hashes(
    algorithm: str,
    members: Collection[Member],
    folders: Iterable[str],
    read: Callable[[str], Iterable[bytes]],
) -> Iterator[str]:
    """Both forms, the cheap one first: STREAM has to read everything again, in its own order."""
    yield tree_hash(algorithm, members, folders)
    yield stream_hash(algorithm, [member.path for member in members], read)
