"""What the documents of either profile say of the payload's files, and of the instances in them.

Wanted: one place where an instance becomes an entry.
Guaranteed: what is not known, or was skipped, has no key.
Still wrong: nothing known.
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
    """Every file of a payload: its documents, then the instances.

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
    """An element of a series' `instances` in metadata.json.

    `patient` counts from 1 in the study's `patients`; it is absent for the study's own patient, and
    for one that is not listed.
    """
    shown: dict[str, Any] = {
        "sop_instance_uid": instance.sop_instance_uid,
        "sop_class_uid": instance.sop_class_uid,
        "transfer_syntax_uid": instance.transfer_syntax_uid,
    }
    if instance.instance_number is not None:
        shown["instance_number"] = instance.instance_number
    shown["file"] = instance.name[BELOW:].decode()
    shown["size_bytes"] = instance.size
    if instance.conflict:
        shown["conflict"] = True
    if instance.patient:
        shown["patient_conflict"] = True
    if instance.patient > 0:
        shown["patient"] = instance.patient + 1
    if instance.fault:
        shown["malformed"] = instance.fault
    return shown


def timestamp(seconds: float) -> str:
    """Unix seconds as documents write a time (RFC 3339, UTC, whole seconds)."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
