"""`fastjmix echo`: does a DICOM acceptor answer, and what does it say of itself?"""

from __future__ import annotations

import click

from fastjmix.cli.options import ERRORS_INCLUDED, SECONDS, json_option


@click.command("echo")
@click.argument("host", metavar="HOST")
@click.argument("port", metavar="PORT", type=click.IntRange(1, 65535))
@click.option("--called-ae", "--aec", default="JMIX_RECEIVER", help="Called AE title.")
@click.option("--calling-ae", "--aet", default="FASTJMIX", help="Calling AE title: ours.")
@click.option(
    "--timeout", type=SECONDS, default=10.0,
    help="Seconds for the connection, for the association, and for each answer.",
)  # fmt: skip
@click.option(
    "--count", type=click.IntRange(1, 10_000), default=1,
    help="C-ECHO requests, one after the other, over one association.",
)  # fmt: skip
@json_option(ERRORS_INCLUDED)
@click.pass_context
def command(
    context: click.Context,
    host: str,
    port: int,
    called_ae: str,
    calling_ae: str,
    timeout: float,
    count: int,
    as_json: bool,
) -> None:
    """Send C-ECHO to a DICOM acceptor; print the round trip, its implementation, its maximum PDU.

    Exit 1: a status other than 0x0000. 3: no association, or no answer; the reason is printed."""
    from fastjmix.cli.send_output import echo_and_print
    from fastjmix.tools.send import Peer

    peer = Peer(host, port, called_ae, calling_ae, timeout)
    context.exit(echo_and_print(peer, as_json, count))
