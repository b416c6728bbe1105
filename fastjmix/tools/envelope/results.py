"""Tells what the verbs made: a line for a person, or JSON for a program.

Guaranteed: results go to stdout, what was left out to stderr; what a file name says is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from fastjmix.errors import FastjmixError, printable

if TYPE_CHECKING:
    from fastjmix.tools.envelope.building import Built


def print_json(value: dict[str, Any]) -> None:
    """On stdout, indented."""
    import orjson

    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))


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


@contextmanager
def nothing_missing() -> Iterator[None]:
    """Says in one line how many things were named as not taken."""
    from fastjmix.tools.envelope.building import IncompleteError

    try:
        yield
    except IncompleteError as problem:
        count = len(problem.skipped)
        told = f"{count} that {'was' if count == 1 else 'were'} met cannot be taken"
        hint = "With leave_out=True the envelope is made without."
        raise FastjmixError(f"{told}: nothing was written", hint) from None
