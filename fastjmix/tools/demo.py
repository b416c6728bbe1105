"""The whole pipeline on one machine, in some seconds: what `make demo` shows.

Wanted: a newcomer sees DICOM instances go in and JMIX envelopes come out.
Guaranteed: the gateway and the store are the real programs, in processes of their own; the
gateway's configuration is the given one, of which only addresses are replaced, and the difference
is shown; both processes have ended when this returns; what was delivered stays in the directory.
Still wrong: it needs pydicom's test files beside pydicom, where its wheel puts them.

In the directory: config.toml and the pipelines (derived), store/ (the delivered envelopes),
gateway.log and store.log, and what the configuration keeps under relative paths.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import pydicom
from rich.console import Console
from rich.table import Table

from fastjmix.config import Config, load
from fastjmix.dicom.head import has_uids, stream_head
from fastjmix.errors import FastjmixError, UnreadableHead
from fastjmix.spool import Spool, Ticket
from fastjmix.tools import send

LOOPBACK: Final = "127.0.0.1"
ANY_PORT: Final = 0  # the system chooses; the gateway's log says which
START_SECS: Final = 20.0  # until the store has a port and the gateway is ready
DELIVERY_SECS: Final = 60.0  # from the last C-STORE-RSP until the store has everything
STOP_SECS: Final = 30.0  # from SIGTERM to the end of a process
POLL_SECS: Final = 0.05
MEMBERS_SHOWN: Final = 12

# Only a directory with this file in it is emptied for the next demonstration.
MARK: Final = ".fastjmix-demo"

Key: TypeAlias = tuple[str, ...]  # ("network", "dicom_net", "tcp_config", "bind_port")


class DemoError(FastjmixError):
    """The demonstration could not be finished. The message names the log to look at."""


def default_config() -> Path:
    """The configuration in this directory; else the one that fastjmix comes with: in the package
    (setup.py puts it there), or beside it where that is the repository."""
    package = Path(__file__).parent
    places = (Path(), package / "defaults", package.parent)
    found = (place / "config.toml" for place in places)
    return next((path for path in found if path.is_file()), Path("config.toml"))


def run(config: Path, directory: Path, console: Console) -> Sequence[Ticket]:
    """Runs the demonstration; returns the tickets of the delivered envelopes.

    Raises ConfigError for the given configuration, DemoError when something does not happen in
    time, and what `send` raises.
    """
    _empty(directory)
    effective = load(config)
    if not (effective.dicom and effective.http):
        raise DemoError("the demonstration needs a DICOM and an HTTP endpoint in the configuration")
    token = _token(effective, directory)
    with _store(directory, token) as url:
        _heading(console, "1", "An upstream", f"fastjmix store at {url}")
        changes = derive(config, directory, url)
        _heading(console, "2", "The gateway", f"fastjmix run -c {_near(directory / config.name)}")
        _show_changes(console, changes)
        storage = directory / _storage(directory / config.name)
        storage.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _gateway(directory, config.name) as port:
            report = _send(port, effective.dicom[0].ae_title, console)
            tickets = _delivered(storage)
    _show_delivery(console, directory, report, tickets)
    return tickets


# --- the directory ----------------------------------------------------------------------------


def _empty(directory: Path) -> None:
    """Makes the directory, or empties it if an earlier demonstration made it."""
    if directory.exists() and any(directory.iterdir()) and not (directory / MARK).exists():
        hint = "Name another with --dir; only a directory of an earlier demonstration is emptied."
        raise DemoError(f"{directory} exists and is not empty", hint)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / MARK).touch()


def _token(config: Config, directory: Path) -> Path | None:
    """What the gateway will show as a bearer token, for the store to ask for."""
    credentials = config.dicom[0].upstream.credentials
    if credentials is None or credentials.method != "bearer":
        return None
    path = directory / "token"
    path.touch(mode=0o600)
    path.write_text(credentials.token.reveal(), encoding="utf-8")
    return path


# --- the derived configuration ----------------------------------------------------------------


def derive(config: Path, directory: Path, upstream: str) -> str:
    """Copies a configuration and its pipelines into `directory`, with addresses of this run.

    Listeners move to free ports of the loopback interface, targets to `upstream` (an URL). Returns
    the difference as a unified diff. Raises DemoError for a key it cannot find again in the text.
    """
    main = tomllib.loads(config.read_text(encoding="utf-8"))
    pipelines = Path(main.get("proxy", {}).get("pipelines_path", "pipelines"))
    sources = [config, *sorted((config.parent / pipelines).glob("*.toml"))]
    shown: list[str] = []
    for source in sources:
        relative = Path(config.name) if source == config else pipelines / source.name
        before = source.read_text(encoding="utf-8")
        after = rewrite(before, _changes(tomllib.loads(before), urlsplit(upstream)))
        target = directory / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(after, encoding="utf-8")
        shown += difflib.unified_diff(
            before.splitlines(), after.splitlines(), _near(source), _near(target), n=0, lineterm=""
        )
    return "\n".join(shown)


def _changes(tables: Mapping[str, Any], upstream: Any) -> dict[Key, Any]:
    """The addresses in these tables, and what this run needs them to be."""
    wanted: dict[Key, Any] = {}
    for path, table in _tables(tables):
        listens = path[:1] == ("network",) and path[-1] in ("tcp_config", "http")
        if listens and "bind_port" in table:
            wanted[(*path, "bind_port")] = ANY_PORT
        if listens and "bind_address" in table:
            wanted[(*path, "bind_address")] = LOOPBACK
        if path[:1] == ("targets",) and path[-1] == "connection":
            wanted[(*path, "host")] = upstream.hostname
            wanted[(*path, "port")] = upstream.port
            wanted[(*path, "protocol")] = upstream.scheme
        if path == ("storage", "options") and Path(table.get("path", "")).is_absolute():
            wanted[(*path, "path")] = "./tmp"
        if path == ("logging",) and Path(table.get("log_file_path", "")).is_absolute():
            wanted[(*path, "log_file_path")] = "./tmp/fastjmix.log"
        if path[:1] == ("peers",) and path[-1] == "connection" and _is_ours(tables, table):
            wanted[(*path, "host")] = LOOPBACK
            wanted[(*path, "port")] = ANY_PORT
    return wanted


def _is_ours(tables: Mapping[str, Any], connection: Mapping[str, Any]) -> bool:
    """Whether a peer's connection repeats the address of one of our listeners."""
    ports = [table["bind_port"] for _, table in _tables(tables) if "bind_port" in table]
    return connection.get("port") in ports and "host" in connection


def _tables(table: Mapping[str, Any], path: Key = ()) -> Iterator[tuple[Key, Mapping[str, Any]]]:
    yield path, table
    for name, inner in table.items():
        if isinstance(inner, dict):
            yield from _tables(inner, (*path, name))


def _at(tables: Mapping[str, Any], key: Key) -> Any:
    found: Any = tables
    for part in key:
        found = found[part]
    return found


def rewrite(text: str, changes: Mapping[Key, Any]) -> str:
    """TOML with other values at some keys; comments, order and all else as they were.

    Knows `key = value` and `dotted.key = value` lines under `[table]` headings, which is how the
    configuration is written. Raises DemoError if the result is not exactly what was asked for.
    """
    table: Key = ()
    lines = []
    for line in text.splitlines(keepends=True):
        stripped = line.strip()
        if stripped.startswith("["):
            table = _key(stripped.split("#")[0])
        elif "=" in stripped and not stripped.startswith("#"):
            name = line.split("=", 1)[0]
            key = (*table, *_key(f"[{name.strip()}]"))
            if key in changes:
                statement = f"{name}= {_literal(changes[key])}"
                line = _behind(line, statement) or statement + "\n"
        lines.append(line)
    result = "".join(lines)
    wanted = tomllib.loads(text)
    for key, value in changes.items():
        _at(wanted, key[:-1])[key[-1]] = value
    if tomllib.loads(result) != wanted:
        names = ", ".join(".".join(key) for key in changes)
        raise DemoError(f"the demonstration could not find all of {names} in the configuration")
    return result


def _key(heading: str) -> Key:
    """The path in "[a.b]" or "[[a.b]]"; bare and quoted parts without dots inside."""
    return tuple(part.strip().strip("\"'") for part in heading.strip().strip("[]").split("."))


def _literal(value: str | int) -> str:
    return str(value) if isinstance(value, int) else f'"{value}"'


def _behind(line: str, statement: str) -> str:
    """The comment of a line, put behind a new statement at the same place. (A "#" inside a string
    is not met: these are addresses and paths.)"""
    before, sign, comment = line.partition("#")
    return statement.ljust(max(len(before), len(statement) + 2)) + sign + comment if sign else ""


# --- the two processes ------------------------------------------------------------------------


@contextmanager
def _program(log: Path, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """`fastjmix …` until the block ends; then SIGTERM. Raises DemoError if that ends badly."""
    command = [sys.executable, "-m", "fastjmix", *arguments]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stderr=stderr, text=True, **options)
    try:
        yield process
    except BaseException:
        _stop(process)
        raise
    status = _stop(process)
    if status != 0:
        raise DemoError(f"fastjmix {arguments[0]} ended with status {status}", f"See {log}.")


def _stop(process: subprocess.Popen[str]) -> int:
    process.terminate()
    try:
        return process.wait(STOP_SECS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
    finally:
        if process.stdout:
            process.stdout.close()


@contextmanager
def _store(directory: Path, token: Path | None) -> Iterator[str]:
    """The embedded store on a free port. Yields the URL to which envelopes are posted."""
    log = directory / "store.log"
    arguments = ["--port", "0", "--dir", str(directory / "store")]
    if token is not None:
        arguments += ["--token-file", str(token)]
    with _program(log, "store", *arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise DemoError("the store did not start", f"See {log}.")
        yield url


@contextmanager
def _gateway(directory: Path, name: str) -> Iterator[int]:
    """The gateway, ready, working in `directory`. Yields its DICOM port."""
    log = directory / "gateway.log"
    with _program(log, "run", "-c", name, cwd=directory, stdout=subprocess.DEVNULL) as process:

        def ready() -> bool:
            http = _port(log, "http")
            return http is not None and _is_ready(f"http://{LOOPBACK}:{http}/readyz")

        if not _until(lambda: process.poll() is not None or ready(), START_SECS):
            raise DemoError(f"the gateway was not ready within {START_SECS:g} s", f"See {log}.")
        port = _port(log, "dicom")
        if process.poll() is not None or port is None:
            raise DemoError("the gateway did not start", f"See {log}.")
        yield port


def _port(log: Path, what: str) -> int | None:
    """The port of a listener, from the line with which the gateway announces it."""
    found = re.search(rf"^.* listening what={what} .*:(\d+)$", log.read_text("utf-8"), re.MULTILINE)
    return int(found[1]) if found else None


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


# --- what happens -----------------------------------------------------------------------------


def instances_of_pydicom() -> list[send.Instance]:
    """Returns the files beside pydicom that the gateway takes: with UIDs of study, series and
    instance, the same SOP Instance UID in their File Meta Information, and nothing malformed."""
    here = Path(pydicom.__file__).parent / "data"
    found, _ = send.find([here / "test_files", here / "charset_files"])
    return [instance for instance in found if _is_whole(instance)]


def _is_whole(instance: send.Instance) -> bool:
    data = instance.path.read_bytes()
    try:
        head, fault = stream_head([data], instance.offset, instance.transfer_syntax)
    except UnreadableHead:  # test files are odd on purpose
        return False
    return not fault and has_uids(head) and head.sop_instance_uid.decode() == instance.sop_instance


def _send(port: int, ae_title: str, console: Console) -> send.Report:
    peer = send.Peer(LOOPBACK, port, called=ae_title, calling="DEMO_MODALITY")
    instances = instances_of_pydicom()
    _heading(console, "3", "A modality", f"{len(instances)} files of pydicom to {peer}")
    report = send.send(peer, instances)
    if report.failed:
        worst = report.failed[0]
        message = f"{len(report.failed)} instances were not accepted"
        raise DemoError(message, f"The first: {worst.instance.path}: {worst.meaning}")
    console.print(
        f"   {len(report.accepted)} times C-STORE-RSP 0x0000 Success: {_size(report.bytes_sent)}"
        f" in {report.seconds:.2f} s, over {report.associations} association"
    )
    return report


def _delivered(storage: Path) -> list[Ticket]:
    """Waits until nothing is left to build or to deliver. The tickets, oldest first."""
    spool = Spool(storage)

    def done() -> bool:
        # In the direction of the flow, so that an envelope in motion is seen at least once.
        waiting = any(spool.building.iterdir()) or bool(spool.waiting())
        return not waiting and any(spool.sent.glob("*.zip"))

    if not _until(done, DELIVERY_SECS):
        left = len(spool.waiting())
        message = f"{left} envelopes were not delivered within {DELIVERY_SECS:g} s"
        raise DemoError(message, f"They are in {spool.outbox}; gateway.log says why.")
    if any(spool.rejected.glob("*.zip")):
        raise DemoError("the store refused envelopes for good", f"They are in {spool.rejected}.")
    tickets = [spool.ticket("sent", path.stem) for path in spool.sent.glob("*.zip")]
    return sorted(tickets, key=lambda ticket: ticket.sealed_at)


def _until(happened: Callable[[], object], secs: float) -> bool:
    deadline = time.monotonic() + secs
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECS)
    return True


def _storage(config: Path) -> Path:
    """The storage directory as the configuration has it: relative to the working directory."""
    tables = tomllib.loads(config.read_text(encoding="utf-8"))
    return Path(tables.get("storage", {}).get("options", {}).get("path", "./tmp"))


# --- what is shown ----------------------------------------------------------------------------


def _heading(console: Console, number: str, title: str, text: str) -> None:
    console.print(f"\n[bold cyan]{number}[/]  [bold]{title}[/]: ", end="")
    console.print(text, markup=False)


def _show_changes(console: Console, changes: str) -> None:
    console.print("   its configuration is the one given, with the addresses of this run:")
    for line in changes.splitlines():
        if not line.startswith("@@"):
            style = {"+": "green", "-": "red"}.get(line[0], "")
            bold = " bold" if line.startswith(("+++", "---")) else ""
            console.print(f"   {line}", style=style + bold or None, markup=False)


def _show_delivery(
    console: Console, directory: Path, report: send.Report, tickets: Sequence[Ticket]
) -> None:
    instances = sum(ticket.instances for ticket in tickets)
    total = sum(ticket.size_bytes for ticket in tickets)
    _heading(
        console,
        "4",
        "Delivered",
        f"{len(tickets)} envelopes, one for each study: {instances} instances, {_size(total)}",
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("   envelope")
    table.add_column("instances", justify="right")
    table.add_column("bytes", justify="right")
    table.add_column("the store's answer")
    for ticket in tickets:
        answer = str((ticket.receipt or {}).get("status", "?"))
        table.add_row(f"   {ticket.id}", str(ticket.instances), str(ticket.size_bytes), answer)
    console.print(table)
    if instances < len(report.accepted):
        twice = len(report.accepted) - instances
        console.print(
            f"   instances that came twice, with the same bytes, and are kept once: {twice}"
        )
    largest = max(tickets, key=lambda ticket: ticket.instances)
    _show_members(console, directory / "store" / f"{largest.id}.zip")
    console.print(f"\nEverything has stopped. The envelopes stay in {_near(directory / 'store')}.")


def _show_members(console: Console, archive: Path) -> None:
    _heading(console, "5", "Inside", _near(archive))
    with zipfile.ZipFile(archive) as envelope:
        members = envelope.infolist()
    for member in members[:MEMBERS_SHOWN]:
        console.print(f"   {member.file_size:>9}  {member.filename}", markup=False)
    if len(members) > MEMBERS_SHOWN:
        console.print(f"              and {len(members) - MEMBERS_SHOWN} more")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _near(path: Path) -> str:
    """As a person in the current directory would write it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
