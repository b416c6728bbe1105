"""Passes a posted envelope on: POST /api/jmix.

Wanted: the response means what the upstream's answer means: 201, 400, 409, 415, 502, 503, 504, 507.
Guaranteed: the body is checked before it is put in outbox/; 201 only after the upstream has taken
it. An encrypted envelope is checked as far as it can be without its key, and passed on; with the
key of its receiver (decryption_key_file) it is checked inside.
Still wrong: after 504 the envelope may still be delivered; the same id is then refused with 409.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final, assert_never

from aiohttp import web

from fastjmix import log
from fastjmix.api.shared import ORIGIN, Shared
from fastjmix.config import HttpListener, Upstream
from fastjmix.failpoints import reach
from fastjmix.httpd.receiving import Received, create_private, receive, require_size, require_zip
from fastjmix.httpd.responses import HttpError, json_response
from fastjmix.ipc.outcome import EnvelopeOutcome, Result
from fastjmix.jmix.read.admission import EnvelopeSummary
from fastjmix.spool import POST_INODES, AssociationFacts, Provenance, Ticket
from fastjmix.spool.association_facts import TEXT_MAX
from fastjmix.spool.provenance import StudyFacts

if TYPE_CHECKING:
    from fastjmix.jmix.keys import RecipientKey

MAX_BODY_BYTES: Final = 64 << 30
"""Largest POST; free space (spool.FreeSpace) is the other bound."""

OUTCOME_SLACK_SECS: Final = 60.0
"""Beyond the time of an attempt: the envelope's turn, a connection, and the way there and back."""

SHOWN_DETAIL: Final = 400
"""Characters of an upstream's answer that a 502 repeats."""


class Posting:
    """The POST route of one listener."""

    def __init__(
        self, settings: HttpListener, shared: Shared, collection: str, key: RecipientKey | None
    ) -> None:
        self._settings = settings
        self._shared = shared
        self._collection = collection
        self._key = key

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Receives an envelope, queues it, and responds when its outcome is known."""
        upstreams = self._settings.upstreams
        if not upstreams:
            reason = (
                "no upstream is configured here: name a jmix_backend in the pipeline's backends"
            )
            raise HttpError(501, reason)
        require_zip(request)
        require_size(request, MAX_BODY_BYTES)  # before 507: that one may be sent again later
        self._require_room(request)
        upstream = upstreams[0]
        with contextlib.ExitStack() as waiting:
            size, future = await self._take_in(request, waiting)
            try:
                async with asyncio.timeout(upstream.attempt_secs(size) + OUTCOME_SLACK_SECS):
                    outcome = await future
            except TimeoutError:
                reason = f"upstream {upstream.name} has not answered; the envelope stays queued"
                raise HttpError(504, reason) from None
        return self._respond(outcome, upstream)

    def _require_room(self, request: web.Request) -> None:
        """Raises HttpError 507."""
        room = self._shared.room
        if room.exhausted() or not room.fits(request.content_length or 0, POST_INODES):
            reason = f"the storage is nearly full ({room.lacking}): nothing is accepted"
            raise HttpError(507, reason)
        if self._shared.channels.metrics.total("intake_stopped"):
            raise HttpError(507, "the storage has failed: nothing is accepted")

    async def _take_in(
        self, request: web.Request, waiting: contextlib.ExitStack
    ) -> tuple[int, asyncio.Future[EnvelopeOutcome]]:
        """Writes the body to building/, checks it, and moves it to outbox/.

        Returns its size, and the future of its outcome, which ends with `waiting`.
        """
        shared = self._shared
        temporary, began = shared.spool.new_upload(), time.time()
        with shared.uploads.take(), contextlib.ExitStack() as cleanup:
            cleanup.callback(temporary.unlink, missing_ok=True)
            file = cleanup.enter_context(create_private(temporary))
            shared.room.spend(0, files=POST_INODES)
            received = await receive(request, file, MAX_BODY_BYTES, shared.room.take)
            summary = await shared.checks.check(file, key=self._key, unopened=self._key is None)
            future = waiting.enter_context(shared.outcomes.expect(summary.id))
            ticket = self._ticket(summary, received)
            provenance = _provenance(ticket, request.remote or "", began)
            reach("api.received")
            try:
                kept = await asyncio.to_thread(shared.spool.admit, temporary, ticket, provenance)
            except FileExistsError:
                reason = f"envelope {summary.id} is here already; nothing was changed"
                raise HttpError(409, reason) from None
            reach("api.admitted")
        if not kept:
            shared.channels.metrics.add("provenances_unwritten_total")
        shared.channels.events.send("posted", envelope=summary.id, peer=request.remote or "")
        shared.channels.wake_uploader()
        log.get().info(
            "envelope_taken_in",
            envelope=summary.id,
            bytes=received.size,
            origin=ORIGIN,
            study=log.get().study(*summary.studies),
            upstream=ticket.upstream_names,
            peer=request.remote,
        )
        return received.size, future

    def _ticket(self, summary: EnvelopeSummary, received: Received) -> Ticket:
        return Ticket(
            id=summary.id,
            pipeline=self._settings.pipeline,
            upstreams=tuple(one.name for one in self._settings.upstreams),
            ack="uploaded",
            studies=summary.studies,
            calling_ae="",
            instances=summary.instances,
            size_bytes=received.size,
            sealed_at=time.time(),
            origin=ORIGIN,
            crc32=received.crc32,
        )

    def _respond(self, outcome: EnvelopeOutcome, upstream: Upstream) -> web.StreamResponse:
        """Returns 201, or raises HttpError 502 (RFC 9110 §15.6.3), 504 (§15.6.5)."""
        envelope_id, detail = outcome.envelope_id, outcome.detail[:SHOWN_DETAIL]
        code = f" (HTTP {outcome.status})" if outcome.status else ""
        match outcome.result:
            case Result.DELIVERED:
                where = {"Location": f"{self._collection}/{envelope_id}"}
                return json_response({"id": envelope_id, "status": "stored"}, 201, where)
            case Result.TIMEOUT:
                raise HttpError(504, f"upstream {upstream.name} timed out: {detail}")
            case Result.REFUSED:
                problem = "refused the envelope"
            case Result.FAILED:
                problem = "could not be reached or failed"
            case _:
                assert_never(outcome.result)
        raise HttpError(502, f"upstream {upstream.name} {problem}{code}: {detail}")


def _provenance(ticket: Ticket, peer: str, began: float) -> Provenance:
    """Returns the provenance of a posted envelope: the peer, and its study."""
    came = AssociationFacts("", peer=peer[:TEXT_MAX], began=round(began, 3))
    study = StudyFacts(ticket.studies[0] if ticket.studies else "")
    return Provenance(ticket.id, "post", (came,), study)
