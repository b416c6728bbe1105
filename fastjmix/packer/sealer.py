"""Seals open envelopes: the last digests, then the documents and the way to outbox/ (seal.py).

Guaranteed: an encrypted envelope is sealed on a thread of its own, since that takes as long as
reading all of it. The log has a line for each seal, with its reason. An envelope that cannot be
sealed is tried again from the disk.
Still wrong: a seal that does not encrypt is made in the loop, and the other associations of this
packer wait for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from fastjmix import log
from fastjmix.ipc.channels import Channels
from fastjmix.packer.digests import Digests
from fastjmix.packer.failed_envelopes import FailedEnvelopes
from fastjmix.packer.open_envelope import OpenEnvelope, encrypts
from fastjmix.packer.open_envelopes import OpenEnvelopes
from fastjmix.packer.seal import seal
from fastjmix.packer.worker import Worker
from fastjmix.spool import Spool, Ticket


class Sealer:
    """The sealer of the packer called `name`; `worker` encrypts."""

    def __init__(
        self,
        name: str,
        channels: Channels,
        spool: Spool,
        envelopes: OpenEnvelopes,
        digests: Digests,
        failed_envelopes: FailedEnvelopes,
        worker: Worker,
    ) -> None:
        self._name = name
        self._channels = channels
        self._spool = spool
        self._open = envelopes
        self._digests = digests
        self._failed_envelopes = failed_envelopes
        self._worker = worker
        self._encrypting: dict[str, int] = {}
        self._seals = channels.metrics.histogram("seal_seconds")

    @property
    def encrypting(self) -> int:
        """Number of envelopes that are being encrypted."""
        return len(self._encrypting)

    @property
    def encrypting_bytes(self) -> int:
        """Bytes of these: the disk holds each of them twice."""
        return sum(self._encrypting.values())

    def seal(self, envelope: OpenEnvelope, why: str) -> None:
        """Seals an envelope; deletes it when it holds no instance. `why` is for the log."""
        self._open.remove(envelope)
        draft = envelope.draft
        if not envelope.members:
            draft.abandon()
            return
        began = time.monotonic()
        try:
            self._digests.finish(envelope)
        except Exception as problem:
            self._failed_envelopes.seal_failed(envelope, problem)
            return
        parts = envelope.contents, envelope.members, envelope.origins
        work = partial(seal, self._spool, draft, *parts, self._name)
        if encrypts(envelope.builder):
            self._encrypting[draft.id] = draft.end
            self._worker.submit(work, partial(self._encrypted, envelope, why, began))
        else:
            self._finish(envelope, why, began, work)

    def _encrypted(
        self, envelope: OpenEnvelope, why: str, began: float, work: Callable[[], Ticket]
    ) -> None:
        del self._encrypting[envelope.draft.id]
        self._finish(envelope, why, began, work)

    def _finish(
        self, envelope: OpenEnvelope, why: str, began: float, work: Callable[[], Ticket]
    ) -> None:
        try:
            ticket = work()
        except Exception as problem:
            self._failed_envelopes.seal_failed(envelope, problem)
            return
        self._channels.metrics.add("envelopes_sealed_total")
        self._seals.observe(time.monotonic() - began)
        if envelope.origins.unwritten:
            self._channels.metrics.add("provenances_unwritten_total")
        log.get().info(
            "envelope_sealed",
            envelope=ticket.id,
            calling_ae=ticket.calling_ae,
            instances=ticket.instances,
            bytes=ticket.size_bytes,
            why=why,
            rule=ticket.rule or None,
            **envelope.conflicts.log_fields(),
            study=log.get().study(*ticket.studies),
        )
        self._channels.events.send("sealed", envelope=ticket.id)
        self._channels.wake_uploader()
