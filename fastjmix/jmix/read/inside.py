"""A decrypted payload, of which only what a check needs is kept while it is read.

Wanted: a decrypted payload can be checked like one that is not encrypted, though it is read once,
from the front.
Guaranteed: memory for names, digests and the two documents, within `Limits`.
Still wrong: both digests of each member are made, because which of them is listed is not known yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.digests import StreamHash, new_hash
from fastjmix.jmix.faults import Fault
from fastjmix.jmix.limits import DEFAULT_LIMITS
from fastjmix.jmix.member_names import folders_of

DOCUMENTS: Final = ("metadata.json", "files.json")

DIGESTS: Final = ("sha256", "blake3")
"""The digests that a listing may have."""


class Inside:
    """Names, sizes and digests of a decrypted payload's members, and its documents' bytes.

    `members` are (path below the payload folder, size in bytes, pieces); `base` is that folder with
    its slash. All names here begin with it. `stream` is the payload's hash in the STREAM form
    (jmix-js); None when the members are not in the order of their paths, or a fault ended the
    reading.
    """

    def __init__(self, members: Iterable[tuple[str, int, Iterator[bytes]]], base: str) -> None:
        self.sizes: dict[str, int] = {}
        self.digests: dict[str, dict[str, str]] = {}
        self.documents: dict[str, bytes] = {}
        self.faults: list[EnvelopeError] = []
        self.stream: str | None = None
        stream = StreamHash("sha256")
        try:
            for path, size, pieces in members:
                self._read(base + path, size, stream.hash_file(path, pieces), path in DOCUMENTS)
        except EnvelopeError as fault:
            self.faults.append(fault)
            return
        if stream.in_order:
            self.stream = str(stream)

    def _read(self, name: str, size: int, pieces: Iterable[bytes], is_document: bool) -> None:
        limit = DEFAULT_LIMITS.max_metadata_bytes
        if is_document and size > limit:
            self.faults.append(Fault(name, f"is {size} bytes; max_metadata_bytes is {limit}"))
            is_document = False
        hashes = {one: new_hash(one) for one in DIGESTS}
        document: list[bytes] = []
        for piece in pieces:
            for one in hashes.values():
                one.update(piece)
            if is_document:
                document.append(piece)
        self.sizes[name] = size
        self.digests[name] = {one: made.hexdigest() for one, made in hashes.items()}
        if is_document:
            self.documents[name] = b"".join(document)

    @property
    def folders(self) -> set[str]:
        """Every folder that a name implies, without its last slash."""
        return folders_of(self.sizes)
