"""The front door: arguments → rooms; errors → message and exit code. The only room that prints.

Wanted: each command is one line to type and says plainly what went wrong.
Guaranteed: results go to stdout, everything else to stderr; with --json stdout has one JSON
document, however a command ends; no traceback for a user (set FASTJMIX_TRACEBACK=1 to see one);
what a peer or a file name says is escaped before it is shown; a command imports only what it needs,
so that `--version` and `run` start at once.
Still wrong: nothing completes file names of configurations or AE titles in a shell.

Exit codes: 0 done; 1 some instances were refused or not sent, or a fault of ours; 2 usage or
configuration; 3 no association; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import re
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Never, cast

import typer

from fastjmix._version import __version__
from fastjmix.errors import FastjmixError, PlatformError, UsageError
from fastjmix.errors import printable as shown
from fastjmix.tools.envelope import commands as envelope
from fastjmix.tools.envelope.commands import read_token
from fastjmix.tools.envelope.options import for_shell
from fastjmix.tools.envelope.results import error_json, has_printed_json, print_json, say
from fastjmix.tools.send import command

if TYPE_CHECKING:
    from fastjmix.tools.tune import Options
    from fastjmix.tools.tune import Report as Measured

OLDEST_KERNEL: Final = (5, 4)
"""memfd seals, MADV_REMOVE on shared memory and pidfd are used as this kernel has them."""

INTERRUPTED: Final = 130

SIGNALLED: Final = 128
"""Exit codes above it, less it, are the number of the signal that ended the command."""

HELP: Final = frozenset(("-h", "--help"))

CLICK_ERROR: Final = cast("type[Exception]", typer.BadParameter.__mro__[2])
"""ClickException, the base of all usage errors: typer has it under another name since it brings
click along."""

app = typer.Typer(
    name="fastjmix",
    help="DICOM instances in over C-STORE, JMIX envelopes out over HTTP.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": sorted(HELP, key=len)},
)

app.add_typer(envelope.app, name="envelope")
app.command()(command.send)

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, errors included.")]
ConfigFile = Annotated[
    Path, typer.Option("-c", "--config", metavar="FILE", help="The configuration file.")
]


def main() -> Never:
    """The entry point of the `fastjmix` command. Ends the process; never raises to the caller."""
    _open_standard_descriptors()
    as_json = asks_for_json(sys.argv[1:])
    try:
        code = _run_command(as_json)
    except FastjmixError as error:
        code = _refuse(error, as_json)
    except CLICK_ERROR as error:
        code = _refuse(UsageError(error.format_message()), as_json)  # type: ignore[attr-defined]
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:  # the last resort: a user is told, a developer asks for more
        kind = type(error).__name__
        hint = "Please report it. FASTJMIX_TRACEBACK=1 shows where it happened."
        told = f"a fault of fastjmix itself: {kind}: {error}"
        code = _refuse(FastjmixError(told, hint), as_json)
        if os.environ.get("FASTJMIX_TRACEBACK"):
            traceback.print_exc()
    if as_json and not has_printed_json():
        why = {"error": "interrupted"} if code > SIGNALLED else {}
        print_json({**why, "exit_code": code})
    sys.exit(code)


def _run_command(as_json: bool) -> int:
    """Returns the exit code. With `as_json` raises click's own errors, and gives help as JSON."""
    captured = io.StringIO() if as_json and _asks_for_help(sys.argv[1:]) else None
    try:
        with contextlib.redirect_stdout(captured) if captured else contextlib.nullcontext():
            # Not standalone: click's own errors come back, to be told as JSON.
            ended = app(prog_name="fastjmix", standalone_mode=not as_json)
    except SystemExit as how:
        ended = how.code
    if captured:
        print_json({"help": captured.getvalue(), "exit_code": 0})
    return ended if isinstance(ended, int) else 0


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether --json is among the options: known also when they cannot be understood."""
    return "--json" in _options(arguments)


def _asks_for_help(arguments: Sequence[str]) -> bool:
    return not HELP.isdisjoint(_options(arguments))


def _options(arguments: Sequence[str]) -> Sequence[str]:
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _refuse(error: FastjmixError, as_json: bool) -> int:
    """Tells a person of an error on stderr, and a program on stdout, which has nothing else there
    then. Returns the exit code."""
    _complain(error.message, for_shell(error.hint))
    if as_json and not has_printed_json():
        print_json(error_json(error))
    return error.exit_code


def _open_standard_descriptors() -> None:
    """What was started without stdin, stdout or stderr must not get a file in their place: its log
    lines would be written into an envelope."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def _complain(message: str, hint: str = "") -> None:
    """One line, as the hint is a sentence of its own; only a list of faults has more."""
    end = "" if message.endswith((".", "?", "!")) else "."
    typer.echo(f"fastjmix: {message}" + (f"{end} {hint}" if hint else ""), err=True)


# --- the gateway ------------------------------------------------------------------------------


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("-c", "--config", metavar="FILE", help="The same as `run --config FILE`."),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    as_json: Json = False,
) -> None:
    if version:
        say({"version": __version__}, f"fastjmix {__version__}", as_json)
        raise typer.Exit
    if context.invoked_subcommand is None:
        if config is not None:
            run(config, as_json)
        if as_json:
            raise UsageError("a command is missing", "fastjmix --help lists them.")
        typer.echo(context.get_help())
        raise typer.Exit(2)
    if config is not None or as_json:
        raise typer.BadParameter(f"say it after the command: fastjmix {context.invoked_subcommand}")


@app.command()
def run(
    config: ConfigFile = Path("config.toml"),
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="JSON on stdout: where it listens, or the error; the log stays as it is.",
        ),
    ] = False,
) -> None:
    """Run the gateway until SIGTERM or SIGINT."""
    _require_linux(sys.platform, platform.release())
    from fastjmix.supervisor import loop as supervisor

    raise typer.Exit(supervisor.run(config, print_json if as_json else None))


def _require_linux(system: str, release: str) -> None:
    """Raises PlatformError unless this is Linux, new enough. `release` as uname(2) gives it."""
    needed = ".".join(map(str, OLDEST_KERNEL))
    if system != "linux":
        hint = "Run it in a Linux virtual machine or container."
        raise PlatformError(f"fastjmix needs Linux {needed} or newer; this is {system}", hint)
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST_KERNEL:
        raise PlatformError(f"fastjmix needs Linux {needed} or newer; this is {release}")


@app.command()
def check(config: ConfigFile = Path("config.toml"), as_json: Json = False) -> None:
    """Validate a configuration and print it as it takes effect, without secrets, to be pasted."""
    import tomllib

    from fastjmix.config import effective
    from fastjmix.spool import presence
    from fastjmix.supervisor import memory

    held, text = effective(config)
    try:
        plan = str(memory.plan(held))
    except PlatformError as problem:  # of this shell: the service may be under another limit
        plan = problem.message
    if not as_json:
        typer.echo(f"{text}\n# {plan}")
    presence.require(held.storage_dir, held.create_storage, held.source)
    if as_json:
        told = {"configuration": tomllib.loads(text), "memory": plan}
        print_json({**told, "ignored": held.ignored, "warnings": held.warnings})


# --- the embedded store -----------------------------------------------------------------------


@app.command()
def store(
    directory: Annotated[Path, typer.Option("--dir", help="Where envelopes are kept.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 8087,
    host: Annotated[str, typer.Option(help="The address to bind.")] = "127.0.0.1",
    token_file: Annotated[
        Path | None, typer.Option(help="File that holds the bearer token callers must present.")
    ] = None,
    verify_hashes: Annotated[
        bool, typer.Option("--verify-hashes", help="Check every member's digest before a 201.")
    ] = False,
    decryption_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The X25519 private key for whom envelopes are encrypted: they are accepted, and "
            "checked inside. Without it they are refused.",
        ),
    ] = None,
    allow_unauthenticated: Annotated[
        bool, typer.Option("--allow-unauthenticated", help="Beyond loopback without a token.")
    ] = False,
    log_level: Annotated[str, typer.Option(help="trace, debug, info, warn or error.")] = "info",
    as_json: Json = False,
) -> None:
    """Run the embedded JMIX store: a small upstream over a directory. Prints its URL first."""
    from fastjmix import log

    if log_level not in log.LEVELS:
        raise typer.BadParameter(f"{log_level!r} is none of {', '.join(log.LEVELS)}")
    log.setup(log_level, None, "store")
    token = None if token_file is None else read_token(token_file)
    key = envelope.recipient_key(decryption_key)
    from fastjmix.tools import store as room

    room.run(
        host,
        port,
        directory,
        token,
        ready=partial(_announce, as_json=as_json),
        verify_hashes=verify_hashes,
        key=key,
        allow_unauthenticated=allow_unauthenticated,
    )


def _announce(url: str, as_json: bool) -> None:
    if as_json:
        print_json({"url": url})
    else:
        typer.echo(url)  # flushed: whoever started us through a pipe is waiting for it


@app.command()
def demo(
    config: Annotated[
        Path | None,
        typer.Option(
            "-c",
            "--config",
            metavar="FILE",
            help="The configuration file.",
            show_default="config.toml; without one, that of fastjmix",
        ),
    ] = None,
    directory: Annotated[Path, typer.Option("--dir", help="Made anew; keeps the results.")] = Path(
        "demo"
    ),
    as_json: Json = False,
) -> None:
    """Show the pipeline: DICOM files into a gateway, envelopes into an embedded store."""
    from rich.console import Console

    from fastjmix.tools import demo as room

    console = Console(stderr=as_json, soft_wrap=True, highlight=False, emoji=False)
    tickets = room.run(config or room.default_config(), directory, console)
    if as_json:
        told = [
            {"id": one.id, "studies": one.studies, "instances": one.instances} for one in tickets
        ]
        print_json({"envelopes": told, "directory": str(directory)})


# --- the measurement --------------------------------------------------------------------------


@app.command()
def tune(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="DICOM files to send; none: synthetic.")
    ] = None,
    config: ConfigFile = Path("config.toml"),
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Made-up studies: the same as no DIR.")
    ] = False,
    like: Annotated[
        str, typer.Option(help="What synthetic studies are like: ct (0.5 MB) or mr (33 KB).")
    ] = "ct",
    seconds: Annotated[
        float, typer.Option(min=1, max=86_400, help="How long it may take in all.")
    ] = 60.0,
    associations: Annotated[
        int, typer.Option(min=1, max=64, help="How many in parallel share the work.")
    ] = 1,
    sample_mb: Annotated[
        float, typer.Option(min=0.1, help="Send at most so much in each round.")
    ] = 128.0,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON on stdout.")] = False,
) -> None:
    """Measure settings on this machine; say what to change. Exit 1: a trial failed."""
    _require_linux(sys.platform, platform.release())
    from fastjmix.tools import tune as room

    if like not in room.KINDS:
        raise typer.BadParameter(f"--like {like!r} is none of {', '.join(room.KINDS)}")
    if directory is not None and synthetic:
        raise typer.BadParameter("give either DIR or --synthetic")
    chosen = room.Options(directory, like, seconds, associations, int(sample_mb * 1e6))
    report = _tune(config, chosen)
    if as_json:
        print_json(room.as_json(report))
    else:
        from rich.console import Console

        width = None if sys.stdout.isatty() else 120  # a file has room
        room.show(report, Console(width=width, soft_wrap=True, highlight=False, emoji=False))
    raise typer.Exit(report.exit_code)


def _tune(config: Path, chosen: Options) -> Measured:
    """Measures with a progress bar on stderr; where nobody looks, with a line for each step."""
    from rich import progress
    from rich.console import Console

    from fastjmix.tools import tune as room

    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    bar = progress.Progress(
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
        auto_refresh=False,  # it would start a thread, and the senders are forked
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=1.0)

        def told(what: str, done: float) -> None:
            bar.update(task, description=shown(what), completed=done, refresh=True)
            if bar.disable:
                typer.echo(f"{done * 100:3.0f} %  {shown(what)}", err=True)

        return room.tune(config, chosen, told, room.process_start())
