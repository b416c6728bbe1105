"""`fastjmix send`: DICOM files to a Storage SCP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from fastjmix.cli.options import PATH, SECONDS, json_option
from fastjmix.cli.output import has_printed_json, print_json
from fastjmix.cli.send_output import Choice, echo_and_print, send_and_print

if TYPE_CHECKING:
    from fastjmix.tools.send import Peer

INTERRUPTED: Final = 130
"""128 and the number of SIGINT, as shells have it."""


@click.command("send")
@click.argument("host", metavar="HOST")
@click.argument("port", metavar="PORT", type=click.IntRange(1, 65535))
@click.argument(
    "paths", metavar="PATH...", nargs=-1, type=PATH, help="Files, directories, a DICOMDIR."
)  # fmt: skip
@click.option("--aec", default="JMIX_RECEIVER", help="Called AE title.")
@click.option("--aet", default="FASTJMIX", help="Calling AE title: ours.")
@click.option(
    "--associations", type=click.IntRange(1, 64), default=1,
    help="How many in parallel share the work.",
)  # fmt: skip
@click.option(
    "--timeout", type=SECONDS, default=60.0, help="Seconds for each write and each answer."
)  # fmt: skip
@click.option(
    "--connect-timeout", type=SECONDS, show_default="--timeout", help="Seconds for the connection."
)  # fmt: skip
@click.option(
    "--acse-timeout", type=SECONDS, show_default="--timeout",
    help="Seconds to accept the association.",
)  # fmt: skip
@click.option(
    "--max-pdu", type=click.IntRange(4096, 131_072), show_default="what the peer takes",
    help="Bytes of a PDU at most, ours and what we take.",
)  # fmt: skip
@click.option(
    "--include", multiple=True, metavar="PATTERN",
    help="In folders only such names, as *.dcm; repeatable.",
)  # fmt: skip
@click.option(
    "--exclude", multiple=True, metavar="PATTERN", help="In folders no such names; repeatable."
)  # fmt: skip
@click.option(
    "--resume", type=PATH, metavar="FILE",
    help="Note there what is accepted, and send only what is not noted.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would be sent; call nobody.")
@click.option("--echo", is_flag=True, help="C-ECHO only, as `fastjmix echo`; no PATH.")
@json_option("A JSON report on stdout.")
@click.option("--leave-out", is_flag=True, help="Exit 0 although something cannot be sent.")
@click.option("--quiet", "-q", is_flag=True, help="Only what was not accepted, and the summary.")
@click.pass_context
def command(
    context: click.Context,
    host: str,
    port: int,
    paths: tuple[Path, ...],
    aec: str,
    aet: str,
    associations: int,
    timeout: float,
    connect_timeout: float | None,
    acse_timeout: float | None,
    max_pdu: int | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    resume: Path | None,
    dry_run: bool,
    echo: bool,
    as_json: bool,
    leave_out: bool,
    quiet: bool,
) -> None:
    """Send DICOM files to a Storage SCP, byte for byte.

    Exit 1: something was not accepted, or was met and cannot be sent; each is named. 3: no
    association. 130: Ctrl-C, which lets the instances in flight finish; a second one does not."""
    if echo == bool(paths):
        raise click.BadParameter("give either files and directories, or --echo")
    from fastjmix.tools.send import Peer

    peer = Peer(host, port, aec, aet, timeout, connect_timeout, acse_timeout, max_pdu or 0)
    choice = Choice(associations, leave_out, as_json, quiet, dry_run, include, exclude, resume)
    context.exit(_exit_code(peer, paths, choice, echo=echo))


def _exit_code(peer: Peer, paths: tuple[Path, ...], choice: Choice, *, echo: bool) -> int:
    """Sends the files, or a C-ECHO. Returns the exit code; ends the process on an interrupt."""
    try:
        return echo_and_print(peer, choice.as_json) if echo else send_and_print(peer, paths, choice)
    except KeyboardInterrupt:
        message = "interrupted: nothing was sent"
        click.echo(message, err=True)
        if choice.as_json and not has_printed_json():
            print_json({"error": message, "exit_code": INTERRUPTED})
        os._exit(INTERRUPTED)
