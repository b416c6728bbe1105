"""Everything that can be said against an envelope, each fault with its place.

Wanted: one run tells an author all there is to mend, and a receiver what was proved and what not.
Guaranteed: every byte of every member is read and compared with its CRC-32, its listed hash and the
payload's hash. A change of any one byte of a sealed envelope is found, except in the fields of ZIP
headers that say nothing about a member's data: time, attributes, versions, unused flags. The documents
are held against the published rules (or the reference's), manifest.jws and assertions against their
keys, an encrypted payload against its tag, and, with the key, against its own hashes, in a stream.
Memory does not grow with the size of members, only with their number.
Still wrong: what nobody hashed is protected by CRC-32 alone, which is for accidents. jmix-js's hash
of an encrypted payload goes by sorted path: where its tar is in another order, it is not compared.
Whether a key belongs to whom it claims is for the reader to know.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

from fastjmix.errors import EnvelopeError
from fastjmix.jmix import strict_json
from fastjmix.jmix.faults import Fault, foreseen
from fastjmix.jmix.limits import Bound, Limits
from fastjmix.jmix.read import rules
from fastjmix.jmix.read.admission import (
    NOT_HASHED,
    Listed,
    check_attachments,
    compare_listed,
    compare_payload,
    identity,
    listing,
    manifest_listing,
    payload_hash_of,
    profile_of,
    read_all,
    security_of,
    studies_of,
    watched,
)
from fastjmix.jmix.read.container import (
    ENCRYPTED,
    Container,
    ciphertext_of,
    described_instances,
    instances,
    root_of,
)
from fastjmix.jmix.read.inside import Inside
from fastjmix.jmix.read.portable_names import clashes
from fastjmix.jmix.read.report import Report, Signature
from fastjmix.jmix.read.rules import kind
from fastjmix.jmix.read.unzip import Archive

if TYPE_CHECKING:
    from fastjmix.jmix.keys import RecipientKey
    from fastjmix.jmix.write.assertions import AssertionResult


JWS: Final = "manifest.jws"
ABSENT: Final = object()
"""No document: JSON has a null of its own."""
JWS_BYTES_MAX: Final = 24 << 20
"""manifest.jws: a manifest in base64, and a little more."""


class Inspection(Protocol):
    """Looks into an instance's file. `end` says what is wrong with it; "": nothing."""

    def feed(self, piece: bytes, /) -> None: ...
    def end(self) -> str: ...


class Verification:
    """One verification. `faults_told` is entered first; then a ZIP or a container is judged.

    `public_key` (Ed25519, 32 bytes): then manifest.jws must be there and be signed with it. `key`
    decrypts the payload. `now` (Unix seconds) is what expiries are compared with. `seen` hears how
    many bytes went by. `inspect` makes what looks into each instance.
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
    def faults_told(self) -> Iterator[None]:
        """Puts a fault with which the envelope cannot be read any further into the report."""
        try:
            with foreseen():
                yield
        except EnvelopeError as fault:
            self.report.tell(fault)

    def judge_zip(self, file: BinaryIO, limits: Limits) -> None:
        """Judges a ZIP. Raises EnvelopeError, OSError."""
        archive = Archive(file, limits, self.report.tell)
        self.judge(archive)

    def judge(self, container: Container) -> None:
        """Judges what is in a container. Raises EnvelopeError, OSError."""
        judge = _Judge(self.report, container, self._heard, self._inspect)
        judge.judge(self._public_key, self._key, self._now)

    def _heard(self, size: int) -> None:
        self.report.bytes_read += size
        self._seen(size)


class _Judge:
    """The questions in their order, each with what the ones before it found."""

    def __init__(
        self,
        report: Report,
        container: Container,
        heard: Callable[[int], object],
        inspect: Callable[[], Inspection] | None,
    ) -> None:
        self._inspect = inspect
        self._report = report
        self._tell = report.tell
        self._container = container
        self._heard = heard
        self._root = root_of(container) or ""
        self._manifest_bytes = b""

    def judge(self, public_key: bytes | None, key: RecipientKey | None, now: float) -> None:
        container, report = self._container, self._report
        report.members = len(container.sizes)
        for name, what in clashes(container.sizes):
            self._tell(Fault(name, what, at=container.offset(name)))
        manifest = self._manifest()
        if manifest is None:
            read_all(container, "", [], None, self._tell, self._heard)
            return
        profile, payload = self._profile(manifest)
        report.profile = profile
        base = f"{self._root}{payload}/"
        self._signatures(manifest, public_key, now)
        self._audit(manifest)
        self._strangers(base)
        if security_of(manifest, lambda _: None).get("encryption") is not None:
            report.encrypted = True
            self._encrypted(manifest, base, key)
        else:
            if key is not None:
                report.remark("manifest.json", "the payload is not encrypted; the key was not used")
            self._plain(manifest, base)

    # -- the root's documents ------------------------------------------------------------------

    def _document(self, name: str, bound: Bound) -> Any:
        """A document's value; ABSENT when it is not there or is no JSON, which is told already."""
        try:
            data = self._container.read(name, bound)
            if name == f"{self._root}manifest.json":
                self._manifest_bytes = data
            return strict_json.parse(data, name, self._container.offset(name))
        except EnvelopeError as fault:
            self._tell(fault)
            return ABSENT

    def _rule(self, rule: rules.Rule, value: object, name: str) -> None:
        for key, what in rules.broken(rule, value, name):
            self._tell(Fault(name, what if key == name else f"{key} {what}"))

    def _manifest(self) -> Mapping[str, Any] | None:
        name = f"{self._root}manifest.json"
        found = self._document(name, "max_manifest_bytes")
        if found is not ABSENT and not isinstance(found, dict):
            self._tell(Fault(name, f"must be a JSON object, not {kind(found)}"))
        return found if isinstance(found, dict) else None

    def _profile(self, manifest: Mapping[str, Any]) -> tuple[str, str]:
        self._report.id = identity(manifest, self._tell) or ""
        found = profile_of(manifest, self._tell)
        if found is None:
            return "", "payload"
        profile, payload = found
        rule = rules.MANIFEST if profile == "jmix-1.0" else rules.HARMONY_MANIFEST
        skipped = security_of(manifest, lambda _: None).get("payload_hash") == NOT_HASHED
        name = f"{self._root}manifest.json"
        for key, what in rules.broken(rule, manifest, name):
            if skipped and key == '"security.payload_hash"':
                continue  # a remark, later
            self._tell(Fault(name, f"{key} {what}"))
        return profile, payload

    def _audit(self, manifest: Mapping[str, Any]) -> None:
        name = f"{self._root}audit.json"
        if name in self._container.sizes:
            found = self._document(name, "max_metadata_bytes")
            if found is not ABSENT:
                self._rule(rules.AUDIT, found, name)
                self._signed_entries(found, manifest)
        elif self._report.profile == "jmix-1.0":
            self._report.remark(name, "is missing; jmix-php does not read an envelope without it")

    def _strangers(self, base: str) -> None:
        known = {"manifest.json", JWS, "audit.json", *ENCRYPTED}
        for name in self._container.sizes:
            if name.removeprefix(self._root) not in known and not name.startswith(base):
                self._report.remark(name, "is no part of an envelope")

    # -- signatures ----------------------------------------------------------------------------

    def _signatures(self, manifest: Mapping[str, Any], public: bytes | None, now: float) -> None:
        from fastjmix.jmix.write.assertions import verify_assertions

        self._assertions(verify_assertions(manifest, now), "manifest.json")
        self._jws(manifest, public)

    def _signed_entries(self, audit: object, manifest: Mapping[str, Any]) -> None:
        from fastjmix.jmix.write.assertions import verify_audit

        if isinstance(audit, dict):
            self._assertions(verify_audit(audit, str(manifest.get("id"))), "audit.json")

    def _assertions(self, judged: list[AssertionResult], name: str) -> None:
        for one in judged:
            self._report.signatures.append(
                Signature(one.role, one.ok, one.why, one.fingerprint, one.expires_at)
            )
            if not one.ok:
                self._tell(Fault(f"{self._root}{name}", f'"{one.role}.assertion": {one.why}'))
            for path in one.unsigned:
                self._report.remark(name, f'"{one.role}.assertion" does not sign {path}')

    def _jws(self, manifest: Mapping[str, Any], public: bytes | None) -> None:
        from fastjmix.jmix.keys import fingerprint
        from fastjmix.jmix.write.signing import verify_manifest

        said = security_of(manifest, lambda _: None).get("jws")
        named = said.get("jws_file") if isinstance(said, dict) else None
        name = self._root + (named if isinstance(named, str) else JWS)
        if name not in self._container.sizes:
            if said is not None or public is not None:
                asked = "the manifest names it" if said is not None else "a signature is wanted"
                self._tell(Fault(name, f"is missing, yet {asked}"))
            return
        if said is None:
            self._report.remark(name, "is not named in the manifest, as with jmix-rs")
        vouched = public is not None
        public = public if public is not None else self._asserted_key(manifest)
        if public is None:
            self._report.remark(name, "was not verified: no public key was given")
            return
        try:
            verify_manifest(self._small(name), self._manifest_bytes, public)
        except EnvelopeError as fault:
            told = fault.message.partition(": ")[2]
            self._tell(Fault(name, told, fault.hint))
            found = Signature(JWS, False, told, fingerprint(public))
        else:
            found = Signature(JWS, True, "", fingerprint(public))
        self._report.signatures.append(found)
        if not vouched:
            told = (
                "was verified with the key in the envelope's own assertion; nobody vouches for it"
            )
            self._report.remark(name, told)

    def _small(self, name: str) -> bytes:
        if self._container.sizes[name] > JWS_BYTES_MAX:
            raise EnvelopeError(f"{name}: is larger than JWS_BYTES_MAX, {JWS_BYTES_MAX}")
        return b"".join(self._container.pieces(name))

    def _asserted_key(self, manifest: Mapping[str, Any]) -> bytes | None:
        """The sender's own key, where its assertion is right."""
        import base64

        good = {one.what for one in self._report.signatures if one.ok}
        if "sender" not in good:
            return None
        return base64.b64decode(manifest["sender"]["assertion"]["signing_key"]["public_key"])

    # -- the payload as it is ------------------------------------------------------------------

    def _plain(self, manifest: Mapping[str, Any], base: str) -> None:
        container, report = self._container, self._report
        for name in ENCRYPTED:
            if self._root + name in container.sizes:
                told = 'is there, yet the manifest has no "security.encryption"'
                self._tell(Fault(self._root + name, told))
        metadata = self._document(f"{base}metadata.json", "max_metadata_bytes")
        files: Any = ABSENT
        if f"{base}files.json" in container.sizes:
            files = self._document(f"{base}files.json", "max_metadata_bytes")
        check_attachments(container, base, self._tell)
        listed = self._payload_documents(manifest, metadata, files, base, container.sizes)
        promised = self._promised(manifest)
        images = frozenset(instances(container.sizes, base))
        digests = read_all(
            container,
            base,
            listed,
            promised,
            self._tell,
            self._heard,
            lambda name, pieces: self._looked_into(name, pieces, name in images),
        )
        compare_listed(listed, digests, self._tell)
        faults = len(report.faults)
        compare_payload(container, base, digests, promised, self._tell)
        if promised is None:
            return
        if any(name not in digests for name in container.sizes if name.startswith(base)):
            report.payload_hash = "not compared"
        else:
            report.payload_hash = "right" if len(report.faults) == faults else "wrong"

    def _looked_into(
        self, name: str, pieces: Iterator[bytes], is_instance: bool
    ) -> Iterator[bytes]:
        """The pieces; what is wrong with an instance is told when it is over."""
        if self._inspect is None or not is_instance:
            yield from pieces
            return
        inspection = self._inspect()
        for piece in pieces:
            inspection.feed(piece)
            yield piece
        if fault := inspection.end():
            self._tell(Fault(name, fault, at=self._container.offset(name)))

    def _payload_documents(
        self,
        manifest: Mapping[str, Any],
        metadata: Any,
        files: Any,
        base: str,
        sizes: Mapping[str, int],
    ) -> list[Listed]:
        """metadata.json and the listings, held against their rules; gives what is listed."""
        published = self._report.profile == "jmix-1.0"
        if metadata is not ABSENT:
            name = f"{base}metadata.json"
            rule = rules.METADATA if published else rules.HARMONY_METADATA
            self._rule(rule, metadata, name)
            if isinstance(metadata, dict):
                self._report.studies = studies_of(metadata, self._tell)
                self._same_id(metadata, name)
                self._instances_of(metadata, name, base, sizes)
        self._report.instances = len(instances(sizes, base))
        listed = manifest_listing(manifest, sizes, (self._root, base), self._tell)
        if files is not ABSENT:
            name = f"{base}files.json"
            self._rule(rules.FILES, files, name)
            if isinstance(files, list):
                listed += listing(files, name, "", sizes, (base,), self._tell)
        self._report.hashes = sum(one.hash is not None for one in listed)
        self._unlisted(listed, base, sizes)
        return listed

    def _same_id(self, metadata: Mapping[str, Any], name: str) -> None:
        found = metadata.get("id")
        if isinstance(found, str) and self._report.id and found.lower() != self._report.id:
            self._report.remark(name, '"id" is another than that of the manifest')

    def _instances_of(
        self, metadata: Mapping[str, Any], name: str, base: str, sizes: Mapping[str, int]
    ) -> None:
        """What metadata says of single files, where it does: that they are there, and how large."""
        for where, instance in described_instances(metadata):
            path = instance.get("file")
            if not isinstance(path, str):
                continue
            held = sizes.get(f"{base}{path}")
            size = instance.get("size_bytes")
            if held is None:
                told = f"names {rules.shown(path)}, which is not in the payload"
                self._tell(Fault(name, f'"{where}.file" {told}'))
            elif size is not None and size != held:
                told = f"says {rules.shown(size)} bytes; {path} has {held}"
                self._tell(Fault(name, f'"{where}.size_bytes" {told}'))

    def _unlisted(self, listed: Iterable[Listed], base: str, sizes: Mapping[str, int]) -> None:
        """Instances that a listing leaves out, though it names others."""
        named = {one.member for one in listed}
        images = instances(sizes, base)
        if named.isdisjoint(images):
            return
        for name in images:
            if name not in named:
                self._report.remark(name, "is in no listing, though others are")

    def _promised(self, manifest: Mapping[str, Any]) -> str | None:
        report = self._report
        promised = payload_hash_of(manifest, self._tell)
        if security_of(manifest, lambda _: None).get("payload_hash") == NOT_HASHED:
            report.payload_hash = "skipped"
            report.remark("manifest.json", f'"security.payload_hash" is {NOT_HASHED}')
        elif promised is None:
            report.remark("manifest.json", "there is no security.payload_hash")
        return promised

    # -- the payload encrypted -----------------------------------------------------------------

    def _encrypted(self, manifest: Mapping[str, Any], base: str, key: RecipientKey | None) -> None:
        from fastjmix.jmix.write import encryption

        container, report = self._container, self._report
        fields = security_of(manifest, lambda _: None)["encryption"]
        name = ciphertext_of(container.sizes, self._root)
        if name is None:
            told = 'is missing, yet the manifest has "security.encryption"'
            self._tell(Fault(self._root + ENCRYPTED[0], told))
        for other in container.sizes:
            if other.startswith(base):
                self._tell(Fault(other, "lies open beside the encrypted payload"))
        try:
            encryption.check_fields(fields)
        except EnvelopeError as fault:
            self._tell(fault)
            name = None
        promised = self._promised(manifest)
        digests = read_all(
            container, self._root, [], "sha256:" if name else None, self._tell, self._heard
        )
        if name is None or name not in digests:
            return
        cipher = f"sha256:{digests[name]['sha256']}"
        if key is None:
            report.payload_hash = self._without_key(promised, cipher)
            return

        def pieces() -> Iterator[bytes]:
            return watched(container.pieces(name), self._heard)

        try:
            verified = encryption.verify(None, key, fields, pieces)
            report.decrypted = True
            inside = Inside(self._members(verified, key, fields, pieces, base), base)
        except EnvelopeError as fault:
            self._tell(Fault(name, fault.message, fault.hint))
            return
        forms = {"php": cipher, "rs": f"sha256:{verified.tar_sha256}", "js": inside.stream}
        self._decrypted(manifest, base, inside)
        self._compare_encrypted(promised, cipher, forms[verified.dialect])

    def _members(
        self, verified: Any, key: RecipientKey, fields: Any, pieces: Any, base: str
    ) -> Any:
        """The decrypted members, each looked into if it is an instance."""
        from fastjmix.jmix.write import encryption

        for path, size, inner in encryption.decrypt(verified, key, fields, pieces):
            is_instance = bool(instances({base + path: size}, base))
            yield path, size, self._looked_into(base + path, inner, is_instance)

    def _without_key(self, promised: str | None, cipher: str) -> str:
        if promised is None:
            return self._report.payload_hash
        if promised == cipher:
            return "right"
        told = "is not that of the ciphertext: jmix-rs and jmix-js hash what is in it"
        self._report.remark("manifest.json", f'"security.payload_hash" {told}; give the key')
        return "not compared"

    def _compare_encrypted(self, promised: str | None, cipher: str, wanted: str | None) -> None:
        report = self._report
        if promised is None:
            return
        if promised in (cipher, wanted):
            report.payload_hash = "right"
        elif wanted is None:
            report.payload_hash = "not compared"
            told = "was not compared: the encrypted files are not in the order of their paths"
            report.remark("manifest.json", f'"security.payload_hash" {told}')
        else:
            report.payload_hash = "wrong"
            told = '"security.payload_hash" does not match the payload'
            self._tell(Fault(f"{self._root}manifest.json", told))

    def _decrypted(self, manifest: Mapping[str, Any], base: str, inside: Inside) -> None:
        def parsed(name: str) -> Any:
            data = inside.documents.get(name)
            try:
                return ABSENT if data is None else strict_json.parse(data, name)
            except EnvelopeError as fault:
                self._tell(fault)
                return ABSENT

        for fault in inside.faults:
            self._tell(fault)
        metadata = parsed(f"{base}metadata.json")
        if f"{base}metadata.json" not in inside.sizes:
            self._tell(Fault(f"{base}metadata.json", "is missing"))
        files = parsed(f"{base}files.json")
        check_attachments(inside, base, self._tell)
        listed = self._payload_documents(manifest, metadata, files, base, inside.sizes)
        compare_listed(listed, inside.digests, self._tell)
