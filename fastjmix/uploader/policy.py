"""Decides whether an envelope has arrived: what an upstream's answer means, and when to ask again.

Wants an answer (or the failure to get one) as a value, the time and a number between 0 and 1 for
chance. Gives an Outcome. Sans-I/O: no socket, no file, no clock, no dice in here.

    answer                             verdict     then
    2xx                                DELIVERED   outbox → sent, the answer kept as the receipt
    2xx before it had the whole body   RETRY       nothing can have been stored
    2xx that no JMIX server gives      HELD        a page, an error, nothing at all: see answers.py
    2xx with another id                DELIVERED   recorded; RETRY under require_matching_id;
                                                   HELD where ids were ours before
    3xx                                HELD        redirects are never followed
    401 402 403 407 511                HELD        the credentials are at fault, not the envelope
    404 405 410 421 and other 4xx      HELD        the route is at fault, as far as one can tell
    408 425 429 5xx, no answer         RETRY       for ever; Retry-After is honoured
    none: our archive is damaged       REFUSED     nobody has got all of it
    409                                VERIFY      their manifest is ours: DELIVERED; is another:
                                                   REFUSED; cannot be had: see judge_copy
    400 413 415 422                    REFUSED     outbox → rejected, the answer kept; HELD for a
                                                   web page, which something else may have written,
                                                   and for plain HTTP at an HTTPS port, or a host
                                                   that the server does not know (not 413)

HELD is a guess about the upstream. It is wrong when the upstream takes others and answers this
envelope so again: then `weigh` makes it REFUSED (the route) or RETRY (the rest).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, Final, assert_never

from fastjmix.ipc.outcome import EnvelopeOutcome, Result
from fastjmix.uploader.answers import (
    Answer,
    document,
    inner_document,
    is_markup,
    is_misdirected,
    meant_status,
    misfit,
    remote_id,
    same_id,
)

STRIKES_MAX: Final = 4
"""Failures in a row, of whatever kind, that make it the upstream's trouble and no envelope's: as
many as there are uploads at once, so that one bad envelope cannot pause the rest."""

DETAIL_CHARS_MAX: Final = 300
"""Of a reason in a log line or in a datagram to the process that waits."""

KEPT_HEADERS: Final = (
    "content-type",
    "date",
    "location",
    "retry-after",
    "server",
    "via",
    "www-authenticate",
    "x-request-id",
)
"""Headers that help a person who asks the upstream's operator about a refusal."""


class Verdict(Enum):
    """What to do with an envelope after an attempt."""

    DELIVERED = "delivered"
    VERIFY = "verify"
    REFUSED = "refused"
    HELD = "held"
    RETRY = "retry"


class Kind(Enum):
    """Ways in which an attempt ends without an answer."""

    UNREACHABLE = "no connection"
    UNTRUSTED = "TLS refused"
    LATE = "no answer in time"
    STALLED = "no progress"
    BROKEN = "connection broken"
    LOCAL = "our own disk or program"
    DAMAGED = "damaged on our disk"


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that got no answer. `late` when a time limit ended it."""

    kind: Kind
    detail: str
    late: bool = False

    @property
    def shared(self) -> bool:
        """True when the next envelope would fare no better."""
        return self.kind not in (Kind.LOCAL, Kind.DAMAGED)

    @property
    def unsent(self) -> bool:
        """True when the upstream cannot have got the whole body."""
        return self.kind in (Kind.UNREACHABLE, Kind.UNTRUSTED, Kind.LOCAL, Kind.DAMAGED)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an attempt. `least_secs` is how long the upstream asked to be left alone.

    `shared`: the next envelope would fare no better. `late`: a time limit ended it. `doubtful`:
    the upstream may have stored the envelope all the same. `verified`: its copy was compared.
    `damaged`: our archive is at fault, and the upstream has not judged it. `route`: HELD for an
    answer that something else than the upstream may have given, or that this envelope alone gets.
    """

    verdict: Verdict
    reason: str
    status: int | None = None
    answer: Answer | None = None
    remote_id: str | None = None
    least_secs: float = 0.0
    shared: bool = False
    late: bool = False
    doubtful: bool = True
    verified: bool = False
    damaged: bool = False
    route: bool = False

    @property
    def result(self) -> Result:
        """The outcome for a process that waits for the envelope, and hears of no second attempt."""
        match self.verdict:
            case Verdict.DELIVERED:
                return Result.DELIVERED
            case Verdict.REFUSED:
                return Result.REFUSED
            case Verdict.VERIFY | Verdict.HELD | Verdict.RETRY:
                return Result.TIMEOUT if self.late else Result.FAILED
            case _:
                assert_never(self.verdict)


# -- what an answer means --------------------------------------------------------------------------

_BY_STATUS: Final[Mapping[int, tuple[Verdict, str]]] = {
    400: (Verdict.REFUSED, "the upstream refuses this envelope"),
    401: (Verdict.HELD, "the upstream does not accept our credentials"),
    402: (Verdict.HELD, "the upstream asks for payment"),
    403: (Verdict.HELD, "the upstream forbids us to upload"),
    407: (Verdict.HELD, "a proxy before the upstream asks for credentials"),
    408: (Verdict.RETRY, "the upstream waited too long for the body"),
    409: (Verdict.VERIFY, "the upstream already has an envelope with this id"),
    413: (Verdict.REFUSED, "too large for the upstream: lower max_envelope_bytes"),
    415: (Verdict.REFUSED, "the upstream does not take application/zip"),
    422: (Verdict.REFUSED, "the upstream refuses this envelope"),
    425: (Verdict.RETRY, "too early for the upstream"),
    429: (Verdict.RETRY, "too many requests for the upstream"),
    511: (Verdict.HELD, "a network before the upstream asks for a sign-in"),
}

_BY_CLASS: Final[Mapping[int, tuple[Verdict, str]]] = {
    2: (Verdict.DELIVERED, "the upstream has taken it"),
    3: (Verdict.HELD, "the upstream redirects, and redirects are not followed: correct its URL"),
    4: (Verdict.HELD, "the URL may be wrong, or the upstream is being changed"),
    5: (Verdict.RETRY, "the upstream has failed"),
}

_NONSENSE: Final = (Verdict.RETRY, "the upstream's status is not one of HTTP's")

_SHARED: Final = frozenset({429, 502, 503, 504})
"""Statuses that speak of the upstream (or of the proxy before it) and not of the envelope."""

_ANY_SIZE: Final = frozenset({400, 415, 422})
"""Refusals that a proxy words as a web page for reasons of its own; 413 is about this envelope's
size, whoever says so."""


def retry_after(value: str | None, now: float, cap: float) -> float:
    """Retry-After (RFC 9110 §10.2.3) as seconds within [0, cap]; what nobody can read is 0.

    `now` is Unix seconds, for the form that is a date.
    """
    text = (value or "").strip()
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit():
        # A number of more digits than this is absurd, and int() would refuse it.
        secs = cap if len(digits) > 12 else float(digits)
        return 0.0 if text.startswith("-") else min(secs, cap)
    try:
        secs = parsedate_to_datetime(text).timestamp() - now
    except (ValueError, OverflowError, TypeError):
        return 0.0
    return min(max(secs, 0.0), cap)


def judge(
    result: Answer | Failure,
    envelope_id: str,
    *,
    require_matching_id: bool,
    now: float,
    cap: float,
    names_ours: bool = False,
) -> Outcome:
    """Judges the answer to a POST. `now` (Unix seconds) and `cap` (seconds) are for Retry-After.

    `names_ours`: this upstream is known to name envelopes as we do (upstream_facts.py).
    """
    if isinstance(result, Failure):
        return without_answer(result)
    status = meant_status(result)
    verdict, reason = _BY_STATUS.get(status) or _BY_CLASS.get(status // 100) or _NONSENSE
    route = status // 100 == 4 and status not in _BY_STATUS
    if status in _ANY_SIZE and is_markup(result):
        verdict, route = Verdict.HELD, True
        reason = "it says so with a web page, which something before the upstream may have written"
    elif status in _ANY_SIZE and is_misdirected(result):
        verdict, route = Verdict.HELD, True
        reason = "it says that the request is not for it: is the URL right, its host, its https?"
    outcome = Outcome(
        verdict,
        reason,
        status=status,
        answer=result,
        remote_id=remote_id(result) if verdict is Verdict.DELIVERED else None,
        least_secs=retry_after(result.headers.get("retry-after"), now, cap),
        shared=status in _SHARED,
        route=route,
    )
    if verdict is not Verdict.DELIVERED:
        return outcome
    return _doubt(outcome, result, envelope_id, require_matching_id, names_ours)


def _doubt(
    outcome: Outcome, answer: Answer, envelope_id: str, require_matching_id: bool, names_ours: bool
) -> Outcome:
    """A 2xx that cannot be believed, or that the operator wants confirmed, is no delivery."""
    if not answer.whole:
        reason = "the upstream answered before it had the whole body"
        return replace(outcome, verdict=Verdict.RETRY, reason=reason)
    why = misfit(answer, envelope_id)
    if why is not None:
        reason = f"it {why}: is the URL right, or is a login or a proxy before the upstream?"
        return replace(outcome, verdict=Verdict.HELD, reason=reason, route=True)
    if same_id(outcome.remote_id, envelope_id):
        return outcome
    if names_ours and outcome.remote_id is not None:
        reason = "it names another id, and has named ours before: is this another server?"
        return replace(outcome, verdict=Verdict.HELD, reason=reason, route=True)
    if require_matching_id:
        reason = "the answer does not name this envelope's id (require_matching_id)"
        return replace(outcome, verdict=Verdict.RETRY, reason=reason)
    return outcome


def weigh(outcome: Outcome, *, takes_others: bool, final: bool) -> Outcome:
    """Judges again, knowing what became of others.

    `takes_others`: the upstream has accepted another envelope since this one's first such answer.
    `final`: that was long enough ago. The route is then at fault no more; credentials, redirects
    and pages never become a verdict on an envelope.
    """
    if outcome.verdict is not Verdict.HELD or not takes_others:
        return outcome
    refused = final and outcome.route and (outcome.status or 0) >= 400
    verdict = Verdict.REFUSED if refused else Verdict.RETRY
    reason = f"{outcome.reason}; but it has taken others since this envelope's first such answer"
    return replace(outcome, verdict=verdict, reason=reason)


def without_answer(failure: Failure) -> Outcome:
    """Returns the outcome of an attempt that got no answer."""
    damaged = failure.kind is Kind.DAMAGED
    return Outcome(
        Verdict.REFUSED if damaged else Verdict.RETRY,
        f"{failure.kind.value}: {failure.detail}"[:DETAIL_CHARS_MAX],
        shared=failure.shared,
        late=failure.late,
        doubtful=not failure.unsent,
        damaged=damaged,
    )


# -- 409: is what they have what we sent? ----------------------------------------------------------

_NO_COPY: Final = frozenset({404, 405, 406, 410, 501})
"""Answers to GET manifest that say that there is none, or no way to it."""


def equals(copy: Answer | Failure, manifest: bytes) -> bool:
    """Tells whether what GET {url}/{id}/manifest gave is our manifest, as JSON."""
    if isinstance(copy, Failure) or copy.cut or copy.over or meant_status(copy) // 100 != 2:
        return False
    ours = document(manifest)
    return isinstance(ours, dict) and ours in (document(copy.body), inner_document(copy))


def judge_copy(
    conflict: Outcome,
    copy: Answer | Failure,
    manifest: bytes,
    envelope_id: str,
    *,
    doubtful: bool,
) -> Outcome:
    """Judges a 409, given GET {url}/{id}/manifest and the manifest inside our archive.

    Equal as JSON → DELIVERED. A manifest, and another → REFUSED. When there is none to be had, it
    depends: at a first attempt the id is somebody else's → REFUSED. `doubtful`, an earlier attempt
    may have put it there, perhaps still arriving: asked again for as long as it takes. When the
    question itself fails (no connection, 5xx, 401, a web page) nothing is known: RETRY or HELD.
    """
    if isinstance(copy, Failure):
        return replace(without_answer(copy), answer=conflict.answer)
    status = meant_status(copy)
    if equals(copy, manifest):
        return replace(
            conflict,
            verdict=Verdict.DELIVERED,
            reason="the upstream has this very envelope",
            remote_id=envelope_id,
            verified=True,
        )
    if status in (401, 403, 407) or status // 100 == 3:
        verdict, reason = _BY_STATUS.get(status) or _BY_CLASS[3]
        return replace(conflict, verdict=verdict, reason=reason, status=status)
    when = "after an attempt of unknown outcome" if doubtful else "at our first attempt"
    told = f"the upstream has an envelope with this id {when}; its manifest"
    if status // 100 == 2 and not copy.cut and _is_manifest(copy, envelope_id):
        return replace(conflict, verdict=Verdict.REFUSED, reason=f"{told} is another")
    reason = f"{told} cannot be had (status {status})"
    if status in _NO_COPY and not doubtful:
        return replace(conflict, verdict=Verdict.REFUSED, reason=reason)
    reason += ": it may be arriving still, and is asked for again"
    shared = status in _SHARED
    return replace(conflict, verdict=Verdict.RETRY, reason=reason, status=status, shared=shared)


def _is_manifest(copy: Answer, envelope_id: str) -> bool:
    """Tells whether it is an object that names the envelope, or is too long to be ours."""
    return same_id(remote_id(copy), envelope_id) or (copy.over and not is_markup(copy))


# -- when to try again -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential, with full jitter: a random part of a window that doubles up to `cap` seconds.

    1000 envelopes that failed together do not come back together.
    """

    base: float = 1.0
    cap: float = 300.0

    def delay(
        self, failures: int, chance: float, *, least: float = 0.0, quick: int | None = None
    ) -> float:
        """Seconds to wait after the n-th failure in a row (n ≥ 1); `chance` is within [0, 1).

        `least` (Retry-After) comes before the random part, so that those who were told the same
        spread too. After `quick` failures (Upstream.max_retries) the window is `cap` at once.
        """
        window = min(self.cap, self.base * 2.0 ** min(failures - 1, 40))
        if quick is not None and failures > quick:
            window = self.cap
        return min(max(least, 0.0), self.cap) + chance * window


class Gate:
    """Whether an upstream may be tried now. Told of every outcome; asked before every attempt.

    open: as many uploads at once as the uploader likes.
    paused: after a failure that concerns the upstream; nothing until `until`, then one at a time.
    held: the same after 401, 403 or a redirect, which only a person can mend; or after an answer
    that speaks of the route, where the pauses double up to that of the others.
    Times are of one monotonic clock, in seconds.
    """

    def __init__(self, backoff: Backoff, hold_secs: float) -> None:
        self._backoff = backoff
        self._hold_secs = hold_secs
        self._failures = 0
        self._strikes = 0
        self._holds = 0
        self._decided = float("-inf")
        self.until = float("-inf")
        self.held: Outcome | None = None

    @property
    def open(self) -> bool:
        """True when nothing is known against the upstream."""
        return self.held is None and not self._failures

    def admits(self, now: float, running: int) -> bool:
        """May an attempt start, while `running` others are under way?"""
        return self.open or (now >= self.until and running == 0)

    def admits_awaited(self, now: float, running: int) -> bool:
        """Says the same for an envelope that somebody waits for: an answer now is worth an
        attempt."""
        return self.held is None or self.held.route or self.admits(now, running)

    def told(self, outcome: Outcome, started: float, now: float, chance: float) -> None:
        """Takes in the outcome of an attempt that began at `started`."""
        if outcome.verdict is Verdict.HELD:
            secs = self._hold_secs
            if outcome.route:
                self._holds += started >= self._decided
                window = self._backoff.delay(max(1, self._holds), 1.0)
                secs = min(secs, (1 + chance) / 2 * window)
            self._decided = now
            self.held = outcome
            self.until = now + max(secs, outcome.least_secs)
        elif outcome.verdict is not Verdict.RETRY:
            self._failures = self._strikes = self._holds = 0
            self.held = None
            self.until = float("-inf")
        else:
            self._strikes += 1
            answered = outcome.status is not None
            counts = outcome.shared or self._strikes >= STRIKES_MAX or (answered and not self.open)
            # Uploads that ran side by side fail together: that is one failure, not four.
            if counts and started >= self._decided:
                self._failures += 1
                delay = self._backoff.delay(self._failures, chance, least=outcome.least_secs)
                self._decided = now
                self.until = max(self.until, now + delay)


# -- what is kept ----------------------------------------------------------------------------------


def receipt(outcome: Outcome, *, url: str, attempts: int, at: float) -> dict[str, Any]:
    """What sent/<id>.json keeps of a delivery. `at` is Unix seconds."""
    return {
        "status": outcome.status,
        "remote_id": outcome.remote_id,
        "at": at,
        "attempts": attempts,
        "url": url,
        "verified": outcome.verified,
        "body": outcome.answer.excerpt if outcome.answer else "",
    }


def refusal(outcome: Outcome, *, url: str, attempts: int, at: float) -> dict[str, Any]:
    """What rejected/<id>.json keeps for the person who will look at it."""
    answer = outcome.answer
    headers = answer.headers if answer else {}
    return {
        "status": outcome.status,
        "reason": outcome.reason,
        "at": at,
        "attempts": attempts,
        "url": url,
        "headers": {name: headers[name][:1024] for name in KEPT_HEADERS if name in headers},
        "body": answer.excerpt if answer else "",
    }


def report(outcome: Outcome, envelope_id: str) -> EnvelopeOutcome:
    """Returns what the process that waits for this envelope is sent."""
    detail = outcome.reason[:DETAIL_CHARS_MAX]
    return EnvelopeOutcome(envelope_id, outcome.result, outcome.status, detail)
