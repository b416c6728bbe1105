"""`fastjmix status`: how the node is, once or each second."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from fastjmix.cli.options import ERRORS_INCLUDED, json_option
from fastjmix.cli.output import print_json
from fastjmix.cli.storage import storage_directory, storage_options
from fastjmix.errors import UsageError

if TYPE_CHECKING:
    from fastjmix.control.node_status import NodeStatus

CODES: Final = {"ready": 0, "stopped": 3}

HOME_AND_CLEAR: Final = "\x1b[H\x1b[2J"
"""ECMA-48: CUP, ED. The cursor to the first line, and an empty screen."""


@click.command("status")
@storage_options
@click.option("--watch", is_flag=True, help="Print it each second, until interrupted.")
@json_option(ERRORS_INCLUDED)
@click.pass_context
def command(
    context: click.Context, config: Path, storage: Path | None, watch: bool, as_json: bool
) -> None:
    """Show how the node is: envelopes by state, upstreams, associations, rates, disk, errors.

    A stopped node is shown as its files say. Exit 1: it is not ready. 3: it does not
    run."""
    if watch and as_json:
        raise UsageError("either --watch or --json", "--json prints one document.")
    from fastjmix.tools.status import reading

    where = storage_directory(config, storage)
    if watch:
        for one in reading.watch(where):
            _print(one, clear=True)
        return
    found = reading.read(where)
    code = CODES.get(found["node"]["state"], 1)
    if as_json:
        print_json({**found, "exit_code": code})
    else:
        _print(found, clear=False)
    context.exit(code)


def _print(status: NodeStatus, *, clear: bool) -> None:
    from fastjmix.tools.status import show

    text = "\n".join(show.lines(status))
    clear = clear and sys.stdout.isatty()
    click.echo((HOME_AND_CLEAR if clear else "") + text)
    sys.stdout.flush()
