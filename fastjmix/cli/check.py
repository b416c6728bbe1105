"""`fastjmix check`: a configuration, as it takes effect; with --live what it needs, tried out."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from fastjmix.cli.options import ERRORS_INCLUDED, config_option, json_option
from fastjmix.cli.output import print_json
from fastjmix.errors import PlatformError, UsageError

if TYPE_CHECKING:
    from fastjmix.config import Config
    from fastjmix.tools.check import Finding

COLORS: Final = {"ok": "green", "warning": "yellow", "fault": "red"}


@click.command("check")
@config_option()
@click.option(
    "--live", is_flag=True,
    help="Try out ports, storage, certificates, keys and each upstream; a line for each.",
)  # fmt: skip
@click.option(
    "--probe-chunked", is_flag=True,
    help="With --live: post bodies that are no envelope, to see whether chunked ones are read.",
)  # fmt: skip
@json_option(ERRORS_INCLUDED)
@click.pass_context
def command(
    context: click.Context, config: Path, live: bool, probe_chunked: bool, as_json: bool
) -> None:
    """Validate a configuration and print it as it takes effect, without secrets, to be pasted.

    Exit 1: --live found a fault. 2: a fault of the configuration or, without --live, of the
    storage directory."""
    if probe_chunked and not live:
        raise UsageError("--probe-chunked needs --live")
    gc.disable()  # the models that are imported now stay: to look through them takes 15 ms of 270
    from fastjmix.config import effective

    loaded, text = effective(config)
    if live:
        context.exit(_live(loaded, text, as_json=as_json, probe_chunked=probe_chunked))
    _static(loaded, text, as_json)


def _static(loaded: Config, text: str, as_json: bool) -> None:
    """Prints the configuration. Raises SpoolError for a storage directory that is missing."""
    from fastjmix.config import storage_path
    from fastjmix.supervisor import memory

    try:
        plan = str(memory.plan(loaded))
    except PlatformError as problem:  # of this shell: the service may be under another limit
        plan = problem.message
    if not as_json:
        click.echo(f"{text}\n# {plan}")
    storage_path.require_of(loaded)
    if as_json:
        import tomllib

        result = {"configuration": tomllib.loads(text), "memory": plan}
        print_json({**result, "ignored": loaded.ignored, "warnings": loaded.warnings})


def _live(loaded: Config, text: str, *, as_json: bool, probe_chunked: bool) -> int:
    """Tries out the configuration and prints what was found. Returns the exit code."""
    from fastjmix.tools import check

    findings = check.run(loaded, probe_chunked=probe_chunked)
    code = check.exit_code(findings)
    if as_json:
        import tomllib

        result = {"configuration": tomllib.loads(text), "ignored": loaded.ignored}
        print_json({**result, "live": [one.row() for one in findings], "exit_code": code})
        return code
    for one in findings:
        click.echo(f"{click.style(f'{one.state:<8}', COLORS[one.state])} {one.line()}")
    click.echo(_summary(findings))
    return code


def _summary(findings: list[Finding]) -> str:
    states = [one.state for one in findings]
    faults, warnings = states.count("fault"), states.count("warning")
    return f"{len(states)} checks: {faults} faults, {warnings} warnings"
