"""Makes an envelope of another one's instances, in another profile.

Wanted: everything that a person has to correct is named at once.
Guaranteed: new hashes are made only after every hash of the source was compared; each that is wrong
is named. Everything that the new envelope cannot hold (a file that is no DICOM file, an instance
that is not understood, an attachment, a preview) is named, and then no envelope is made, unless the
caller gives `leave_out`. The envelope is complete or absent.
Still wrong: heads of all instances are read before the first is packed, and kept (some KB each).

A converted envelope gets a new id, because the bytes of an id never change: with the old one, a
server that has the original would refuse this envelope as known, and take its hashes for damage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fastjmix.dicom.dataset import read_file_meta
from fastjmix.dicom.head import Found, stream_head
from fastjmix.errors import EnvelopeError, FastjmixError
from fastjmix.jmix import strict_json
from fastjmix.jmix.limits import DEFAULT_LIMITS, Limits
from fastjmix.jmix.read import listings, member_digests, rules
from fastjmix.jmix.read.container import Envelope
from fastjmix.jmix.read.report import Report
from fastjmix.jmix.strict_json import JsonObject
from fastjmix.jmix.write.parties import Consent, ContactPoint, Entity, Published
from fastjmix.tools.envelope.building import (
    Built,
    IncompleteError,
    Instance,
    NotUnderstood,
    Seen,
    instance_of,
    make,
)
from fastjmix.tools.envelope.opening import open_envelope
from fastjmix.tools.envelope.output import target_of
from fastjmix.tools.envelope.recipe import BuildError, PathLike, Recipe, check_recipe

if TYPE_CHECKING:
    from fastjmix.tools.send import Skipped

META_BYTES: Final = 1 << 16
"""File Meta Information of a member, with whatever private information is in it."""

NO_INSTANCE: Final = "only DICOM instances are converted"


def convert(
    source: PathLike,
    out: PathLike,
    recipe: Recipe,
    *,
    force: bool = False,
    leave_out: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    skipped: Callable[[Skipped], object] = lambda _: None,
    seen: Seen = lambda _: None,
) -> list[Built]:
    """Makes an envelope of another's instances, in another profile; it gets a new id.

    Documents are made anew from the data sets; signatures and the audit trail are the old
    envelope's and stay with it. IncompleteError names everything in the payload that cannot be
    carried, unless `leave_out`; `skipped` is called with each in either case. `out` and the errors
    are as for `build`; EnvelopeError also names every member that is not as it is listed.
    """
    with open_envelope(source, limits) as envelope:
        if recipe.profile != "harmony" and recipe.published is None:
            recipe = replace(recipe, published=_parties(envelope))
        if envelope.encryption is not None:
            hint = "Decrypt it first."
            raise BuildError(f"{source}: is encrypted", hint)
        check_recipe(recipe)
        check_hashes(envelope)
        instances, left_out = instances_of(envelope)
        for one in left_out:
            skipped(one)
        if left_out and not leave_out:
            raise IncompleteError(left_out)
        if not instances:
            raise BuildError(f"{source}: holds no DICOM instance")
        with target_of(out) as target:
            return make(instances, target, recipe, force, seen)


def check_hashes(envelope: Envelope) -> None:
    """Compares every listed hash and the payload's, before others are made in their place.

    Raises EnvelopeError that names each member which is not as it is listed, OSError.
    """
    container, base = envelope.container, f"{envelope.root}{envelope.payload}/"
    bases, report = (envelope.root, base), Report()
    listed = listings.manifest_listing(envelope.manifest, container.sizes, bases, report.add_fault)
    name = f"{base}files.json"
    if name in container.sizes:
        entries = _files_json(envelope, name, report)
        listed += listings.listing(entries, name, "", container.sizes, (base,), report.add_fault)
    promised = listings.payload_hash_of(envelope.manifest, report.add_fault)
    digests = member_digests.read_all(container, base, listed, promised, report.add_fault)
    listings.compare_listed(listed, digests, report.add_fault)
    report.raise_faults()  # a wrong member makes the payload's hash wrong, too: one fault suffices
    member_digests.compare_payload(container, base, digests, promised, report.add_fault)
    report.raise_faults()


def _files_json(envelope: Envelope, name: str, report: Report) -> list[Any]:
    """Returns the entries of files.json; none where it is no array or cannot be read."""
    try:
        found = strict_json.parse(envelope.container.read(name, "max_metadata_bytes"), name)
    except EnvelopeError as fault:
        report.add_fault(fault)
        return []
    return found if isinstance(found, list) else []


def _parties(envelope: Envelope) -> Published | None:
    return parties_of(envelope.manifest) if envelope.dialect == "jmix-1.0" else None


def instances_of(envelope: Envelope) -> tuple[list[Instance], list[Skipped]]:
    """Returns the instances for the new envelope, and everything else in the payload. Raises
    OSError."""
    instances: list[Instance] = []
    left_out: list[Skipped] = []
    for name in envelope.instances:
        try:
            instances.append(_instance(envelope, name))
        except NotUnderstood as why:
            left_out.append(_skipped(name, str(why)))
    base = f"{envelope.payload}/"
    known = {f"{base}metadata.json", f"{base}files.json", *envelope.instances}
    more = [name for name in envelope.members if name.startswith(base) and name not in known]
    return instances, [*left_out, *(_skipped(name, NO_INSTANCE) for name in more)]


def _skipped(name: str, why: str) -> Skipped:
    from fastjmix.tools.send import Skipped

    return Skipped(Path(name), why)


def _instance(envelope: Envelope, name: str) -> Instance:
    """Raises NotUnderstood, EnvelopeError, OSError."""

    def pieces() -> Iterator[bytes]:
        return envelope.pieces(name)

    try:
        meta, offset = read_file_meta(_first(pieces(), META_BYTES))
    except FastjmixError as problem:
        raise NotUnderstood(f"is not a DICOM file: {problem.message}") from None
    uids = (meta["sop_class_uid"], meta["sop_instance_uid"], meta["transfer_syntax_uid"])

    def read(offset: int, _: int, syntax: str) -> Found:
        return stream_head(pieces(), offset, syntax)

    return instance_of(name, envelope.members[name], offset, uids, pieces, read)


def _first(pieces: Iterable[bytes], length: int) -> bytes:
    found = bytearray()
    for piece in pieces:
        found += piece
        if len(found) >= length:
            break
    return bytes(found[:length])


def parties_of(manifest: JsonObject) -> Published | None:
    """Returns the parties of a published manifest, without their assertions, which would be wrong.

    Returns None when it names no sender or no receiver.
    """
    receivers = manifest.get("receiver")
    found = [_entity(one) for one in receivers] if isinstance(receivers, list) else []
    kept = tuple(one for one in found if one is not None)
    sender, requester = _entity(manifest.get("sender")), _entity(manifest.get("requester"))
    if sender is None or not kept:
        return None
    parties = Published(sender, kept, requester)
    if rules.broken(rules.MANIFEST, manifest, "manifest.json"):
        return parties  # the other values may have any type
    extensions = _table(manifest, "extensions")
    return replace(
        parties,
        classification=_table(manifest, "security").get("classification"),
        custom_tags=tuple(extensions.get("custom_tags") or ()),
        consent=_consent(_table(extensions, "consent")),
        deid=tuple(_table(extensions, "deid").get("keys") or ()),
    )


def _entity(value: object) -> Entity | None:
    if not isinstance(value, dict) or not isinstance(value.get("id"), str):
        return None
    contact, name = value.get("contact"), value.get("name")
    if isinstance(contact, dict):
        contact = ContactPoint(str(contact.get("system")), str(contact.get("value")))
    usable = contact if isinstance(contact, (str, ContactPoint)) else None
    return Entity(value["id"], name if isinstance(name, str) else None, usable or None)


def _consent(table: JsonObject) -> Consent | None:
    if "status" not in table:
        return None
    scope = tuple(table.get("scope") or ())
    return Consent(table["status"], scope, table.get("method"), table.get("signed_on"))


def _table(of: JsonObject, key: str) -> JsonObject:
    found = of.get(key)
    return found if isinstance(found, dict) else {}
