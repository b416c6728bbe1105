"""`fastjmix envelope build`: DICOM files → envelopes."""

from __future__ import annotations

from pathlib import Path

import click

from fastjmix.cli.envelope.built import SkippedFiles, print_built
from fastjmix.cli.envelope.errors import counted_skips, named_errors
from fastjmix.cli.envelope.options import examples, force_option, new_path_option
from fastjmix.cli.envelope.progress import progress_of
from fastjmix.cli.envelope.recipe import RecipeOptions, recipe_of, recipe_options
from fastjmix.cli.options import PATH, json_option


@click.command(
    "build",
    epilog=examples(
        "build /data/study -o study.zip",
        "build /data/many -o envelopes/       (one envelope a study)",
        "build study -o envelopes/ --profile jmix-1.0 --sender a --receiver b",
        "build study -o envelopes/ --profile jmix-1.0 --sender a --receiver b"
        " --encrypt-for key.pub",
        "build -c config.toml study -o s.zip  (as that pipeline would)",
    ),
)
@click.argument(
    "paths", metavar="PATH...", nargs=-1, required=True, type=PATH, help="Files, directories."
)  # fmt: skip
@new_path_option()
@recipe_options("harmony", "Take profile, parties and keys from its builder.")
@click.option("--leave-out", is_flag=True, help="Make it without what cannot be taken.")
@force_option()
@json_option()
def command(
    paths: tuple[Path, ...],
    output: str,
    wanted: RecipeOptions,
    leave_out: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Make an envelope of DICOM files, as the pipeline would; each file is kept byte for byte.

    A file that cannot be taken (not DICOM, unreadable, truncated, a link to a folder) is named, and
    nothing is written, unless --leave-out is given. A DICOMDIR stands for its files. -o
    names the envelope, or a directory (one that exists, or PATH/): then each study gets an envelope
    of its own there, <id>.zip. An envelope of profile jmix-1.0 holds one study.
    """
    with named_errors(), counted_skips(), progress_of("packing") as bar:
        from fastjmix.tools.envelope.building import build

        recipe = recipe_of(wanted)
        skipped = SkippedFiles(leave_out=leave_out)
        made = build(
            paths,
            output,
            recipe,
            force=force,
            leave_out=leave_out,
            skipped=skipped,
            total=bar.total,
            seen=bar.seen,
        )
    print_built(made, skipped, as_json)
