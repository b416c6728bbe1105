"""The output of `envelope build` and `envelope convert`: the envelopes, and what was not taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fastjmix.cli.output import print_json
from fastjmix.errors import printable

if TYPE_CHECKING:
    from fastjmix.tools.envelope.building import Built
    from fastjmix.tools.send import Skipped


class SkippedFiles:
    """Prints on stderr each file that is met and not taken; `rows` are those files for JSON."""

    def __init__(self, *, leave_out: bool) -> None:
        self._verb = "left out" if leave_out else "not taken"
        self.rows: list[dict[str, str]] = []

    def __call__(self, one: Skipped) -> None:
        self.rows.append({"path": str(one.path), "reason": one.reason})
        click.echo(f"{self._verb}: {printable(one.path)}: {printable(one.reason)}", err=True)


def print_built(made: list[Built], skipped: SkippedFiles, as_json: bool) -> None:
    """Prints the envelopes that were made, and on stderr the files that were kept once."""
    if as_json:
        envelopes = [{**one._asdict(), "path": str(one.path)} for one in made]
        print_json({"envelopes": envelopes, "left_out": skipped.rows})
        return
    for one in made:
        for twice in one.duplicates:
            click.echo(f"kept once: {printable(twice)}: an earlier file has its data set", err=True)
        studies = f"{len(one.studies)} {'study' if len(one.studies) == 1 else 'studies'}"
        sizes = f"{one.instances} instances, {one.size_bytes} bytes"
        click.echo(printable(f"{one.path}: {one.id}, {studies}, {sizes}"))
