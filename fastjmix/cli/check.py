"""`fastjmix check`: a configuration, as it takes effect."""

from __future__ import annotations

from pathlib import Path

import click

from fastjmix.cli.options import ERRORS_INCLUDED, config_option, json_option
from fastjmix.cli.output import print_json
from fastjmix.errors import PlatformError


@click.command("check")
@config_option()
@json_option(ERRORS_INCLUDED)
def command(config: Path, as_json: bool) -> None:
    """Validate a configuration and print it as it takes effect, without secrets, to be pasted."""
    from fastjmix.config import effective, storage_path
    from fastjmix.supervisor import memory

    loaded, text = effective(config)
    try:
        plan = str(memory.plan(loaded))
    except PlatformError as problem:  # of this shell: the service may be under another limit
        plan = problem.message
    if not as_json:
        click.echo(f"{text}\n# {plan}")
    storage_path.require(
        loaded.storage_dir,
        loaded.create_storage,
        loaded.source,
        require_mount=loaded.require_mount,
    )
    if as_json:
        import tomllib

        result = {"configuration": tomllib.loads(text), "memory": plan}
        print_json({**result, "ignored": loaded.ignored, "warnings": loaded.warnings})
