"""`fastjmix envelope extract`: members → files."""

from __future__ import annotations

from pathlib import Path

import click

from fastjmix.cli.envelope.errors import named_errors
from fastjmix.cli.envelope.limits import limits_of
from fastjmix.cli.envelope.options import examples, force_option, output_option, source_argument
from fastjmix.cli.envelope.progress import progress_of
from fastjmix.cli.options import json_option
from fastjmix.cli.output import print_result


@click.command(
    "extract", epilog=examples("extract study.zip -o study", "extract study.zip -o . --force")
)
@source_argument()
@output_option()
@force_option()
@click.option("--max-bytes", type=click.IntRange(1), help="Refuse what has more, unpacked.")
@json_option()
def command(source: Path, output: str, force: bool, max_bytes: int | None, as_json: bool) -> None:
    """Write an envelope's members as files below a folder.

    The folder must be new or empty; with --force its other files stay. Nothing is written outside
    it: names that would leave it, links, bombs and names that clash are refused, and nothing is
    there then.
    """
    folder = Path(output)
    with named_errors(source), progress_of("extracting") as bar:
        from fastjmix.tools.envelope.extracting import extract

        limits = limits_of(max_bytes)
        done = extract(
            source, folder, force=force, limits=limits, total=bar.total, seen=bar.seen
        )  # fmt: skip
    result = {"path": str(folder), "files": done.files, "size_bytes": done.size_bytes}
    print_result(result, f"{folder}: {done.files} files, {done.size_bytes} bytes", as_json)
