"""Reads the parameters of a query, and the body of an action.

Guaranteed: an unknown parameter, and a value that is none, is a 400 that says what is allowed. A
misspelt condition must not select every envelope.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from fastjmix.errors import UsageError
from fastjmix.ledger.queries import Search
from fastjmix.spool.selection import HERE, STATES, Selection, canonical_ids

LIMIT: Final = 100
LIMIT_MAX: Final = 1000
"""Envelopes of one page."""

CHARS_MAX: Final = 1024
"""Characters of a word that is looked for."""

CONDITIONS: Final = frozenset({"state", "study", "ae", "upstream", "older"})
PAGING: Final = frozenset({"limit", "cursor"})

WORDS: Final = {
    "study": "study",
    "series": "series",
    "instance": "instance",
    "accession": "accession",
    "patient_id": "patient_id",
    "patient_name": "patient_name",
    "ae": "calling_ae",
    "peer": "peer",
    "envelope": "envelope",
    "upstream": "upstream",
}
"""Parameters of a search, and the conditions that they are."""

Given = Mapping[str, str]


def selection_of(given: Given, usual: tuple[Any, ...] = HERE) -> Selection:
    """Returns the selection; `usual` are its states where none is given. Raises UsageError."""
    words = [one for one in given.get("state", "").split(",") if one]
    if unknown := [one for one in words if one not in STATES]:
        raise UsageError(f"no state: {unknown[0][:80]!r}", f"One of {', '.join(STATES)}.")
    states = tuple(state for state in STATES if state in words) or usual
    return Selection(
        states=states,
        study=given.get("study"),
        calling_ae=given.get("ae"),
        upstream=given.get("upstream"),
        older_secs=_seconds(given["older"]) if "older" in given else None,
    )


def search_of(given: Given) -> Search:
    """Returns the search. Raises UsageError."""
    require_known(given, {*WORDS, "since", "until", "state", *PAGING})
    words = {name: given[key] for key, name in WORDS.items() if given.get(key)}
    times = {key: _moment(given[key]) for key in ("since", "until") if given.get(key)}
    states = tuple(one for one in given.get("state", "").split(",") if one)
    return Search(states=states, **words, **times)  # type: ignore[arg-type]


def require_known(given: Given, known: set[str]) -> None:
    """Raises UsageError for a parameter that is not known, or too long."""
    if unknown := sorted(set(given) - known):
        raise UsageError(
            f"no parameter: {unknown[0][:80]!r}", f"Known are {', '.join(sorted(known))}."
        )
    if any(len(value) > CHARS_MAX for value in given.values()):
        raise UsageError(f"a value has {CHARS_MAX} characters at most")


def limit_of(given: Given) -> int:
    """Returns the number of envelopes of a page. Raises UsageError."""
    word = given.get("limit", str(LIMIT))
    if not (word.isascii() and word.isdecimal() and len(word) <= 9 and 1 <= int(word) <= LIMIT_MAX):
        raise UsageError(f"limit is a number from 1 to {LIMIT_MAX}")
    return int(word)


def cursor_of(given: Given) -> tuple[float, str] | None:
    """Returns where a page begins. Raises UsageError."""
    if "cursor" not in given:
        return None
    at, _, envelope_id = given["cursor"].partition("_")
    try:
        found = float(at)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise UsageError("no cursor of a page before")
    return found, envelope_id


def cursor_text(cursor: tuple[float, str] | None) -> str | None:
    """Returns the cursor that `cursor_of` reads."""
    return None if cursor is None else f"{cursor[0]!r}_{cursor[1]}"


class ActionBody:
    """The body of an action: {"ids": […]}, or {"all": true} with conditions; "dry_run", "why".

    "upstream" is a condition, and the one of several that the action is for; it may stand beside
    ids.

    Raises UsageError.
    """

    def __init__(self, text: bytes, usual: tuple[Any, ...]) -> None:
        try:
            found = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise UsageError("the body is not JSON") from None
        if not isinstance(found, dict):
            raise UsageError("the body is not an object")
        known = {"ids", "all", "dry_run", "why", *CONDITIONS}
        require_known(dict.fromkeys(found, ""), known)
        self.dry_run = _switch(found, "dry_run")
        self.why = found.get("why", "")
        given = {key: found[key] for key in CONDITIONS if key in found}
        texts = [*given.values(), self.why]
        if not all(isinstance(value, str) and len(value) <= CHARS_MAX for value in texts):
            raise UsageError(f"conditions and why are texts of {CHARS_MAX} characters at most")
        self.ids: tuple[str, ...] | None = None
        if _switch(found, "all") == ("ids" in found):
            raise UsageError('either "ids", or "all": true with conditions')
        if "ids" in found:
            if given.keys() - {"upstream"}:
                raise UsageError('conditions belong to "all": true')
            self.ids = _ids(found["ids"])
        self.upstream = given.get("upstream", "")
        self.selection = selection_of(given, usual)


def _ids(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UsageError('"ids" is a list of texts')
    canonical_ids(value)
    return tuple(one.lower() for one in dict.fromkeys(value))


def _switch(found: Mapping[str, Any], name: str) -> bool:
    value = found.get(name, False)
    if not isinstance(value, bool):
        raise UsageError(f'"{name}" is true or false')
    return value


def _seconds(word: str) -> float:
    try:
        secs = float(word)
    except ValueError:
        secs = math.nan
    if not 0 <= secs < math.inf:
        raise UsageError(f"older is a number of seconds, not {word[:80]!r}")
    return secs


def _moment(word: str) -> float:
    """Returns a time in Unix seconds, or of ISO 8601, in UTC where it names no other zone."""
    try:
        secs = float(word)
    except ValueError:
        secs = _date(word)
    if not math.isfinite(secs):
        raise UsageError(f"no time: {word[:80]!r}", "2026-05-31T14:00, or Unix seconds.")
    return secs


def _date(word: str) -> float:
    """Returns a time of ISO 8601 in Unix seconds; NaN for another text."""
    try:
        found = datetime.fromisoformat(word)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return math.nan
