"""Makes the summary that `inspect` prints, as a value for JSON.

Wanted: everything that the documents state, right or wrong.
Guaranteed: reads the documents only, whatever is wrong with the rest; a document that cannot be
read is named in "problems". Patients are included: it is the caller's own file. Nothing is logged.
Still wrong: a large document makes a large summary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from fastjmix.errors import EnvelopeError
from fastjmix.jmix import strict_json
from fastjmix.jmix.limits import DEFAULT_LIMITS, Limits
from fastjmix.jmix.read.container import Envelope
from fastjmix.jmix.strict_json import JsonObject
from fastjmix.tools.envelope.opening import open_envelope

SIZE_MAX: Final = (1 << 63) - 1
"""The largest sum that is reported. The stated sizes may add up to more, which JSON writers
refuse."""


def summarise(source: Path | str, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """Returns the summary. Raises EnvelopeError when the source is no envelope, OSError."""
    with open_envelope(source, limits) as envelope:
        return _summary(Path(source), envelope)


def _summary(source: Path, envelope: Envelope) -> dict[str, Any]:
    problems: list[str] = []
    manifest = envelope.manifest
    security = _table(manifest.get("security"))
    summary = _identity(source, envelope) | _parties(manifest)
    if "classification" in security:
        summary["classification"] = security["classification"]
    extensions = _table(manifest.get("extensions"))
    if extensions:
        summary["extensions"] = dict(extensions)
    summary["payload_hash"] = security.get("payload_hash")
    summary["signature"] = _signature(envelope, security)
    summary["encryption"] = _encryption(envelope)
    summary |= _described(envelope, problems)
    summary["audit"] = _audit(envelope, problems)
    summary["problems"] = problems
    return summary


def _identity(source: Path, envelope: Envelope) -> dict[str, Any]:
    manifest, members = envelope.manifest, envelope.members
    payload = f"{envelope.payload}/"
    return {
        "id": envelope.id,
        "profile": envelope.dialect,
        "version": manifest.get("version", manifest.get("jmix_version")),
        "timestamp": manifest.get("timestamp", manifest.get("created_at")),
        "container": {
            "kind": "folder" if source.is_dir() else "zip",
            "top_folder": envelope.root.rstrip("/") or None,
            "size_bytes": sum(members.values()) if source.is_dir() else source.stat().st_size,
        },
        "members": len(members),
        "instances": len(envelope.instances),
        "payload_bytes": sum(size for name, size in members.items() if name.startswith(payload)),
    }


def _parties(manifest: JsonObject) -> dict[str, Any]:
    parties: dict[str, Any] = {
        role: _entity(manifest[role])
        for role in ("sender", "requester")
        if isinstance(manifest.get(role), dict)
    }
    receivers = manifest.get("receiver", manifest.get("receivers"))
    if isinstance(receivers, list):
        parties["receivers"] = [_entity(one) for one in receivers if isinstance(one, dict)]
    return parties


def _described(envelope: Envelope, problems: list[str]) -> dict[str, Any]:
    """Returns patient and studies of metadata.json; adds a problem when it cannot be read."""
    if envelope.encryption is not None:
        return {}
    try:
        metadata = envelope.metadata
    except EnvelopeError as fault:
        problems.append(fault.message)
        return {}
    patient = metadata.get("patient")
    described = {"patient": patient} if isinstance(patient, dict) else {}
    return {**described, "studies": _studies(envelope, metadata)}


def _entity(entity: JsonObject) -> dict[str, Any]:
    shown = {key: entity[key] for key in ("id", "name", "contact") if entity.get(key)}
    assertion = entity.get("assertion")
    if isinstance(assertion, dict):
        key = _table(assertion.get("signing_key"))
        shown["assertion"] = {
            "fingerprint": key.get("fingerprint"),
            "key_reference": assertion.get("key_reference"),
            "expires_at": assertion.get("expires_at"),
            "signed_fields": assertion.get("signed_fields"),
        }
    return shown


def _signature(envelope: Envelope, security: JsonObject) -> str | None:
    named = _table(security.get("jws")).get("jws_file")
    name = named if isinstance(named, str) else "manifest.jws"
    return name if name in envelope.members else None


def _encryption(envelope: Envelope) -> dict[str, Any] | None:
    fields = envelope.encryption
    if fields is None:
        return None
    name = envelope.ciphertext
    return {
        "algorithm": fields.get("algorithm"),
        "file": name,
        "size_bytes": envelope.members.get(name) if name is not None else None,
    }


def _studies(envelope: Envelope, metadata: JsonObject) -> list[dict[str, Any]]:
    studies = metadata.get("studies", metadata.get("study"))
    if not isinstance(studies, dict):
        return []
    uids = envelope.studies
    many = [studies[uid] for uid in uids if isinstance(studies.get(uid), dict)]
    found = list(zip(uids, many, strict=True)) if len(many) == len(uids) and many else []
    if not found:
        found = [(uids[0] if uids else "", studies)]
    return [_study(uid, study) for uid, study in found]


def _study(uid: str, study: JsonObject) -> dict[str, Any]:
    keys = ("patient_name", "study_date", "study_description", "description", "modality")
    shown: dict[str, Any] = {"study_uid": uid}
    shown |= {key: study[key] for key in keys if study.get(key)}
    series = study.get("series")
    listed = [one for one in series if isinstance(one, dict)] if isinstance(series, list) else []
    shown["series"] = [_series(one) for one in listed]
    return shown


def _series(series: JsonObject) -> dict[str, Any]:
    keys = ("series_uid", "modality", "series_number", "body_part", "description")
    shown = {key: series[key] for key in keys if series.get(key) not in (None, "")}
    instances = series.get("instances")
    if isinstance(instances, list):
        sizes = [one.get("size_bytes") for one in instances if isinstance(one, dict)]
        known = sum(size for size in sizes if type(size) is int)
        shown["size_bytes"] = min(known, SIZE_MAX)
    count = series.get("instance_count", len(instances) if isinstance(instances, list) else None)
    shown["instances"] = count
    return shown


def _audit(envelope: Envelope, problems: list[str]) -> list[Any]:
    if "audit.json" not in envelope.members:
        return []
    try:
        found = strict_json.parse(envelope.read("audit.json"), "audit.json")
    except EnvelopeError as fault:
        problems.append(fault.message)
        return []
    entries = found.get("audit") if isinstance(found, dict) else None
    return entries if isinstance(entries, list) else []


def _table(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}
