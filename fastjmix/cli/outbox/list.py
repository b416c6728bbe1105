"""`fastjmix outbox list`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fastjmix.cli.options import ERRORS_INCLUDED, json_option
from fastjmix.cli.outbox.choice import choice_of, choice_options
from fastjmix.cli.output import print_json
from fastjmix.cli.storage import storage_directory, storage_options


@click.command("list")
@choice_options
@storage_options
@json_option(ERRORS_INCLUDED)
@click.pass_context
def command(
    context: click.Context, /, config: Path, storage: Path | None, as_json: bool, **options: Any
) -> None:
    """List the envelopes that have not arrived, the oldest first.

    Without a condition all of them: being packed, waiting, on hold, rejected. The node need not
    run. Exit 1: there is none."""
    from fastjmix.spool.selection import HERE
    from fastjmix.tools.outbox.choosing import chosen
    from fastjmix.tools.plain_text import many
    from fastjmix.tools.status.show import envelope_table

    rows = chosen(storage_directory(config, storage), choice_of(options), HERE)
    shown = [row.as_json() for row in rows]
    code = 0 if shown else 1
    if as_json:
        print_json({"envelopes": shown, "exit_code": code})
    else:
        for line in envelope_table(shown):
            click.echo(line)
        click.echo(many(len(shown), "envelope"), err=True)
    context.exit(code)
