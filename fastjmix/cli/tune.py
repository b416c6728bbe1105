"""`fastjmix tune`: settings, measured on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastjmix.cli.linux import require_linux
from fastjmix.cli.options import PATH, config_option, json_option
from fastjmix.cli.output import print_json
from fastjmix.errors import printable

if TYPE_CHECKING:
    from fastjmix.tools.tune import Options, Report

FILE_WIDTH = 120
"""Columns of a report that is written to a file."""


@click.command("tune")
@click.argument(
    "directory", type=PATH, required=False, metavar="[DIR]",
    help="DICOM files to send; none: synthetic.",
)  # fmt: skip
@config_option()
@click.option("--synthetic", is_flag=True, help="Made-up studies: the same as no DIR.")
@click.option(
    "--like", default="ct", help="What synthetic studies are like: ct (0.5 MB) or mr (33 KB)."
)  # fmt: skip
@click.option(
    "--seconds", type=click.FloatRange(1, 86_400), default=60.0, help="How long it may take in all."
)  # fmt: skip
@click.option(
    "--associations", type=click.IntRange(1, 64), default=1,
    help="How many in parallel share the work.",
)  # fmt: skip
@click.option(
    "--sample-mb", type=click.FloatRange(0.1), default=128.0,
    help="Send at most so much in each round.",
)  # fmt: skip
@json_option("The report as JSON on stdout.")
@click.pass_context
def command(
    context: click.Context,
    directory: Path | None,
    config: Path,
    synthetic: bool,
    like: str,
    seconds: float,
    associations: int,
    sample_mb: float,
    as_json: bool,
) -> None:
    """Measure settings on this machine; say what to change. Exit 1: a trial failed."""
    require_linux()
    from fastjmix.tools import tune

    if like not in tune.KINDS:
        raise click.BadParameter(f"--like {like!r} is none of {', '.join(tune.KINDS)}")
    if directory is not None and synthetic:
        raise click.BadParameter("give either DIR or --synthetic")
    report = _measure(
        config, tune.Options(directory, like, seconds, associations, int(sample_mb * 1e6))
    )
    if as_json:
        print_json(tune.as_json(report))
    else:
        from rich.console import Console

        width = None if sys.stdout.isatty() else FILE_WIDTH
        tune.show(report, Console(width=width, soft_wrap=True, highlight=False, emoji=False))
    context.exit(report.exit_code)


def _measure(config: Path, options: Options) -> Report:
    """Measures, with a progress bar on a terminal's stderr; elsewhere with a line for each step."""
    from rich import progress
    from rich.console import Console

    from fastjmix.tools import tune

    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    bar = progress.Progress(
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
        auto_refresh=False,  # it would start a thread, and the senders are forked
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=1.0)

        def report(step: str, done: float) -> None:
            bar.update(task, description=printable(step), completed=done, refresh=True)
            if bar.disable:
                click.echo(f"{done * 100:3.0f} %  {printable(step)}", err=True)

        return tune.tune(config, options, report, tune.process_start())
