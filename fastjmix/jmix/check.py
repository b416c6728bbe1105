"""Is this ZIP a JMIX envelope? The judge at both doors: the API's POST and the embedded store.

Wanted: the rules that a receiving server must enforce, for both profiles in use: "harmony" (integer
version, type, content) and "published" (version as text).
Guaranteed: the refusal names the member or the key at fault. The archive's structure is checked
first (see unzip.py). Listed sizes always match; hashes match when asked for.
Still wrong: manifest.jws and assertions are not verified; a member that no document mentions is
accepted; without `verify_hashes` images are not read, so their CRC-32 is not compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import orjson

from fastjmix.jmix.digests import Member, digest_of, payload_hashes
from fastjmix.jmix.unzip import DEFAULT_LIMITS, Archive, Bound, Limits, refuse, shortened

__all__ = ["EnvelopeSummary", "Limits", "check_envelope", "read_manifest"]

UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
"""The 8-4-4-4-12 form only (RFC 9562 §4): the id becomes a file name."""

UID_MAX: Final = 64
"""Characters in a UID (PS3.5 §9.1)."""

HASH: Final = re.compile(r"(sha256|blake3):([0-9a-fA-F]{64})")
NOT_HASHED: Final = "sha256:skipped"
"""What jmix-rs writes as payload_hash when it was told not to hash."""


@dataclass(frozen=True, slots=True)
class EnvelopeSummary:
    """What a valid envelope says of itself.

    `id` is in lower case. `profile` is "harmony" or "published". `root` is "" or the single top
    folder with its slash; `payload` is the payload folder below it, without slashes around it.
    `members` are names as in the archive, folders left out; `instances` counts the DICOM files.
    """

    id: str
    profile: str
    studies: tuple[str, ...]
    members: tuple[str, ...]
    instances: int
    manifest: Mapping[str, Any]
    root: str
    payload: str


def check_envelope(
    file: BinaryIO, limits: Limits = DEFAULT_LIMITS, *, verify_hashes: bool = False
) -> EnvelopeSummary:
    """Checks an envelope; `file` is open for reading and seekable.

    With `verify_hashes` every member is read: listed hashes and `security.payload_hash` must match
    (the payload is read twice when its hash is in the form that jmix-rs writes). Raises
    EnvelopeError naming the member or key at fault, OSError when the file cannot be read.
    """
    archive = Archive(file, limits)
    root = _root(archive)
    manifest = _object(archive, f"{root}manifest.json", "max_manifest_bytes")
    envelope_id = _id(manifest)
    profile, payload = _profile(manifest)
    _refuse_encryption(manifest, archive, root)
    base = f"{root}{payload}/"
    metadata = _object(archive, f"{base}metadata.json", "max_metadata_bytes")
    if f"{base}files" in archive.folders and f"{base}files.json" not in archive.files:
        refuse(f"{base}files.json", f"is missing, yet there is {base}files/")
    hashes = _listing(manifest, archive, (root, base))
    if verify_hashes:
        _verify(archive, base, hashes, _payload_hash(manifest))
    return EnvelopeSummary(
        id=envelope_id,
        profile=profile,
        studies=_studies(metadata),
        members=tuple(archive.files),
        instances=sum(1 for name in archive.files if _is_instance(name, base)),
        manifest=manifest,
        root=root,
        payload=payload,
    )


def read_manifest(file: BinaryIO, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The bytes of manifest.json, as they are in the archive. Raises EnvelopeError, OSError."""
    archive = Archive(file, limits)
    return archive.read(f"{_root(archive)}manifest.json", "max_manifest_bytes")


# -- the documents -------------------------------------------------------------------------------


def _root(archive: Archive) -> str:
    """ "" or the single top folder (with its slash) that holds manifest.json."""
    if "manifest.json" in archive.files:
        return ""
    tops = {name.partition("/")[0] for name in archive.files}
    top = f"{tops.pop()}/" if len(tops) == 1 else ""
    if f"{top}manifest.json" not in archive.files:
        refuse("manifest.json", "is missing at the top level of the archive")
    return top


def _object(archive: Archive, name: str, bound: Bound) -> Mapping[str, Any]:
    """A member that is a JSON object."""
    try:
        found = orjson.loads(archive.read(name, bound))
    except orjson.JSONDecodeError as problem:
        refuse(name, f"is not JSON: {problem}")
    if not isinstance(found, dict):
        refuse(name, f"must be a JSON object, not {_kind(found)}")
    return found


def _id(manifest: Mapping[str, Any]) -> str:
    found = manifest.get("id")
    if found is None:
        refuse("manifest.json", 'has no "id"')
    if not isinstance(found, str) or not UUID.fullmatch(found):
        refuse("manifest.json", f'"id" must be a UUID, not {_shown(found)}')
    return found.lower()


def _profile(manifest: Mapping[str, Any]) -> tuple[str, str]:
    """The profile's name and the payload folder."""
    version = manifest.get("version")
    if isinstance(version, str) and version:
        return "published", "payload"
    if type(version) is not int or version != 1:
        told = f'"version" must be 1 or a text such as "1.0", not {_shown(version)}'
        refuse("manifest.json", told)
    if manifest.get("type") != "envelope":
        refuse("manifest.json", f'"type" must be "envelope", not {_shown(manifest.get("type"))}')
    content = manifest.get("content")
    if not isinstance(content, dict) or content.get("type") != "directory":
        refuse("manifest.json", '"content" must be {"type": "directory", "path": …}')
    path = content.get("path")
    if not isinstance(path, str) or not path.strip("/"):
        refuse("manifest.json", f'"content.path" must name a folder, not {_shown(path)}')
    return "harmony", path.removesuffix("/")


def _refuse_encryption(manifest: Mapping[str, Any], archive: Archive, root: str) -> None:
    security = manifest.get("security")
    if security is not None and not isinstance(security, dict):
        refuse("manifest.json", f'"security" must be an object, not {_kind(security)}')
    if not security or security.get("encryption") is None:
        return
    name = f"{root}payload.encrypted"
    if name not in archive.files:
        refuse(name, 'is missing, yet the manifest has "security.encryption"')
    hint = "Send the envelope to a server that holds the receiver's key."
    refuse(name, "decryption not available here", hint)


def _studies(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Study Instance UIDs: keys of the harmony map, or the published object's study_uid."""
    studies = metadata.get("studies")
    if studies is None:
        return ()
    if not isinstance(studies, dict):
        refuse("metadata.json", f'"studies" must be an object, not {_kind(studies)}')
    if "study_uid" not in studies and "series" not in studies:
        return tuple(_uid(uid) for uid in studies)
    uid = studies.get("study_uid")
    if uid is not None and not isinstance(uid, str):
        refuse("metadata.json", f'"studies.study_uid" must be a text, not {_kind(uid)}')
    return (_uid(uid),) if uid else ()


def _uid(text: str) -> str:
    if not 0 < len(text) <= UID_MAX:
        refuse("metadata.json", f'"studies" names {_shown(text)}, which is not a UID')
    return text


def _is_instance(name: str, base: str) -> bool:
    """Everything in the payload but its documents, attachments and previews."""
    if not name.startswith(base) or name.startswith((f"{base}files/", f"{base}preview/")):
        return False
    return name not in (f"{base}metadata.json", f"{base}files.json")


# -- sizes and hashes ----------------------------------------------------------------------------


def _listing(
    manifest: Mapping[str, Any], archive: Archive, bases: tuple[str, str]
) -> dict[str, str]:
    """The manifest's `files`: sizes are compared here; returns member → its hash, if it has one."""
    entries = manifest.get("files")
    if entries is None:
        return {}
    if not isinstance(entries, list):
        refuse("manifest.json", f'"files" must be an array, not {_kind(entries)}')
    hashes: dict[str, str] = {}
    for number, entry in enumerate(entries):
        key = f"files[{number}]"
        name = _listed_member(entry, key, archive, bases)
        size, held = entry.get("size_bytes"), archive.files[name].file_size
        if size is not None and size != held:
            refuse("manifest.json", f'"{key}" says {_shown(size)} bytes; {name} has {held}')
        if (found := entry.get("hash")) is not None:
            hashes[name] = _hash(found, f"{key}.hash")
    return hashes


def _listed_member(entry: object, key: str, archive: Archive, bases: tuple[str, str]) -> str:
    """The member an entry names: from the envelope's root, or from its payload."""
    path = entry.get("path", entry.get("file")) if isinstance(entry, dict) else None
    if not isinstance(path, str):
        refuse("manifest.json", f'"{key}" must be an object with a "path"')
    names = [f"{base}{path}" for base in bases if f"{base}{path}" in archive.files]
    if not names:
        refuse("manifest.json", f'"{key}" names {_shown(path)}, which is not in the archive')
    return names[0]


def _payload_hash(manifest: Mapping[str, Any]) -> str | None:
    found = (manifest.get("security") or {}).get("payload_hash")
    if found is None or found == NOT_HASHED:
        return None
    return _hash(found, "security.payload_hash")


def _hash(found: object, key: str) -> str:
    if not isinstance(found, str) or not HASH.fullmatch(found):
        refuse("manifest.json", f'"{key}" must be sha256:… or blake3:…, not {_shown(found)}')
    return found.lower()


def _verify(
    archive: Archive, base: str, hashes: Mapping[str, str], payload_hash: str | None
) -> None:
    """Reads every member once, so that each CRC-32 is compared too."""
    algorithm = (payload_hash or "").partition(":")[0]
    payload: list[Member] = []
    for name, info in archive.files.items():
        wanted_by, _, wanted = hashes.get(name, "").partition(":")
        inside = bool(algorithm) and name.startswith(base)
        algorithms = {wanted_by} - {""} | ({algorithm} if inside else set())
        digests = digest_of(archive.pieces(name), algorithms)
        if wanted and digests[wanted_by] != wanted:
            refuse(name, "does not match its hash in the manifest")
        if inside:
            payload.append(Member(name.removeprefix(base), info.file_size, digests[algorithm]))
    if not algorithm:
        return
    folders = [folder[len(base) :] for folder in archive.folders if folder.startswith(base)]
    forms = payload_hashes(algorithm, payload, folders, lambda path: archive.pieces(base + path))
    if not any(form == payload_hash for form in forms):
        refuse("manifest.json", '"security.payload_hash" does not match the payload')


# -- words ---------------------------------------------------------------------------------------


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def _shown(value: object) -> str:
    return shortened(orjson.dumps(value, default=str).decode())
