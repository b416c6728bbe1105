"""`fastjmix trace`: the whole story of a study, a patient, an instance or an envelope."""

from __future__ import annotations

from pathlib import Path

import click

from fastjmix.cli.options import ERRORS_INCLUDED, json_option
from fastjmix.cli.output import print_json
from fastjmix.cli.storage import storage_directory, storage_options


@click.command("trace")
@click.argument("words", metavar="WORD...", nargs=-1, required=True)
@storage_options
@click.option("--instances", is_flag=True, help="A line for each instance, too.")
@json_option(ERRORS_INCLUDED)
@click.pass_context
def command(
    context: click.Context,
    words: tuple[str, ...],
    config: Path,
    storage: Path | None,
    instances: bool,
    as_json: bool,
) -> None:
    """Tell the story of each WORD, from the association to each answer of the upstream.

    A word is an accession number, a patient ID, the beginning of a patient's name, a UID of a
    study, a series or an instance, or the id of an envelope or an association: the ledger finds out
    which. The node need not run. Exit 1: nothing is known of one of them."""
    from fastjmix.ledger.queries import Ledger
    from fastjmix.tools.trace import show

    ledger = Ledger(storage_directory(config, storage))
    found = [ledger.trace(word) for word in words]
    code = 0 if all(one.kind for one in found) else 1
    if as_json:
        print_json({"traces": [one.as_json() for one in found], "exit_code": code})
    else:
        for one in found:
            click.echo("\n".join(show.lines(one, instances=instances)))
    context.exit(code)
