"""Verifies an encrypted payload: without the key its ciphertext, with the key everything in it.

Guaranteed: the payload is decrypted piece by piece, and only after its tag was found right.
Still wrong: jmix-js's hash follows the sorted paths. It is not compared where the tar has another
order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.faults import ignore_fault
from fastjmix.jmix.read.container import ENCRYPTED, ciphertext_of, instances
from fastjmix.jmix.read.documents import check_attachments, security_of
from fastjmix.jmix.read.inside import Inside
from fastjmix.jmix.read.listings import compare_listed
from fastjmix.jmix.read.member_digests import counted, read_all
from fastjmix.jmix.read.payload import PayloadCheck

if TYPE_CHECKING:
    from fastjmix.jmix.keys import RecipientKey
    from fastjmix.jmix.write.encryption import Verified


class EncryptedPayloadCheck:
    """The checks of one encrypted payload."""

    def __init__(self, check: PayloadCheck) -> None:
        self._check = check
        self._subject = check.subject
        self._report = check.report
        self._fields: object = security_of(check.manifest, ignore_fault)["encryption"]
        self._ciphertext = ""

    def verify(self, key: RecipientKey | None) -> None:
        """Reads every member once; with `key` also what is encrypted. Raises OSError."""
        usable = self._find_ciphertext()
        promised = self._check.promised_hash()
        digests = read_all(
            self._subject.container,
            self._subject.root,
            [],
            "sha256:" if usable else None,
            self._report.add_fault,
            self._subject.count_bytes,
        )
        if not usable or self._ciphertext not in digests:
            return
        cipher_hash = f"sha256:{digests[self._ciphertext]['sha256']}"
        if key is None:
            self._compare_without_key(promised, cipher_hash)
            return
        try:
            verified, inside = self._decrypt(key)
        except EnvelopeError as fault:
            self._subject.add_fault(self._ciphertext, fault.message, fault.hint)
            return
        forms = {"php": cipher_hash, "rs": f"sha256:{verified.tar_sha256}", "js": inside.stream}
        self._check_inside(inside)
        self._compare(promised, cipher_hash, forms[verified.dialect])

    def _find_ciphertext(self) -> bool:
        """Finds the ciphertext and checks security.encryption; False, with a fault, for either."""
        from fastjmix.jmix.write import encryption

        container, root = self._subject.container, self._subject.root
        name = ciphertext_of(container.sizes, root)
        if name is None:
            what = 'is missing, yet the manifest has "security.encryption"'
            self._subject.add_fault(root + ENCRYPTED[0], what)
        for other in container.sizes:
            if other.startswith(self._check.base):
                self._subject.add_fault(other, "lies open beside the encrypted payload")
        try:
            encryption.check_fields(self._fields)
        except EnvelopeError as fault:
            self._report.add_fault(fault)
            return False
        self._ciphertext = name or ""
        return name is not None

    def _decrypt(self, key: RecipientKey) -> tuple[Verified, Inside]:
        """Compares the tag, then reads the decrypted members. Raises EnvelopeError, OSError."""
        from fastjmix.jmix.write import encryption

        verified = encryption.verify(None, key, self._fields, self._pieces)
        self._report.decrypted = True
        members = encryption.decrypt(verified, key, self._fields, self._pieces)
        return verified, Inside(self._inspected(members), self._check.base)

    def _pieces(self) -> Iterator[bytes]:
        return counted(self._subject.container.pieces(self._ciphertext), self._subject.count_bytes)

    def _inspected(
        self, members: Iterator[tuple[str, int, Iterator[bytes]]]
    ) -> Iterator[tuple[str, int, Iterator[bytes]]]:
        base = self._check.base
        for path, size, pieces in members:
            is_instance = bool(instances({base + path: size}, base))
            yield path, size, self._check.inspected(base + path, pieces, is_instance=is_instance)

    def _check_inside(self, inside: Inside) -> None:
        """Checks the decrypted payload's documents, sizes and listed hashes."""
        report, base = self._report, self._check.base
        for fault in inside.faults:
            report.add_fault(fault)
        name = f"{base}metadata.json"
        metadata = self._subject.parse(inside.documents.get(name), name)
        if name not in inside.sizes:
            self._subject.add_fault(name, "is missing")
        name = f"{base}files.json"
        files = self._subject.parse(inside.documents.get(name), name)
        check_attachments(inside, base, report.add_fault)
        listed = self._check.check_documents(metadata, files, inside.sizes)
        compare_listed(listed, inside.digests, report.add_fault)

    def _compare_without_key(self, promised: str | None, cipher_hash: str) -> None:
        if promised is None:
            return
        if promised == cipher_hash:
            self._report.payload_hash = "right"
            return
        self._report.payload_hash = "not compared"
        what = "is not that of the ciphertext: jmix-rs and jmix-js hash what is in it"
        self._report.add_remark("manifest.json", f'"security.payload_hash" {what}; give the key')

    def _compare(self, promised: str | None, cipher_hash: str, wanted: str | None) -> None:
        """Compares the promised hash with the ciphertext's, and with the dialect's form of it."""
        if promised is None:
            return
        if promised in (cipher_hash, wanted):
            self._report.payload_hash = "right"
        elif wanted is None:
            self._report.payload_hash = "not compared"
            what = "was not compared: the encrypted files are not in the order of their paths"
            self._report.add_remark("manifest.json", f'"security.payload_hash" {what}')
        else:
            self._report.payload_hash = "wrong"
            what = '"security.payload_hash" does not match the payload'
            self._subject.add_fault(f"{self._subject.root}manifest.json", what)
