"""Verifies the signatures of an envelope: manifest.jws, and the assertions of parties and audit.

Guaranteed: each signature that was looked at is in the report, right or wrong. A signature for
which there is no key is a remark.
Still wrong: whose key it is, only the caller can know (`public_key`).
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.faults import ignore_fault
from fastjmix.jmix.read.documents import security_of
from fastjmix.jmix.read.report import Signature
from fastjmix.jmix.read.subject import Subject
from fastjmix.jmix.strict_json import JsonObject

if TYPE_CHECKING:
    from fastjmix.jmix.write.assertions import AssertionResult

JWS: Final = "manifest.jws"
JWS_BYTES_MAX: Final = 24 << 20
"""manifest.jws: a manifest in base64, and a little more."""


class SignatureCheck:
    """The checks of one envelope's signatures, in the order in which verify.py calls them."""

    def __init__(self, subject: Subject, manifest: JsonObject) -> None:
        self._subject = subject
        self._report = subject.report
        self._manifest = manifest

    def check_parties(self, now: float) -> None:
        """Verifies the assertions of sender, requester and receivers; `now` in Unix seconds."""
        from fastjmix.jmix.write.assertions import verify_assertions

        self._add_results(verify_assertions(self._manifest, now), "manifest.json")

    def check_audit(self, audit: object) -> None:
        """Verifies the assertions of audit.json's entries."""
        from fastjmix.jmix.write.assertions import verify_audit

        if isinstance(audit, dict):
            found = verify_audit(audit, str(self._manifest.get("id")))
            self._add_results(found, "audit.json")

    def _add_results(self, results: list[AssertionResult], name: str) -> None:
        for one in results:
            self._report.signatures.append(
                Signature(one.role, one.ok, one.why, one.fingerprint, one.expires_at)
            )
            if not one.ok:
                where = f"{self._subject.root}{name}"
                self._subject.add_fault(where, f'"{one.role}.assertion": {one.why}')
            for path in one.unsigned:
                self._report.add_remark(name, f'"{one.role}.assertion" does not sign {path}')

    def check_manifest(self, manifest: bytes, public_key: bytes | None) -> None:
        """Verifies manifest.jws over these bytes of manifest.json.

        `public_key`: Ed25519, 32 bytes; then the signature must be there. Without it the sender's
        assertion names the key.
        """
        name = self._jws_name(must_exist=public_key is not None)
        if name is None:
            return
        key = public_key if public_key is not None else self._asserted_key()
        if key is None:
            self._report.add_remark(name, "was not verified: no public key was given")
            return
        self._verify(name, manifest, key)
        if public_key is None:
            what = (
                "was verified with the key in the envelope's own assertion; nobody vouches for it"
            )
            self._report.add_remark(name, what)

    def _jws_name(self, *, must_exist: bool) -> str | None:
        """Returns the signature's member; None when there is none, which may be a fault."""
        stated = security_of(self._manifest, ignore_fault).get("jws")
        named = stated.get("jws_file") if isinstance(stated, dict) else None
        name = self._subject.root + (named if isinstance(named, str) else JWS)
        if name not in self._subject.container.sizes:
            if stated is not None or must_exist:
                why = "the manifest names it" if stated is not None else "a signature is wanted"
                self._subject.add_fault(name, f"is missing, yet {why}")
            return None
        if stated is None:
            self._report.add_remark(name, "is not named in the manifest, as with jmix-rs")
        return name

    def _verify(self, name: str, manifest: bytes, key: bytes) -> None:
        from fastjmix.jmix.keys import fingerprint
        from fastjmix.jmix.write.signing import verify_manifest

        try:
            verify_manifest(self._read(name), manifest, key)
        except EnvelopeError as fault:
            why = fault.message.partition(": ")[2]
            self._subject.add_fault(name, why, fault.hint)
            found = Signature(JWS, False, why, fingerprint(key))
        else:
            found = Signature(JWS, True, "", fingerprint(key))
        self._report.signatures.append(found)

    def _read(self, name: str) -> bytes:
        container = self._subject.container
        if container.sizes[name] > JWS_BYTES_MAX:
            raise EnvelopeError(f"{name}: is larger than JWS_BYTES_MAX, {JWS_BYTES_MAX}")
        return b"".join(container.pieces(name))

    def _asserted_key(self) -> bytes | None:
        """Returns the public key in the sender's assertion; None unless that was found right."""
        if not any(one.what == "sender" and one.ok for one in self._report.signatures):
            return None
        signing_key = self._manifest["sender"]["assertion"]["signing_key"]
        return base64.b64decode(signing_key["public_key"])
