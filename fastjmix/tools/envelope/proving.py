"""Verifies several envelopes, each a file, a folder or a URL.

Guaranteed: each has an answer, also when another cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fastjmix.errors import FastjmixError
from fastjmix.jmix.read.report import Report
from fastjmix.tools.envelope import fetch
from fastjmix.tools.envelope.verifying import verify

if TYPE_CHECKING:
    from fastjmix.jmix.keys import RecipientKey
    from fastjmix.jmix.limits import Limits


class Asked(NamedTuple):
    """Keys and bounds of a verification. `fetch_bytes` and `fetch_secs` apply to a URL."""

    public_key: bytes | None
    key: RecipientKey | None
    limits: Limits
    token: str | None = None
    fetch_bytes: int = fetch.FETCH_BYTES
    fetch_secs: float = fetch.FETCH_SECS


class Answer(NamedTuple):
    """The report on one source, or the error that prevented it."""

    name: str
    report: Report | None
    error: FastjmixError | None = None

    @property
    def exit_code(self) -> int:
        """0 valid, 1 not valid; else the error's."""
        if self.error is not None:
            return self.error.exit_code
        return 0 if self.report is not None and self.report.ok else 1


def shown_name(source: str) -> str:
    """Returns the source without a query, which may be a secret."""
    return fetch.shown_url(source) if fetch.is_url(source) else source


def prove(source: str, asked: Asked, seen: Callable[[int], object]) -> Report:
    """Verifies one source. Raises UrlError, FetchError, UsageError, OSError."""
    if not fetch.is_url(source):
        return verify(
            Path(source),
            public_key=asked.public_key,
            key=asked.key,
            limits=asked.limits,
            seen=seen,
        )
    with fetch.fetch(
        source, token=asked.token, limit=asked.fetch_bytes, secs=asked.fetch_secs
    ) as file:
        return verify(
            file, public_key=asked.public_key, key=asked.key, limits=asked.limits, seen=seen
        )
