"""Makes the commands that change envelopes: retry, hold, release and requeue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click

from fastjmix.cli.options import ERRORS_INCLUDED, json_option
from fastjmix.cli.outbox.choice import choice_of, choice_options, ids_argument
from fastjmix.cli.output import print_json
from fastjmix.cli.storage import storage_directory, storage_options
from fastjmix.errors import printable
from fastjmix.ipc.actions import DONE, Kind
from fastjmix.tools.plain_text import many

CODES: Final = """

Exit 1: an envelope was left as it was, or none was found; the reason is printed. 3: the node does
not run."""


def changing(kind: Kind, text: str) -> click.Command:
    """Returns the command of an action; `text` is its help."""

    @click.command(kind.value, help=text + CODES)
    @ids_argument
    @choice_options
    @click.option("--why", metavar="TEXT", default="", help="The reason, for people.")
    @click.option("--dry-run", is_flag=True, help="Print which envelopes it is, change nothing.")
    @storage_options
    @json_option(ERRORS_INCLUDED)
    @click.pass_context
    def command(context: click.Context, /, ids: tuple[str, ...], **options: Any) -> None:
        context.exit(_run(kind, ids, options))

    return command


def _run(kind: Kind, ids: tuple[str, ...], options: dict[str, Any]) -> int:
    from fastjmix.spool.selection import ELIGIBLE, canonical_ids
    from fastjmix.tools.outbox import acting, choosing

    choice = choice_of(options, ids)
    choice.require_clear()
    storage = storage_directory(options["config"], options["storage"])
    if choice.ids:
        canonical_ids(choice.ids)
        wanted = [one.lower() for one in dict.fromkeys(choice.ids)]
    else:
        on_hold = kind is Kind.RELEASE
        rows = choosing.chosen(storage, choice, ELIGIBLE[kind], on_hold=on_hold)
        wanted = [row.id for row in rows]
    if options["dry_run"]:
        return _print_plan(kind, wanted, options["as_json"])
    acted = acting.act(storage, kind, wanted, options["why"], choice.upstream)
    if options["as_json"]:
        print_json(acted.as_json())
    else:
        print_results(kind.value, acted.results)
        if not acted.results:
            click.echo("no envelope is there that it is for: see fastjmix outbox list", err=True)
        elif kind is not Kind.HOLD and acted.done:
            click.echo("fastjmix outbox list shows which have not arrived yet", err=True)
    return acted.exit_code


def _print_plan(kind: Kind, ids: Sequence[str], as_json: bool) -> int:
    code = 0 if ids else 1
    if as_json:
        print_json({"action": kind.value, "dry_run": True, "envelopes": ids, "exit_code": code})
        return code
    for envelope_id in ids:
        click.echo(envelope_id)
    click.echo(f"{kind.value}: {many(len(ids), 'envelope')}; nothing was changed", err=True)
    return code


def print_results(action: str, results: dict[str, str]) -> None:
    """Prints the results of an action: each failure, and how many were done."""
    failures = {one: why for one, why in results.items() if why != DONE}
    for envelope_id, why in failures.items():
        click.echo(f"{envelope_id}: {printable(why)}", err=True)
    left = f", {len(failures)} not" if failures else ""
    click.echo(f"{action}: {many(len(results) - len(failures), 'envelope')}{left}")
