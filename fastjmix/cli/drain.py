"""`fastjmix drain`: ends a node without breaking anything off, or has that undone."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from fastjmix.cli.options import ERRORS_INCLUDED, json_option
from fastjmix.cli.output import print_json
from fastjmix.cli.storage import storage_directory, storage_options
from fastjmix.errors import UsageError

ENDED, BEGUN, UNDONE = "ended", "begun", "undone"

UNDONE_BY_ANOTHER: Final = "the drain was undone meanwhile: the node takes associations again"


@click.command("drain")
@click.option("--undo", is_flag=True, help="End the drain: take associations again.")
@click.option("--no-wait", is_flag=True, help="Return when the drain has begun.")
@storage_options
@json_option(ERRORS_INCLUDED)
@click.pass_context
def command(
    context: click.Context,
    config: Path,
    storage: Path | None,
    undo: bool,
    no_wait: bool,
    as_json: bool,
) -> None:
    """End the node once its associations have ended and their envelopes are delivered.

    New associations are rejected for now, and /readyz says 503. Associations that are still open
    after drain_secs are ended within grace_secs. The command waits for the node's end, and says
    what it waits for. Interrupting the command interrupts no drain.

    Exit 1: the drain was undone while the command waited, or there was none to undo. 3: the node
    does not run."""
    if undo and no_wait:
        raise UsageError("either --undo or --no-wait", "--undo waits for nothing.")
    where = storage_directory(config, storage)
    result = _undone(where) if undo else _drained(where, wait=not no_wait, as_json=as_json)
    code = 1 if result == UNDONE and not undo else 0
    if as_json:
        print_json({"drain": result, "exit_code": code})
    context.exit(code)


def _undone(storage: Path) -> str:
    from fastjmix.tools import drain

    drain.undo(storage)
    click.echo("the node takes associations again", err=True)
    return UNDONE


def _drained(storage: Path, *, wait: bool, as_json: bool) -> str:
    from fastjmix.tools import drain

    drain.begin(storage)
    if not wait:
        click.echo("the drain has begun; fastjmix status shows it", err=True)
        return BEGUN
    if not drain.follow(storage, lambda line: click.echo(f"waits: {line}", err=True)):
        click.echo(UNDONE_BY_ANOTHER, err=True)
        return UNDONE
    if not as_json:
        click.echo("the node has ended")
    return ENDED
