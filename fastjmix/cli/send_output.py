"""The output of `fastjmix send`: what became of each file, on a terminal or as JSON.

Guaranteed: a line for each thing that a person must know, and one line for what is the same for
all; a summary of what was accepted, after an interrupt too. Text from a peer or a file name is
escaped.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from fastjmix.cli.output import print_json
from fastjmix.errors import printable
from fastjmix.tools.plain_text import many

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from fastjmix.tools.send import Instance, Outcome, Peer, Record, Report, Skipped


@dataclass(frozen=True, slots=True)
class Choice:
    """The options, besides peer and paths."""

    associations: int
    leave_out: bool
    as_json: bool
    quiet: bool
    dry_run: bool
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    resume: Path | None


class _Found(NamedTuple):
    """The files that can be sent, those that cannot, and the record of what was sent before."""

    instances: Sequence[Instance]
    skipped: Sequence[Skipped]
    record: Record | None


def echo_and_print(peer: Peer, as_json: bool, count: int = 1) -> int:
    """Sends C-ECHO requests and prints the answers. Returns the exit code."""
    from fastjmix.tools.send import echo

    answered = echo(peer, count)
    if as_json:
        print_json(answered.summary())
    else:
        for line in answered.lines():
            click.echo(printable(line))
    return answered.exit_code


def send_and_print(peer: Peer, paths: Sequence[Path], choice: Choice) -> int:
    """Sends what is below the paths, or prints what would be sent. Returns the exit code."""
    from rich.console import Console

    from fastjmix.tools import send

    instances, skipped = send.find(paths, send.Names(choice.include, choice.exclude))
    record = None
    if choice.resume is not None:
        record = send.Record(choice.resume, write=not choice.dry_run)
    found = _Found(instances, skipped, record)
    console = Console(
        stderr=choice.as_json, soft_wrap=True, highlight=False, markup=False, emoji=False
    )
    for one in skipped if not (choice.quiet and choice.leave_out) else ():
        console.print(f"skipped {printable(one.path)}: {printable(one.reason)}")
    try:
        if choice.dry_run:
            return _print_plan(peer, found, choice, console)
        report = _send(peer, found, choice, console)
    finally:
        if record is not None:
            record.close()
    _print_report(report, choice)
    if record is not None and record.problem:
        click.echo(f"fastjmix: --resume: {printable(record.problem)}", err=True)
        return report.exit_code or 1
    return report.exit_code


def _send(peer: Peer, found: _Found, choice: Choice, console: Console) -> Report:
    """Sends, with a line for each outcome, and a progress bar on a terminal."""
    from fastjmix.tools import send

    with _bar(console, not choice.quiet) as bar:
        task = bar.add_task("", total=sum(instance.size for instance in found.instances))

        def print_outcome(outcome: Outcome) -> None:
            if outcome.tried and not (choice.quiet and outcome.accepted):
                bar.console.print(_outcome_line(outcome))
            bar.advance(task, outcome.instance.size)

        return send.send(
            peer,
            found.instances,
            found.skipped,
            associations=choice.associations,
            leave_out=choice.leave_out,
            on_outcome=print_outcome,
            record=found.record,
            on_interrupt=_print_interrupted,
        )


def _print_interrupted() -> None:
    # in a signal handler no buffered stream may be written to
    os.write(2, b"interrupted: waiting for what is in flight; Ctrl-C again does not\n")


def _print_report(report: Report, choice: Choice) -> None:
    if choice.as_json:
        print_json(report.summary())
        return
    for line in _not_tried(report):
        click.echo(line)
    click.echo(_summary_line(report))


def _print_plan(peer: Peer, found: _Found, choice: Choice, console: Console) -> int:
    """Prints what would be sent. Returns the exit code; raises UsageError when it is nothing."""
    from fastjmix.tools import send

    instances, skipped, record = found
    if not instances:
        raise send.UsageError(send.NOTHING)
    wanted = [one for one in instances if record is None or not record.has(peer, one)]
    before, size = len(instances) - len(wanted), sum(one.size for one in wanted)
    kinds, code = len({one.pair for one in wanted}), int(bool(skipped) and not choice.leave_out)
    if choice.as_json:
        print_json(
            {
                "dry_run": True,
                "files": len(wanted),
                "bytes": size,
                "presentation_contexts": kinds,
                "sent_before": before,
                "instances": [send.described(one) for one in wanted],
                "skipped": [one.row() for one in skipped],
                "exit_code": code,
            }
        )
        return code
    for one in wanted if not choice.quiet else ():
        console.print(f"would send {printable(one.path)}: {send.kind_of(one)}, {one.size} bytes")
    noted = f", {before} sent before" if before else ""
    click.echo(
        f"{many(len(wanted), 'instance')}, {size / 1e6:.1f} MB, "
        f"{many(kinds, 'presentation context')}{noted}, {many(len(skipped), 'file')} skipped; "
        f"nothing was sent to {printable(peer)}"
    )
    return code


def _bar(console: Console, wanted: bool) -> Progress:
    """Returns a bar with bytes of data sets, speed and time left; only a terminal shows it."""
    from rich import progress

    return progress.Progress(
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (wanted and console.is_terminal),
    )


def _outcome_line(outcome: Outcome) -> str:
    status = "------" if outcome.status is None else f"0x{outcome.status:04X}"
    return f"{status}  {printable(outcome.instance.path)}: {printable(outcome.meaning)}"


def _not_tried(report: Report) -> list[str]:
    """Returns a line for each reason for which instances were not tried."""
    left = [one for one in report.outcomes if not one.tried]
    first = {one.detail: printable(one.instance.path) for one in reversed(left)}
    return [
        f"------  {many(count, 'instance')} not sent, from {first[why]} on: {printable(why)}"
        for why, count in Counter(one.detail for one in left).items()
    ]


def _summary_line(report: Report) -> str:
    speed = report.bytes_sent / max(report.seconds, 1e-9) / 1e6
    parts = [
        f"{len(report.accepted)} of {len(report.outcomes)} instances accepted",
        f"{report.bytes_sent / 1e6:.1f} MB in {report.seconds:.2f} s ({speed:.1f} MB/s)",
        f"{len(report.failed)} failed",
        f"{len(report.skipped)} files skipped",
        f"{report.associations} association{'s' if report.associations != 1 else ''}",
    ]
    if report.before:
        parts.insert(1, f"{report.before} sent before")
    return ", ".join(["interrupted", *parts] if report.interrupted else parts)
