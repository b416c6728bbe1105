"""Statements of manifest.json and metadata.json, each checked when it is asked for.

Guaranteed: a function reports each fault to `on_fault`, which may raise it, and returns None or an
empty value where the statement cannot be used. Nothing is believed of a value's type.
Still wrong: only what a receiver acts on is asked here; the full rules are in rules.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from fastjmix.jmix.faults import Fault, OnFault
from fastjmix.jmix.ids import canonical_id
from fastjmix.jmix.read.rules import excerpt, type_name
from fastjmix.jmix.strict_json import JsonObject

UID_MAX: Final = 128
"""Characters of a Study Instance UID: twice what PS3.5 §9.1 allows, as `tolerate_uids` does."""
STUDIES_MAX: Final = 1000
"""Studies of one envelope: each is an entry of an index, and of the record beside the archive."""
NOT_HASHED: Final = "sha256:skipped"
"""The payload_hash that jmix-rs writes when hashing was switched off."""


# -- manifest.json -------------------------------------------------------------------------------


def identity(manifest: JsonObject, on_fault: OnFault) -> str | None:
    """Returns the envelope's id in lower case."""
    found = manifest.get("id")
    if found is None:
        on_fault(Fault("manifest.json", 'has no "id"'))
        return None
    envelope_id = canonical_id(found) if isinstance(found, str) else None
    if envelope_id is None:
        on_fault(Fault("manifest.json", f'"id" must be a UUID, not {excerpt(found)}'))
    return envelope_id


def profile_of(manifest: JsonObject, on_fault: OnFault) -> tuple[str, str] | None:
    """Returns the profile's name and the payload folder, without a slash at its end."""
    version = manifest.get("version")
    if isinstance(version, str) and version:
        return "jmix-1.0", "payload"
    if type(version) is not int or version != 1:
        what = f'"version" must be 1 or a text such as "1.0", not {excerpt(version)}'
    elif manifest.get("type") != "envelope":
        what = f'"type" must be "envelope", not {excerpt(manifest.get("type"))}'
    else:
        content = manifest.get("content")
        path = content.get("path") if isinstance(content, dict) else None
        if not isinstance(content, dict) or content.get("type") != "directory":
            what = '"content" must be {"type": "directory", "path": …}'
        elif not isinstance(path, str) or not path.strip("/"):
            what = f'"content.path" must name a folder, not {excerpt(path)}'
        else:
            return "harmony", path.removesuffix("/")
    on_fault(Fault("manifest.json", what))
    return None


def security_of(manifest: JsonObject, on_fault: OnFault) -> JsonObject:
    """Returns the manifest's `security`; empty when it has none."""
    security = manifest.get("security")
    if security is not None and not isinstance(security, dict):
        on_fault(Fault("manifest.json", f'"security" must be an object, not {type_name(security)}'))
    return security if isinstance(security, dict) else {}


# -- metadata.json and the payload's files -------------------------------------------------------


class Tree(Protocol):
    """Files and folders of a payload, in an archive or decrypted."""

    @property
    def sizes(self) -> Mapping[str, int]: ...
    @property
    def folders(self) -> set[str]: ...


def check_attachments(container: Tree, base: str, on_fault: OnFault) -> None:
    """Reports a payload that has files/ and no files.json."""
    if f"{base}files" in container.folders and f"{base}files.json" not in container.sizes:
        on_fault(Fault(f"{base}files.json", f"is missing, yet there is {base}files/"))


def studies_of(metadata: JsonObject, on_fault: OnFault) -> tuple[str, ...]:
    """Returns the Study Instance UIDs: the keys of the harmony map, or the published study_uid."""
    studies = metadata.get("studies")
    if studies is None:
        return ()
    if not isinstance(studies, dict):
        on_fault(Fault("metadata.json", f'"studies" must be an object, not {type_name(studies)}'))
        return ()
    if "study_uid" not in studies and "series" not in studies:
        found = tuple(studies)
    else:
        uid = studies.get("study_uid")
        if uid is not None and not isinstance(uid, str):
            what = f'"studies.study_uid" must be a text, not {type_name(uid)}'
            on_fault(Fault("metadata.json", what))
        found = (uid,) if uid and isinstance(uid, str) else ()
    if len(found) > STUDIES_MAX:
        what = f'"studies" names more than STUDIES_MAX, {STUDIES_MAX}, studies'
        on_fault(Fault("metadata.json", what))
        return ()
    for uid in found:
        if not 0 < len(uid) <= UID_MAX:
            on_fault(Fault("metadata.json", f'"studies" names {excerpt(uid)}, which is not a UID'))
    return found


def described_instances(metadata: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    """Yields (path in the document, entry) of each instance in the series of metadata.json."""
    studies = metadata.get("studies")
    if not isinstance(studies, dict):
        return
    many = [(f"studies.{uid}", study) for uid, study in studies.items() if isinstance(study, dict)]
    for at, study in many or [("studies", studies)]:
        series = study.get("series")
        for number, one in enumerate(series if isinstance(series, list) else ()):
            found = one.get("instances") if isinstance(one, dict) else None
            for place, instance in enumerate(found if isinstance(found, list) else ()):
                if isinstance(instance, dict):
                    yield f"{at}.series[{number}].instances[{place}]", instance
