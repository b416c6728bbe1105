"""Names the faults of a stranger's envelope: the error, and the words for it.

Wanted: a refusal names the member or the document at fault, in words that its author understands.
Guaranteed: what is repeated of a stranger's text is short and has no control characters. Whatever
goes wrong while a stranger's bytes are read is an EnvelopeError or an OSError.
Still wrong: nothing known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

from fastjmix.errors import EnvelopeError, printable

SHOWN: Final = 120
"""Characters of a stranger's text that an error message repeats."""


class Fault(EnvelopeError):
    """A fault and its place: a member or a part of the archive, and the byte at which it, or its
    header, begins."""

    def __init__(self, where: str, what: str, hint: str = "", *, at: int | None = None) -> None:
        place = "" if at is None else f", byte {at}"
        super().__init__(f"{escaped(where)}{place}: {what}", hint)
        self.where = escaped(where)
        self.what = what
        self.at = at


class Unforeseen(EnvelopeError):
    """A stranger's bytes led to an error that no rule foresaw: a fault of fastjmix as well. Its
    cause is the error."""


Tell = Callable[[EnvelopeError], object]
"""Hears of a fault in a member. A `Tell` that raises it refuses the archive. One that returns hears
of the next fault, and the member is left out."""


def strict(fault: EnvelopeError) -> NoReturn:
    """Raises the first fault: it is one too many."""
    raise fault


def refuse(where: str, what: str, hint: str = "", *, at: int | None = None) -> NoReturn:
    """Raises Fault. `where` is a member's name, or a part of the archive."""
    raise Fault(where, what, hint, at=at)


@contextlib.contextmanager
def foreseen() -> Iterator[None]:
    """Raises Unforeseen in place of any error but EnvelopeError, OSError and MemoryError.

    The rules refuse what is wrong by name. This is for the case that a rule is missing: a
    stranger's bytes are refused then, too, and are no fault of whoever was asked.
    """
    try:
        yield
    except (EnvelopeError, OSError, MemoryError):
        raise
    except Exception as problem:
        told = f"archive: cannot be read: {type(problem).__name__}: {shortened(printable(problem))}"
        raise Unforeseen(
            told, "Please report this archive to the authors of fastjmix."
        ) from problem


def shortened(text: str) -> str:
    """Returns a stranger's text, short enough for a message."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def escaped(name: str) -> str:
    """Returns a stranger's name, short, and without control characters that could draw a lie."""
    return shortened(printable(name))
