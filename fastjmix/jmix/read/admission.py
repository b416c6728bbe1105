"""Checks whether a ZIP is a JMIX envelope: the API's POST and the embedded store accept no other.

Wanted: the rules that a receiving server must enforce, for both profiles in use: "harmony" (integer
version, type, content) and "jmix-1.0" (version as text). verify.py checks the same and much more,
and reports every fault instead of raising the first.
Guaranteed: the error names the member or the key at fault. The archive's structure is checked
first (see unzip.py). Listed sizes always match, and so does the CRC-32 of each member, unless the
caller has compared them before (`contents`). Hashes match when `verify_hashes` is given.
Still wrong: a server that accepts an envelope checks no schema, no signature, and not which members
no listing names: `fastjmix envelope verify` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from fastjmix.jmix import strict_json
from fastjmix.jmix.digests import digest_of
from fastjmix.jmix.faults import foreseen, raise_fault, refuse
from fastjmix.jmix.limits import DEFAULT_LIMITS, Limits
from fastjmix.jmix.read.container import (
    ENCRYPTED,
    ciphertext_of,
    instances,
    json_object,
    root_of,
)
from fastjmix.jmix.read.documents import (
    check_attachments,
    identity,
    profile_of,
    security_of,
    studies_of,
)
from fastjmix.jmix.read.listings import compare_listed, manifest_listing, payload_hash_of
from fastjmix.jmix.read.member_digests import algorithms, compare_payload, read_all
from fastjmix.jmix.read.unzip import Archive, PackedMember
from fastjmix.jmix.strict_json import JsonObject

if TYPE_CHECKING:
    from fastjmix.jmix.keys import RecipientKey

__all__ = ["EnvelopeSummary", "Limits", "check_envelope", "open_manifest", "read_manifest"]


@dataclass(frozen=True, slots=True)
class EnvelopeSummary:
    """The contents of a valid envelope, as its documents state them.

    `id` is in lower case. `profile` is "harmony" or "jmix-1.0". `root` is "" or the single top
    folder with its slash; `payload` is the payload folder below it, without slashes around it.
    `members` are names as in the archive, without folders; `instances` counts the DICOM files.
    `unopened`: the payload is encrypted and was not decrypted, so there are no studies and no
    instances.
    """

    id: str
    profile: str
    studies: tuple[str, ...]
    members: tuple[str, ...]
    instances: int
    root: str
    payload: str
    unopened: bool = False


class _Manifest(NamedTuple):
    """The statements of manifest.json that are used after it was parsed.

    `kept` has the keys that later checks read. The rest is dropped before metadata.json is parsed,
    because a document may be large.
    """

    id: str
    profile: str
    payload: str
    kept: JsonObject


class _Payload(NamedTuple):
    """metadata.json, and the size in bytes of each member by name."""

    metadata: JsonObject
    sizes: Mapping[str, int]


def check_envelope(
    file: BinaryIO,
    limits: Limits = DEFAULT_LIMITS,
    *,
    verify_hashes: bool = False,
    contents: bool = True,
    key: RecipientKey | None = None,
    unopened: bool = False,
) -> EnvelopeSummary:
    """Checks an envelope; `file` is open for reading and seekable.

    Reads every member and compares its CRC-32; without `contents` it reads no images.

    Refuses an encrypted payload, unless `key` decrypts it; it is read and written nowhere. With
    `unopened` it is accepted without a key, after everything was checked that needs none.

    With `verify_hashes` listed hashes and `security.payload_hash` must match (the payload is read
    twice when its hash has the form that jmix-rs writes). Raises EnvelopeError naming the member or
    key at fault, OSError when the file cannot be read.
    """
    with foreseen():
        archive = Archive(file, limits)
        summary = _check(archive, key, verify_hashes=verify_hashes, unopened=unopened)
        if contents:  # last, as it costs most
            _check_members(archive)
        return summary


def open_manifest(file: BinaryIO, limits: Limits = DEFAULT_LIMITS) -> PackedMember:
    """Returns manifest.json, after comparing its CRC-32. Raises EnvelopeError, OSError."""
    with foreseen():
        archive = Archive(file, limits)
        found = archive.member(f"{_root(archive)}manifest.json", "max_manifest_bytes")
        for _ in found.pieces():
            pass
        return found


def read_manifest(file: BinaryIO, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Returns the bytes of manifest.json. Raises EnvelopeError, OSError."""
    with foreseen():
        archive = Archive(file, limits)
        return archive.read(f"{_root(archive)}manifest.json", "max_manifest_bytes")


def _check(
    archive: Archive, key: RecipientKey | None, *, verify_hashes: bool, unopened: bool
) -> EnvelopeSummary:
    root = _root(archive)
    manifest = _read_manifest(archive, root)
    bases = (root, base := f"{root}{manifest.payload}/")
    encrypted = security_of(manifest.kept, raise_fault).get("encryption") is not None
    unopened = unopened and encrypted and key is None
    payload = _Payload({}, {})
    if unopened:
        _check_unopened(archive, manifest.kept, bases)
    elif encrypted:
        payload = _check_encrypted(archive, manifest.kept, bases, key, verify_hashes=verify_hashes)
    else:
        payload = _check_plain(archive, manifest.kept, bases, verify_hashes=verify_hashes)
    return EnvelopeSummary(
        id=manifest.id,
        profile=manifest.profile,
        studies=studies_of(payload.metadata, raise_fault),
        members=tuple(archive.files),
        instances=len(instances(payload.sizes, base)),
        root=root,
        payload=manifest.payload,
        unopened=unopened,
    )


def _root(archive: Archive) -> str:
    root = root_of(archive)
    if root is None:
        refuse("manifest.json", "is missing at the top level of the archive")
    return root


def _read_manifest(archive: Archive, root: str) -> _Manifest:
    manifest = json_object(archive, f"{root}manifest.json", "max_manifest_bytes")
    envelope_id = identity(manifest, raise_fault) or ""
    profile, payload = profile_of(manifest, raise_fault) or ("", "")
    security = security_of(manifest, raise_fault)
    needed = {key: security[key] for key in ("encryption", "payload_hash") if key in security}
    kept: dict[str, Any] = {"security": needed} if security else {}
    if "files" in manifest:
        kept["files"] = manifest["files"]
    return _Manifest(envelope_id, profile, payload, kept)


def _check_members(archive: Archive) -> None:
    """Reads every member to its end, so that each CRC-32 is compared. Raises EnvelopeError."""
    for name in archive.sizes:
        for _ in archive.pieces(name):
            pass


def _check_plain(
    archive: Archive, manifest: JsonObject, bases: tuple[str, str], *, verify_hashes: bool
) -> _Payload:
    """Checks a payload that is not encrypted."""
    base = bases[1]
    metadata = json_object(archive, f"{base}metadata.json", "max_metadata_bytes")
    check_attachments(archive, base, raise_fault)
    listed = manifest_listing(manifest, archive.sizes, bases, raise_fault)
    if verify_hashes:
        promised = payload_hash_of(manifest, raise_fault)
        digests = read_all(archive, base, listed, promised, raise_fault)
        compare_listed(listed, digests, raise_fault)
        compare_payload(archive, base, digests, promised, raise_fault)
    return _Payload(metadata, archive.sizes)


def _ciphertext(archive: Archive, root: str) -> str:
    """Returns the name of the member with the encrypted payload. Raises EnvelopeError."""
    name = ciphertext_of(archive.sizes, root)
    if name is None:
        what = 'is missing, yet the manifest has "security.encryption"'
        refuse(f"{root}{ENCRYPTED[0]}", what)
    return name


def _check_unopened(archive: Archive, manifest: JsonObject, bases: tuple[str, str]) -> None:
    """Checks everything of an encrypted payload that needs no key.

    Reads the ciphertext once, for its CRC-32 and its listed hashes. Only the receiver can say
    whether security.payload_hash is of the ciphertext.
    """
    from fastjmix.jmix.write import encryption

    root, base = bases
    name = _ciphertext(archive, root)
    for other in archive.sizes:
        if other.startswith(base):
            refuse(other, "lies open beside the encrypted payload", at=archive.offset(other))
        if other != name and other.removeprefix(root) in ENCRYPTED:
            refuse(other, f"is a second encrypted payload, beside {name}")
    encryption.check_fields(security_of(manifest, raise_fault)["encryption"])
    encryption.check_cipher_size(name, archive.sizes[name])
    payload_hash_of(manifest, raise_fault)
    listed = manifest_listing(manifest, archive.sizes, bases, raise_fault, inside=True)
    wanted = algorithms(base, listed, None)
    read = {one.member for one in listed} | {name}
    digests = {one: digest_of(archive.pieces(one), wanted(one)) for one in sorted(read)}
    compare_listed(listed, digests, raise_fault)


def _check_encrypted(
    archive: Archive,
    manifest: JsonObject,
    bases: tuple[str, str],
    key: RecipientKey | None,
    *,
    verify_hashes: bool,
) -> _Payload:
    """Decrypts a payload piece by piece, and checks it."""
    from fastjmix.jmix.read.inside import Inside
    from fastjmix.jmix.write import encryption  # some 60 ms: only for decryption

    root, base = bases
    name = _ciphertext(archive, root)
    if key is None:
        hint = "Send the envelope to a server that holds the receiver's key."
        refuse(name, "decryption not available here", hint)
    fields = security_of(manifest, raise_fault)["encryption"]
    verified = encryption.verify(None, key, fields, lambda: archive.pieces(name))
    members = encryption.decrypt(verified, key, fields, lambda: archive.pieces(name))
    inside = Inside(members, base)
    if inside.faults:
        raise inside.faults[0]
    document = f"{base}metadata.json"
    if document not in inside.sizes:
        refuse(document, "is missing")
    metadata = strict_json.parse(inside.documents[document], document)
    if not isinstance(metadata, dict):
        refuse(document, "must be a JSON object")
    check_attachments(inside, base, raise_fault)
    listed = manifest_listing(manifest, inside.sizes, bases, raise_fault)
    if verify_hashes:
        compare_listed(listed, inside.digests, raise_fault)
        promised = payload_hash_of(manifest, raise_fault)
        known = (f"sha256:{verified.sha256}", f"sha256:{verified.tar_sha256}", inside.stream)
        if promised is not None and promised not in known:
            refuse("manifest.json", '"security.payload_hash" does not match the payload')
    return _Payload(metadata, inside.sizes)
