"""`fastjmix envelope verify`: whether envelopes are valid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastjmix.cli.envelope.errors import named_errors
from fastjmix.cli.envelope.limits import limits_of
from fastjmix.cli.envelope.options import examples, key_option
from fastjmix.cli.envelope.progress import progress_of, result_console, size_of
from fastjmix.cli.key_files import read_token, recipient_key, signing_public
from fastjmix.cli.options import PATH, json_option
from fastjmix.cli.output import error_json, print_json, print_message
from fastjmix.errors import FastjmixError

if TYPE_CHECKING:
    from fastjmix.tools.envelope.proving import Answer, Asked


@click.command(
    "verify",
    epilog=examples(
        "verify study.zip",
        "verify sent/*.zip --json | jq .envelopes[].ok",
        "verify study.zip --public-key sender.pem",
        "verify encrypted.zip --key recipient.pem",
        "verify https://example.org/api/jmix/ID --token-file token",
    ),
)
@click.argument(
    "sources", metavar="FILE|DIR|URL...", nargs=-1, required=True, help="The envelopes."
)  # fmt: skip
@click.option(
    "--public-key", type=PATH, metavar="FILE",
    help="Ed25519 public key: manifest.jws must be signed with it.",
)  # fmt: skip
@key_option(required=False)
@click.option("--token-file", type=PATH, metavar="FILE", help="Bearer token for the URL.")
@click.option(
    "--max-bytes", type=click.IntRange(1), show_default="256 GiB; a URL: 64 GiB",
    help="Refuse what has more, unpacked; a URL: fetched.",
)  # fmt: skip
@click.option(
    "--max-secs", type=click.FloatRange(0.001), show_default="14400",
    help="A URL: give up what is not fetched in so many seconds.",
)  # fmt: skip
@json_option()
@click.pass_context
def command(
    context: click.Context,
    sources: tuple[str, ...],
    public_key: Path | None,
    key: Path | None,
    token_file: Path | None,
    max_bytes: int | None,
    max_secs: float | None,
    as_json: bool,
) -> None:
    """Prove envelopes: structure, schemas' rules, every hash, signatures, encryption.

    Every fault is named with its place, and the exit code is 1 if there is one. With --json one
    envelope is an object, and several are an object with "ok" and "envelopes". A remark is no
    fault, but ought to be known. With --key the payload is decrypted in a stream and verified
    inside; nothing is written.
    """
    from fastjmix.tools.envelope import fetch, proving

    with named_errors():
        asked = proving.Asked(
            signing_public(public_key),
            recipient_key(key),
            limits_of(max_bytes),
            None if token_file is None else read_token(token_file),
            max_bytes or fetch.FETCH_BYTES,
            max_secs or fetch.FETCH_SECS,
        )
    answers: list[Answer] = []
    for source in sources:
        answers.append(_verify(source, asked, alone=len(sources) == 1))
        if not as_json:
            _print_answer(answers[-1])
    if as_json:
        print_json(_as_json(answers))
    context.exit(max(one.exit_code for one in answers))


def _verify(source: str, asked: Asked, *, alone: bool) -> Answer:
    """Verifies one envelope. Raises FastjmixError when it is `alone` and cannot be read."""
    from fastjmix.tools.envelope import proving

    name = proving.shown_name(source)
    try:
        with named_errors(name), progress_of("verifying") as bar:
            bar.total(size_of(Path(source)))
            return proving.Answer(name, proving.prove(source, asked, bar.seen))
    except FastjmixError as error:
        if alone:
            raise
        return proving.Answer(name, None, error)


def _print_answer(answer: Answer) -> None:
    from fastjmix.tools.envelope import show

    if answer.report is not None:
        show.verdict(answer.report, answer.name, result_console())
    elif answer.error is not None:
        print_message(answer.error)


def _as_json(answers: list[Answer]) -> dict[str, Any]:
    """Returns the answers for a program: one as an object, several in a list."""
    found = [_answer_json(one) for one in answers]
    if len(found) == 1:
        return found[0]
    return {"ok": all(one["ok"] for one in found), "envelopes": found}


def _answer_json(answer: Answer) -> dict[str, Any]:
    from fastjmix.tools.envelope import show

    if answer.report is not None:
        return show.as_json(answer.report, answer.name)
    assert answer.error is not None
    return {"source": answer.name, "ok": False, **error_json(answer.error)}
