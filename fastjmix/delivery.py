"""Whether an envelope has arrived: what an upstream's answer means, and when to ask again.

Wants an answer (or the failure to get one) as a value, the time and a number between 0 and 1 for
chance. Gives an Outcome. Sans-I/O: no socket, no file, no clock, no dice in here.

    answer                             verdict     then
    2xx                                DELIVERED   outbox → sent, the answer kept as the receipt
    2xx before it had the whole body   RETRY       nothing can have been stored
    2xx with another id                DELIVERED   recorded; RETRY under require_matching_id
    3xx                                HELD        redirects are never followed
    401 403 407                        HELD        the credentials are at fault, not the envelope
    408 425 429 5xx, no answer         RETRY       for ever; Retry-After is honoured
    none: our archive is damaged       REFUSED     nobody has got all of it
    409                                VERIFY      their manifest is ours: DELIVERED, else REFUSED
    other 4xx                          REFUSED     outbox → rejected, the answer kept

A Harmony instance wraps its answers: HTTP 200 with {"response": {"status": 400, …}} inside. Then
the status inside is what the upstream meant, and what is judged here.

Still wrong: an upstream that answers 404 because its URL is misspelt in the configuration sends
every envelope to rejected/; nothing is lost, but a person has to move them back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, Final

import orjson

EXCERPT_BYTES_MAX: Final = 4096
"""Of an answer's body in a receipt or a refusal: an error page's message, not its pictures."""

REMOTE_ID_CHARS_MAX: Final = 200
"""An upstream's id for an envelope is a UUID or a short key; a longer one is not kept."""

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


class Coding(Enum):
    """How the body's end is told (RFC 9112 §6)."""

    CHUNKED = "chunked"
    LENGTH = "content-length"


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
class Answer:
    """An upstream's answer. Header names are lower-case; `body` is cut at a limit.

    `version` is the status line's, (1, 0) or (1, 1). `whole` is False when the answer came while
    the request's body was still flowing; `cut` is True when the answer's own body broke off, and
    `over` when there was more of it than the limit.
    """

    status: int
    version: tuple[int, int] = (1, 1)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = True
    cut: bool = False
    over: bool = False

    @property
    def excerpt(self) -> str:
        """The body's beginning as text."""
        return self.body[:EXCERPT_BYTES_MAX].decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt came to. `least_secs` is how long the upstream asked to be left alone.

    `shared`: the next envelope would fare no better. `late`: a time limit ended it. `doubtful`:
    the upstream may have stored the envelope all the same. `verified`: its copy was compared.
    `damaged`: our archive is at fault, and the upstream has not judged it.
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

    @property
    def word(self) -> str:
        """The outcome for the process that waits for it: see Links.outcomes."""
        if self.verdict is Verdict.DELIVERED:
            return "delivered"
        if self.verdict is Verdict.REFUSED:
            return "refused"
        return "timeout" if self.late else "failed"


# -- what an answer means --------------------------------------------------------------------------

_BY_STATUS: Final[Mapping[int, tuple[Verdict, str]]] = {
    401: (Verdict.HELD, "the upstream does not accept our credentials"),
    403: (Verdict.HELD, "the upstream forbids us to upload"),
    407: (Verdict.HELD, "a proxy before the upstream asks for credentials"),
    408: (Verdict.RETRY, "the upstream waited too long for the body"),
    409: (Verdict.VERIFY, "the upstream already has an envelope with this id"),
    413: (Verdict.REFUSED, "too large for the upstream: lower max_envelope_bytes"),
    415: (Verdict.REFUSED, "the upstream does not take application/zip"),
    425: (Verdict.RETRY, "too early for the upstream"),
    429: (Verdict.RETRY, "too many requests for the upstream"),
}

_BY_CLASS: Final[Mapping[int, tuple[Verdict, str]]] = {
    2: (Verdict.DELIVERED, "the upstream has taken it"),
    3: (Verdict.HELD, "the upstream redirects, and redirects are not followed: correct its URL"),
    4: (Verdict.REFUSED, "the upstream refuses this envelope"),
    5: (Verdict.RETRY, "the upstream has failed"),
}

_SHARED: Final = frozenset({429, 502, 503, 504})
"""Statuses that speak of the upstream (or of the proxy before it) and not of the envelope."""

_CHUNKED_UNWELCOME: Final = frozenset({411, 501})
"""411 Length Required; 501 also stands for a transfer coding not understood (RFC 9112 §6.1)."""


def _document(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def meant_status(answer: Answer) -> int:
    """The status, or the one inside when a 2xx answer wraps another (Harmony does)."""
    if answer.status // 100 == 2:
        found = _document(answer.body)
        wrapped = found.get("response") if isinstance(found, dict) else None
        status = wrapped.get("status") if isinstance(wrapped, dict) else None
        if isinstance(status, int) and 100 <= status <= 599:
            return status
    return answer.status


def remote_id(body: bytes) -> str | None:
    """The upstream's id for the envelope: `id`, else `response.json.id`, else None."""
    found = _document(body)
    for keys in (("id",), ("response", "json", "id")):
        value = found
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, str) and 0 < len(value) <= REMOTE_ID_CHARS_MAX:
            return value
    return None


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
) -> Outcome:
    """The outcome of a POST. `now` (Unix seconds) and `cap` (seconds) are for Retry-After."""
    if isinstance(result, Failure):
        return _without_answer(result)
    status = meant_status(result)
    verdict, reason = _BY_STATUS.get(status) or _BY_CLASS.get(status // 100) or _NONSENSE
    outcome = Outcome(
        verdict,
        reason,
        status=status,
        answer=result,
        remote_id=remote_id(result.body) if verdict is Verdict.DELIVERED else None,
        least_secs=retry_after(result.headers.get("retry-after"), now, cap),
        shared=status in _SHARED,
    )
    return _doubt(outcome, envelope_id, require_matching_id)


_NONSENSE: Final = (Verdict.RETRY, "the upstream's status is not one of HTTP's")


def _doubt(outcome: Outcome, envelope_id: str, require_matching_id: bool) -> Outcome:
    """A 2xx that cannot be believed, or that the operator wants confirmed, is no delivery."""
    if outcome.verdict is not Verdict.DELIVERED or outcome.answer is None:
        return outcome
    if not outcome.answer.whole:
        reason = "the upstream answered before it had the whole body"
        return replace(outcome, verdict=Verdict.RETRY, reason=reason)
    same = (outcome.remote_id or "").lower() == envelope_id.lower()
    if require_matching_id and not same:
        reason = "the answer does not name this envelope's id (require_matching_id)"
        return replace(outcome, verdict=Verdict.RETRY, reason=reason)
    return outcome


def _without_answer(failure: Failure) -> Outcome:
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

_ASK_AGAIN: Final = frozenset({408, 425, 429, 502, 503, 504})
"""Answers to GET manifest that say nothing about the copy: it is asked for again later."""


def judge_copy(
    conflict: Outcome, copy: Answer | Failure, manifest: bytes, *, doubtful: bool
) -> Outcome:
    """The outcome after a 409, given GET {url}/{id}/manifest and the manifest inside our archive.

    Equal as JSON → DELIVERED. Different, or not to be had → REFUSED. `doubtful` says whether an
    earlier attempt may have put it there; it changes only the words. When the question itself
    fails (no connection, a gateway's error, 401) nothing is known: RETRY or HELD.
    """
    if isinstance(copy, Failure):
        return replace(_without_answer(copy), answer=conflict.answer)
    status = meant_status(copy)
    if status in _ASK_AGAIN or copy.cut:
        reason = f"{conflict.reason}; its manifest cannot be had now (status {status})"
        shared = status in _SHARED
        return replace(conflict, verdict=Verdict.RETRY, reason=reason, status=status, shared=shared)
    if status in (401, 403, 407) or status // 100 == 3:
        verdict, reason = _BY_STATUS.get(status) or _BY_CLASS[3]
        return replace(conflict, verdict=verdict, reason=reason, status=status)
    ours, theirs = _document(manifest), _document(copy.body)
    if status // 100 == 2 and ours is not None and ours == theirs and not copy.over:
        return replace(
            conflict,
            verdict=Verdict.DELIVERED,
            reason="the upstream has this very envelope",
            remote_id=remote_id(copy.body),
            verified=True,
        )
    when = "after an attempt of unknown outcome" if doubtful else "at our first attempt"
    what = "is another" if status // 100 == 2 else f"cannot be had (status {status})"
    reason = f"the upstream has an envelope with this id {when}; its manifest {what}"
    return replace(conflict, verdict=Verdict.REFUSED, reason=reason)


# -- which transfer coding -------------------------------------------------------------------------


class Dialect:
    """What is known of one upstream's HTTP: chosen once, corrected by every answer.

    `setting` is Upstream.transfer_encoding. An HTTP/1.0 server that is sent a chunked body stores
    nothing and may still answer 201; so "auto" is chunked only where HTTP/1.1 has been seen.
    """

    def __init__(self, setting: str) -> None:
        self._fixed = None if setting == "auto" else Coding(setting)
        self._version: tuple[int, int] | None = None
        self._no_chunked = False

    def coding(self) -> Coding | None:
        """The coding for the next body; None when the upstream has yet to be asked anything."""
        if self._fixed is not None:
            return self._fixed
        if self._version is None:
            return None
        return Coding.CHUNKED if self._version >= (1, 1) and not self._no_chunked else Coding.LENGTH

    def heard(self, answer: Answer) -> None:
        """Any answer tells the version."""
        self._version = answer.version

    def misspoken(self, used: Coding, answer: Answer) -> bool:
        """True when `answer` was to a body that its author could not read: send it again.

        Learns from it, so that the next coding is another.
        """
        self.heard(answer)
        if self._fixed is not None or used is not Coding.CHUNKED:
            return False
        if answer.status in _CHUNKED_UNWELCOME:
            self._no_chunked = True
            return True
        verdict, _ = _BY_STATUS.get(answer.status) or _BY_CLASS.get(answer.status // 100, _NONSENSE)
        judged = verdict in (Verdict.DELIVERED, Verdict.REFUSED, Verdict.VERIFY)
        return judged and answer.version < (1, 1)


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
    held: the same after 401, 403 or a redirect, which only a person can mend.
    Times are of one monotonic clock, in seconds.
    """

    def __init__(self, backoff: Backoff, hold_secs: float) -> None:
        self._backoff = backoff
        self._hold_secs = hold_secs
        self._failures = 0
        self._strikes = 0
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

    def told(self, outcome: Outcome, started: float, now: float, chance: float) -> None:
        """Takes in the outcome of an attempt that began at `started`."""
        if outcome.verdict is Verdict.HELD:
            self.held = outcome
            self.until = now + max(self._hold_secs, outcome.least_secs)
        elif outcome.verdict is not Verdict.RETRY:
            self._failures = self._strikes = 0
            self.held = None
            self.until = float("-inf")
        else:
            self._strikes += 1
            # Uploads that ran side by side fail together: that is one failure, not four.
            if (outcome.shared or self._strikes >= STRIKES_MAX) and started >= self._decided:
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


def report(outcome: Outcome, envelope_id: str) -> bytes:
    """The datagram for the process that waits for this envelope (Links.outcomes)."""
    return orjson.dumps(
        {
            "id": envelope_id,
            "outcome": outcome.word,
            "status": outcome.status,
            "detail": outcome.reason[:DETAIL_CHARS_MAX],
        }
    )
