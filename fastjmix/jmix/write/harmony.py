"""Profile `harmony`: the tree and the JSON of Harmony's dicom-to-jmix pipeline.

    manifest.json                     the envelope's id; never anything about a patient
    payload/metadata.json             studies, series, instances
    payload/series_1/image_001.dcm    instances, numbered by arrival

Wanted: exactly the reference pipeline's documents, for a reader that knows no others.
Guaranteed: the reference's keys have the reference's types. Additions to them are only:
    manifest  timestamp; security.payload_hash unless skip_hashing; files unless skip_listing
    metadata  the elements of `series`, which the reference leaves open; `patient_conflict` and
              `patients` of a study whose instances name more than one patient
`files` lists every member under payload/, metadata.json included, with paths as in the archive: so
one list suffices to check all of the envelope but the manifest itself. A skipped key is absent,
never null and never a placeholder. A member's name contains nothing that a peer sent.
Still wrong: the manifest has no signature, so its digests guard against damage, not against a
forger.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from fastjmix.jmix.digests import File
from fastjmix.jmix.write import listing
from fastjmix.jmix.write.described import conflict_entry
from fastjmix.jmix.write.envelope import PAYLOAD, Contents, Document, Options, Series, Study
from fastjmix.jmix.write.payload_hash import payload_hash

NAME: Final = "harmony"
MANIFEST: Final = b"manifest.json"
METADATA: Final = b"payload/metadata.json"
DOCUMENTS: tuple[bytes, ...] = (MANIFEST, METADATA)


def member_name(series: int, image: int, _uid: str = "", _copy: int = 0) -> bytes:
    """Returns payload/series_<series>/image_<image>.dcm; the image has three digits, or more from
    1000."""
    return b"payload/series_%d/image_%03d.dcm" % (series, image)


def documents(contents: Contents, options: Options) -> tuple[Document, Document]:
    """Returns (manifest.json, payload/metadata.json), in the order of the central directory.

    Raises EnvelopeError when a digest that the options ask for is missing, OSError when the payload
    must be read again for its hash and cannot.
    """
    what = {
        "id": options.envelope_id,
        "studies": {uid: _study(study) for uid, study in contents.studies.items()},
    }
    metadata = Document(METADATA, orjson.dumps(what))
    manifest = orjson.dumps(_manifest(contents, options, metadata))
    return Document(MANIFEST, manifest), metadata


def _manifest(contents: Contents, options: Options, metadata: Document) -> dict[str, Any]:
    manifest: dict[str, Any] = {
        "id": options.envelope_id,
        "type": "envelope",
        "version": 1,
        "content": {"type": "directory", "path": PAYLOAD},
        "timestamp": listing.timestamp(options.sealed_at),
    }
    if options.skip_hashing and options.skip_listing:
        return manifest
    files = listing.files([metadata], contents, options)
    if not options.skip_hashing:
        manifest["security"] = {"payload_hash": payload_hash(files, [metadata], options)}
    if not options.skip_listing:
        manifest["files"] = [_entry(file, options) for file in files]
    return manifest


def _entry(file: File, options: Options) -> dict[str, Any]:
    entry: dict[str, Any] = {"path": f"{PAYLOAD}/{file.path}", "size_bytes": file.size}
    if file.digest:
        entry["hash"] = f"{options.digest}:{file.digest}"
    return entry


def _study(study: Study) -> dict[str, Any]:
    """Returns the reference's keys; a value that the data set does not have is empty."""
    return {
        "study_uid": study.study_uid,
        "patient_name": study.description.patient.patient_name,
        "study_date": study.description.study_date,
        "modality": study.modality,
        "series": [_series(series) for series in study.series.values()],
        **conflict_entry(study.description),
    }


def _series(series: Series) -> dict[str, Any]:
    described = series.description
    entry: dict[str, Any] = {"series_uid": series.series_uid, "modality": described.modality}
    if described.series_number is not None:
        entry["series_number"] = described.series_number
    if described.body_part:
        entry["body_part"] = described.body_part
    if described.series_description:
        entry["description"] = described.series_description
    entry["path"] = f"series_{series.number}"
    entry["instance_count"] = len(series.instances)
    entry["instances"] = [listing.instance_entry(instance) for instance in series.instances]
    return entry
