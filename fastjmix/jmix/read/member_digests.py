"""Reads the members of an envelope once: their CRC-32, the digests that are compared, the payload's
hash.

Guaranteed: only the digests that a listing or the manifest states are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.digests import File, digest_of, payload_hashes
from fastjmix.jmix.faults import Fault, OnFault
from fastjmix.jmix.read.container import Container
from fastjmix.jmix.read.listings import Digests, Listed


def algorithms(
    base: str, listed: Iterable[Listed], promised: str | None
) -> Callable[[str], set[str]]:
    """Returns a function that gives the digests to compute of a member, by its name.

    `promised` is the hash of the payload in the folder `base`, if the manifest states one.
    """
    wanted: dict[str, set[str]] = {}
    for one in listed:
        if one.hash:
            wanted.setdefault(one.member, set()).add(one.hash.partition(":")[0])
    everywhere = {promised.partition(":")[0]} if promised else set()

    def of(name: str) -> set[str]:
        return wanted.get(name, set()) | (everywhere if name.startswith(base) else set())

    return of


def read_all(
    container: Container,
    base: str,
    listed: Iterable[Listed],
    promised: str | None,
    on_fault: OnFault,
    count_bytes: Callable[[int], object] = lambda _: None,
    through: Callable[[str, Iterator[bytes]], Iterator[bytes]] = lambda _, pieces: pieces,
) -> dict[str, dict[str, str]]:
    """Reads every member once, so that each CRC-32 is compared, and returns the digests.

    `count_bytes` gets the size of each piece after it was read; `through` wraps the pieces of each
    member. A member that cannot be read is reported and has no entry.
    """
    wanted = algorithms(base, listed, promised)
    found: dict[str, dict[str, str]] = {}
    for name in container.sizes:
        try:
            pieces = through(name, container.pieces(name))
            found[name] = digest_of(counted(pieces, count_bytes), wanted(name))
        except EnvelopeError as fault:
            on_fault(fault)
    return found


def counted(pieces: Iterable[bytes], count_bytes: Callable[[int], object]) -> Iterator[bytes]:
    """Yields the pieces; calls `count_bytes` with the size of each after it was used."""
    for piece in pieces:
        yield piece
        count_bytes(len(piece))


def compare_payload(
    container: Container, base: str, digests: Digests, promised: str | None, on_fault: OnFault
) -> None:
    """Reports a payload that has the promised hash in neither form.

    Compares nothing where a member could not be read: that was reported before.
    """
    if promised is None:
        return
    algorithm = promised.partition(":")[0]
    names = [name for name in container.sizes if name.startswith(base)]
    if not all(name in digests for name in names):
        return
    payload = [
        File(name.removeprefix(base), container.sizes[name], digests[name][algorithm])
        for name in names
    ]
    folders = [folder[len(base) :] for folder in container.folders if folder.startswith(base)]
    forms = payload_hashes(algorithm, payload, folders, lambda path: container.pieces(base + path))
    if not any(form == promised for form in forms):
        on_fault(Fault("manifest.json", '"security.payload_hash" does not match the payload'))
