"""`fastjmix demo`: the whole pipeline on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from fastjmix.cli.options import ERRORS_INCLUDED, PATH, json_option
from fastjmix.cli.output import print_json


@click.command("demo")
@click.option(
    "-c", "--config", type=PATH, metavar="FILE", help="The configuration file.",
    show_default="config.toml; without one, that of fastjmix",
)  # fmt: skip
@click.option(
    "--dir", "directory", type=PATH, default=Path("demo"), help="Made anew; keeps the results."
)  # fmt: skip
@json_option(ERRORS_INCLUDED)
def command(config: Path | None, directory: Path, as_json: bool) -> None:
    """Show the pipeline: DICOM files into a gateway, envelopes into an embedded store."""
    from rich.console import Console

    from fastjmix.tools import demo

    console = Console(stderr=as_json, soft_wrap=True, highlight=False, emoji=False)
    tickets = demo.run(config or demo.default_config(), directory, console)
    if as_json:
        envelopes = [
            {"id": one.id, "studies": one.studies, "instances": one.instances} for one in tickets
        ]
        print_json({"envelopes": envelopes, "directory": str(directory)})
