"""The arguments and options that choose envelopes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from fastjmix.tools.outbox.choosing import Choice

Command = Callable[..., Any]


def ids_argument(function: Command) -> Command:
    """Adds ID…, whole ids of envelopes."""
    return click.argument("ids", metavar="[ID]...", nargs=-1)(function)


def choice_options(function: Command) -> Command:
    """Adds the conditions, which `choice_of` makes a Choice of."""
    for option in (
        click.option("--held", is_flag=True, help="Those on hold."),
        click.option("--rejected", is_flag=True, help="Those in rejected/."),
        click.option("--all", "every", is_flag=True, help="All that the command is for."),
        click.option(
            "--older", metavar="AGE", help="In their state for so long: 90s, 15m, 2h, 3d."
        ),
        click.option(
            "--upstream",
            metavar="NAME",
            help="For this upstream, and for it alone where there are several.",
        ),
        click.option("--ae", metavar="TITLE", help="Brought by this calling AE title."),
        click.option("--study", metavar="UID", help="With this Study Instance UID."),
    ):
        function = option(function)
    return function


def choice_of(options: dict[str, Any], ids: tuple[str, ...] = ()) -> Choice:
    """Takes the conditions out of the options of a command, and returns the choice."""
    names = ("study", "ae", "upstream", "older", "every", "rejected", "held")
    return Choice(ids, **{name: options.pop(name) for name in names})
