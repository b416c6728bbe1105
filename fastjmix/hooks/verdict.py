"""Reads the end of a hook's command: does the envelope pass?

    exit code 0      pass. Nothing on stdout, or {"tags": ["…", …]}: tags for the ticket
    exit code 10     veto: the last line of stderr is the reason
    anything else    failure: another exit code, a signal, a limit, other words on stdout

Guaranteed: no I/O here. A reason and a tag are bounded and printable.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

import orjson

VETO_CODE: Final = 10
"""Programs that fail give 1 and 2, shells 126 and more, sysexits(3) 64 to 78."""

OUTPUT_BYTES_MAX: Final = 64 * 1024
"""Bytes of stdout: more is no list of tags."""

TAGS_MAX: Final = 32
"""Tags that a hook may give to an envelope; a rule of a route has as many."""

TAG_CHARS_MAX: Final = 64
REASON_CHARS_MAX: Final = 300
"""Characters of a reason, for a hold, a refusal and the log."""


class Result(Enum):
    """How an envelope came through a hook."""

    PASSED = "passed"
    VETOED = "vetoed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result, tags of a pass, and the reason of anything else."""

    result: Result
    tags: tuple[str, ...] = ()
    reason: str = ""


PASS: Final = Verdict(Result.PASSED)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    `code` is its exit code, negative for a signal; `limit` names the limit for which it was killed,
    "" where none was reached. `out` and `err` are what it wrote, the end of it for `err`.
    """

    code: int
    out: bytes = b""
    err: bytes = b""
    limit: str = ""


def verdict(ended: Ended) -> Verdict:
    """Returns what the end of a command means."""
    if ended.limit:
        return failure(ended.limit)
    if ended.code == VETO_CODE:
        return Verdict(Result.VETOED, reason=last_line(ended.err) or "no reason given")
    if ended.code != 0:
        how = f"exit code {ended.code}" if ended.code > 0 else f"signal {-ended.code}"
        said = last_line(ended.err)
        return failure(f"{how}: {said}" if said else how)
    return _passed(ended.out)


def failure(why: str) -> Verdict:
    """Returns the verdict of a hook that did not do its work."""
    return Verdict(Result.FAILED, reason=_printable(why)[:REASON_CHARS_MAX])


def _passed(out: bytes) -> Verdict:
    if not out.strip():
        return PASS
    try:
        found = orjson.loads(out)
    except orjson.JSONDecodeError:
        return failure("its stdout is no JSON")
    tags = found.get("tags", []) if isinstance(found, dict) else None
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        return failure('its stdout is not {"tags": ["…"]}')
    if len(tags) > TAGS_MAX:
        return failure(f"{len(tags)} tags, and {TAGS_MAX} are allowed")
    if any(not _is_tag(tag) for tag in tags):
        return failure(f"a tag that is empty, not printable or of more than {TAG_CHARS_MAX} chars")
    return Verdict(Result.PASSED, tags=tuple(dict.fromkeys(tags)))


def _is_tag(text: str) -> bool:
    return 0 < len(text) <= TAG_CHARS_MAX and text.isprintable() and text == text.strip()


def last_line(err: bytes) -> str:
    """Returns the last line that is not blank, printable and cut."""
    lines = [line for line in err.decode("utf-8", "replace").splitlines() if line.strip()]
    return _printable(lines[-1].strip())[:REASON_CHARS_MAX] if lines else ""


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
