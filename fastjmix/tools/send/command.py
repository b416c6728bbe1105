"""The command `fastjmix send`: arguments → instances → report, on a terminal or as JSON.

Wanted: one line for each thing that a person must know, and one for a thing that is the same for
all.
Guaranteed: results go to stdout; what a peer or a file name says is escaped. However it ends, by
Ctrl-C too, a summary says what was accepted. Importing this costs no more than typer.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastjmix.errors import printable as shown
from fastjmix.tools.envelope.results import has_printed_json, print_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from fastjmix.tools.send import Instance, Outcome, Peer, Record, Report, Skipped

INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class _Wish:
    """The options, besides peer and paths."""

    associations: int
    leave_out: bool
    as_json: bool
    quiet: bool
    dry_run: bool
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    resume: Path | None


def send(
    host: Annotated[str, typer.Argument(metavar="HOST")],
    port: Annotated[int, typer.Argument(metavar="PORT", min=1, max=65535)],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH...", help="Files, directories, a DICOMDIR."),
    ] = None,
    aec: Annotated[str, typer.Option(help="Called AE title.")] = "JMIX_RECEIVER",
    aet: Annotated[str, typer.Option(help="Calling AE title: ours.")] = "FASTJMIX",
    associations: Annotated[
        int, typer.Option(min=1, max=64, help="How many in parallel share the work.")
    ] = 1,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for each write and each answer.")
    ] = 60.0,
    connect_timeout: Annotated[
        float | None,
        typer.Option(min=0.1, help="Seconds for the connection.", show_default="--timeout"),
    ] = None,
    acse_timeout: Annotated[
        float | None,
        typer.Option(min=0.1, help="Seconds to accept the association.", show_default="--timeout"),
    ] = None,
    max_pdu: Annotated[
        int | None,
        typer.Option(
            "--max-pdu",
            min=4096,
            max=131_072,
            help="Bytes of a PDU at most, ours and what we take.",
            show_default="what the peer takes",
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="In folders only such names, as *.dcm; repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="In folders no such names; repeatable."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Note there what is accepted, and send only what is not noted."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent; call nobody.")
    ] = False,
    echo: Annotated[bool, typer.Option("--echo", help="C-ECHO only; no PATH.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON report on stdout.")] = False,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Exit 0 although something cannot be sent.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only what was not accepted, and the summary.")
    ] = False,
) -> None:
    """Send DICOM files to a Storage SCP, byte for byte.

    Exit 1: something was not accepted, or was met and cannot be sent; each is named. 3: no
    association. 130: Ctrl-C, which lets the instances in flight finish; a second one does not."""
    if echo == bool(paths):
        raise typer.BadParameter("give either files and directories, or --echo")
    from fastjmix.tools.send import Peer

    peer = Peer(host, port, aec, aet, timeout, connect_timeout, acse_timeout, max_pdu or 0)
    patterns = tuple(include or ()), tuple(exclude or ())
    wish = _Wish(associations, leave_out, as_json, quiet, dry_run, *patterns, resume)
    try:
        code = _echo(peer, as_json) if echo else _send(peer, paths or [], wish)
    except KeyboardInterrupt:
        told = "interrupted: nothing was sent"
        typer.echo(told, err=True)
        if as_json and not has_printed_json():
            print_json({"error": told, "exit_code": INTERRUPTED})
        os._exit(INTERRUPTED)
    raise typer.Exit(code)


def _echo(peer: Peer, as_json: bool) -> int:
    from fastjmix.tools.send import describe
    from fastjmix.tools.send import echo as c_echo

    status = c_echo(peer)
    if as_json:
        print_json({"status": f"0x{status:04X}", "exit_code": int(status != 0)})
    else:
        typer.echo(f"{peer}: 0x{status:04X} {describe(status)}")
    return int(status != 0)


def _send(peer: Peer, paths: list[Path], wish: _Wish) -> int:
    from rich.console import Console

    from fastjmix.tools import send as room

    instances, skipped = room.find(paths, room.Names(wish.include, wish.exclude))
    record = None if wish.resume is None else room.Record(wish.resume, write=not wish.dry_run)
    console = Console(
        stderr=wish.as_json, soft_wrap=True, highlight=False, markup=False, emoji=False
    )
    for one in skipped if not (wish.quiet and wish.leave_out) else ():
        console.print(f"skipped {shown(one.path)}: {shown(one.reason)}")
    try:
        if wish.dry_run:
            return _rehearse(peer, instances, skipped, record, wish, console)
        report = _sent(peer, instances, skipped, record, wish, console)
    finally:
        if record is not None:
            record.close()
    if wish.as_json:
        print_json(report.summary())
    else:
        for words in _untried(report):
            typer.echo(words)
        typer.echo(_summary_line(report))
    if record is not None and record.problem:
        typer.echo(f"fastjmix: --resume: {shown(record.problem)}", err=True)
        return report.exit_code or 1
    return report.exit_code


def _sent(
    peer: Peer,
    instances: Sequence[Instance],
    skipped: Sequence[Skipped],
    record: Record | None,
    wish: _Wish,
    console: Console,
) -> Report:
    """Sends, with a line for each outcome and a bar where somebody looks."""
    from fastjmix.tools import send as room

    with _bar(console, not wish.quiet) as bar:
        task = bar.add_task("", total=sum(instance.size for instance in instances))

        def told(outcome: Outcome) -> None:
            if outcome.tried and not (wish.quiet and outcome.accepted):
                bar.console.print(_outcome_line(outcome))
            bar.advance(task, outcome.instance.size)

        return room.send(
            peer,
            instances,
            skipped,
            associations=wish.associations,
            leave_out=wish.leave_out,
            on_outcome=told,
            record=record,
            on_interrupt=_say_interrupted,
        )


def _say_interrupted() -> None:
    # in a signal handler no buffered stream may be written to
    os.write(2, b"interrupted: waiting for what is in flight; Ctrl-C again does not\n")


def _rehearse(
    peer: Peer,
    instances: Sequence[Instance],
    skipped: Sequence[Skipped],
    record: Record | None,
    wish: _Wish,
    console: Console,
) -> int:
    """Says what would be sent. Raises UsageError when it is nothing."""
    from fastjmix.tools import send as room

    if not instances:
        raise room.UsageError(room.NOTHING)
    wanted = [one for one in instances if record is None or not record.has(peer, one)]
    before, size = len(instances) - len(wanted), sum(one.size for one in wanted)
    kinds, code = len({one.pair for one in wanted}), int(bool(skipped) and not wish.leave_out)
    if wish.as_json:
        print_json(
            {
                "dry_run": True,
                "files": len(wanted),
                "bytes": size,
                "presentation_contexts": kinds,
                "sent_before": before,
                "instances": [_row(one) for one in wanted],
                "skipped": [one.row() for one in skipped],
                "exit_code": code,
            }
        )
        return code
    for one in wanted if not wish.quiet else ():
        console.print(f"would send {shown(one.path)}: {room.kind_of(one)}, {one.size} bytes")
    noted = f", {before} sent before" if before else ""
    typer.echo(
        f"{_many(len(wanted), 'instance')}, {size / 1e6:.1f} MB, "
        f"{_many(kinds, 'presentation context')}{noted}, {_many(len(skipped), 'file')} skipped; "
        f"nothing was sent to {shown(peer)}"
    )
    return code


def _row(one: Instance) -> dict[str, Any]:
    from fastjmix.tools.send.report import described

    return described(one)


def _bar(console: Console, wanted: bool) -> Progress:
    """Bytes of data sets, speed and time left; nothing at all where nobody looks."""
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
    return f"{status}  {shown(outcome.instance.path)}: {shown(outcome.meaning)}"


def _untried(report: Report) -> list[str]:
    """One line for all whose turn never came, for each reason."""
    left = [one for one in report.outcomes if not one.tried]
    first = {one.detail: shown(one.instance.path) for one in reversed(left)}
    return [
        f"------  {_many(count, 'instance')} not sent, from {first[why]} on: {shown(why)}"
        for why, count in Counter(one.detail for one in left).items()
    ]


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + ("s" if count != 1 else "")


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
