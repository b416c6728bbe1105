"""`fastjmix outbox export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from fastjmix.cli.options import ERRORS_INCLUDED, PATH, json_option
from fastjmix.cli.outbox.changing import print_results
from fastjmix.cli.outbox.choice import choice_of, choice_options, ids_argument
from fastjmix.cli.output import print_json
from fastjmix.cli.storage import storage_directory, storage_options
from fastjmix.ipc.actions import DONE

EXPORTED: Final = ("rejected", "held", "outbox")
"""States of envelopes that are sealed and have not arrived."""


@click.command("export")
@click.argument("directory", metavar="DIR", type=PATH)
@ids_argument
@choice_options
@click.option("--dry-run", is_flag=True, help="Print which envelopes it is, write nothing.")
@storage_options
@json_option(ERRORS_INCLUDED)
@click.pass_context
def command(
    context: click.Context,
    /,
    directory: Path,
    ids: tuple[str, ...],
    config: Path,
    storage: Path | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Copy envelopes with their tickets to DIR, for another node.

    DIR gets outbox/ and provenance/, as in the storage directory of a node. The envelopes stay here
    as they are. No file is replaced. docs/operations.md says how the other node takes them in. The
    node need not run. Exit 1: an envelope was not copied, or none was found."""
    from fastjmix.tools.outbox.choosing import chosen
    from fastjmix.tools.outbox.exporting import export_all

    choice = choice_of(options, ids)
    choice.require_clear()
    where = storage_directory(config, storage)
    rows = chosen(where, choice, EXPORTED)
    wanted = [row.id for row in rows]
    absent = {one: "it is not here" for one in ids if one.lower() not in wanted}
    if dry_run:
        results = dict.fromkeys(wanted, "not written: this is a dry run")
    else:
        results = {**export_all(where, wanted, directory), **absent}
    done = sum(result == DONE for result in results.values())
    code = 0 if results and (dry_run or done == len(results)) else 1
    if as_json:
        told = {"directory": str(directory), "dry_run": dry_run, "results": results}
        print_json({**told, "done": done, "failed": len(results) - done, "exit_code": code})
    elif dry_run:
        click.echo("\n".join(results), nl=bool(results))
    else:
        print_results("export", results)
    context.exit(code)
