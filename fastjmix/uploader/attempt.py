"""Makes one attempt to deliver an envelope: which body is sent, what is asked afterwards, the
outcome.

Wanted: an envelope counts as delivered only when its upstream has read the whole of it.
Guaranteed: the answer to a chunked body that upstream_facts.py chose is never a verdict, unless it
confirms the envelope by its id or by its manifest: else the body goes once more, by its length, at
once, and that answer is judged. Each body that is sent counts as an attempt, and whatever was sent
before leaves a doubt: the upstream may have it.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from fastjmix.failpoints import reach
from fastjmix.spool import Ticket
from fastjmix.uploader import policy
from fastjmix.uploader.answers import Answer, meant_status, remote_id, same_id
from fastjmix.uploader.client import Courier, Sent
from fastjmix.uploader.integrity import Damaged, Extents, examine, manifest
from fastjmix.uploader.policy import Failure, Kind, Outcome, Verdict
from fastjmix.uploader.queue import Target, Waiting
from fastjmix.uploader.upstream_facts import Coding

MANIFEST_SLACK: Final = 64 * 1024
"""Bytes by which their manifest, printed with indents, may exceed twice the length of ours."""

_BUSY: Final = frozenset({401, 407, 429, 503})
"""Statuses that say nothing of the body, most likely."""

_UNREAD: Final = frozenset({408, 425, 502, 504})
"""Statuses that a server or a proxy gives for a body that it waits for in vain, and for much else.
The proof is lost, and the next attempt, by length, comes after a pause."""


class Attempt:
    """One attempt to deliver `archive` to `target`. It counts its bodies in `item`."""

    def __init__(self, target: Target, item: Waiting, archive: Path, cap: float) -> None:
        self._target = target
        self._item = item
        self._archive = archive
        self._cap = cap
        self._facts = target.facts
        self._courier: Courier = target.courier

    async def run(self, ticket: Ticket) -> Outcome:
        """Delivers it. Raises FileNotFoundError (a person moved the archive), OSError (our
        disk)."""
        first = not self._item.attempts and not self._item.doubtful
        self._item.attempts += 1
        try:
            extents = await asyncio.to_thread(examine, self._archive, ticket)
            return await self._deliver(extents, first=first)
        except Damaged as problem:
            return self._judge(Failure(Kind.DAMAGED, str(problem)))

    async def _deliver(self, extents: Extents, *, first: bool) -> Outcome:
        coding = self._facts.coding(first=first, now=time.time())
        if coding is Coding.CHUNKED and self._facts.fixed is None:
            outcome = await self._chunked(extents)
            if outcome is not None:
                return outcome
            self._item.attempts += 1
            self._item.doubtful = True
            coding = Coding.LENGTH
        sent = await self._post(extents, coding)
        outcome = self._judge(sent.result)
        if isinstance(sent.result, Answer):
            taken = outcome.verdict is Verdict.DELIVERED
            named = taken and same_id(outcome.remote_id, self._item.id)
            self._facts.heard(sent.result.version, named=named, now=time.time())
        if outcome.verdict is not Verdict.VERIFY:
            return outcome
        ours, copy = await self._copy()
        doubtful = self._item.doubtful
        return policy.judge_copy(outcome, copy, ours, self._item.id, doubtful=doubtful)

    async def _post(self, extents: Extents, coding: Coding, *, once: bool = False) -> Sent:
        sent = await self._courier.post(self._archive, extents, coding, self._takes, once=once)
        reach("uploader.answered")
        if sent.bodies > 1:
            self._item.attempts += sent.bodies - 1
            self._item.doubtful = True
        return sent

    async def _copy(self) -> tuple[bytes, Answer | Failure]:
        """Fetches both manifests, ours and theirs."""
        ours = await asyncio.to_thread(manifest, self._archive)
        copy = await self._courier.manifest(self._item.id, 2 * len(ours) + MANIFEST_SLACK)
        return ours, copy

    def _takes(self, answer: Answer) -> bool:
        return self._judge(answer).verdict is Verdict.DELIVERED

    def _judge(self, result: Answer | Failure) -> Outcome:
        return policy.judge(
            result,
            self._item.id,
            require_matching_id=self._target.upstream.require_matching_id,
            now=time.time(),
            cap=self._cap,
            names_ours=self._facts.names_ours,
        )

    # -- a chunked body, where nobody has asked for one by name ----------------------------------

    async def _chunked(self, extents: Extents) -> Outcome | None:
        """Returns the outcome; None when the body has to go by its length at once."""
        try:
            sent = await self._post(extents, Coding.CHUNKED, once=True)
            outcome = self._judge(sent.result)
            if isinstance(sent.result, Answer):
                return await self._confirmed(sent.result, outcome)
            if not sent.result.unsent:
                self._facts.unclear(time.time())
            return outcome
        finally:
            self._facts.unsent()  # a trial that has not come to an end is none

    async def _confirmed(self, answer: Answer, outcome: Outcome) -> Outcome | None:
        now, status = time.time(), meant_status(answer)
        if status in _BUSY and answer.version >= (1, 1):
            self._facts.unclear(now)
            return outcome
        taken = outcome.verdict is Verdict.DELIVERED and answer.version >= (1, 1)
        if taken and same_id(remote_id(answer), self._item.id):
            self._facts.confirmed()
            return outcome
        if status in _UNREAD or status // 100 == 3:
            self._facts.doubted(now)
            return outcome
        if status // 100 == 2 or outcome.verdict is Verdict.VERIFY:
            ours, copy = await self._copy()
            if policy.equals(copy, ours):
                if not self._item.doubtful and answer.version >= (1, 1):
                    self._facts.confirmed()
                else:
                    self._facts.doubted(now)
                return policy.judge_copy(
                    outcome, copy, ours, self._item.id, doubtful=self._item.doubtful
                )
        self._facts.doubted(now)
        return None
