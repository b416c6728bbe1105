"""A payload as it goes by: what must be remembered of one that is never held as a whole.

Wanted: a decrypted payload can be judged like an open one, though it is read once, from the front.
Guaranteed: memory for names, digests and the two documents, within `Limits`.
Still wrong: both digests of each member are made, as nobody knows yet which of them is listed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.digests import new_hash
from fastjmix.jmix.faults import Fault
from fastjmix.jmix.limits import DEFAULT_LIMITS
from fastjmix.jmix.member_names import folders_of

DOCUMENTS: Final = ("metadata.json", "files.json")


class Inside:
    """A decrypted payload as it went by: sizes, digests, documents; jmix-js's hash if it can be."""

    def __init__(self, members: Iterable[tuple[str, int, Iterator[bytes]]], base: str) -> None:
        self.sizes: dict[str, int] = {}
        self.digests: dict[str, dict[str, str]] = {}
        self.documents: dict[str, bytes] = {}
        self.faults: list[EnvelopeError] = []
        self.stream: str | None = None
        stream, last, sorted_so_far = hashlib.sha256(), "", True
        limits = DEFAULT_LIMITS
        try:
            for path, size, pieces in members:
                name = base + path
                sorted_so_far = sorted_so_far and path.encode() > last.encode()
                last = path
                hashes = {one: new_hash(one) for one in ("sha256", "blake3")}
                document: list[bytes] | None = [] if path in DOCUMENTS else None
                if document is not None and size > limits.max_metadata_bytes:
                    limit = limits.max_metadata_bytes
                    self.faults.append(
                        Fault(name, f"is {size} bytes; max_metadata_bytes is {limit}")
                    )
                    document = None
                stream.update(path.encode() + b"\n")
                for piece in pieces:
                    for one in hashes.values():
                        one.update(piece)
                    stream.update(piece)
                    if document is not None:
                        document.append(piece)
                self.sizes[name] = size
                self.digests[name] = {one: made.hexdigest() for one, made in hashes.items()}
                if document is not None:
                    self.documents[name] = b"".join(document)
        except EnvelopeError as fault:
            self.faults.append(fault)
            return
        if sorted_so_far:
            self.stream = f"sha256:{stream.hexdigest()}"

    @property
    def folders(self) -> set[str]:
        """Every folder that a name implies, without its last slash."""
        return folders_of(self.sizes)
