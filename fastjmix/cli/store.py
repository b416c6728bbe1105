"""`fastjmix store`: the embedded JMIX store."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from fastjmix.cli.key_files import read_token, recipient_key
from fastjmix.cli.options import ERRORS_INCLUDED, PATH, json_option
from fastjmix.cli.output import print_json

DECRYPTION_KEY = (
    "The X25519 private key for whom envelopes are encrypted: they are accepted, and checked "
    "inside. Without it they are refused."
)


@click.command("store")
@click.option("--dir", "directory", type=PATH, required=True, help="Where envelopes are kept.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8087, help="0 takes any free port."
)  # fmt: skip
@click.option("--host", default="127.0.0.1", help="The address to bind.")
@click.option(
    "--token-file", type=PATH, help="File that holds the bearer token callers must present."
)  # fmt: skip
@click.option("--verify-hashes", is_flag=True, help="Check every member's digest before a 201.")
@click.option("--decryption-key", type=PATH, metavar="FILE", help=DECRYPTION_KEY)
@click.option("--allow-unauthenticated", is_flag=True, help="Beyond loopback without a token.")
@click.option("--log-level", default="info", help="trace, debug, info, warn or error.")
@json_option(ERRORS_INCLUDED)
def command(
    directory: Path,
    port: int,
    host: str,
    token_file: Path | None,
    verify_hashes: bool,
    decryption_key: Path | None,
    allow_unauthenticated: bool,
    log_level: str,
    as_json: bool,
) -> None:
    """Run the embedded JMIX store: a small upstream over a directory. Prints its URL first."""
    from fastjmix import log

    if log_level not in log.LEVELS:
        raise click.BadParameter(f"{log_level!r} is none of {', '.join(log.LEVELS)}")
    log.setup(log_level, None, "store")
    token = None if token_file is None else read_token(token_file)
    key = recipient_key(decryption_key)
    from fastjmix.tools import store

    store.run(
        host,
        port,
        directory,
        token,
        ready=partial(_print_url, as_json=as_json),
        verify_hashes=verify_hashes,
        key=key,
        allow_unauthenticated=allow_unauthenticated,
    )


def _print_url(url: str, as_json: bool) -> None:
    if as_json:
        print_json({"url": url})
    else:
        click.echo(url)  # flushed: the program that started the store through a pipe waits for it
