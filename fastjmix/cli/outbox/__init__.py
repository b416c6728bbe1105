"""`fastjmix outbox`: the group of its commands.

    choice.py    which envelopes: ids and conditions, the same for all
    changing.py  what retry, hold, release and requeue have in common

Exit codes: 0 done; 1 something was not done, or nothing was found; 2 usage, configuration or
storage; 3 the node does not run, and the command needs it; 130 interrupted.
"""

from __future__ import annotations

from typing import Final

import click

from fastjmix.cli.lazy import Deferred, LazyGroup
from fastjmix.cli.options import json_option

COMMANDS: Final = {
    "list": Deferred(
        "fastjmix.cli.outbox.list",
        "List the envelopes that have not arrived, the oldest first.",
    ),
    "show": Deferred(
        "fastjmix.cli.outbox.show",
        "Show what is known of each ID: state, reason, ticket, attempts.",
    ),
    "retry": Deferred(
        "fastjmix.cli.outbox.retry",
        "Send envelopes now, whatever pause they or their upstream are in.",
    ),
    "hold": Deferred(
        "fastjmix.cli.outbox.hold",
        "Keep envelopes from their upstream until they are released.",
    ),
    "release": Deferred(
        "fastjmix.cli.outbox.release",
        "End the hold of envelopes.",
    ),
    "requeue": Deferred(
        "fastjmix.cli.outbox.requeue",
        "Put rejected envelopes back, to be sent again.",
    ),
    "export": Deferred(
        "fastjmix.cli.outbox.export",
        "Copy envelopes with their tickets to DIR, for another node.",
    ),
}


@click.group(
    "outbox",
    cls=LazyGroup,
    deferred=COMMANDS,
    help="List the envelopes that have not arrived; retry, hold, release, requeue, export them.",
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
        message = f"say it after the command: fastjmix outbox {context.invoked_subcommand} --json"
        raise click.BadParameter(message)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        context.exit(2)
