"""`fastjmix envelope convert`: another's envelope → an envelope in another profile."""

from __future__ import annotations

from pathlib import Path

import click

from fastjmix.cli.envelope.built import SkippedFiles, print_built
from fastjmix.cli.envelope.errors import counted_skips, named_errors
from fastjmix.cli.envelope.options import (
    examples,
    force_option,
    new_path_option,
    source_argument,
)
from fastjmix.cli.envelope.progress import progress_of, size_of
from fastjmix.cli.envelope.recipe import RecipeOptions, recipe_of, recipe_options
from fastjmix.cli.options import json_option


@click.command(
    "convert",
    epilog=examples(
        "convert study.zip --profile harmony -o h.zip",
        "convert h.zip --profile jmix-1.0 --sender a --receiver b -o p.zip",
    ),
)
@source_argument()
@new_path_option()
@recipe_options(None, "Take parties and keys from its builder.")
@click.option("--leave-out", is_flag=True, help="Leave out what is no DICOM instance.")
@force_option()
@json_option()
def command(
    source: Path,
    output: str,
    wanted: RecipeOptions,
    leave_out: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Make an envelope of another's instances, in another profile.

    It gets a new id: an id stands for bytes that never change, and a server that has the original
    would take this one for it. The documents are made anew from the data sets; parties are taken
    from an envelope of profile jmix-1.0 unless they are given. Signatures and the audit trail stay
    with the original. Every hash of the original is compared first. An instance that cannot be
    converted is named, and nothing is written, unless --leave-out is given.
    """
    with named_errors(source), counted_skips(), progress_of("converting") as bar:
        from fastjmix.tools.envelope.converting import convert

        recipe = recipe_of(wanted)
        bar.total(size_of(source))
        skipped = SkippedFiles(leave_out=leave_out)
        made = convert(
            source,
            output,
            recipe,
            force=force,
            leave_out=leave_out,
            skipped=skipped,
            seen=bar.seen,
        )
    print_built(made, skipped, as_json)
