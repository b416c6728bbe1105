"""Verifies a payload that is not encrypted."""

from __future__ import annotations

from collections.abc import Iterator

from fastjmix.jmix.read.container import ENCRYPTED, instances
from fastjmix.jmix.read.documents import check_attachments
from fastjmix.jmix.read.listings import compare_listed
from fastjmix.jmix.read.member_digests import compare_payload, read_all
from fastjmix.jmix.read.payload import PayloadCheck
from fastjmix.jmix.read.subject import ABSENT


def verify_plain(check: PayloadCheck) -> None:
    """Reads every member once, and compares documents, sizes and hashes. Raises OSError."""
    subject, report, base = check.subject, check.report, check.base
    container = subject.container
    for name in ENCRYPTED:
        if subject.root + name in container.sizes:
            what = 'is there, yet the manifest has no "security.encryption"'
            subject.add_fault(subject.root + name, what)
    metadata = subject.document(f"{base}metadata.json", "max_metadata_bytes")
    files = ABSENT
    if f"{base}files.json" in container.sizes:
        files = subject.document(f"{base}files.json", "max_metadata_bytes")
    check_attachments(container, base, report.add_fault)
    listed = check.check_documents(metadata, files, container.sizes)
    promised = check.promised_hash()
    images = frozenset(instances(container.sizes, base))

    def inspected(name: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
        return check.inspected(name, pieces, is_instance=name in images)

    digests = read_all(
        container, base, listed, promised, report.add_fault, subject.count_bytes, inspected
    )
    compare_listed(listed, digests, report.add_fault)
    faults = len(report.faults)
    compare_payload(container, base, digests, promised, report.add_fault)
    if promised is None:
        return
    if any(name not in digests for name in container.sizes if name.startswith(base)):
        report.payload_hash = "not compared"
    else:
        report.payload_hash = "right" if len(report.faults) == faults else "wrong"
