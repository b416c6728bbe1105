"""Delivers envelopes to a JMIX server: which body is sent, what is asked afterwards.

Wanted: an envelope counts as delivered only when its upstream has read the whole of it.
Guaranteed: the answer to a chunked body that upstream_facts.py chose decides nothing, unless it
confirms the envelope by its id or by its manifest. Otherwise the body goes once more, by its
length, at once, and that answer decides. Each body that is sent counts as an attempt, and after
any of them the upstream may have the envelope.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from fastjmix.config import Upstream
from fastjmix.failpoints import reach
from fastjmix.uploader.answers import Answer, effective_status, remote_id, same_id
from fastjmix.uploader.client import Sent, UpstreamClient
from fastjmix.uploader.conflict import assess_copy, equals
from fastjmix.uploader.integrity import manifest
from fastjmix.uploader.outcome import Disposition, Failure, Outcome
from fastjmix.uploader.pace import Pace
from fastjmix.uploader.policy import ExpectedId, assess_answer, assess_failure
from fastjmix.uploader.retry import with_retry_after
from fastjmix.uploader.targets.contract import Sealed
from fastjmix.uploader.throttle import Throttle
from fastjmix.uploader.upstream_facts import Coding, UpstreamFacts

MANIFEST_SLACK: Final = 64 * 1024
"""Bytes by which their manifest, printed with indents, may exceed twice the length of ours."""

_BUSY: Final = frozenset({401, 407, 429, 503})
"""Statuses that most likely say nothing about the body."""

_UNREAD: Final = frozenset({408, 425, 502, 504})
"""Statuses that a server or a proxy gives for a body that it waits for in vain, and for much else.
The proof is lost, and the next attempt, by length, comes after a pause."""


class JmixClient:
    """A JMIX server as a target. `facts` are what its answers have proved."""

    def __init__(
        self, upstream: Upstream, facts: UpstreamFacts, pace: Pace, throttle: Throttle
    ) -> None:
        connections = pace.at_once_to(upstream)
        self._http = UpstreamClient(upstream, pace.time_limits, connections, throttle)
        self._requires_id = upstream.require_matching_id
        self._facts = facts
        self._retry_after_max = pace.backoff.cap

    @property
    def host(self) -> str:
        """Returns its name, and its port where the URL has one."""
        return self._http.host

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close()

    async def deliver(self, sealed: Sealed) -> Outcome:
        """Posts an envelope. VERIFY: the answer is a 409.

        Raises Damaged, FileNotFoundError, OSError.
        """
        item = sealed.item
        first = item.attempts == 1 and not item.maybe_stored
        coding = self._facts.choose_coding(first=first, now=time.time())
        if coding is Coding.CHUNKED and self._facts.fixed is None:
            outcome = await self._try_chunked(sealed)
            if outcome is not None:
                return outcome
            item.attempts += 1
            item.maybe_stored = True
            coding = Coding.LENGTH
        sent = await self._post(sealed, coding)
        outcome = self._assess(sealed, sent.result)
        if isinstance(sent.result, Answer):
            taken = outcome.disposition is Disposition.DELIVERED
            named = taken and same_id(outcome.remote_id, item.id)
            self._facts.record_answer(sent.result.version, named=named, now=time.time())
        return outcome

    async def verify(self, sealed: Sealed, conflict: Outcome) -> Outcome:
        """Returns the outcome of a 409: the manifests are compared. Raises OSError."""
        ours, copy = await self._fetch_manifests(sealed)
        return _assess_copy(sealed, conflict, copy, ours)

    async def _post(self, sealed: Sealed, coding: Coding, *, single_use: bool = False) -> Sent:
        def takes(answer: Answer) -> bool:
            return self._assess(sealed, answer).disposition is Disposition.DELIVERED

        sent = await self._http.post(
            sealed.archive, sealed.extents, coding, takes, single_use=single_use
        )
        reach("uploader.answered")
        if sent.bodies > 1:
            sealed.item.attempts += sent.bodies - 1
            sealed.item.maybe_stored = True
        return sent

    async def _fetch_manifests(self, sealed: Sealed) -> tuple[bytes, Answer | Failure]:
        """Returns our manifest, and the upstream's answer to the question for its own."""
        ours = await asyncio.to_thread(manifest, sealed.archive)
        copy = await self._http.manifest(sealed.item.id, 2 * len(ours) + MANIFEST_SLACK)
        return ours, copy

    def _assess(self, sealed: Sealed, result: Answer | Failure) -> Outcome:
        if isinstance(result, Failure):
            return assess_failure(result)
        expected = ExpectedId(
            sealed.item.id, required=self._requires_id, named_before=self._facts.names_ours
        )
        outcome = assess_answer(result, expected)
        return with_retry_after(outcome, time.time(), self._retry_after_max)

    # -- a chunked body that the configuration does not ask for by name --------------------------

    async def _try_chunked(self, sealed: Sealed) -> Outcome | None:
        """Returns the outcome; None when the body has to go by its length at once."""
        try:
            sent = await self._post(sealed, Coding.CHUNKED, single_use=True)
            outcome = self._assess(sealed, sent.result)
            if isinstance(sent.result, Answer):
                return await self._confirm(sealed, sent.result, outcome)
            if not sent.result.unsent:
                self._facts.record_unclear(time.time())
            return outcome
        finally:
            self._facts.record_unsent()  # a trial that has not come to an end proves nothing

    async def _confirm(self, sealed: Sealed, answer: Answer, outcome: Outcome) -> Outcome | None:
        """Records whether the answer proves that the chunked body was read; returns as above."""
        now, status = time.time(), effective_status(answer)
        if status in _BUSY and answer.version >= (1, 1):
            self._facts.record_unclear(now)
            return outcome
        taken = outcome.disposition is Disposition.DELIVERED and answer.version >= (1, 1)
        if taken and same_id(remote_id(answer), sealed.item.id):
            self._facts.record_proof()
            return outcome
        if status in _UNREAD or status // 100 == 3:
            self._facts.record_no_proof(now)
            return outcome
        if status // 100 == 2 or outcome.disposition is Disposition.VERIFY:
            ours, copy = await self._fetch_manifests(sealed)
            if equals(copy, ours):
                if not sealed.item.maybe_stored and answer.version >= (1, 1):
                    self._facts.record_proof()
                else:
                    self._facts.record_no_proof(now)
                return _assess_copy(sealed, outcome, copy, ours)
        self._facts.record_no_proof(now)
        return None


def _assess_copy(sealed: Sealed, conflict: Outcome, copy: Answer | Failure, ours: bytes) -> Outcome:
    item = sealed.item
    return assess_copy(conflict, copy, ours, item.id, maybe_stored=item.maybe_stored)
