"""The verbs of `fastjmix envelope`: arguments in, exit code out.

Exit codes: 0 done, or valid; 1 not valid, or refused: nothing was written; 2 usage, configuration
or a key; 130 interrupted.

Importing this costs no more than typer: each verb imports what it needs.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from fastjmix.errors import EnvelopeError, FastjmixError, printable
from fastjmix.tools.envelope.results import LeftOut, nothing_missing, print_json, say, say_built

if TYPE_CHECKING:
    from rich.console import Console

    from fastjmix.jmix.limits import Limits
    from fastjmix.jmix.write.parties import Entity
    from fastjmix.tools.envelope.proving import Answer
    from fastjmix.tools.envelope.recipe import Recipe

app = typer.Typer(
    help="Build, inspect, verify, extract, decrypt and convert JMIX envelopes; make keys.",
    epilog="Each reads a ZIP or a folder, of either profile, with or without a top folder. "
    "Each says more with --help.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Source = Annotated[Path, typer.Argument(metavar="FILE|DIR", help="The envelope.")]
NewPath = Annotated[
    str,
    typer.Option(
        "-o", "--output", metavar="PATH", help="What to write; with a slash at its end: a folder."
    ),
]
NewFile = Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="What to write.")]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="PATH", help="What to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
KeyFile = typer.Option(
    "--key", metavar="FILE", help="The recipient's X25519 private key: PEM, raw or base64."
)
MaxBytes = Annotated[
    int | None, typer.Option("--max-bytes", min=1, help="Refuse what has more, unpacked.")
]


@app.callback()
def _group(context: typer.Context, as_json: Json = False) -> None:
    if as_json:
        told = f"say it after the command: fastjmix envelope {context.invoked_subcommand} --json"
        raise typer.BadParameter(told)


def _examples(*lines: str) -> str:
    # typer joins the lines of a paragraph: each is one of its own
    return "\n\n".join(["Examples:", *(f"fastjmix envelope {line}" for line in lines)])


# -- looking -------------------------------------------------------------------------------------


@app.command(
    epilog=_examples("inspect study.zip", "inspect study.JMIX/ --json | jq .studies[].series")
)
def inspect(source: Source, as_json: Json = False) -> None:
    """Show what an envelope says of itself: studies, sizes, hashes, signatures, audit trail.

    Nothing is judged: that is what verify does. Patient data are shown.
    """
    with refusals(source):
        from fastjmix.tools.envelope import show, summary

        told = summary.summarise(source)
        if as_json:
            print_json(told)
        else:
            show.tree(told, _console())


@app.command(
    epilog=_examples(
        "verify study.zip",
        "verify sent/*.zip --json | jq .envelopes[].ok",
        "verify study.zip --public-key sender.pem",
        "verify encrypted.zip --key recipient.pem",
        "verify https://example.org/api/jmix/ID --token-file token",
    )
)
def verify(
    sources: Annotated[list[str], typer.Argument(metavar="FILE|DIR|URL...", help="The envelopes.")],
    public_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Ed25519 public key: manifest.jws must be signed with it."
        ),
    ] = None,
    key: Annotated[Path | None, KeyFile] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Bearer token for the URL.")
    ] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(
            "--max-bytes",
            min=1,
            help="Refuse what has more, unpacked; a URL: fetched.",
            show_default="256 GiB; a URL: 64 GiB",
        ),
    ] = None,
    max_secs: Annotated[
        float | None,
        typer.Option(
            "--max-secs",
            min=0.001,
            help="A URL: give up what is not fetched in so many seconds.",
            show_default="14400",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Prove envelopes: structure, schemas' rules, every hash, signatures, encryption.

    Every fault is named with its place, and the exit code is 1 if there is one. With --json one
    envelope is an object, and several are an object with "ok" and "envelopes". A remark is no
    fault, but ought to be known. With --key the payload is decrypted in a stream and verified
    inside; nothing is written.
    """
    from fastjmix.tools.envelope import fetch, proving

    with refusals():
        asked = proving.Asked(
            _signing_public(public_key),
            recipient_key(key),
            _limits(max_bytes),
            None if token_file is None else read_token(token_file),
            max_bytes or fetch.FETCH_BYTES,
            max_secs or fetch.FETCH_SECS,
        )
    answers: list[proving.Answer] = []
    for source in sources:
        name = proving.shown_name(source)
        try:
            with refusals(name), _progress("verifying") as bar:
                bar.total(_size_of(Path(source)))
                answers.append(proving.Answer(name, proving.prove(source, asked, bar.seen)))
        except FastjmixError as error:
            if len(sources) == 1:
                raise
            answers.append(proving.Answer(name, None, error))
        if not as_json:
            _show_answer(answers[-1])
    if as_json:
        print_json(proving.together(answers))
    raise typer.Exit(max(one.exit_code for one in answers))


def _show_answer(answer: Answer) -> None:
    from fastjmix.tools.envelope import show
    from fastjmix.tools.envelope.options import for_shell

    if answer.report is not None:
        show.verdict(answer.report, answer.name, _console())
    elif answer.error is not None:
        hint = for_shell(answer.error.hint)
        typer.echo(f"fastjmix: {answer.error.message}." + (f" {hint}" if hint else ""), err=True)


# -- taking apart --------------------------------------------------------------------------------


@app.command(epilog=_examples("extract study.zip -o study", "extract study.zip -o . --force"))
def extract(
    source: Source,
    output: Output,
    force: Force = False,
    max_bytes: MaxBytes = None,
    as_json: Json = False,
) -> None:
    """Write an envelope's members as files below a folder.

    The folder must be new or empty; with --force its other files stay. Nothing is written outside
    it: names that would leave it, links, bombs and names that clash are refused, and nothing is
    there then.
    """
    with refusals(source), _progress("extracting") as bar:
        from fastjmix.tools.envelope.extracting import extract as take

        done = take(
            source,
            output,
            force=force,
            limits=_limits(max_bytes),
            total=bar.total,
            seen=bar.seen,
        )
    made = {"path": str(output), "files": done.files, "size_bytes": done.size_bytes}
    say(made, f"{output}: {done.files} files, {done.size_bytes} bytes", as_json)


@app.command(epilog=_examples("decrypt encrypted.zip --key recipient.pem -o study.zip"))
def decrypt(
    source: Source,
    key: Annotated[Path, KeyFile],
    output: NewFile,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write an encrypted envelope as an open one, a ZIP with the same id and the same files.

    Nothing is written before the whole payload was found unchanged. Signatures of the encrypted
    envelope do not fit the open one: they are left out, and named. Keep the encrypted one.
    """
    with refusals(source), _progress("decrypting") as bar:
        from fastjmix.tools.envelope.decrypting import decrypt as unseal

        private = recipient_key(key)
        assert private is not None
        bar.total(_size_of(source))
        done = unseal(source, _file(output), private, force=force, seen=bar.seen)
    for left in done.without:
        typer.echo(f"left out: {left}: it signs the encrypted envelope", err=True)
    made = {"path": output, "id": done.id, "files": done.files, "dialect": done.dialect}
    made |= {"left_out": list(done.without)}
    say(made, f"{output}: {done.id}, {done.files} files ({done.dialect} dialect)", as_json)


@app.command(
    epilog=_examples(
        "keygen --signing -o signing.pem", "keygen --encryption -o recipient.pem > recipient.pub"
    )
)
def keygen(
    output: NewFile,
    signing: Annotated[bool, typer.Option("--signing", help="Ed25519: signs envelopes.")] = False,
    encryption: Annotated[
        bool, typer.Option("--encryption", help="X25519: envelopes are encrypted for it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a private key, PEM, mode 0600; its public half (base64) goes to stdout.

    What is there is never replaced: a key that is lost opens nothing any more.
    """
    if signing == encryption:
        raise typer.BadParameter("say one of --signing and --encryption")
    with refusals(output):
        import base64

        from fastjmix.jmix import keys
        from fastjmix.tools.envelope.output import OutputError, new_file

        target = _file(output)
        if os.path.lexists(target):
            raise OutputError(f"{target}: exists already", "Name another: no key is replaced.")
        key = keys.new_signing_key() if signing else keys.new_recipient_key()
        with new_file(target, mode=0o600) as descriptor:
            os.write(descriptor, key.pem())
        public = base64.b64encode(key.public).decode()
        made = {"path": output, "public_key": public}
        if signing:
            made["fingerprint"] = keys.fingerprint(key.public)
            typer.echo(made["fingerprint"], err=True)
        say(made, public, as_json)


# -- making --------------------------------------------------------------------------------------

Profile = Annotated[str, typer.Option(help="harmony or jmix-1.0.")]
SenderId = Annotated[
    str | None, typer.Option("--sender", metavar="ID[,NAME[,CONTACT]]", help="For jmix-1.0.")
]
ReceiverIds = Annotated[
    list[str] | None,
    typer.Option("--receiver", metavar="ID[,NAME[,CONTACT]]", help="For jmix-1.0; repeatable."),
]
Hashing = Annotated[bool, typer.Option("--skip-hashing", help="No hashes.")]
Listing = Annotated[bool, typer.Option("--skip-listing", help="No listing of files.")]
HashForm = Annotated[str, typer.Option("--payload-hash", help="tree or stream.")]
SignWith = Annotated[
    Path | None,
    typer.Option("--sign-with", metavar="FILE", help="Ed25519 private key: writes manifest.jws."),
]
EncryptFor = Annotated[
    Path | None,
    typer.Option("--encrypt-for", metavar="FILE", help="The recipient's X25519 public key."),
]
Dialect = Annotated[str, typer.Option(help="Whose encryption: php, js or rs.")]


@app.command(
    epilog=_examples(
        "build /data/study -o study.zip",
        "build /data/many -o envelopes/       (one envelope a study)",
        "build study -o envelopes/ --profile jmix-1.0 --sender a --receiver b",
        "build study -o envelopes/ --profile jmix-1.0 --sender a --receiver b"
        " --encrypt-for key.pub",
        "build -c config.toml study -o s.zip  (as that pipeline would)",
    )
)
def build(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files, directories.")],
    output: NewPath,
    config: Annotated[
        Path | None,
        typer.Option("-c", "--config", help="Take profile, parties and keys from its builder."),
    ] = None,
    profile: Profile = "harmony",
    sender: SenderId = None,
    receiver: ReceiverIds = None,
    payload_hash: HashForm = "tree",
    sign_with: SignWith = None,
    encrypt_for: EncryptFor = None,
    dialect: Dialect = "php",
    skip_hashing: Hashing = False,
    skip_listing: Listing = False,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Make it without what cannot be taken.")
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make an envelope of DICOM files, as the pipeline would; each file is kept byte for byte.

    Whatever is met and cannot be taken (not DICOM, unreadable, truncated, a link to a folder) is
    named, and nothing is written, unless --leave-out is given. A DICOMDIR stands for its files. -o
    names the envelope, or a directory (one that exists, or PATH/): then each study gets an envelope
    of its own there, <id>.zip. An envelope of profile jmix-1.0 holds one study.
    """
    with refusals(), nothing_missing(), _progress("packing") as bar:
        from fastjmix.tools.envelope.building import build as make

        protection = _protection(sign_with, encrypt_for, dialect)
        rules = (profile, sender, receiver, payload_hash, skip_hashing, skip_listing)
        recipe = _recipe(context, config, *rules, protection)

        left = LeftOut(leave_out=leave_out)
        made = make(
            paths,
            output,
            recipe,
            force=force,
            leave_out=leave_out,
            skipped=left,
            total=bar.total,
            seen=bar.seen,
        )
    say_built(made, as_json, left_out=left.rows)


@app.command(
    epilog=_examples(
        "convert study.zip --profile harmony -o h.zip",
        "convert h.zip --profile jmix-1.0 --sender a --receiver b -o p.zip",
    )
)
def convert(
    context: typer.Context,
    source: Source,
    profile: Annotated[str, typer.Option(help="harmony or jmix-1.0.")],
    output: NewPath,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="Take parties and keys from its builder.")
    ] = None,
    sender: SenderId = None,
    receiver: ReceiverIds = None,
    payload_hash: HashForm = "tree",
    sign_with: SignWith = None,
    encrypt_for: EncryptFor = None,
    dialect: Dialect = "php",
    skip_hashing: Hashing = False,
    skip_listing: Listing = False,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Leave out what is no DICOM instance.")
    ] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make an envelope of another's instances, in another profile.

    It gets a new id: an id stands for bytes that never change, and a server that has the original
    would take this one for it. The documents are made anew from the data sets; parties are taken
    from an envelope of profile jmix-1.0 unless they are given. Signatures and the audit trail stay
    with the original. Every hash of the original is compared first. Whatever cannot be converted
    is named, and nothing is written, unless --leave-out is given.
    """
    with refusals(source), nothing_missing(), _progress("converting") as bar:
        from fastjmix.tools.envelope.converting import convert as make

        protection = _protection(sign_with, encrypt_for, dialect)
        rules = (profile, sender, receiver, payload_hash, skip_hashing, skip_listing)
        recipe = _recipe(context, config, *rules, protection)
        bar.total(_size_of(source))
        left = LeftOut(leave_out=leave_out)
        made = make(
            source,
            output,
            recipe,
            force=force,
            leave_out=leave_out,
            skipped=left,
            seen=bar.seen,
        )
    say_built(made, as_json, left_out=left.rows)


def _recipe(
    context: typer.Context,
    config: Path | None,
    profile: str,
    sender: str | None,
    receivers: list[str] | None,
    payload_hash: str,
    skip_hashing: bool,
    skip_listing: bool,
    protection: dict[str, Any],
) -> Recipe:
    from fastjmix.jmix.write import profiles
    from fastjmix.jmix.write.parties import Published
    from fastjmix.tools.envelope.recipe import Recipe

    if config is not None:
        _alone(context, "sender", "receiver", "payload_hash", "skip_hashing", "skip_listing")
        recipe = _configured(config)
        if _given(context, "profile") and profile != recipe.profile:
            raise typer.BadParameter(f"--profile is {profile}, and {config} says {recipe.profile}")
        return _protected(recipe, protection)
    if profile not in profiles.NAMES:
        raise typer.BadParameter(f"--profile {profile!r} is none of {', '.join(profiles.NAMES)}")
    if payload_hash not in ("tree", "stream"):
        raise typer.BadParameter(f"--payload-hash {payload_hash!r} is neither tree nor stream")
    published = None
    if sender or receivers:
        if profile == "harmony":
            raise typer.BadParameter("profile harmony has no place for a sender or a receiver")
        if not sender or not receivers:
            raise typer.BadParameter("give both --sender and --receiver")
        published = Published(_entity(sender), tuple(_entity(one) for one in receivers))
    recipe = Recipe(
        profile,
        skip_hashing=skip_hashing,
        skip_listing=skip_listing,
        payload_hash="stream" if payload_hash == "stream" else "tree",
        published=published,
    )
    return _protected(recipe, protection)


def _given(context: typer.Context, option: str) -> bool:
    """Was it named on the command line? Not only: has it a value."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _alone(context: typer.Context, *options: str) -> None:
    """Beside -c these would be passed over: better said. Raises BadParameter."""
    for option in options:
        if _given(context, option):
            told = option.replace("_", "-")
            raise typer.BadParameter(f"--{told} beside -c: the configuration says that already")


def _protection(sign_with: Path | None, encrypt_for: Path | None, dialect: str) -> dict[str, Any]:
    """Fields of Published. Raises ConfigError for a key that cannot be used."""
    found: dict[str, Any] = {}
    if sign_with is None and encrypt_for is None:
        return found
    import base64

    from fastjmix.config import key_files
    from fastjmix.jmix import keys
    from fastjmix.jmix.write import encryption, parties

    if dialect not in encryption.DIALECTS:
        raise typer.BadParameter(f"--dialect {dialect!r} is none of php, js, rs")
    if sign_with is not None:
        key_files.load(keys.signing_key, sign_with)
        found["signing"] = parties.Signing(str(sign_with))
    if encrypt_for is not None:
        public = key_files.load(keys.recipient_public, encrypt_for)
        text = base64.b64encode(public).decode()
        found["encryption"] = parties.Encryption(text, dialect)  # type: ignore[arg-type]
    return found


def _protected(recipe: Recipe, protection: dict[str, Any]) -> Recipe:
    if not protection:
        return recipe
    if recipe.published is None:
        raise typer.BadParameter(
            "what is signed or encrypted is of profile jmix-1.0, with a sender and a receiver"
        )
    published = dataclasses.replace(recipe.published, **protection)
    return dataclasses.replace(recipe, published=published)


def _configured(path: Path) -> Recipe:
    """What the first DICOM listener of a configuration would do."""
    from fastjmix.config import load
    from fastjmix.tools.envelope.recipe import Recipe

    listeners = load(path).dicom
    if not listeners:
        raise typer.BadParameter(f"{path}: has no pipeline that takes DICOM")
    rules = listeners[0].builder
    return Recipe(
        rules.profile,
        rules.digest,
        rules.skip_hashing,
        rules.skip_listing,
        rules.payload_hash,
        rules.published,
    )


def _entity(text: str) -> Entity:
    from fastjmix.jmix.write.parties import Entity

    known, _, more = text.partition(",")
    name, _, contact = more.partition(",")
    if not known.strip():
        raise typer.BadParameter("a sender and a receiver need an id")
    return Entity(known.strip(), name.strip() or None, contact.strip() or None)


# -- keys and files ------------------------------------------------------------------------------


def _signing_public(path: Path | None) -> bytes | None:
    if path is None:
        return None
    from fastjmix.config import key_files
    from fastjmix.jmix import keys

    return key_files.load(keys.signing_public, path)


def recipient_key(path: Path | None) -> Any:
    """The X25519 private key in a file, if there is one to read. Raises ConfigError."""
    if path is None:
        return None
    from fastjmix.config import key_files
    from fastjmix.jmix import keys

    return key_files.load(keys.recipient_key, path)


def read_token(path: Path) -> str:
    """The token in a file. Raises BadParameter."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise typer.BadParameter(f"--token-file {path}: {error.strerror}") from None
    if not token:
        raise typer.BadParameter(f"--token-file {path} is empty")
    return token


def _limits(max_bytes: int | None) -> Limits:
    from fastjmix.jmix.limits import DEFAULT_LIMITS, Limits

    return DEFAULT_LIMITS if max_bytes is None else Limits(max_unpacked_bytes=max_bytes)


def _size_of(path: Path) -> int:
    """For a progress bar only."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


# -- words ---------------------------------------------------------------------------------------


@contextmanager
def refusals(source: object = "") -> Iterator[None]:
    """What goes wrong with an envelope (`source`) or a file ends in one line and exit code 1.

    SIGTERM ends like an interrupt, so that no temporary file is left.
    """
    previous = signal.signal(signal.SIGTERM, _interrupted)
    try:
        yield
    except EnvelopeError as error:
        told = f"{printable(source)}: {error.message}" if source else error.message
        refused = FastjmixError(told, error.hint)
        refused.faults = error.faults
        raise refused from None
    except OSError as error:
        where = error.filename if error.filename is not None else source
        raise FastjmixError(f"{printable(where)}: {error.strerror or error}") from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupted(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _file(output: str) -> Path:
    """Returns the path of a file to write. Raises BadParameter for one that names a folder."""
    if output.endswith(os.sep):
        raise typer.BadParameter(f"-o {printable(output)} names a folder: name a file")
    return Path(output)


def _console() -> Console:
    from rich.console import Console

    width = None if sys.stdout.isatty() else 10_000  # a file has room: a fault is one line
    return Console(width=width, soft_wrap=True, highlight=False, emoji=False)


class _Bar:
    """Bytes done; nothing where nobody looks."""

    def __init__(self, total: Callable[[int], object], seen: Callable[[int], object]) -> None:
        self.total = total
        self.seen = seen


@contextmanager
def _progress(what: str) -> Iterator[_Bar]:
    if not sys.stderr.isatty():
        yield _Bar(lambda _: None, lambda _: None)
        return
    from rich import progress
    from rich.console import Console

    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False, emoji=False),
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=None)
        yield _Bar(
            lambda size: bar.update(task, total=size or None), lambda size: bar.advance(task, size)
        )
