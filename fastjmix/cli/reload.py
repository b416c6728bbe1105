"""`fastjmix reload`: has the running node go by its configuration as it is now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastjmix.cli.options import ERRORS_INCLUDED, json_option
from fastjmix.cli.output import print_json
from fastjmix.cli.storage import storage_directory, storage_options
from fastjmix.errors import printable

if TYPE_CHECKING:
    from fastjmix.tools.reload import Reloaded


@click.command("reload")
@storage_options
@json_option(ERRORS_INCLUDED)
@click.pass_context
def command(context: click.Context, config: Path, storage: Path | None, as_json: bool) -> None:
    """Have the running node go by its configuration as it is now, without ending anything.

    Associations that are open keep the rules with which they began. A configuration with a fault is
    refused whole, and the one before it stays. Keys that need a restart are named; the others are
    in force.

    Exit 2: it was refused. 3: the node does not run."""
    from fastjmix.tools.reload import reload

    done = reload(storage_directory(config, storage))
    if as_json:
        print_json(done.as_json())
    else:
        _print(done)
    context.exit(done.exit_code)


def _print(done: Reloaded) -> None:
    if not done.ok:
        said = f"refused; the configuration of generation {done.generation} stays in force"
        click.echo(f"error: {said}", err=True)
        for fault in done.faults:
            lines = "\n".join(printable(line) for line in fault.splitlines())
            click.echo(f"\n{lines}", err=True)
        return
    click.echo(f"in force: generation {done.generation}")
    for key in done.needs_restart:
        click.echo(printable(f"needs a restart: {key}"))
    for warning in done.warnings:
        click.echo(printable(f"warning: {warning}"))
