"""Profile `jmix-1.0`: the layout and the documents of the published JMIX 1.0 (beta 3).

    manifest.json                     parties and protection; never anything about a patient
    manifest.jws                      its signature, where there is a key
    audit.json                        the envelope's history so far: it was created
    payload/metadata.json             the patient, the study, its series and instances
    payload/files.json                every other file of the payload, unless skip_listing
    payload/dicom/<SOP Instance UID>.dcm

Wanted: documents that the published schemas accept, whatever the data sets contain and whatever is
skipped, and which jmix-rs, jmix-js and jmix-php read.
Guaranteed: a value that is not known is absent: no null, no empty text, no empty table, except the
two texts that the schemas require (`patient.id` is then "UNKNOWN", a modality "OT"). Additions to
the schemas are only in the series and in the extensions of metadata.json (the patients, where the
instances name several), which the schemas leave open. Digests are SHA-256. A UID becomes a file's
name only if it is digits between dots, 64 characters at most; any other instance is named by its
numbers. Neither can be the other, and a second instance of one UID has its count behind "_", which
no UID contains.
Still wrong: a value that the schemas have no key for (the study's date) is only in the instances.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any, Final

import orjson

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.digests import File
from fastjmix.jmix.write.described import Patient, conflict_entry
from fastjmix.jmix.write.envelope import Contents, Document, Options, Series, Study
from fastjmix.jmix.write.listing import files, instance_entry, timestamp
from fastjmix.jmix.write.parties import AssertionSettings, ContactPoint, Entity, Published, Signing
from fastjmix.jmix.write.payload_hash import payload_hash

if TYPE_CHECKING:
    from fastjmix.jmix.keys import SigningKey

NAME: Final = "jmix-1.0"
VERSION: Final = "1.0"
MANIFEST: Final = b"manifest.json"
SIGNATURE: Final = b"manifest.jws"
AUDIT: Final = b"audit.json"
METADATA: Final = b"payload/metadata.json"
FILES: Final = b"payload/files.json"
DOCUMENTS: tuple[bytes, ...] = (MANIFEST, SIGNATURE, AUDIT, METADATA, FILES)

UID_MAX: Final = 64  # characters (PS3.5 §9.1)
AUDIT_FIELDS: Final = ("event", "by.id", "timestamp", "manifest.id")
NO_PATIENT_ID: Final = "UNKNOWN"
NO_MODALITY: Final = "OT"  # "other" (PS3.3 §C.7.3.1.1.1)

_uid: Final = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_da: Final = re.compile(r"[0-9]{8}")
_sexes: Final = ("M", "F", "O")


def member_name(series: int, image: int, sop_instance_uid: str, copy: int) -> bytes:
    """Returns payload/dicom/<SOP Instance UID>.dcm, with "_2" and so on for further instances."""
    if len(sop_instance_uid) > UID_MAX or not _uid.fullmatch(sop_instance_uid):
        return b"payload/dicom/instance_%d_%d.dcm" % (series, image)
    uid = sop_instance_uid.encode()
    return b"payload/dicom/%b_%d.dcm" % (uid, copy + 1) if copy else b"payload/dicom/%b.dcm" % uid


def documents(contents: Contents, options: Options) -> tuple[Document, ...]:
    """Returns the documents at the root, then those in the payload.

    Raises EnvelopeError when there are two studies, no parties, or a digest is missing; OSError
    where the payload must be read again for its hash.
    """
    inside = payload_documents(contents, options)
    found = None
    if not options.skip_hashing:
        found = payload_hash(files(inside, contents, options), inside, options)
    return (*root_documents(options, found), *inside)


def payload_documents(contents: Contents, options: Options) -> list[Document]:
    """Returns payload/metadata.json, and payload/files.json unless it is skipped."""
    metadata = Document(METADATA, orjson.dumps(_metadata(contents, options)))
    if options.skip_listing:
        return [metadata]
    listed = [_entry(file) for file in files([metadata], contents, options)]
    return [metadata, Document(FILES, orjson.dumps(listed))]


def root_documents(
    options: Options, payload_hash: str | None, encryption: Mapping[str, str] | None = None
) -> list[Document]:
    """Returns manifest.json, manifest.jws and audit.json, for a payload whose hash is known.

    `payload_hash` None: hashing is skipped. `encryption`: the manifest's fields of that name.
    Raises EnvelopeError without parties, ConfigError when a field that is to be signed is missing.
    """
    published = _parties(options)
    manifest = _manifest(published, options, payload_hash, encryption)
    _assert_entities(manifest, published, options)
    text = orjson.dumps(manifest)
    found = [Document(MANIFEST, text)]
    if published.signing is not None:
        found.append(Document(SIGNATURE, _signed(text, options.keys[published.signing.key_file])))
    audit = orjson.dumps({"audit": [_created(published, options)]})
    return [*found, Document(AUDIT, audit)]


# -- manifest.json and audit.json ----------------------------------------------------------------


def _parties(options: Options) -> Published:
    if options.published is None:
        raise EnvelopeError(
            "an envelope of profile jmix-1.0 has no sender and no receiver",
            "This is a fault of fastjmix: the configuration is checked for them.",
        )
    return options.published


def _manifest(
    published: Published,
    options: Options,
    payload_hash: str | None,
    encryption: Mapping[str, str] | None,
) -> dict[str, Any]:
    manifest: dict[str, Any] = {
        "version": VERSION,
        "id": options.envelope_id,
        "timestamp": timestamp(options.sealed_at),
        "sender": _entity(published.sender),
    }
    if published.requester is not None:
        manifest["requester"] = _entity(published.requester)
    manifest["receiver"] = [_entity(receiver) for receiver in published.receivers]
    security = _known(
        classification=published.classification,
        payload_hash=payload_hash,
        jws={"jws_file": SIGNATURE.decode()} if published.signing is not None else None,
        encryption=encryption,
    )
    consent = published.consent
    extensions = _known(
        custom_tags=published.custom_tags,
        consent=None
        if consent is None
        else _known(
            status=consent.status,
            scope=consent.scope,
            method=consent.method,
            signed_on=consent.signed_on,
        ),
        deid={"keys": published.deid} if published.deid else None,
    )
    return manifest | _known(security=security, extensions=extensions)


def _entity(entity: Entity) -> dict[str, Any]:
    contact = entity.contact
    if isinstance(contact, ContactPoint):
        reached: Any = {"system": contact.system, "value": contact.value}
    else:
        reached = contact
    return {"id": entity.id, **_known(name=entity.name, contact=reached)}


def _created(published: Published, options: Options) -> dict[str, Any]:
    by = {"id": published.sender.id, **_known(name=published.sender.name)}
    entry = {"event": "created", "by": by, "timestamp": timestamp(options.sealed_at)}
    if published.signing is not None and published.signing.audit:
        entry["assertion"] = _audit_assertion(entry, published.signing, options)
    return entry


# -- signatures: cryptography costs some 60 ms to import, so it is imported for signing only ------


def _signed(manifest: bytes, key: SigningKey) -> bytes:
    from fastjmix.jmix.write import signing

    return signing.sign_manifest(manifest, key)


def _audit_assertion(entry: Mapping[str, Any], by: Signing, options: Options) -> dict[str, Any]:
    from fastjmix.jmix.write import assertions

    named = ("by.name",) if "name" in entry["by"] else ()
    settings = AssertionSettings(by.key_file, fields=(*AUDIT_FIELDS, *named))
    key = options.keys[by.key_file]
    return assertions.audit_assertion(entry, options.envelope_id, settings, key)


def _assertion(
    manifest: Mapping[str, Any], role: str, settings: AssertionSettings, options: Options
) -> dict[str, Any]:
    from fastjmix.jmix.write import assertions

    key = options.keys[settings.key_file]
    return assertions.assertion(manifest, role, settings, key, options.sealed_at)


def _assert_entities(manifest: dict[str, Any], published: Published, options: Options) -> None:
    """Adds each entity's assertion. All are made from the manifest without any assertion."""
    roles = {"sender": published.sender}
    if published.requester is not None:
        roles["requester"] = published.requester
    roles |= {f"receiver.{number}": one for number, one in enumerate(published.receivers)}
    made = {
        role: _assertion(manifest, role, entity.assertion, options)
        for role, entity in roles.items()
        if entity.assertion is not None
    }
    for role, assertion in made.items():
        name, _, number = role.partition(".")
        entity = manifest[name][int(number)] if number else manifest[name]
        entity["assertion"] = assertion


# -- the payload's documents ---------------------------------------------------------------------


def _metadata(contents: Contents, options: Options) -> dict[str, Any]:
    if len(contents.studies) != 1:
        raise EnvelopeError(
            f"profile jmix-1.0 holds one study, not {len(contents.studies)}",
            "Make an envelope of each study.",
        )
    (study,) = contents.studies.values()
    return {
        "version": VERSION,
        "id": options.envelope_id,
        "timestamp": timestamp(options.sealed_at),
        "patient": _patient(study.description.patient),
        "studies": _study(study),
        **_known(extensions=conflict_entry(study.description)),
    }


def _patient(described: Patient) -> dict[str, Any]:
    sex = described.patient_sex
    return {
        "id": described.patient_id or NO_PATIENT_ID,
        **_known(
            name=_name(described.patient_name),
            dob=_birth_date(described.patient_birth_date),
            sex=sex if sex in _sexes else None,
        ),
    }


def _name(text: str) -> dict[str, Any]:
    """Returns the parts of a PN (PS3.5 §6.2.1.1), of its first group that is not empty; {} for
    none."""
    group = next((group for group in text.split("=") if group.strip("^ ")), "")
    family, given, middle, prefix, suffix, *_ = [part.strip() for part in group.split("^")] + 5 * [
        ""
    ]
    parts = _known(
        family=family, given=[part for part in (given, middle) if part], prefix=prefix,
        suffix=suffix,
    )  # fmt: skip
    return {**parts, "text": text} if parts else {}


def _birth_date(text: str) -> str | None:
    """Returns a DA (PS3.5 §6.2) in the schema's form; None when it is no day."""
    if not _da.fullmatch(text):
        return None
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:])).isoformat()
    except ValueError:
        return None


def _study(study: Study) -> dict[str, Any]:
    return {
        **_known(study_description=study.description.study_description),
        "study_uid": study.study_uid,
        "series": [_series(series) for series in study.series.values()],
    }


def _series(series: Series) -> dict[str, Any]:
    described = series.description
    return {
        "series_uid": series.series_uid,
        "modality": described.modality or NO_MODALITY,
        **_known(
            series_number=described.series_number,
            body_part=described.body_part,
            description=described.series_description,
        ),
        "instance_count": len(series.instances),
        "instances": [instance_entry(instance) for instance in series.instances],
    }


def _entry(file: File) -> dict[str, Any]:
    entry: dict[str, Any] = {"file": file.path}
    if file.digest:
        entry["hash"] = f"sha256:{file.digest}"
    entry["size_bytes"] = file.size
    return entry


# -- values --------------------------------------------------------------------------------------


def _known(**values: Any) -> dict[str, Any]:
    """Returns the values that are neither None nor empty. Zero is neither."""
    return {key: value for key, value in values.items() if value or value == 0}
