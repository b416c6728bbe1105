"""Profile `harmony`: the tree and the JSON of Harmony's dicom-to-jmix pipeline.

    manifest.json                     who the envelope is; never anything about a patient
    payload/metadata.json             studies, series, instances
    payload/series_1/image_001.dcm    instances, numbered by arrival

Wanted: what the reference pipeline's document shows, exactly, for a reader that knows only that.
Guaranteed: the reference's keys have the reference's types. Beyond them stand only additions:
    manifest  timestamp; security.payload_hash unless skip_hashing; files unless skip_listing
    metadata  the elements of `series`, which the reference leaves open
`files` lists every member under payload/, metadata.json included, with paths as in the archive: so
one list suffices to check all of the envelope but the manifest itself. A skipped key is absent,
never null and never a placeholder. Nothing that a peer sent enters a member's name.
Still wrong: the manifest has no signature, so its digests guard against damage, not against a
forger.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from blake3 import blake3

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.envelope import Contents, Document, Instance, Options, Series, Study

NAME: Final = "harmony"
MANIFEST: Final = b"manifest.json"
PAYLOAD: Final = "payload"
METADATA: Final = b"payload/metadata.json"

_below: Final = len(PAYLOAD) + 1  # where a path relative to the payload begins


def member_name(series: int, image: int, _uid: str = "", _copy: int = 0) -> bytes:
    """payload/series_<series>/image_<image>.dcm; the image has three digits, or more from 1000."""
    return b"payload/series_%d/image_%03d.dcm" % (series, image)


def documents(contents: Contents, options: Options) -> tuple[Document, Document]:
    """(manifest.json, payload/metadata.json), in the order of the central directory.

    Raises EnvelopeError when a digest that the options ask for is missing.
    """
    metadata = orjson.dumps(
        {
            "id": options.envelope_id,
            "studies": {uid: _study(study) for uid, study in contents.studies.items()},
        }
    )
    manifest = orjson.dumps(_manifest(contents, options, metadata))
    return Document(MANIFEST, manifest), Document(METADATA, metadata)


def payload_hash(files: list[tuple[str, int, str]], digest: str) -> str:
    """The TREE hash over (path relative to payload/, size in bytes, lowercase hex digest).

    One line a file, "file:<path>:<size>:<hex>", and one a directory, "dir:<path>"; sorted by
    path as bytes; each ended by a newline; hashed once more with `digest`.
    """
    lines = {path: f"file:{path}:{size}:{hexadecimal}\n" for path, size, hexadecimal in files}
    for path, _, _ in files:
        parent = path.rpartition("/")[0]
        while parent and parent not in lines:
            lines[parent] = f"dir:{parent}\n"
            parent = parent.rpartition("/")[0]
    # Code points order as their UTF-8 does.
    text = "".join([lines[path] for path in sorted(lines)])
    return f"{digest}:{_hexadecimal(text.encode(), digest)}"


def _hexadecimal(data: bytes, digest: str) -> str:
    return blake3(data).hexdigest() if digest == "blake3" else hashlib.sha256(data).hexdigest()


def _manifest(contents: Contents, options: Options, metadata: bytes) -> dict[str, Any]:
    sealed_at = datetime.fromtimestamp(options.sealed_at, UTC)
    manifest: dict[str, Any] = {
        "id": options.envelope_id,
        "type": "envelope",
        "version": 1,
        "content": {"type": "directory", "path": PAYLOAD},
        "timestamp": sealed_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if options.skip_hashing:
        if not options.skip_listing:
            sizes = [(METADATA, len(metadata)), *((i.name, i.size) for i in contents.instances())]
            manifest["files"] = [
                {"path": name.decode(), "size_bytes": size} for name, size in sizes
            ]
        return manifest
    digest = options.digest
    files = [("metadata.json", len(metadata), _hexadecimal(metadata, digest))]
    files += [
        (instance.name[_below:].decode(), instance.size, _digest(instance))
        for instance in contents.instances()
    ]
    manifest["security"] = {"payload_hash": payload_hash(files, digest)}
    if not options.skip_listing:
        manifest["files"] = [
            {"path": f"{PAYLOAD}/{path}", "size_bytes": size, "hash": f"{digest}:{hexadecimal}"}
            for path, size, hexadecimal in files
        ]
    return manifest


def _digest(instance: Instance) -> str:
    if instance.digest is None:
        raise EnvelopeError(
            f"{instance.name.decode()} has no digest",
            "This is a fault of fastjmix: hashing was asked for and not done.",
        )
    return instance.digest.hex()


def _study(study: Study) -> dict[str, Any]:
    """The reference's keys: always there, empty when the data set does not say."""
    return {
        "study_uid": study.study_uid,
        "patient_name": study.description.patient_name,
        "study_date": study.description.study_date,
        "modality": study.description.modality,
        "series": [_series(series) for series in study.series.values()],
    }


def _series(series: Series) -> dict[str, Any]:
    described = series.description
    shown: dict[str, Any] = {"series_uid": series.series_uid, "modality": described.modality}
    if described.series_number is not None:
        shown["series_number"] = described.series_number
    if described.body_part:
        shown["body_part"] = described.body_part
    if described.series_description:
        shown["description"] = described.series_description
    shown["path"] = f"series_{series.number}"
    shown["instance_count"] = len(series.instances)
    shown["instances"] = [_instance(instance) for instance in series.instances]
    return shown


def _instance(instance: Instance) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "sop_instance_uid": instance.sop_instance_uid,
        "sop_class_uid": instance.sop_class_uid,
        "transfer_syntax_uid": instance.transfer_syntax_uid,
    }
    if instance.instance_number is not None:
        shown["instance_number"] = instance.instance_number
    shown["file"] = instance.name[_below:].decode()
    shown["size_bytes"] = instance.size
    if instance.conflict:
        shown["conflict"] = True
    return shown
