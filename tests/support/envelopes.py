"""Small envelopes for tests, made by the standard library's zipfile and nothing of ours."""

from __future__ import annotations

import io
import json
import uuid
import zipfile
from typing import Any

ID = "550e8400-e29b-41d4-a716-446655440000"
STUDY = "1.2.3.4.5.6"
IMAGE = "payload/series_1/image_001.dcm"
HARMONY = {
    "id": ID,
    "type": "envelope",
    "version": 1,
    "content": {"type": "directory", "path": "payload"},
}
METADATA = {"id": ID, "studies": {STUDY: {"study_uid": STUDY, "series": []}}}
PUBLISHED = {"id": ID, "version": "1.0", "timestamp": "2024-01-15T10:00:00Z"}


def members(**changes: Any) -> dict[str, bytes]:
    """A small valid envelope; `manifest` and `metadata` are updated, other keys are ignored."""
    manifest = {**HARMONY, **changes.get("manifest", {})}
    metadata = {**METADATA, **changes.get("metadata", {})}
    return {
        "manifest.json": json.dumps({k: v for k, v in manifest.items() if v is not None}).encode(),
        "payload/metadata.json": json.dumps(metadata).encode(),
        IMAGE: b"DICM" * 10,
    }


def zipped(content: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)  # the same bytes at any time
    return buffer.getvalue()


def envelope_members(
    envelope_id: str | None = None, study: str = STUDY, image: bytes = b"DICM"
) -> dict[str, bytes]:
    """The members of a valid harmony envelope; a new id unless one is given."""
    named = {"id": envelope_id or str(uuid.uuid4())}
    studies = {study: {"study_uid": study, "series": []}}
    content = members(manifest=named, metadata={**named, "studies": studies})
    return content | {IMAGE: image}


def envelope(envelope_id: str | None = None, study: str = STUDY, image: bytes = b"DICM") -> bytes:
    """The bytes of a valid harmony envelope; a new id unless one is given."""
    return zipped(envelope_members(envelope_id, study, image))
