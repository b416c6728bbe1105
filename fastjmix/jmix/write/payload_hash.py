"""Hashes over a payload that is being written: the writer's side of digests.py.

Wanted: `security.payload_hash` from what the packer knows when it seals.
Guaranteed: `tree` reads nothing again: it is made of the files' digests. `stream` reads the payload
once more, piece by piece, in the order of the paths.
Still wrong: `stream` is one pass of one thread over the whole payload, about a second a GB, in
which the packer does nothing else: its other studies wait.

Two forms are in use: the published description has the tree, made concrete by jmix-php; jmix-rs and
jmix-js verify the stream. Paths are relative to payload/, ordered as bytes of UTF-8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.digests import new_hash
from fastjmix.jmix.member_names import folders_of
from fastjmix.jmix.write.envelope import BELOW, PAYLOAD, Digest, Document, Options


class File(NamedTuple):
    """A file of the payload: path below payload/, size in bytes, digest in lower-case hex; "" where
    hashing is skipped."""

    path: str
    size: int
    digest: str


def hexadecimal(data: bytes, digest: Digest) -> str:
    """The digest of bytes that are at hand."""
    found = new_hash(digest)
    found.update(data)
    return found.hexdigest()


def payload_hash(files: Sequence[File], documents: Iterable[Document], options: Options) -> str:
    """In the form that the options ask for; `documents` are those of the payload.

    Raises OSError when the payload cannot be read again, EnvelopeError when nobody said how.
    """
    if options.payload_hash == "tree":
        return tree(files, options.digest)
    read = options.read
    if read is None:
        raise EnvelopeError(
            "the payload cannot be read again for its hash",
            'This is a fault of fastjmix: payload_hash = "stream" needs it.',
        )
    written = {document.name[BELOW:].decode(): document.data for document in documents}

    def pieces(path: str) -> Iterable[bytes]:
        return (written[path],) if path in written else read(f"{PAYLOAD}/{path}".encode())

    return stream([file.path for file in files], options.digest, pieces)


def tree(files: Iterable[File], digest: Digest) -> str:
    """One line a file, "file:<path>:<size>:<hex>", and one a directory, "dir:<path>"; sorted by
    path; each ended by a newline; hashed once more.
    """
    lines = {file.path: f"file:{file.path}:{file.size}:{file.digest}\n" for file in files}
    lines |= {folder: f"dir:{folder}\n" for folder in folders_of(lines)}
    # Code points order as their UTF-8 does.
    text = "".join([lines[path] for path in sorted(lines)])
    return f"{digest}:{hexadecimal(text.encode(), digest)}"


def stream(paths: Iterable[str], digest: Digest, read: Callable[[str], Iterable[bytes]]) -> str:
    """Path, newline, content, for each file by path; no directories, no lengths."""
    found = new_hash(digest)
    for path in sorted(paths):
        found.update(path.encode() + b"\n")
        for piece in read(path):
            found.update(piece)
    return f"{digest}:{found.hexdigest()}"
