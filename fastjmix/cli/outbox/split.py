"""`fastjmix outbox split`."""

from __future__ import annotations

from pathlib import Path

import click

from fastjmix.cli.options import ERRORS_INCLUDED, config_option, json_option
from fastjmix.cli.output import print_json


@click.command("split")
@click.argument("envelope_id", metavar="ID")
@click.option("--max-bytes", type=click.IntRange(1), help="The most bytes of a part.")
@click.option("--dry-run", is_flag=True, help="Print the parts, and make none.")
@config_option()
@json_option(ERRORS_INCLUDED)
def command(
    envelope_id: str, max_bytes: int | None, config: Path, dry_run: bool, as_json: bool
) -> None:
    """Make parts of a rejected envelope that was too large for its upstream.

    Each part is an envelope with an id of its own, and goes to the upstreams that have not taken
    the whole. Without --max-bytes a part has at most half of the smallest envelope that got HTTP
    413 from there. The envelope stays in rejected/. The node need not run; one that runs
    sends the parts at once. The configuration must be the node's."""
    from fastjmix.config import load
    from fastjmix.jmix.ids import canonical_id
    from fastjmix.tools.outbox.splitting import SplitError, split, tell_node

    found = load(config)
    chosen = canonical_id(envelope_id)
    if chosen is None:
        raise SplitError(f"{envelope_id}: is no id of an envelope")
    parts = split(found.storage_dir, found, chosen, max_bytes, dry_run=dry_run)
    if not dry_run and (why := tell_node(found.storage_dir, chosen)):
        click.echo(f"the node finds the parts within a minute; asked now, it says: {why}", err=True)
    if as_json:
        shown = [part.as_json() for part in parts]
        print_json({"id": chosen, "dry_run": dry_run, "parts": shown, "exit_code": 0})
        return
    for part in parts:
        about = f"{part.instances} instances, {part.size_bytes} bytes"
        there = "" if part.made else ", not made" if dry_run else ", was there already"
        click.echo(f"{part.id}: {about}{there}")
