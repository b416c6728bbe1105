"""Options and types of options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])


class Decorator(Protocol):
    """Declares an option or an argument of a command."""

    def __call__(self, function: _F, /) -> _F:
        """Returns the command, or the function that becomes one."""


PATH: Final = click.Path(path_type=Path)
"""A path that need not exist; where it does, it must be readable."""

SECONDS: Final = click.FloatRange(0.1)
"""A time limit: one of 0 would be none, or no time at all."""


def json_option(text: str = "JSON on stdout.") -> Decorator:
    """Returns the option --json, which the command gets as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help=text)


def config_option() -> Decorator:
    """Returns the option that names the configuration file of the gateway."""
    return click.option(
        "-c", "--config", type=PATH, metavar="FILE", default=Path("config.toml"),
        help="The configuration file.",
    )  # fmt: skip


ERRORS_INCLUDED: Final = "JSON on stdout, errors included."
"""Help of --json where the command's own result is JSON too."""
