"""Options that name the storage directory of a node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fastjmix.cli.options import PATH, config_option


def storage_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds -c and --storage, which `storage_directory` takes as `config` and `storage`."""
    directory = click.option(
        "--storage", type=PATH, metavar="DIR",
        help="The storage directory, without a configuration.",
    )  # fmt: skip
    return config_option()(directory(function))


def storage_directory(config: Path, storage: Path | None) -> Path:
    """Returns the storage directory. Raises ConfigError."""
    if storage is not None:
        return storage.absolute()
    from fastjmix.config.storage_of import storage_of

    return storage_of(config)
