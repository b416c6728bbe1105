"""The command line: arguments → the tools and the supervisor; errors → message and exit code.

    tree.py       the commands and groups; each command is in a module of its own
    lazy.py       a group that imports a command when it runs or shows its help
    options.py    options and types that several commands have
    output.py     results and errors on stdout and stderr, for a person or as JSON
    hints.py      the library's arguments → the command line's options, in a hint
    linux.py      whether this kernel can run fastjmix

Guaranteed: results go to stdout, everything else to stderr. With --json stdout has one JSON
document, however a command ends. A user sees no traceback (FASTJMIX_TRACEBACK=1 shows one). Text
from a peer or a file name is escaped before it is printed. A command imports only what it needs:
`--version` and `--help` import neither rich nor pydantic nor any of tools/.
Still wrong: a shell completes commands and options, and no AE titles.

Exit codes: 0 done; 1 some instances were refused or not sent, `check --live` found a fault, or a
fault of fastjmix; 2 usage or configuration; 3 no association; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
from collections.abc import Sequence
from typing import Final, Never

import click

from fastjmix.cli.output import has_printed_json, print_error, print_json
from fastjmix.cli.tree import HELP, app
from fastjmix.errors import FastjmixError, UsageError

INTERRUPTED: Final = 130
"""128 and the number of SIGINT, as shells have it."""

SIGNALLED: Final = 128
"""An exit code above it is 128 and the number of the signal that ended the command."""


def main() -> Never:
    """Runs the `fastjmix` command and ends the process; never raises to the caller."""
    _open_standard_descriptors()
    arguments = sys.argv[1:]
    as_json = asks_for_json(arguments)
    code = _exit_code(arguments, as_json)
    if as_json and not has_printed_json():
        reason = {"error": "interrupted"} if code > SIGNALLED else {}
        print_json({**reason, "exit_code": code})
    gc.freeze()  # the process ends: to look for garbage once more would take some 30 ms
    sys.exit(code)


def _exit_code(arguments: Sequence[str], as_json: bool) -> int:
    """Runs a command, and prints the error that it ends with. Returns the exit code."""
    try:
        return _run_command(arguments, as_json)
    except FastjmixError as error:
        return print_error(error, as_json)
    except click.ClickException as error:
        if as_json:
            return print_error(UsageError(error.format_message()), as_json)
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):  # click makes an Abort of a KeyboardInterrupt
        return INTERRUPTED
    except Exception as error:  # the last resort: a message for a user, a traceback for a developer
        hint = "Please report it. FASTJMIX_TRACEBACK=1 shows where it happened."
        message = f"a fault of fastjmix itself: {type(error).__name__}: {error}"
        code = print_error(FastjmixError(message, hint), as_json)
        if os.environ.get("FASTJMIX_TRACEBACK"):
            import traceback

            traceback.print_exc()
        return code


def _run_command(arguments: Sequence[str], as_json: bool) -> int:
    """Runs a command; with `as_json` help becomes a JSON document. Returns the exit code.

    Raises what the command raises, and click's own exceptions.
    """
    captured = io.StringIO() if as_json and _asks_for_help(arguments) else None
    try:
        with contextlib.redirect_stdout(captured) if captured else contextlib.nullcontext():
            ended = app.main(arguments, prog_name="fastjmix", standalone_mode=False)
    except SystemExit as end:
        ended = end.code
    if captured:
        print_json({"help": captured.getvalue(), "exit_code": 0})
    return ended if isinstance(ended, int) else 0


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Returns whether --json is among the options, which may be wrong otherwise."""
    return "--json" in _options(arguments)


def _asks_for_help(arguments: Sequence[str]) -> bool:
    return not HELP.isdisjoint(_options(arguments))


def _options(arguments: Sequence[str]) -> Sequence[str]:
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _open_standard_descriptors() -> None:
    """Opens those of stdin, stdout and stderr that this process was started without. Otherwise a
    file would take their place, and log lines would be written into an envelope."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
