"""Listings of members (the manifest's `files`, files.json), and the hashes that documents state.

Guaranteed: the size that an entry states is compared with its member's; a hash is compared by
`compare_listed`, once the member was read.
Still wrong: members that no listing names are not asked for here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from fastjmix.jmix.faults import Fault, OnFault
from fastjmix.jmix.read.documents import NOT_HASHED, security_of
from fastjmix.jmix.read.rules import excerpt, type_name
from fastjmix.jmix.strict_json import JsonObject

HASH: Final = re.compile(r"(sha256|blake3):([0-9a-fA-F]{64})")
BARE_HASH: Final = re.compile(r"[0-9a-fA-F]{64}")
"""A hash in files.json without its algorithm's name: SHA-256, as in the published example."""

Digests = Mapping[str, Mapping[str, str]]
"""Member → algorithm → lower-case hexadecimal."""


class Listed(NamedTuple):
    """An entry of a listing: the member it names, and its hash as "algorithm:hex" or None.

    `entry` is the document with its key: "manifest.json" and "files[3]".
    """

    member: str
    hash: str | None
    entry: tuple[str, str]


def manifest_listing(
    manifest: JsonObject,
    sizes: Mapping[str, int],
    bases: tuple[str, str],
    on_fault: OnFault,
    *,
    inside: bool = False,
) -> list[Listed]:
    """Returns the entries of the manifest's `files`; the arguments are those of `listing`."""
    entries = manifest.get("files")
    if entries is None:
        return []
    if not isinstance(entries, list):
        on_fault(Fault("manifest.json", f'"files" must be an array, not {type_name(entries)}'))
        return []
    return listing(entries, "manifest.json", "files", sizes, bases, on_fault, inside=inside)


def listing(
    entries: list[Any],
    document: str,
    key: str,
    sizes: Mapping[str, int],
    bases: Iterable[str],
    on_fault: OnFault,
    *,
    inside: bool = False,
) -> list[Listed]:
    """Returns the entries of a listing, each with its member, and compares their sizes.

    A path counts from the first of the `bases` below which there is such a member. With `inside`
    an entry may name a member that is not in `sizes`: it is in an encrypted payload.
    """
    found: list[Listed] = []
    for number, entry in enumerate(entries):
        at = f"{key}[{number}]"
        path = entry.get("path", entry.get("file")) if isinstance(entry, dict) else None
        if not isinstance(path, str):
            on_fault(Fault(document, f'"{at}" must be an object with a "path"'))
            continue
        name = next((f"{base}{path}" for base in bases if f"{base}{path}" in sizes), None)
        if name is None and inside:
            continue
        if name is None:
            on_fault(Fault(document, f'"{at}" names {excerpt(path)}, which is not in the archive'))
            continue
        size, held = entry.get("size_bytes"), sizes[name]
        if size is not None and (type(size) is not int or size != held):
            on_fault(Fault(document, f'"{at}" says {excerpt(size)} bytes; {name} has {held}'))
        hashed = entry.get("hash")
        known = None if hashed is None else hash_of(hashed, document, f"{at}.hash", on_fault)
        found.append(Listed(name, known, (document, at)))
    return found


def payload_hash_of(manifest: JsonObject, on_fault: OnFault) -> str | None:
    """Returns security.payload_hash as "algorithm:hex"; None when it is absent or was skipped."""
    found = security_of(manifest, on_fault).get("payload_hash")
    if found is None or found == NOT_HASHED:
        return None
    return hash_of(found, "manifest.json", "security.payload_hash", on_fault)


def hash_of(found: object, document: str, key: str, on_fault: OnFault) -> str | None:
    """Returns a hash as "algorithm:hex" in lower case; a bare one in files.json is SHA-256."""
    if isinstance(found, str) and HASH.fullmatch(found):
        return found.lower()
    if isinstance(found, str) and document != "manifest.json" and BARE_HASH.fullmatch(found):
        return f"sha256:{found.lower()}"
    on_fault(Fault(document, f'"{key}" must be sha256:… or blake3:…, not {excerpt(found)}'))
    return None


def compare_listed(listed: Iterable[Listed], digests: Digests, on_fault: OnFault) -> None:
    """Reports each listed member whose digest is not its listed hash. A member without digests
    could not be read, which was reported before."""
    for one in listed:
        if not one.hash or one.member not in digests:
            continue
        algorithm, _, wanted = one.hash.partition(":")
        if digests[one.member][algorithm] != wanted:
            document, key = one.entry
            where = "the manifest" if document == "manifest.json" else document
            what = f'does not match its hash in {where}, "{key}.hash"'
            on_fault(Fault(one.member, what))
