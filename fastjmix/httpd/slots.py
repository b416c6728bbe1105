"""Limits how many requests of a kind run at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fastjmix.httpd.responses import HttpError


class Slots:
    """Turns for requests of one kind: at most `count` at a time. Later ones are refused at once.

    `kind` is their name in the refusal, in the plural.
    """

    def __init__(self, count: int, kind: str) -> None:
        self._left = count
        self._kind = kind

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """Takes a slot. Raises HttpError 503."""
        if not self._left:
            what = f"too many {self._kind} at once: try again later"
            raise HttpError(503, what, {"Retry-After": "5"})
        self._left -= 1
        try:
            yield
        finally:
            self._left += 1
