"""`fastjmix envelope inspect`: what an envelope says of itself."""

from __future__ import annotations

from pathlib import Path

import click

from fastjmix.cli.envelope.errors import named_errors
from fastjmix.cli.envelope.options import examples, source_argument
from fastjmix.cli.envelope.progress import result_console
from fastjmix.cli.options import json_option
from fastjmix.cli.output import print_json


@click.command(
    "inspect",
    epilog=examples("inspect study.zip", "inspect study.JMIX/ --json | jq .studies[].series"),
)
@source_argument()
@json_option()
def command(source: Path, as_json: bool) -> None:
    """Show what an envelope says of itself: studies, sizes, hashes, signatures, audit trail.

    Nothing is judged: that is what verify does. Patient data are shown.
    """
    with named_errors(source):
        from fastjmix.tools.envelope import show, summary

        summarised = summary.summarise(source)
        if as_json:
            print_json(summarised)
        else:
            show.tree(summarised, result_console())
