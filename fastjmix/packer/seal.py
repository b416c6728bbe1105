"""Seals an envelope: writes its documents, and moves it to outbox/.

Wanted: the packer of an envelope and a later process write the same from draft.json.
Guaranteed: an encrypted envelope is written beside the draft's plain archive, which stays complete
until the encrypted one is durable. The plaintext never leaves the draft's directory, and is deleted
before the envelope is in outbox/. Each attempt has its own ephemeral key and iv. Members that are
read again are compared with their CRC-32: damage is not encrypted, but found.
Still wrong: with `payload_hash` = "stream" the seal reads everything once more
(jmix/write/payload_hash.py), and other studies wait for it, unless the envelope is encrypted.
Deleted plaintext can be read from the disk's blocks until they are used again. A site that must
exclude that needs a disk that encrypts.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

from isal.isal_zlib import crc32

from fastjmix import log
from fastjmix.config import Builder
from fastjmix.config.key_files import signing_keys
from fastjmix.errors import ConfigError, KeyMissing, MemberDamaged
from fastjmix.jmix.write import parties, profiles
from fastjmix.jmix.write.archive import Member, data_offset
from fastjmix.jmix.write.documents import write_documents
from fastjmix.jmix.write.encrypted import write_encrypted
from fastjmix.jmix.write.envelope import Contents, Options
from fastjmix.jmix.write.parties import Encryption
from fastjmix.packer.origins import Origins
from fastjmix.routing import at_seal
from fastjmix.routing.rules import EnvelopeFacts, study_age_days
from fastjmix.spool import Draft, Recipe, Spool, Ticket, provenance
from fastjmix.spool.files import read_pieces


def seal(
    spool: Spool,
    draft: Draft,
    contents: Contents,
    members: list[Member],
    origins: Origins,
    origin: str,
    sealed_at: float | None = None,
) -> Ticket:
    """Writes the documents, encrypts the payload if so configured, and moves it to outbox/.

    The provenance is durable before that; `origins.unwritten` says when it is not. `sealed_at` is
    the time of an earlier attempt: the bytes will be the same, but for a ciphertext, which nobody
    has seen yet. Raises KeyMissing when the envelope cannot be signed or encrypted as its recipe
    says, OSError.
    """
    if sealed_at is None:
        sealed_at = time.time()
    ticket = draft.recipe.ticket(
        draft.id,
        size_bytes=draft.end,  # without the documents, until they are written
        sealed_at=sealed_at,
        origin=origin,
        studies=tuple(contents.studies),
        instances=len(members),
    )
    ticket = _routed(ticket, draft.recipe, contents)
    try:
        options = _options(draft, members, sealed_at)
        if options.published is not None and options.published.encryption is not None:
            _keep_provenance(spool, draft, contents, origins)
            return _seal_encrypted(draft, contents, options, options.published.encryption, ticket)
        documents = profiles.get(draft.recipe.profile).documents(contents, options)
    except ConfigError as problem:
        raise KeyMissing(problem.message) from problem
    _keep_provenance(spool, draft, contents, origins)
    return draft.seal(write_documents(documents, members, draft.end), ticket)


def _routed(ticket: Ticket, recipe: Recipe, contents: Contents) -> Ticket:
    """Returns the ticket by the first of the recipe's rules that matches the envelope.

    The study's age is that on the day when the envelope was begun: a later seal decides alike.
    """
    if not recipe.at_seal:
        return ticket
    described = next(iter(contents.studies.values())).description
    began = recipe.created if recipe.created is not None else ticket.sealed_at
    facts = EnvelopeFacts(
        described.study_description,
        described.accession_number,
        study_age_days(described.study_date, began),
        ticket.size_bytes,
        ticket.instances,
    )
    rule = at_seal.first(recipe.at_seal, facts)
    if rule is None:
        return ticket
    return replace(
        ticket,
        upstreams=rule.upstreams,
        priority=rule.priority,
        tags=rule.tags,
        rule=rule.name,
    )


def _keep_provenance(spool: Spool, draft: Draft, contents: Contents, origins: Origins) -> None:
    encrypted = draft.recipe.encrypts
    make = partial(origins.provenance, draft.id, contents, encrypted=encrypted)
    origins.unwritten = not provenance.keep(spool, draft.id, make)


def _seal_encrypted(
    draft: Draft, contents: Contents, options: Options, encryption: Encryption, ticket: Ticket
) -> Ticket:
    """Writes the encrypted archive beside the draft's own, and seals that. Raises OSError."""
    remade = draft.remake()
    try:
        write_encrypted(remade, contents, options, encryption)
        return draft.seal_remade(remade, ticket)
    finally:
        remade.drop()


def _options(draft: Draft, members: list[Member], sealed_at: float) -> Options:
    """Returns the recipe's options of the documents, for an envelope of these members."""
    recipe = draft.recipe
    published = parties.load(recipe.published) if recipe.published else None
    return Options(
        draft.id,
        sealed_at,
        recipe.digest,
        recipe.skip_hashing,
        recipe.skip_listing,
        payload_hash=recipe.payload_hash,
        published=published,
        keys=signing_keys(published),
        read=_MemberReader(draft, members),
    )


class _MemberReader:
    """Reads a member's data again, by its name; from the page cache as a rule. Raises OSError."""

    def __init__(self, draft: Draft, members: list[Member]) -> None:
        self._draft = draft
        self._members = members
        self._by_name: dict[bytes, Member] = {}

    def __call__(self, name: bytes) -> Iterator[bytes]:
        if not self._by_name:  # made at the first call: most envelopes are never read again
            self._by_name = {member.name: member for member in self._members}
        member = self._by_name[name]
        checksum = 0
        for piece in read_pieces(self._draft.descriptor, data_offset(member), member.size):
            checksum = crc32(piece, checksum)
            yield piece
        if checksum != member.crc:
            self._draft.suspect = True  # recovery finds where the damage is
            raise MemberDamaged("a member of the envelope is not what was written")


def try_keys(builders: Iterable[Builder]) -> None:
    """Logs each key that cannot be read, at the start: an operator is watching then."""
    for builder in builders:
        try:
            signing_keys(builder.published)
        except ConfigError as problem:
            log.get().error("key_unreadable", why=problem.message)
