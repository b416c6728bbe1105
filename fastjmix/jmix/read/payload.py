"""Checks that a plain and a decrypted payload share: documents, listings, the promised hash, and
the data sets in the instances.

Guaranteed: a check adds to the report, and raises nothing for a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from fastjmix.jmix.faults import ignore_fault
from fastjmix.jmix.read import rules
from fastjmix.jmix.read.container import instances
from fastjmix.jmix.read.documents import NOT_HASHED, described_instances, security_of, studies_of
from fastjmix.jmix.read.listings import Listed, listing, manifest_listing, payload_hash_of
from fastjmix.jmix.read.subject import ABSENT, Subject
from fastjmix.jmix.strict_json import JsonObject


class Inspection(Protocol):
    """Checks an instance's file while its pieces are read. `end` returns what is wrong with it, and
    "" when nothing is."""

    def feed(self, piece: bytes, /) -> None: ...
    def end(self) -> str: ...


class PayloadCheck:
    """The checks of one payload. `base` is its folder with its slash; names begin with it.

    `inspect` makes the Inspection of an instance; None: data sets are not checked.
    """

    def __init__(
        self,
        subject: Subject,
        manifest: JsonObject,
        base: str,
        inspect: Callable[[], Inspection] | None,
    ) -> None:
        self.subject = subject
        self.report = subject.report
        self.manifest = manifest
        self.base = base
        self._inspect = inspect

    def promised_hash(self) -> str | None:
        """Returns security.payload_hash as "algorithm:hex"; None, with a remark, without one."""
        report = self.report
        promised = payload_hash_of(self.manifest, report.add_fault)
        if security_of(self.manifest, ignore_fault).get("payload_hash") == NOT_HASHED:
            report.payload_hash = "skipped"
            report.add_remark("manifest.json", f'"security.payload_hash" is {NOT_HASHED}')
        elif promised is None:
            report.add_remark("manifest.json", "there is no security.payload_hash")
        return promised

    def inspected(
        self, name: str, pieces: Iterator[bytes], *, is_instance: bool
    ) -> Iterator[bytes]:
        """Yields the pieces of a member. After the last, reports what is wrong with an instance."""
        if self._inspect is None or not is_instance:
            yield from pieces
            return
        inspection = self._inspect()
        for piece in pieces:
            inspection.feed(piece)
            yield piece
        if fault := inspection.end():
            self.subject.add_fault(name, fault, at=self.subject.container.offset(name))

    def check_documents(
        self, metadata: object, files: object, sizes: Mapping[str, int]
    ) -> list[Listed]:
        """Checks metadata.json and files.json by their rules, and returns what is listed.

        A document may be ABSENT. `sizes`: bytes of each member by name.
        """
        report = self.report
        if metadata is not ABSENT:
            self._check_metadata(metadata, sizes)
        report.instances = len(instances(sizes, self.base))
        bases = (self.subject.root, self.base)
        listed = manifest_listing(self.manifest, sizes, bases, report.add_fault)
        if files is not ABSENT:
            name = f"{self.base}files.json"
            self.subject.check_rule(rules.FILES, files, name)
            if isinstance(files, list):
                listed += listing(files, name, "", sizes, (self.base,), report.add_fault)
        report.hashes = sum(one.hash is not None for one in listed)
        self._check_unlisted(listed, sizes)
        return listed

    def _check_metadata(self, metadata: object, sizes: Mapping[str, int]) -> None:
        name = f"{self.base}metadata.json"
        published = self.report.profile == "jmix-1.0"
        rule = rules.METADATA if published else rules.HARMONY_METADATA
        self.subject.check_rule(rule, metadata, name)
        if isinstance(metadata, dict):
            self.report.studies = studies_of(metadata, self.report.add_fault)
            found = metadata.get("id")
            if isinstance(found, str) and self.report.id and found.lower() != self.report.id:
                self.report.add_remark(name, '"id" is another than that of the manifest')
            self._check_described(metadata, name, sizes)

    def _check_described(self, metadata: JsonObject, name: str, sizes: Mapping[str, int]) -> None:
        """Checks that each file that metadata.json describes is there and has the stated size."""
        for where, instance in described_instances(metadata):
            path = instance.get("file")
            if not isinstance(path, str):
                continue
            held = sizes.get(f"{self.base}{path}")
            size = instance.get("size_bytes")
            if held is None:
                what = f"names {rules.excerpt(path)}, which is not in the payload"
                self.subject.add_fault(name, f'"{where}.file" {what}')
            elif size is not None and size != held:
                what = f"says {rules.excerpt(size)} bytes; {path} has {held}"
                self.subject.add_fault(name, f'"{where}.size_bytes" {what}')

    def _check_unlisted(self, listed: Iterable[Listed], sizes: Mapping[str, int]) -> None:
        """Remarks the instances that a listing leaves out, though it names others."""
        named = {one.member for one in listed}
        images = instances(sizes, self.base)
        if named.isdisjoint(images):
            return
        for name in images:
            if name not in named:
                self.report.add_remark(name, "is in no listing, though others are")
