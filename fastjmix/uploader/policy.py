"""Decides what an upstream's answer to a POST means for the envelope.

Wanted: an envelope counts as delivered only when a JMIX server has taken it.
Guaranteed: any answer, and any failure to get one, has an Outcome. No socket, file or clock here.

    answer                             disposition  then
    2xx                                DELIVERED    outbox → sent, the answer kept as the receipt
    2xx before it had the whole body   RETRY        nothing can have been stored
    2xx that no JMIX server gives      HELD         a page, an error, an empty body: see answers.py
    2xx with another id                DELIVERED    recorded; RETRY under require_matching_id;
                                                    HELD where the upstream named our ids before
    3xx                                HELD         redirects are never followed
    401 402 403 407 511                HELD         the credentials are at fault, not the envelope
    404 405 410 421 425 and other 4xx  HELD         the route is probably at fault
    408 429 5xx, no answer             RETRY        without end; Retry-After is honoured
    none: our archive is damaged       REFUSED      the upstream has not got the whole of it
    409                                VERIFY       conflict.py compares the manifests
    400 413 415 422                    REFUSED      outbox → rejected, the answer kept; HELD for a
                                                    web page, which something else may have written,
                                                    and for plain HTTP at an HTTPS port, or a host
                                                    that the server does not know (not 413)

HELD is a guess about the upstream. It is wrong when the upstream takes other envelopes and gives
this one the same answer again. Then `reassess` makes it REFUSED (the route) or RETRY (the rest).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from fastjmix.uploader.answers import (
    Answer,
    effective_status,
    is_markup,
    is_misdirected,
    mismatch,
    remote_id,
    same_id,
)
from fastjmix.uploader.outcome import DETAIL_CHARS_MAX, Disposition, Failure, Kind, Outcome

_BY_STATUS: Final[Mapping[int, tuple[Disposition, str]]] = {
    400: (Disposition.REFUSED, "the upstream refuses this envelope"),
    401: (Disposition.HELD, "the upstream does not accept our credentials"),
    402: (Disposition.HELD, "the upstream asks for payment"),
    403: (Disposition.HELD, "the upstream forbids us to upload"),
    407: (Disposition.HELD, "a proxy before the upstream asks for credentials"),
    408: (Disposition.RETRY, "the upstream waited too long for the body"),
    409: (Disposition.VERIFY, "the upstream already has an envelope with this id"),
    413: (Disposition.REFUSED, "too large for the upstream: lower max_envelope_bytes"),
    415: (Disposition.REFUSED, "the upstream does not take application/zip"),
    422: (Disposition.REFUSED, "the upstream refuses this envelope"),
    429: (Disposition.RETRY, "too many requests for the upstream"),
    511: (Disposition.HELD, "a network before the upstream asks for a sign-in"),
}

_BY_CLASS: Final[Mapping[int, tuple[Disposition, str]]] = {
    2: (Disposition.DELIVERED, "the upstream has taken it"),
    3: (
        Disposition.HELD,
        "the upstream redirects, and redirects are not followed: correct its URL",
    ),
    4: (Disposition.HELD, "the URL may be wrong, or the upstream is being changed"),
    5: (Disposition.RETRY, "the upstream has failed"),
}

_UNKNOWN: Final = (Disposition.RETRY, "the upstream's status is not one of HTTP's")

SHARED_STATUSES: Final = frozenset({429, 502, 503, 504})
"""Statuses about the upstream (or the proxy before it), and not about the envelope."""

_ANY_SIZE: Final = frozenset({400, 415, 422})
"""Refusals that a proxy words as a web page for reasons of its own. 413 is about this envelope's
size, also when a proxy sends it."""


@dataclass(frozen=True, slots=True)
class ExpectedId:
    """The id that a 2xx is compared with.

    `required`: an answer without it is no delivery (require_matching_id). `named_before`: this
    upstream is known to name our ids in its answers (upstream_facts.py).
    """

    envelope_id: str
    required: bool = False
    named_before: bool = False


def meaning(status: int) -> tuple[Disposition, str]:
    """Returns the disposition and the reason that a status alone stands for."""
    return _BY_STATUS.get(status) or _BY_CLASS.get(status // 100) or _UNKNOWN


def assess_status(answer: Answer) -> Outcome:
    """Returns the outcome that the answer's status stands for, whatever id the answer names."""
    status = effective_status(answer)
    disposition, reason = meaning(status)
    route = status // 100 == 4 and status not in _BY_STATUS
    if status in _ANY_SIZE and is_markup(answer):
        disposition, route = Disposition.HELD, True
        reason = "it says so with a web page, which something before the upstream may have written"
    elif status in _ANY_SIZE and is_misdirected(answer):
        disposition, route = Disposition.HELD, True
        reason = "it says that the request is not for it: is the URL right, its host, its https?"
    return Outcome(
        disposition,
        reason,
        status=status,
        answer=answer,
        shared=status in SHARED_STATUSES,
        route=route,
    )


def assess_answer(answer: Answer, expected: ExpectedId) -> Outcome:
    """Returns the outcome of the answer to a POST."""
    outcome = assess_status(answer)
    if outcome.disposition is not Disposition.DELIVERED:
        return outcome
    return _assess_success(replace(outcome, remote_id=remote_id(answer)), answer, expected)


def _assess_success(outcome: Outcome, answer: Answer, expected: ExpectedId) -> Outcome:
    """Returns another outcome than DELIVERED for a 2xx that proves no delivery."""
    if not answer.whole:
        reason = "the upstream answered before it had the whole body"
        return replace(outcome, disposition=Disposition.RETRY, reason=reason)
    why = mismatch(answer, expected.envelope_id)
    if why is not None:
        reason = f"it {why}: is the URL right, or is a login or a proxy before the upstream?"
        return replace(outcome, disposition=Disposition.HELD, reason=reason, route=True)
    if same_id(outcome.remote_id, expected.envelope_id):
        return outcome
    if expected.named_before and outcome.remote_id is not None:
        reason = "it names another id, and has named ours before: is this another server?"
        return replace(outcome, disposition=Disposition.HELD, reason=reason, route=True)
    if expected.required:
        reason = "the answer does not name this envelope's id (require_matching_id)"
        return replace(outcome, disposition=Disposition.RETRY, reason=reason)
    return outcome


def assess_failure(failure: Failure) -> Outcome:
    """Returns the outcome of an attempt that got no answer."""
    damaged = failure.kind is Kind.DAMAGED
    return Outcome(
        Disposition.REFUSED if damaged else Disposition.RETRY,
        f"{failure.kind.value}: {failure.detail}"[:DETAIL_CHARS_MAX],
        shared=failure.shared,
        late=failure.late,
        maybe_stored=not failure.unsent,
        damaged=damaged,
    )


def reassess(outcome: Outcome, *, takes_others: bool, final: bool) -> Outcome:
    """Returns the outcome in view of the other envelopes.

    `takes_others`: the upstream has accepted another envelope since this one's first such answer.
    `final`: that first answer is old enough. Only then, and only for the route, the envelope is
    REFUSED: credentials, redirects and pages never refuse an envelope.
    """
    if outcome.disposition is not Disposition.HELD or not takes_others:
        return outcome
    refused = final and outcome.route and (outcome.status or 0) >= 400
    disposition = Disposition.REFUSED if refused else Disposition.RETRY
    reason = f"{outcome.reason}; but it has taken others since this envelope's first such answer"
    return replace(outcome, disposition=disposition, reason=reason)
