"""Is this ZIP a JMIX envelope? The judge at both doors: the API's POST and the embedded store.

Wanted: the rules that a receiving server must enforce, for both profiles in use: "harmony" (integer
version, type, content) and "jmix-1.0" (version as text). verifying.py asks the same questions and
many more, and hears every answer instead of the first.
Guaranteed: the refusal names the member or the key at fault. The archive's structure is checked
first (see unzip.py). Listed sizes always match, and so does the CRC-32 of each member, unless the
caller has compared them before (`contents`); hashes match when asked for.
Still wrong: what a door does not need (schemas, signatures, who may not be listed) is for
`fastjmix envelope verify`.

Each question takes `tell`, which hears of a fault and may raise it, and gives None where its answer
cannot be used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, Protocol

from fastjmix.errors import EnvelopeError
from fastjmix.jmix import strict_json
from fastjmix.jmix.digests import File, digest_of, payload_hashes
from fastjmix.jmix.faults import Fault, Tell, foreseen, refuse, strict
from fastjmix.jmix.ids import canonical_id
from fastjmix.jmix.limits import DEFAULT_LIMITS, Limits
from fastjmix.jmix.read.container import (
    ENCRYPTED,
    Container,
    ciphertext_of,
    instances,
    json_object,
    root_of,
)
from fastjmix.jmix.read.rules import kind, shown
from fastjmix.jmix.read.unzip import Archive, PackedMember

if TYPE_CHECKING:
    from fastjmix.jmix.keys import RecipientKey

__all__ = ["EnvelopeSummary", "Limits", "check_envelope", "open_manifest", "read_manifest"]

UID_MAX: Final = 128
"""Characters of a Study Instance UID: twice what PS3.5 §9.1 allows, as `tolerate_uids` does."""
STUDIES_MAX: Final = 1000
"""Studies of one envelope: each is an entry of an index, and of the record beside the archive."""

HASH: Final = re.compile(r"(sha256|blake3):([0-9a-fA-F]{64})")
BARE_HASH: Final = re.compile(r"[0-9a-fA-F]{64}")
"""A hash in files.json without its algorithm's name: SHA-256, as in the published example."""
NOT_HASHED: Final = "sha256:skipped"
"""What jmix-rs writes as payload_hash when it was told not to hash."""

Digests = Mapping[str, Mapping[str, str]]
"""Member → algorithm → lower-case hex."""


@dataclass(frozen=True, slots=True)
class EnvelopeSummary:
    """The contents of a valid envelope, as it states them.

    `id` is in lower case. `profile` is "harmony" or "jmix-1.0". `root` is "" or the single top
    folder with its slash; `payload` is the payload folder below it, without slashes around it.
    `members` are names as in the archive, folders left out; `instances` counts the DICOM files.
    `unopened`: the payload is encrypted, and nobody looked into it: no studies, no instances.
    """

    id: str
    profile: str
    studies: tuple[str, ...]
    members: tuple[str, ...]
    instances: int
    root: str
    payload: str
    unopened: bool = False


class Listed(NamedTuple):
    """An entry of a listing: the member it names, and its hash as "algorithm:hex" or None.

    `entry` is where it stands: "manifest.json" and "files[3]".
    """

    member: str
    hash: str | None
    entry: tuple[str, str]


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

    Every member is read, and its CRC-32 compared; without `contents` images are not.

    An encrypted payload is refused, unless `key` decrypts it: it is read, and written nowhere. With
    `unopened` it is accepted without a key, after everything was checked that needs none.

    With `verify_hashes` listed hashes and `security.payload_hash` must match
    (the payload is read twice when its hash is in the form that jmix-rs writes). Raises
    EnvelopeError naming the member or key at fault, OSError when the file cannot be read.
    """
    with foreseen():
        archive = Archive(file, limits)
        summary = _check(archive, key, verify_hashes=verify_hashes, unopened=unopened)
        if contents:  # last, as it costs most
            _check_members(archive)
        return summary


def _check_members(archive: Archive) -> None:
    """Reads every member to its end, so that each CRC-32 is compared. Raises EnvelopeError."""
    for name in archive.sizes:
        for _ in archive.pieces(name):
            pass


def _check(
    archive: Archive, key: RecipientKey | None, *, verify_hashes: bool, unopened: bool
) -> EnvelopeSummary:
    root = _root(archive)
    envelope_id, profile, payload, manifest = _told(archive, root)
    bases = (root, base := f"{root}{payload}/")
    encrypted = security_of(manifest, strict).get("encryption") is not None
    unopened = unopened and encrypted and key is None
    metadata: Mapping[str, Any] = {}
    sizes: Mapping[str, int] = {}
    if unopened:
        _check_unopened(archive, manifest, bases)
    elif encrypted:
        metadata, sizes = _decrypted(archive, manifest, bases, key, verify_hashes=verify_hashes)
    else:
        metadata, sizes = _open(archive, manifest, bases, verify_hashes=verify_hashes)
    return EnvelopeSummary(
        id=envelope_id,
        profile=profile,
        studies=studies_of(metadata, strict),
        members=tuple(archive.files),
        instances=len(instances(sizes, base)),
        root=root,
        payload=payload,
        unopened=unopened,
    )


def _told(archive: Archive, root: str) -> tuple[str, str, str, Mapping[str, Any]]:
    """Returns id, profile, payload folder, and those keys of the manifest that are asked for later.

    The others are let go before metadata.json is parsed: a stranger's may be large.
    """
    manifest = json_object(archive, f"{root}manifest.json", "max_manifest_bytes")
    envelope_id = identity(manifest, strict) or ""
    profile, payload = profile_of(manifest, strict) or ("", "")
    security = security_of(manifest, strict)
    needed = {key: security[key] for key in ("encryption", "payload_hash") if key in security}
    kept: dict[str, Any] = {"security": needed} if security else {}
    if "files" in manifest:
        kept["files"] = manifest["files"]
    return envelope_id, profile, payload, kept


def open_manifest(file: BinaryIO, limits: Limits = DEFAULT_LIMITS) -> PackedMember:
    """Finds manifest.json and sees that it is whole. Raises EnvelopeError, OSError."""
    with foreseen():
        archive = Archive(file, limits)
        found = archive.member(f"{_root(archive)}manifest.json", "max_manifest_bytes")
        for _ in found.pieces():
            pass
        return found


def read_manifest(file: BinaryIO, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The bytes of manifest.json, as they are in the archive. Raises EnvelopeError, OSError."""
    with foreseen():
        archive = Archive(file, limits)
        return archive.read(f"{_root(archive)}manifest.json", "max_manifest_bytes")


def _root(archive: Archive) -> str:
    root = root_of(archive)
    if root is None:
        refuse("manifest.json", "is missing at the top level of the archive")
    return root


def _open(
    archive: Archive, manifest: Mapping[str, Any], bases: tuple[str, str], *, verify_hashes: bool
) -> tuple[Mapping[str, Any], Mapping[str, int]]:
    """(metadata, sizes by name) of a payload that is not encrypted."""
    base = bases[1]
    metadata = json_object(archive, f"{base}metadata.json", "max_metadata_bytes")
    check_attachments(archive, base, strict)
    listed = manifest_listing(manifest, archive.sizes, bases, strict)
    if verify_hashes:
        promised = payload_hash_of(manifest, strict)
        digests = read_all(archive, base, listed, promised, strict)
        compare_listed(listed, digests, strict)
        compare_payload(archive, base, digests, promised, strict)
    return metadata, archive.sizes


def _ciphertext(archive: Archive, root: str) -> str:
    """The member with the encrypted payload."""
    name = ciphertext_of(archive.sizes, root)
    if name is None:
        told = 'is missing, yet the manifest has "security.encryption"'
        refuse(f"{root}{ENCRYPTED[0]}", told)
    return name


def _check_unopened(archive: Archive, manifest: Mapping[str, Any], bases: tuple[str, str]) -> None:
    """Refuses an encrypted payload for whatever is wrong with it and can be seen without the key.

    The ciphertext is read once, for its CRC-32 and the hashes that a listing has of it. Whether
    security.payload_hash is of the ciphertext only the receiver can say.
    """
    from fastjmix.jmix.write import encryption

    root, base = bases
    name = _ciphertext(archive, root)
    for other in archive.sizes:
        if other.startswith(base):
            refuse(other, "lies open beside the encrypted payload", at=archive.offset(other))
        if other != name and other.removeprefix(root) in ENCRYPTED:
            refuse(other, f"is a second encrypted payload, beside {name}")
    encryption.check_fields(security_of(manifest, strict)["encryption"])
    encryption.check_cipher_size(name, archive.sizes[name])
    payload_hash_of(manifest, strict)
    listed = manifest_listing(manifest, archive.sizes, bases, strict, inside=True)
    wanted = algorithms(base, listed, None)
    read = {one.member for one in listed} | {name}
    digests = {one: digest_of(archive.pieces(one), wanted(one)) for one in sorted(read)}
    compare_listed(listed, digests, strict)


def _decrypted(
    archive: Archive,
    manifest: Mapping[str, Any],
    bases: tuple[str, str],
    key: RecipientKey | None,
    *,
    verify_hashes: bool,
) -> tuple[Mapping[str, Any], Mapping[str, int]]:
    """(metadata, sizes by name) of an encrypted payload, which went by and was found right."""
    from fastjmix.jmix.read.inside import Inside
    from fastjmix.jmix.write import encryption  # some 60 ms: only for decryption

    root, base = bases
    name = _ciphertext(archive, root)
    if key is None:
        hint = "Send the envelope to a server that holds the receiver's key."
        refuse(name, "decryption not available here", hint)
    fields = security_of(manifest, strict)["encryption"]
    verified = encryption.verify(None, key, fields, lambda: archive.pieces(name))
    members = encryption.decrypt(verified, key, fields, lambda: archive.pieces(name))
    inside = Inside(members, base)
    if inside.faults:
        raise inside.faults[0]
    if f"{base}metadata.json" not in inside.sizes:
        refuse(f"{base}metadata.json", "is missing")
    metadata = strict_json.parse(inside.documents[f"{base}metadata.json"], f"{base}metadata.json")
    if not isinstance(metadata, dict):
        refuse(f"{base}metadata.json", "must be a JSON object")
    check_attachments(inside, base, strict)
    listed = manifest_listing(manifest, inside.sizes, bases, strict)
    if verify_hashes:
        compare_listed(listed, inside.digests, strict)
        promised = payload_hash_of(manifest, strict)
        known = (f"sha256:{verified.sha256}", f"sha256:{verified.tar_sha256}", inside.stream)
        if promised is not None and promised not in known:
            refuse("manifest.json", '"security.payload_hash" does not match the payload')
    return metadata, inside.sizes


# -- the documents -------------------------------------------------------------------------------


def identity(manifest: Mapping[str, Any], tell: Tell) -> str | None:
    """The envelope's id, in lower case."""
    found = manifest.get("id")
    if found is None:
        tell(Fault("manifest.json", 'has no "id"'))
        return None
    envelope_id = canonical_id(found) if isinstance(found, str) else None
    if envelope_id is None:
        tell(Fault("manifest.json", f'"id" must be a UUID, not {shown(found)}'))
    return envelope_id


def profile_of(manifest: Mapping[str, Any], tell: Tell) -> tuple[str, str] | None:
    """The profile's name and the payload folder."""
    version = manifest.get("version")
    if isinstance(version, str) and version:
        return "jmix-1.0", "payload"
    if type(version) is not int or version != 1:
        told = f'"version" must be 1 or a text such as "1.0", not {shown(version)}'
    elif manifest.get("type") != "envelope":
        told = f'"type" must be "envelope", not {shown(manifest.get("type"))}'
    else:
        content = manifest.get("content")
        path = content.get("path") if isinstance(content, dict) else None
        if not isinstance(content, dict) or content.get("type") != "directory":
            told = '"content" must be {"type": "directory", "path": …}'
        elif not isinstance(path, str) or not path.strip("/"):
            told = f'"content.path" must name a folder, not {shown(path)}'
        else:
            return "harmony", path.removesuffix("/")
    tell(Fault("manifest.json", told))
    return None


def security_of(manifest: Mapping[str, Any], tell: Tell) -> Mapping[str, Any]:
    """The manifest's `security`; empty when it has none."""
    security = manifest.get("security")
    if security is not None and not isinstance(security, dict):
        tell(Fault("manifest.json", f'"security" must be an object, not {kind(security)}'))
    return security if isinstance(security, dict) else {}


class Tree(Protocol):
    """Files and folders of a payload, wherever it is."""

    @property
    def sizes(self) -> Mapping[str, int]: ...
    @property
    def folders(self) -> set[str]: ...


def check_attachments(container: Tree, base: str, tell: Tell) -> None:
    """With files/ there must be files.json."""
    if f"{base}files" in container.folders and f"{base}files.json" not in container.sizes:
        tell(Fault(f"{base}files.json", f"is missing, yet there is {base}files/"))


def studies_of(metadata: Mapping[str, Any], tell: Tell) -> tuple[str, ...]:
    """Study Instance UIDs: keys of the harmony map, or the published object's study_uid."""
    studies = metadata.get("studies")
    if studies is None:
        return ()
    if not isinstance(studies, dict):
        tell(Fault("metadata.json", f'"studies" must be an object, not {kind(studies)}'))
        return ()
    if "study_uid" not in studies and "series" not in studies:
        found = tuple(studies)
    else:
        uid = studies.get("study_uid")
        if uid is not None and not isinstance(uid, str):
            tell(Fault("metadata.json", f'"studies.study_uid" must be a text, not {kind(uid)}'))
        found = (uid,) if uid and isinstance(uid, str) else ()
    if len(found) > STUDIES_MAX:
        told = f'"studies" names more than STUDIES_MAX, {STUDIES_MAX}, studies'
        tell(Fault("metadata.json", told))
        return ()
    for uid in found:
        if not 0 < len(uid) <= UID_MAX:
            tell(Fault("metadata.json", f'"studies" names {shown(uid)}, which is not a UID'))
    return found


# -- sizes and hashes ----------------------------------------------------------------------------


def manifest_listing(
    manifest: Mapping[str, Any],
    sizes: Mapping[str, int],
    bases: tuple[str, str],
    tell: Tell,
    *,
    inside: bool = False,
) -> list[Listed]:
    """Returns the manifest's `files`; compares their sizes here. `inside`: as for `listing`."""
    entries = manifest.get("files")
    if entries is None:
        return []
    if not isinstance(entries, list):
        tell(Fault("manifest.json", f'"files" must be an array, not {kind(entries)}'))
        return []
    return listing(entries, "manifest.json", "files", sizes, bases, tell, inside=inside)


def listing(
    entries: list[Any],
    document: str,
    key: str,
    sizes: Mapping[str, int],
    bases: Iterable[str],
    tell: Tell,
    *,
    inside: bool = False,
) -> list[Listed]:
    """Returns the entries of a listing, each with its member; compares their sizes here.

    A path counts from the first of the `bases` below which there is such a member. With `inside`
    an entry may name what is not in `sizes`: it lies in an encrypted payload.
    """
    found: list[Listed] = []
    for number, entry in enumerate(entries):
        at = f"{key}[{number}]"
        path = entry.get("path", entry.get("file")) if isinstance(entry, dict) else None
        if not isinstance(path, str):
            tell(Fault(document, f'"{at}" must be an object with a "path"'))
            continue
        name = next((f"{base}{path}" for base in bases if f"{base}{path}" in sizes), None)
        if name is None and inside:
            continue
        if name is None:
            tell(Fault(document, f'"{at}" names {shown(path)}, which is not in the archive'))
            continue
        size, held = entry.get("size_bytes"), sizes[name]
        if size is not None and (type(size) is not int or size != held):
            tell(Fault(document, f'"{at}" says {shown(size)} bytes; {name} has {held}'))
        hashed = entry.get("hash")
        known = None if hashed is None else hash_of(hashed, document, f"{at}.hash", tell)
        found.append(Listed(name, known, (document, at)))
    return found


def payload_hash_of(manifest: Mapping[str, Any], tell: Tell) -> str | None:
    """security.payload_hash as "algorithm:hex"; None: there is none, or hashing was skipped."""
    found = security_of(manifest, tell).get("payload_hash")
    if found is None or found == NOT_HASHED:
        return None
    return hash_of(found, "manifest.json", "security.payload_hash", tell)


def hash_of(found: object, document: str, key: str, tell: Tell) -> str | None:
    """A hash as "algorithm:hex" in lower case; a bare one is SHA-256 in files.json."""
    if isinstance(found, str) and HASH.fullmatch(found):
        return found.lower()
    if isinstance(found, str) and document != "manifest.json" and BARE_HASH.fullmatch(found):
        return f"sha256:{found.lower()}"
    tell(Fault(document, f'"{key}" must be sha256:… or blake3:…, not {shown(found)}'))
    return None


def algorithms(
    base: str, listed: Iterable[Listed], promised: str | None
) -> Callable[[str], set[str]]:
    """Which digests of a member will be compared."""
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
    tell: Tell,
    seen: Callable[[int], object] = lambda _: None,
    through: Callable[[str, Iterator[bytes]], Iterator[bytes]] = lambda _, pieces: pieces,
) -> dict[str, dict[str, str]]:
    """Reads every member once, so that each CRC-32 is compared too; gives what was digested.

    `seen` hears how many bytes went by; `through` sees the pieces of each member. A member that
    cannot be read is told and left out.
    """
    wanted = algorithms(base, listed, promised)
    found: dict[str, dict[str, str]] = {}
    for name in container.sizes:
        try:
            found[name] = digest_of(
                watched(through(name, container.pieces(name)), seen), wanted(name)
            )
        except EnvelopeError as fault:
            tell(fault)
    return found


def watched(pieces: Iterable[bytes], seen: Callable[[int], object]) -> Iterator[bytes]:
    """The pieces; `seen` hears of each when it was used."""
    for piece in pieces:
        yield piece
        seen(len(piece))


def compare_listed(listed: Iterable[Listed], digests: Digests, tell: Tell) -> None:
    """Does each listed member have its hash?"""
    for one in listed:
        if not one.hash or one.member not in digests:
            continue
        algorithm, _, wanted = one.hash.partition(":")
        if digests[one.member][algorithm] != wanted:
            document, key = one.entry
            where = "the manifest" if document == "manifest.json" else document
            told = f'does not match its hash in {where}, "{key}.hash"'
            tell(Fault(one.member, told))


def compare_payload(
    container: Container, base: str, digests: Digests, promised: str | None, tell: Tell
) -> None:
    """Is the payload's hash right, in one of the two forms?

    Not asked where a member could not be read: that was told already.
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
        tell(Fault("manifest.json", '"security.payload_hash" does not match the payload'))
