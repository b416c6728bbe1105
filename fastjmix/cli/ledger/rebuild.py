"""`fastjmix ledger rebuild`: the ledger from the files."""

from __future__ import annotations

from pathlib import Path

import click

from fastjmix.cli.options import ERRORS_INCLUDED, config_option, json_option
from fastjmix.cli.output import print_result


@click.command("rebuild")
@config_option()
@json_option(ERRORS_INCLUDED)
def command(config: Path, as_json: bool) -> None:
    """Make the ledger from the envelopes on the disk, while no node runs.

    The ledger keeps its rows of envelopes that are gone from the disk. A damaged ledger is moved
    away, and its rows with it. A running node rebuilds a missing or damaged ledger by itself; this
    command ends with exit code 1 while the node runs.
    """
    from fastjmix.config import load
    from fastjmix.ledger.rebuild import rebuild
    from fastjmix.tools.plain_text import many

    loaded = load(config)
    done = rebuild(loaded.storage_dir, patient_data=loaded.ledger.patient_data)
    damaged = str(done.damaged) if done.damaged is not None else None
    line = f"{many(done.envelopes, 'envelope')} read from {loaded.storage_dir}"
    if damaged is not None:
        line += f"; the damaged ledger is {damaged}"
    print_result({"envelopes": done.envelopes, "damaged": damaged}, line, as_json)
