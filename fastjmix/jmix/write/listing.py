"""Entries of the payload's files and instances in the documents of either profile.

Guaranteed: a value that is not known, or was skipped, has no key.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.digests import File
from fastjmix.jmix.write.envelope import BELOW, Contents, Document, Instance, Options
from fastjmix.jmix.write.payload_hash import hexadecimal


def files(documents: Iterable[Document], contents: Contents, options: Options) -> list[File]:
    """Returns every file of a payload: its documents, then the instances.

    Raises EnvelopeError when a digest that the options ask for is missing.
    """
    if options.skip_hashing:
        sizes = [
            *((document.name, len(document.data)) for document in documents),
            *((instance.name, instance.size) for instance in contents.instances()),
        ]
        return [File(name[BELOW:].decode(), size, "") for name, size in sizes]
    found = [
        File(
            document.name[BELOW:].decode(),
            len(document.data),
            hexadecimal(document.data, options.digest),
        )
        for document in documents
    ]
    found += [
        File(instance.name[BELOW:].decode(), instance.size, _digest(instance))
        for instance in contents.instances()
    ]
    return found


def _digest(instance: Instance) -> str:
    if instance.digest is None:
        raise EnvelopeError(
            f"{instance.name.decode()} has no digest",
            "This is a fault of fastjmix: hashing was asked for and not done.",
        )
    return instance.digest.hex()


def instance_entry(instance: Instance) -> dict[str, Any]:
    """Returns an element of a series' `instances` in metadata.json.

    `patient` counts from 1 in the study's `patients`; it is absent for the study's own patient, and
    for one that is not listed.
    """
    entry: dict[str, Any] = {
        "sop_instance_uid": instance.sop_instance_uid,
        "sop_class_uid": instance.sop_class_uid,
        "transfer_syntax_uid": instance.transfer_syntax_uid,
    }
    if instance.instance_number is not None:
        entry["instance_number"] = instance.instance_number
    entry["file"] = instance.name[BELOW:].decode()
    entry["size_bytes"] = instance.size
    if instance.conflict:
        entry["conflict"] = True
    if instance.patient:
        entry["patient_conflict"] = True
    if instance.patient > 0:
        entry["patient"] = instance.patient + 1
    if instance.fault:
        entry["malformed"] = instance.fault
    return entry


def timestamp(seconds: float) -> str:
    """Returns Unix seconds in the form of the documents (RFC 3339, UTC, whole seconds)."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
