"""`fastjmix ledger info`: what the ledger holds."""

from __future__ import annotations

from pathlib import Path

import click

from fastjmix.cli.options import ERRORS_INCLUDED, config_option, json_option
from fastjmix.cli.output import print_json


@click.command("info")
@config_option()
@json_option(ERRORS_INCLUDED)
def command(config: Path, as_json: bool) -> None:
    """Show what the ledger holds: envelopes by state, instances, associations, its size.

    Reads the file, whether or not a node runs.
    """
    from fastjmix.config import load
    from fastjmix.ledger.queries import Ledger

    info = Ledger(load(config).storage_dir).info()
    if as_json:
        print_json(info.as_json())
        return
    states = ", ".join(f"{one.count} {state}" for state, one in info.states.items())
    click.echo(f"{info.path}: {info.file_bytes:,} bytes, {info.used_bytes:,} in use")
    click.echo(f"envelopes     {info.envelopes:>14,}  ({states})")
    click.echo(f"instances     {info.instances:>14,}")
    click.echo(f"associations  {info.associations:>14,}")
    click.echo(f"oldest        {_shown(info.oldest):>14}")
    click.echo(f"compared with the directories: {_shown(info.compared_at)}")


def _shown(at: float | None) -> str:
    """Returns a time as people read it, in UTC."""
    from datetime import UTC, datetime

    return "never" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
