"""Makes one attempt to deliver an envelope: which body is sent, what is asked afterwards, the
outcome.

Wanted: an envelope counts as delivered only when its upstream has read the whole of it.
Guaranteed: the answer to a chunked body that upstream_facts.py chose decides nothing, unless it
confirms the envelope by its id or by its manifest. Otherwise the body goes once more, by its
length, at once, and that answer decides. Each body that is sent counts as an attempt, and after
any of them the upstream may have the envelope.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from fastjmix.failpoints import reach
from fastjmix.spool import Ticket
from fastjmix.uploader.answers import Answer, effective_status, remote_id, same_id
from fastjmix.uploader.client import Sent
from fastjmix.uploader.conflict import assess_copy, equals
from fastjmix.uploader.integrity import Damaged, Extents, examine, manifest
from fastjmix.uploader.outcome import Disposition, Failure, Kind, Outcome
from fastjmix.uploader.policy import ExpectedId, assess_answer, assess_failure
from fastjmix.uploader.queue import Waiting
from fastjmix.uploader.retry import with_retry_after
from fastjmix.uploader.target import Target
from fastjmix.uploader.upstream_facts import Coding

MANIFEST_SLACK: Final = 64 * 1024
"""Bytes by which their manifest, printed with indents, may exceed twice the length of ours."""

_BUSY: Final = frozenset({401, 407, 429, 503})
"""Statuses that most likely say nothing about the body."""

_UNREAD: Final = frozenset({408, 425, 502, 504})
"""Statuses that a server or a proxy gives for a body that it waits for in vain, and for much else.
The proof is lost, and the next attempt, by length, comes after a pause."""


class Attempt:
    """One attempt to deliver `archive` to `target`. It counts its bodies in `item`.

    `cap` is the longest pause, in seconds, that the upstream may ask for.
    """

    def __init__(self, target: Target, item: Waiting, archive: Path, cap: float) -> None:
        self._target = target
        self._item = item
        self._archive = archive
        self._cap = cap
        self._facts = target.facts
        self._client = target.client

    async def run(self, ticket: Ticket) -> Outcome:
        """Delivers the envelope, and returns the outcome.

        Raises FileNotFoundError (a person moved the archive), OSError (our disk).
        """
        first = not self._item.attempts and not self._item.maybe_stored
        self._item.attempts += 1
        try:
            extents = await asyncio.to_thread(examine, self._archive, ticket)
            return await self._deliver(extents, first=first)
        except Damaged as problem:
            return assess_failure(Failure(Kind.DAMAGED, str(problem)))

    async def _deliver(self, extents: Extents, *, first: bool) -> Outcome:
        coding = self._facts.choose_coding(first=first, now=time.time())
        if coding is Coding.CHUNKED and self._facts.fixed is None:
            outcome = await self._try_chunked(extents)
            if outcome is not None:
                return outcome
            self._item.attempts += 1
            self._item.maybe_stored = True
            coding = Coding.LENGTH
        sent = await self._post(extents, coding)
        outcome = self._assess(sent.result)
        if isinstance(sent.result, Answer):
            taken = outcome.disposition is Disposition.DELIVERED
            named = taken and same_id(outcome.remote_id, self._item.id)
            self._facts.record_answer(sent.result.version, named=named, now=time.time())
        if outcome.disposition is not Disposition.VERIFY:
            return outcome
        ours, copy = await self._fetch_manifests()
        return self._assess_copy(outcome, copy, ours)

    async def _post(self, extents: Extents, coding: Coding, *, single_use: bool = False) -> Sent:
        sent = await self._client.post(
            self._archive, extents, coding, self._takes, single_use=single_use
        )
        reach("uploader.answered")
        if sent.bodies > 1:
            self._item.attempts += sent.bodies - 1
            self._item.maybe_stored = True
        return sent

    async def _fetch_manifests(self) -> tuple[bytes, Answer | Failure]:
        """Returns our manifest, and the upstream's answer to the question for its own."""
        ours = await asyncio.to_thread(manifest, self._archive)
        copy = await self._client.manifest(self._item.id, 2 * len(ours) + MANIFEST_SLACK)
        return ours, copy

    def _takes(self, answer: Answer) -> bool:
        return self._assess(answer).disposition is Disposition.DELIVERED

    def _assess(self, result: Answer | Failure) -> Outcome:
        if isinstance(result, Failure):
            return assess_failure(result)
        expected = ExpectedId(
            self._item.id,
            required=self._target.upstream.require_matching_id,
            named_before=self._facts.names_ours,
        )
        return with_retry_after(assess_answer(result, expected), time.time(), self._cap)

    def _assess_copy(self, conflict: Outcome, copy: Answer | Failure, ours: bytes) -> Outcome:
        item = self._item
        return assess_copy(conflict, copy, ours, item.id, maybe_stored=item.maybe_stored)

    # -- a chunked body that the configuration does not ask for by name --------------------------

    async def _try_chunked(self, extents: Extents) -> Outcome | None:
        """Returns the outcome; None when the body has to go by its length at once."""
        try:
            sent = await self._post(extents, Coding.CHUNKED, single_use=True)
            outcome = self._assess(sent.result)
            if isinstance(sent.result, Answer):
                return await self._confirm(sent.result, outcome)
            if not sent.result.unsent:
                self._facts.record_unclear(time.time())
            return outcome
        finally:
            self._facts.record_unsent()  # a trial that has not come to an end proves nothing

    async def _confirm(self, answer: Answer, outcome: Outcome) -> Outcome | None:
        """Records whether the answer proves that the chunked body was read; returns as above."""
        now, status = time.time(), effective_status(answer)
        if status in _BUSY and answer.version >= (1, 1):
            self._facts.record_unclear(now)
            return outcome
        taken = outcome.disposition is Disposition.DELIVERED and answer.version >= (1, 1)
        if taken and same_id(remote_id(answer), self._item.id):
            self._facts.record_proof()
            return outcome
        if status in _UNREAD or status // 100 == 3:
            self._facts.record_no_proof(now)
            return outcome
        if status // 100 == 2 or outcome.disposition is Disposition.VERIFY:
            ours, copy = await self._fetch_manifests()
            if equals(copy, ours):
                if not self._item.maybe_stored and answer.version >= (1, 1):
                    self._facts.record_proof()
                else:
                    self._facts.record_no_proof(now)
                return self._assess_copy(outcome, copy, ours)
        self._facts.record_no_proof(now)
        return None
