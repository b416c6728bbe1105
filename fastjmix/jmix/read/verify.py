"""Finds everything that is wrong with an envelope, each fault with its place.

Wanted: one run names everything that an author has to correct, and says to a receiver what was
verified and what was not.
Guaranteed: every byte of every member is read and compared with its CRC-32, its listed hash and the
payload's hash. A change of any one byte of a sealed envelope is found, except in the fields of ZIP
headers that say nothing about a member's data: time, attributes, versions, unused flags. The
documents are checked by the published rules (or the reference's), manifest.jws and assertions by
their keys, an encrypted payload by its tag, and with the key by its own hashes, in a stream. Memory
does not grow with the size of members, only with their number.
Still wrong: bytes that no hash covers are protected by CRC-32 alone, which finds accidents only.
Only the reader can know whether a key belongs to its alleged owner.

    signatures.py         manifest.jws and assertions
    plain_payload.py      a payload that is not encrypted; payload.py: its documents and listings
    encrypted_payload.py  an encrypted payload
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.faults import Fault, foreseen, ignore_fault
from fastjmix.jmix.limits import Limits
from fastjmix.jmix.read import rules
from fastjmix.jmix.read.container import ENCRYPTED, Container, root_of
from fastjmix.jmix.read.documents import NOT_HASHED, identity, profile_of, security_of
from fastjmix.jmix.read.encrypted_payload import EncryptedPayloadCheck
from fastjmix.jmix.read.member_digests import read_all
from fastjmix.jmix.read.payload import Inspection, PayloadCheck
from fastjmix.jmix.read.plain_payload import verify_plain
from fastjmix.jmix.read.portable_names import clashes
from fastjmix.jmix.read.report import Report
from fastjmix.jmix.read.rules import type_name
from fastjmix.jmix.read.signatures import JWS, SignatureCheck
from fastjmix.jmix.read.subject import ABSENT, Subject
from fastjmix.jmix.read.unzip import Archive
from fastjmix.jmix.strict_json import JsonObject

if TYPE_CHECKING:
    from fastjmix.jmix.keys import RecipientKey


class Verification:
    """One verification of a ZIP or a container, with its report.

    `public_key` (Ed25519, 32 bytes): manifest.jws must be there and be signed with it. `key`
    decrypts the payload. `now` (Unix seconds) is compared with expiries. `seen` gets the size of
    each piece that was read. `inspect` makes the Inspection of an instance.
    """

    def __init__(
        self,
        *,
        public_key: bytes | None = None,
        key: RecipientKey | None = None,
        now: float | None = None,
        seen: Callable[[int], object] = lambda _: None,
        inspect: Callable[[], Inspection] | None = None,
    ) -> None:
        self.report = Report()
        self._public_key = public_key
        self._key = key
        self._now = time.time() if now is None else now
        self._seen = seen
        self._inspect = inspect

    @contextlib.contextmanager
    def collecting_faults(self) -> Iterator[None]:
        """Adds an EnvelopeError of the block to the report. The caller opens and verifies in it."""
        try:
            with foreseen():
                yield
        except EnvelopeError as fault:
            self.report.add_fault(fault)

    def verify_zip(self, file: BinaryIO, limits: Limits) -> None:
        """Verifies a ZIP. Raises EnvelopeError when its structure cannot be read, OSError."""
        self.verify_container(Archive(file, limits, self.report.add_fault))

    def verify_container(self, container: Container) -> None:
        """Verifies an open ZIP or folder. Raises OSError."""
        report = self.report
        subject = Subject(container, root_of(container) or "", report, self._count_bytes)
        report.members = len(container.sizes)
        for name, what in clashes(container.sizes):
            subject.add_fault(name, what, at=container.offset(name))
        name = f"{subject.root}manifest.json"
        data = subject.read_document(name, "max_manifest_bytes")
        manifest = _manifest(subject, data, name)
        if data is None or manifest is None:
            read_all(container, "", [], None, report.add_fault, self._count_bytes)
            return
        report.profile, payload = _check_manifest(subject, manifest, name)
        base = f"{subject.root}{payload}/"
        signatures = SignatureCheck(subject, manifest)
        signatures.check_parties(self._now)
        signatures.check_manifest(data, self._public_key)
        _check_audit(subject, signatures)
        _remark_unknown_members(subject, base)
        self._verify_payload(PayloadCheck(subject, manifest, base, self._inspect))

    def _verify_payload(self, check: PayloadCheck) -> None:
        if security_of(check.manifest, ignore_fault).get("encryption") is not None:
            self.report.encrypted = True
            EncryptedPayloadCheck(check).verify(self._key)
            return
        if self._key is not None:
            what = "the payload is not encrypted; the key was not used"
            self.report.add_remark("manifest.json", what)
        verify_plain(check)

    def _count_bytes(self, size: int) -> None:
        self.report.bytes_read += size
        self._seen(size)


def _manifest(subject: Subject, data: bytes | None, name: str) -> JsonObject | None:
    at = None if data is None else subject.container.offset(name)
    found = subject.parse(data, name, at)
    if isinstance(found, dict):
        return found
    if found is not ABSENT:
        subject.add_fault(name, f"must be a JSON object, not {type_name(found)}")
    return None


def _check_manifest(subject: Subject, manifest: JsonObject, name: str) -> tuple[str, str]:
    """Checks the manifest by its profile's rules; returns the profile and the payload's folder."""
    report = subject.report
    report.id = identity(manifest, report.add_fault) or ""
    found = profile_of(manifest, report.add_fault)
    if found is None:
        return "", "payload"
    profile, payload = found
    rule = rules.MANIFEST if profile == "jmix-1.0" else rules.HARMONY_MANIFEST
    skipped = security_of(manifest, ignore_fault).get("payload_hash") == NOT_HASHED
    for key, what in rules.broken(rule, manifest, name):
        if skipped and key == '"security.payload_hash"':
            continue  # payload.py adds a remark
        report.add_fault(Fault(name, f"{key} {what}"))
    return profile, payload


def _check_audit(subject: Subject, signatures: SignatureCheck) -> None:
    name = f"{subject.root}audit.json"
    if name in subject.container.sizes:
        found = subject.document(name, "max_metadata_bytes")
        if found is not ABSENT:
            subject.check_rule(rules.AUDIT, found, name)
            signatures.check_audit(found)
    elif subject.report.profile == "jmix-1.0":
        what = "is missing; jmix-php does not read an envelope without it"
        subject.report.add_remark(name, what)


def _remark_unknown_members(subject: Subject, base: str) -> None:
    known = {"manifest.json", JWS, "audit.json", *ENCRYPTED}
    for name in subject.container.sizes:
        if name.removeprefix(subject.root) not in known and not name.startswith(base):
            subject.report.add_remark(name, "is no part of an envelope")
