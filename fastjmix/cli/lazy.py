"""A group of commands whose modules are imported when one of them runs or shows its help.

Guaranteed: the group's own help, and the completion of a command's name, import no command.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from fastjmix.cli.options import json_option

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Deferred(NamedTuple):
    """A command that is the attribute `command` of a module."""

    module: str
    summary: str  # the first sentence of its help


class _Commands(MutableMapping[str, click.Command]):
    """Commands by name, each imported when it is looked up."""

    def __init__(self, deferred: dict[str, Deferred]) -> None:
        self.deferred = deferred
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            module = importlib.import_module(self.deferred[name].module)
            self._loaded[name] = module.command
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self.deferred[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.deferred)

    def __len__(self) -> int:
        return len(self.deferred)


def command_group(
    name: str,
    deferred: dict[str, Deferred],
    summary: str,
    epilog: str = "Each says more with --help.",
) -> LazyGroup:
    """Returns a group of commands. Alone it prints its help; --json stands behind its command."""

    @click.group(
        name,
        cls=LazyGroup,
        deferred=deferred,
        help=summary,
        epilog=epilog,
        invoke_without_command=True,
    )
    @json_option()
    @click.pass_context
    def command(context: click.Context, as_json: bool) -> None:
        chosen = context.invoked_subcommand
        if chosen is None and as_json:
            raise click.UsageError("Missing command.")
        if as_json:
            raise click.BadParameter(f"say it after the command: fastjmix {name} {chosen} --json")
        if chosen is None:
            click.echo(context.get_help())
            context.exit(2)

    return command


class LazyGroup(click.Group):
    """A group of commands that are imported when they are needed, listed in the order given."""

    def __init__(self, *, deferred: dict[str, Deferred], **options: Any) -> None:
        super().__init__(commands=_Commands(deferred), **options)
        self._deferred = deferred

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names in the order of the table."""
        return list(self._deferred)

    def summary(self, name: str) -> str:
        """Returns the first sentence of a command's help, without importing the command."""
        return self._deferred[name].summary

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the commands of the help, each with its first sentence."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.summary) for name, one in self._deferred.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Returns the commands and options that begin with `incomplete`."""
        from click.shell_completion import CompletionItem

        commands = [
            CompletionItem(name, help=one.summary)
            for name, one in self._deferred.items()
            if name.startswith(incomplete)
        ]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]
