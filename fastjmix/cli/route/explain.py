"""`fastjmix route explain`."""

from __future__ import annotations

from pathlib import Path

import click

from fastjmix.cli.options import ERRORS_INCLUDED, PATH, config_option, json_option
from fastjmix.cli.output import print_json


@click.command("explain")
@click.argument("file", metavar="FILE", type=PATH)
@config_option()
@click.option("--calling-ae", metavar="TITLE", required=True, help="The sender's AE title.")
@click.option(
    "--called-ae", metavar="TITLE", default="",
    help="The AE title that it calls. Without it, that of each endpoint.",
)  # fmt: skip
@click.option(
    "--peer", metavar="ADDRESS", default="",
    help="The sender's address. Without it, no rule for a peer matches.",
)  # fmt: skip
@json_option(ERRORS_INCLUDED)
def command(
    file: Path, config: Path, calling_ae: str, called_ae: str, peer: str, as_json: bool
) -> None:
    """Say by which rule the instance in FILE would go, and why by no earlier one.

    Reads the configuration and the file; the node need not run."""
    from fastjmix.config import load
    from fastjmix.tools.route import show
    from fastjmix.tools.route.explaining import Asked, explain

    found = explain(load(config), Asked(file, calling_ae, called_ae, peer))
    if as_json:
        print_json({"endpoints": [one.as_json() for one in found], "exit_code": 0})
        return
    for one in found:
        click.echo("\n".join(show.lines(one, calling_ae)))
