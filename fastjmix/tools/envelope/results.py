"""Tells what the verbs made: a line for a person, or JSON for a program.

Guaranteed: results go to stdout, what was left out to stderr; what a file name says is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from fastjmix.errors import FastjmixError, printable
from fastjmix.tools.envelope.options import for_shell

if TYPE_CHECKING:
    from fastjmix.tools.envelope.building import Built
    from fastjmix.tools.send import Skipped


_printed: list[bool] = []


def has_printed_json() -> bool:
    """Tells whether the one JSON document of this command is on stdout already."""
    return bool(_printed)


def print_json(value: Mapping[str, Any]) -> None:
    """Prints one JSON document on stdout, indented, and flushes it."""
    import orjson

    _printed.append(True)
    try:
        document = orjson.dumps(value, option=orjson.OPT_INDENT_2)
    except TypeError:  # a file's name that is no UTF-8
        document = orjson.dumps(_in_utf8(value), option=orjson.OPT_INDENT_2)
    typer.echo(document)


def error_json(error: FastjmixError) -> dict[str, Any]:
    """An error for a program: a message, a hint and faults where there are some, the exit code."""
    hint = {"hint": for_shell(error.hint)} if error.hint else {}
    faults = {"faults": [str(fault) for fault in error.faults]} if error.faults else {}
    return {"error": error.message, **hint, **faults, "exit_code": error.exit_code}


def _in_utf8(value: Any) -> Any:
    """Returns the value with texts that have a form in UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_in_utf8(key): _in_utf8(one) for key, one in value.items()}
    return [_in_utf8(one) for one in value] if isinstance(value, (list, tuple)) else value


def say(result: dict[str, Any], line: str, as_json: bool) -> None:
    """Prints what was made, for a program or a person."""
    if as_json:
        print_json(result)
    else:
        typer.echo(printable(line))


def say_built(made: list[Built], as_json: bool, **more: Any) -> None:
    if as_json:
        told = [{**one._asdict(), "path": str(one.path)} for one in made]
        print_json({"envelopes": told, **more})
        return
    for one in made:
        for twice in one.duplicates:
            typer.echo(f"kept once: {printable(twice)}: an earlier file has its data set", err=True)
        studies = f"{len(one.studies)} {'study' if len(one.studies) == 1 else 'studies'}"
        sizes = f"{one.instances} instances, {one.size_bytes} bytes"
        typer.echo(printable(f"{one.path}: {one.id}, {studies}, {sizes}"))


class LeftOut:
    """Names on stderr what was met and not taken, as it is met; `rows` are for JSON."""

    def __init__(self, *, leave_out: bool) -> None:
        self._verb = "left out" if leave_out else "not taken"
        self.rows: list[dict[str, str]] = []

    def __call__(self, one: Skipped) -> None:
        self.rows.append({"path": str(one.path), "reason": one.reason})
        typer.echo(f"{self._verb}: {printable(one.path)}: {printable(one.reason)}", err=True)


@contextmanager
def nothing_missing() -> Iterator[None]:
    """Says in one line how many things were named as not taken; `faults` has them for JSON."""
    from fastjmix.tools.envelope.building import IncompleteError

    try:
        yield
    except IncompleteError as problem:
        count = len(problem.skipped)
        told = f"{count} that {'was' if count == 1 else 'were'} met cannot be taken"
        hint = "With leave_out=True the envelope is made without."
        error = FastjmixError(f"{told}: nothing was written", hint)
        error.faults = [f"{one.path}: {one.reason}" for one in problem.skipped]
        raise error from None
