"""`fastjmix envelope keygen`: a new key pair."""

from __future__ import annotations

import os

import click

from fastjmix.cli.envelope.errors import file_path, named_errors
from fastjmix.cli.envelope.options import examples, output_option
from fastjmix.cli.options import json_option
from fastjmix.cli.output import print_result


@click.command(
    "keygen",
    epilog=examples(
        "keygen --signing -o signing.pem", "keygen --encryption -o recipient.pem > recipient.pub"
    ),
)
@output_option("FILE")
@click.option("--signing", is_flag=True, help="Ed25519: signs envelopes.")
@click.option("--encryption", is_flag=True, help="X25519: envelopes are encrypted for it.")
@json_option()
def command(output: str, signing: bool, encryption: bool, as_json: bool) -> None:
    """Make a private key, PEM, mode 0600; its public half (base64) goes to stdout.

    An existing file is never replaced: a key that is lost opens nothing any more.
    """
    if signing == encryption:
        raise click.BadParameter("say one of --signing and --encryption")
    with named_errors(output):
        import base64

        from fastjmix.jmix import keys
        from fastjmix.tools.envelope.output import OutputError, new_file

        target = file_path(output)
        if os.path.lexists(target):
            raise OutputError(f"{target}: exists already", "Name another: no key is replaced.")
        key = keys.new_signing_key() if signing else keys.new_recipient_key()
        with new_file(target, mode=0o600) as descriptor:
            os.write(descriptor, key.pem())
        public = base64.b64encode(key.public).decode()
        result = {"path": output, "public_key": public}
        if signing:
            result["fingerprint"] = keys.fingerprint(key.public)
            click.echo(result["fingerprint"], err=True)
        print_result(result, public, as_json)
