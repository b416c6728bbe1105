"""Builds the records that sent/<id>.json and rejected/<id>.json keep of an upstream's answer."""

from __future__ import annotations

from typing import Final

from fastjmix.uploader.outcome import Outcome

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

HEADER_CHARS_MAX: Final = 1024
"""Characters of each of them that are kept."""


def receipt(outcome: Outcome, *, url: str, attempts: int, at: float) -> dict[str, object]:
    """Returns the record of a delivery. `at` is Unix seconds."""
    return {
        "status": outcome.status,
        "remote_id": outcome.remote_id,
        "at": at,
        "attempts": attempts,
        "url": url,
        "verified": outcome.verified,
        "body": outcome.answer.excerpt if outcome.answer else "",
    }


def refusal(
    outcome: Outcome, *, url: str, attempts: int, at: float, said: str = ""
) -> dict[str, object]:
    """Returns the record of a refusal, for a person to read. `at` is Unix seconds, `said` the
    beginning of the answer in one line."""
    answer = outcome.answer
    headers = answer.headers if answer else {}
    kept = {name: headers[name][:HEADER_CHARS_MAX] for name in KEPT_HEADERS if name in headers}
    return {
        "status": outcome.status,
        "reason": outcome.reason,
        "at": at,
        "attempts": attempts,
        "url": url,
        "said": said,
        "headers": kept,
        "body": answer.excerpt if answer else "",
    }
