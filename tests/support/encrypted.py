"""Small encrypted envelopes, each in the form of one JMIX library."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from fastjmix.jmix import keys
from fastjmix.jmix.write import encryption
from fastjmix.jmix.write.tarball import Plain
from tests.support.envelopes import ID, PUBLISHED, STUDY
from tests.support.sealed import sealed

RECIPIENT = keys.recipient_key(bytes(range(1, 33)), "test")
STRANGER = keys.recipient_key(bytes(32 * [9]), "test")


def encrypted_members(
    dialect: str = "php", envelope_id: str = ID, study: str = STUDY
) -> dict[str, bytes]:
    """Returns the members of an envelope for RECIPIENT; its payload's hash is of the dialect's
    kind.
    """
    metadata = {"id": envelope_id, "studies": {"study_uid": study, "series": []}}
    inside = {"dicom/1.dcm": b"DICM" * 300, "metadata.json": json.dumps(metadata).encode()}
    plains = [Plain(name, len(data), partial(list, [data])) for name, data in inside.items()]
    secret: list[bytes] = []
    done = encryption.encrypt(dialect, RECIPIENT.public, plains, secret.append)
    stream = hashlib.sha256(b"".join(n.encode() + b"\n" + inside[n] for n in sorted(inside)))
    digest = {"php": done.sha256, "rs": done.tar_sha256, "js": stream.hexdigest()}[dialect]
    security = {"payload_hash": f"sha256:{digest}", "encryption": done.fields}
    manifest = {**PUBLISHED, "id": envelope_id, "security": security}
    return {
        "manifest.json": json.dumps(manifest).encode(),
        encryption.encrypted_name(dialect): b"".join(secret),
    }


def encrypted_envelope(dialect: str = "php", envelope_id: str = ID) -> bytes:
    """Returns its archive."""
    return sealed(encrypted_members(dialect, envelope_id))


def changed(content: Mapping[str, bytes], **fields: Any) -> dict[str, bytes]:
    """Returns the members with other fields in the manifest's security.encryption."""
    manifest = json.loads(content["manifest.json"])
    manifest["security"]["encryption"] |= fields
    return {**content, "manifest.json": json.dumps(manifest).encode()}
