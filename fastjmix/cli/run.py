"""`fastjmix run`: the gateway."""

from __future__ import annotations

from pathlib import Path

import click

from fastjmix.cli.linux import require_linux
from fastjmix.cli.options import config_option, json_option
from fastjmix.cli.output import print_json


@click.command("run")
@config_option()
@json_option("JSON on stdout: where it listens, or the error; the log stays as it is.")
@click.pass_context
def command(context: click.Context, config: Path, as_json: bool) -> None:
    """Run the gateway until SIGTERM or SIGINT."""
    context.exit(run(config, as_json))


def run(config: Path, as_json: bool) -> int:
    """Runs the gateway; returns the exit code."""
    require_linux()
    from fastjmix.supervisor import loop as supervisor

    return supervisor.run(config, print_json if as_json else None)
