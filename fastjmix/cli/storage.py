"""Options that name the storage directory of a node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from fastjmix.cli.options import PATH, config_option
from fastjmix.errors import SpoolError

RELATIVE: Final = (
    "A relative [storage.options] path starts at the working directory: run the command where"
    " fastjmix run was started, or give --storage DIR."
)


def storage_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds -c and --storage, which `storage_directory` takes as `config` and `storage`."""
    directory = click.option(
        "--storage", type=PATH, metavar="DIR",
        help="The storage directory, without a configuration.",
    )  # fmt: skip
    return config_option()(directory(function))


def storage_directory(config: Path, storage: Path | None) -> Path:
    """Returns the storage directory. Raises ConfigError, SpoolError where it is not there."""
    if storage is not None:
        found, hint = storage.absolute(), "Check --storage."
    else:
        from fastjmix.config.storage_of import storage_of

        found, hint = storage_of(config), RELATIVE
    if not found.is_dir():
        raise SpoolError(f"{found}: no storage of a fastjmix is there", hint)
    return found
