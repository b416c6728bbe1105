"""The commands and groups of `fastjmix`, and where each command is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from fastjmix._version import __version__
from fastjmix.cli.lazy import Deferred, LazyGroup
from fastjmix.cli.options import ERRORS_INCLUDED, PATH, json_option
from fastjmix.cli.output import print_result
from fastjmix.errors import UsageError

HELP: Final = frozenset(("-h", "--help"))
WIDTH: Final = 100
"""Columns of a help text at most."""

SETTINGS: Final = {
    "help_option_names": sorted(HELP, key=len),
    "max_content_width": WIDTH,
    "show_default": True,
}

COMMANDS: Final = {
    "send": Deferred(
        "fastjmix.cli.send",
        "Send DICOM files to a Storage SCP, byte for byte.",
    ),
    "echo": Deferred(
        "fastjmix.cli.echo",
        "Send C-ECHO to a DICOM acceptor; print the round trip, its implementation, its maximum"
        " PDU.",
    ),
    "run": Deferred(
        "fastjmix.cli.run",
        "Run the gateway until SIGTERM or SIGINT.",
    ),
    "check": Deferred(
        "fastjmix.cli.check",
        "Validate a configuration and print it as it takes effect, without secrets, to be pasted.",
    ),
    "reload": Deferred(
        "fastjmix.cli.reload",
        "Have the running node go by its configuration as it is now, without ending anything.",
    ),
    "drain": Deferred(
        "fastjmix.cli.drain",
        "End the node once its associations have ended and their envelopes are delivered.",
    ),
    "status": Deferred(
        "fastjmix.cli.status",
        "Show how the node is: envelopes by state, upstreams, associations, rates, disk, errors.",
    ),
    "trace": Deferred(
        "fastjmix.cli.trace",
        "Tell the story of each WORD, from the association to each answer of the upstream.",
    ),
    "route": Deferred(
        "fastjmix.cli.route",
        "Look at the rules of a configuration.",
    ),
    "outbox": Deferred(
        "fastjmix.cli.outbox",
        "List the envelopes that have not arrived; retry, hold, release, requeue, export them.",
    ),
    "store": Deferred(
        "fastjmix.cli.store",
        "Run the embedded JMIX store: a small upstream over a directory. Prints its URL first.",
    ),
    "demo": Deferred(
        "fastjmix.cli.demo",
        "Show the pipeline: DICOM files into a gateway, envelopes into an embedded store.",
    ),
    "tune": Deferred(
        "fastjmix.cli.tune",
        "Measure settings on this machine; say what to change. Exit 1: a trial failed.",
    ),
    "ledger": Deferred(
        "fastjmix.cli.ledger",
        "Show the ledger of a node, or make it anew from the files.",
    ),
    "envelope": Deferred(
        "fastjmix.cli.envelope",
        "Build, inspect, verify, extract, decrypt and convert JMIX envelopes; make keys.",
    ),
}


@click.group(
    "fastjmix",
    cls=LazyGroup,
    deferred=COMMANDS,
    help="DICOM instances in over C-STORE, JMIX envelopes out over HTTP.",
    invoke_without_command=True,
    context_settings=SETTINGS,
)
@click.option(
    "-c", "--config", type=PATH, metavar="FILE", help="The same as `run --config FILE`."
)  # fmt: skip
@click.option("--version", is_flag=True, help="Print the version.")
@json_option(ERRORS_INCLUDED)
@click.pass_context
def app(context: click.Context, config: Path | None, version: bool, as_json: bool) -> None:
    """Prints the version or the help, or runs the gateway; else checks that the options of a
    command stand behind it."""
    if version:
        print_result({"version": __version__}, f"fastjmix {__version__}", as_json)
        context.exit()
    if context.invoked_subcommand is None:
        if config is not None:
            from fastjmix.cli.run import run

            context.exit(run(config, as_json))
        if as_json:
            raise UsageError("a command is missing", "fastjmix --help lists them.")
        click.echo(context.get_help())
        context.exit(2)
    if config is not None or as_json:
        message = f"say it after the command: fastjmix {context.invoked_subcommand}"
        raise click.BadParameter(message)
