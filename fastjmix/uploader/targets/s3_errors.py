"""Decides what an S3 service's refusal means for an envelope.

obstore raises types for some statuses, and one for the others, with the answer in its text.
Guaranteed: no word of the service is in an Outcome's `reason`; its answer is in `answer`, which the
log shows in one line and without our keys.

    the service says                     disposition
    409 412                              VERIFY   something has the name
    401 402 403 404, redirects, other 4xx  HELD   keys, bucket or region: a person corrects them
    EntityTooLarge                       REFUSED  lower max_envelope_bytes
    501                                  HELD     conditional = false, where it is If-None-Match
    429 5xx, no answer                   RETRY    pauses the target
"""

from __future__ import annotations

import re
from typing import Final

from fastjmix.uploader.answers import EXCERPT_BYTES_MAX, Answer
from fastjmix.uploader.outcome import Disposition, Failure, Kind, Outcome
from fastjmix.uploader.policy import assess_failure, meaning

_STATUS: Final = re.compile(r"status code: ([1-5][0-9]{2})\b[^:\n]{0,64}(?:: )?")
_DEBUG: Final = "\n\nDebug source:"
_TOO_LARGE: Final = b"<Code>EntityTooLarge</Code>"

TAKEN: Final = Outcome(Disposition.VERIFY, "the bucket has an object of the envelope's name")


def answer_in(text: str) -> Answer | None:
    """Returns the answer that the text of an error shows; None where none came."""
    found = _STATUS.search(text)
    if found is None:
        return None
    body = text[found.end() :].partition(_DEBUG)[0]
    return Answer(int(found[1]), body=body.encode("utf-8", "replace")[:EXCERPT_BYTES_MAX])


def assess_error(problem: Exception, host: str) -> Outcome:
    """Returns the outcome of a request that failed. `host` is where it went."""
    text = str(problem)
    answer = answer_in(text)
    if answer is None:
        if "redirect" in text:
            reason = "the service redirects: is the bucket in another region?"
            return Outcome(Disposition.HELD, reason, shared=True, maybe_stored=False)
        return assess_failure(_without_answer(text, host))
    status = answer.status
    if status in (409, 412):
        return TAKEN
    disposition, reason = meaning(status)
    if _TOO_LARGE in answer.body:
        disposition, reason = Disposition.REFUSED, "too large for it: lower max_envelope_bytes"
    elif status == 501:
        disposition, reason = Disposition.HELD, "it does not know a header: conditional = false?"
    elif status == 404:
        disposition, reason = Disposition.HELD, "the service has no such bucket"
    elif status // 100 == 4 and status not in (408, 425, 429):
        disposition = Disposition.HELD
        reason = "the service refuses the request: are the keys, the region and the clock right?"
    return Outcome(disposition, reason, status=status, answer=answer, shared=True)


def silent(host: str) -> Failure:
    """Returns the failure of a request without an answer in time."""
    return Failure(Kind.LATE, f"{host} does not answer", late=True)


def _without_answer(text: str, host: str) -> Failure:
    if "kind: Timeout" in text:
        return silent(host)
    if "kind: Connect" in text:
        return Failure(Kind.UNREACHABLE, f"{host}: no connection, or no TLS that is trusted")
    return Failure(Kind.BROKEN, f"{host}: the request failed")
