"""`fastjmix ledger`: the group of its commands.

Exit codes: 0 done; 1 there is no ledger, it cannot be read, or a node writes it; 2 usage or
configuration; 130 interrupted.
"""

from __future__ import annotations

from typing import Final

import click

from fastjmix.cli.lazy import Deferred, LazyGroup
from fastjmix.cli.options import json_option

COMMANDS: Final = {
    "info": Deferred(
        "fastjmix.cli.ledger.info",
        "Show what the ledger holds: envelopes by state, instances, associations, its size.",
    ),
    "rebuild": Deferred(
        "fastjmix.cli.ledger.rebuild",
        "Make the ledger from the envelopes on the disk, while no node runs.",
    ),
}


@click.group(
    "ledger",
    cls=LazyGroup,
    deferred=COMMANDS,
    help="Show the ledger of a node, or make it anew from the files.",
    epilog="Each says more with --help.",
    invoke_without_command=True,
)
@json_option()
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Prints the help when no command is given; else checks that --json stands behind it."""
    if as_json and context.invoked_subcommand is None:
        raise click.UsageError("Missing command.")
    if as_json:
        message = f"say it after the command: fastjmix ledger {context.invoked_subcommand} --json"
        raise click.BadParameter(message)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        context.exit(2)
