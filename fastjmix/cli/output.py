"""Results and errors, as a line for a person or as JSON for a program.

Guaranteed: a command prints at most one JSON document, and it goes to stdout; errors go to stderr
as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from fastjmix.cli.hints import for_shell
from fastjmix.errors import FastjmixError, printable

_printed: list[bool] = []


def has_printed_json() -> bool:
    """Returns whether the one JSON document of this command is on stdout already."""
    return bool(_printed)


def print_json(value: Mapping[str, Any]) -> None:
    """Prints one JSON document on stdout, indented, and flushes it."""
    import orjson

    _printed.append(True)
    try:
        document = orjson.dumps(value, option=orjson.OPT_INDENT_2)
    except TypeError:  # a file name that is not UTF-8
        document = orjson.dumps(_in_utf8(value), option=orjson.OPT_INDENT_2)
    click.echo(document)


def _in_utf8(value: Any) -> Any:
    """Returns the value with texts that can be encoded in UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_in_utf8(key): _in_utf8(one) for key, one in value.items()}
    return [_in_utf8(one) for one in value] if isinstance(value, (list, tuple)) else value


def print_result(result: dict[str, Any], line: str, as_json: bool) -> None:
    """Prints a result: as JSON for a program, or one line for a person."""
    if as_json:
        print_json(result)
    else:
        click.echo(printable(line))


def print_error(error: FastjmixError, as_json: bool) -> int:
    """Prints an error on stderr; with `as_json` also on stdout, unless a document is there already.

    Returns the exit code.
    """
    print_message(error)
    if as_json and not has_printed_json():
        print_json(error_json(error))
    return error.exit_code


def print_message(error: FastjmixError) -> None:
    """Prints message and hint on stderr: one line, unless the message is a list of faults."""
    hint = for_shell(error.hint)
    end = "" if error.message.endswith((".", "?", "!")) else "."
    click.echo(f"fastjmix: {error.message}" + (f"{end} {hint}" if hint else ""), err=True)


def error_json(error: FastjmixError) -> dict[str, Any]:
    """Returns an error for a program: message, exit code, and the hint and faults that it has."""
    hint = {"hint": for_shell(error.hint)} if error.hint else {}
    faults = {"faults": [str(fault) for fault in error.faults]} if error.faults else {}
    return {"error": error.message, **hint, **faults, "exit_code": error.exit_code}
