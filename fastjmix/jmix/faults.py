"""The error for a fault of an envelope, and the functions that report one.

Wanted: an error names the member or the document at fault, so that the envelope's author can
correct it.
Guaranteed: a message repeats only a short part of an envelope's own text, without control
characters. Every fault met while an envelope is read is an EnvelopeError or an OSError.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

from fastjmix.errors import EnvelopeError, printable

EXCERPT_MAX: Final = 120
"""Characters of an envelope's own text that an error message repeats."""


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
    """Reading an envelope led to an error that no rule foresaw, which is a fault of fastjmix as
    well. Its cause is that error."""


OnFault = Callable[[EnvelopeError], object]
"""Gets each fault of an envelope. One that raises the fault ends the reading. With one that
returns, reading goes on: the member at fault is left out, and further faults follow."""


def raise_fault(fault: EnvelopeError) -> NoReturn:
    """Raises the fault: an OnFault for callers that accept none."""
    raise fault


def ignore_fault(_fault: EnvelopeError) -> None:
    """Does nothing: an OnFault for a statement whose faults were reported before."""


def refuse(where: str, what: str, hint: str = "", *, at: int | None = None) -> NoReturn:
    """Raises Fault. `where` is a member's name, or a part of the archive."""
    raise Fault(where, what, hint, at=at)


@contextlib.contextmanager
def foreseen() -> Iterator[None]:
    """Raises Unforeseen in place of any error but EnvelopeError, OSError and MemoryError.

    The rules name what is wrong. Where a rule is missing, the envelope is refused all the same, and
    the caller needs no handler for errors of the libraries below.
    """
    try:
        yield
    except (EnvelopeError, OSError, MemoryError):
        raise
    except Exception as problem:
        why = f"{type(problem).__name__}: {shortened(printable(problem))}"
        raise Unforeseen(
            f"archive: cannot be read: {why}",
            "Please report this archive to the authors of fastjmix.",
        ) from problem


def shortened(text: str) -> str:
    """Returns at most EXCERPT_MAX characters of a text, and a sign where it was longer."""
    return text if len(text) <= EXCERPT_MAX else f"{text[:EXCERPT_MAX]}…"


def escaped(name: str) -> str:
    """Returns a name for a message: short, and with its control characters escaped."""
    return shortened(printable(name))
