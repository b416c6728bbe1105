"""`fastjmix outbox show`."""

from __future__ import annotations

from pathlib import Path

import click

from fastjmix.cli.options import ERRORS_INCLUDED, json_option
from fastjmix.cli.output import print_json
from fastjmix.cli.storage import storage_directory, storage_options


@click.command("show")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@storage_options
@json_option(ERRORS_INCLUDED)
@click.pass_context
def command(
    context: click.Context, ids: tuple[str, ...], config: Path, storage: Path | None, as_json: bool
) -> None:
    """Show what is known of each ID: state, reason, ticket, attempts.

    Also of one that was delivered and is still in sent/. The node need not run. Exit 1: one of them
    is not here; fastjmix trace may know it."""
    from fastjmix.spool.selection import STATES
    from fastjmix.tools.outbox import show
    from fastjmix.tools.outbox.choosing import Choice, chosen

    where = storage_directory(config, storage)
    rows = chosen(where, Choice(ids), STATES)
    found = [show.about(where, row) for row in rows]
    absent = [one for one in ids if one.lower() not in {row.id for row in rows}]
    code = 1 if absent else 0
    if as_json:
        print_json({"envelopes": found, "absent": absent, "exit_code": code})
        context.exit(code)
    for one in found:
        click.echo("\n".join(show.lines(one)))
    for envelope_id in absent:
        click.echo(f"{envelope_id}: not here; fastjmix trace {envelope_id} may know it", err=True)
    context.exit(code)
