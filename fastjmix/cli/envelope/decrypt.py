"""`fastjmix envelope decrypt`: an encrypted envelope → an open one."""

from __future__ import annotations

from pathlib import Path

import click

from fastjmix.cli.envelope.errors import file_path, named_errors
from fastjmix.cli.envelope.options import (
    examples,
    force_option,
    key_option,
    output_option,
    source_argument,
)
from fastjmix.cli.envelope.progress import progress_of, size_of
from fastjmix.cli.key_files import recipient_key
from fastjmix.cli.options import json_option
from fastjmix.cli.output import print_result


@click.command(
    "decrypt", epilog=examples("decrypt encrypted.zip --key recipient.pem -o study.zip")
)  # fmt: skip
@source_argument()
@key_option(required=True)
@output_option("FILE")
@force_option()
@json_option()
def command(source: Path, key: Path, output: str, force: bool, as_json: bool) -> None:
    """Write an encrypted envelope as an open one, a ZIP with the same id and the same files.

    Nothing is written before the whole payload was found unchanged. Signatures of the encrypted
    envelope do not fit the open one: they are left out, and named. Keep the encrypted one.
    """
    with named_errors(source), progress_of("decrypting") as bar:
        from fastjmix.tools.envelope.decrypting import decrypt

        private = recipient_key(key)
        assert private is not None
        bar.total(size_of(source))
        done = decrypt(source, file_path(output), private, force=force, seen=bar.seen)
    for signature in done.without:
        click.echo(f"left out: {signature}: it signs the encrypted envelope", err=True)
    result = {"path": output, "id": done.id, "files": done.files, "dialect": done.dialect}
    result |= {"left_out": list(done.without)}
    line = f"{output}: {done.id}, {done.files} files ({done.dialect} dialect)"
    print_result(result, line, as_json)
