"""Errors of the envelope commands: in one line, and with the name of the envelope."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click

from fastjmix.errors import EnvelopeError, FastjmixError, printable


@contextmanager
def named_errors(source: object = "") -> Iterator[None]:
    """Raises FastjmixError with exit code 1 for what is wrong with an envelope (`source`) or a
    file.

    SIGTERM ends the block like an interrupt, so that no temporary file is left.
    """
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except EnvelopeError as error:
        message = f"{printable(source)}: {error.message}" if source else error.message
        named = FastjmixError(message, error.hint)
        named.faults = error.faults
        raise named from None
    except OSError as error:
        where = error.filename if error.filename is not None else source
        raise FastjmixError(f"{printable(where)}: {error.strerror or error}") from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


@contextmanager
def counted_skips() -> Iterator[None]:
    """Raises FastjmixError in place of IncompleteError: one line with the number of what was not
    taken, each of which is on stderr already; `faults` has them for JSON."""
    from fastjmix.tools.envelope.building import IncompleteError

    try:
        yield
    except IncompleteError as problem:
        count = len(problem.skipped)
        subject = f"{count} that {'was' if count == 1 else 'were'} met cannot be taken"
        hint = "With leave_out=True the envelope is made without."
        error = FastjmixError(f"{subject}: nothing was written", hint)
        error.faults = [f"{one.path}: {one.reason}" for one in problem.skipped]
        raise error from None


def file_path(output: str) -> Path:
    """Returns the path of a file to write. Raises BadParameter for one that names a folder."""
    if output.endswith(os.sep):
        raise click.BadParameter(f"-o {printable(output)} names a folder: name a file")
    return Path(output)
