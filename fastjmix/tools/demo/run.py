"""Store, gateway and sender, one after the other; then everything has stopped."""

from __future__ import annotations

import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import pydicom
from rich.console import Console

from fastjmix.config import Config, load
from fastjmix.dicom.head import has_uids, stream_head
from fastjmix.errors import UnreadableHead
from fastjmix.spool import Spool, Ticket
from fastjmix.tools import send
from fastjmix.tools.demo.derivation import LOOPBACK, DemoError, derive, near, storage_of
from fastjmix.tools.demo.show import heading, show_changes, show_delivery, size
from fastjmix.tools.launch import STORE_LISTENING, LaunchError, Program

START_SECS: Final = 20.0
"""Until the store listens, and until the gateway is ready."""

DELIVERY_SECS: Final = 60.0
"""From the last C-STORE-RSP until the store has everything."""

STOP_SECS: Final = 30.0
"""From SIGINT to the end of a process."""

POLL_SECS: Final = 0.05

MARK: Final = ".fastjmix-demo"
"""Only a directory with this file in it is emptied for the next demonstration."""

_T = TypeVar("_T")


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
        heading(console, "1", "An upstream", f"fastjmix store at {url}")
        changes = derive(config, directory, url)
        heading(console, "2", "The gateway", f"fastjmix run -c {near(directory / config.name)}")
        show_changes(console, changes)
        storage = directory / storage_of(directory / config.name)
        storage.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _gateway(directory, config.name) as port:
            report = _send(port, effective.dicom[0].ae_title, console)
            tickets = _delivered(storage)
    show_delivery(console, directory, report, tickets)
    return tickets


def _empty(directory: Path) -> None:
    """Makes the directory, or empties it if an earlier demonstration made it."""
    if directory.exists() and any(directory.iterdir()) and not (directory / MARK).exists():
        hint = "Name another with --dir; only a directory of an earlier demonstration is emptied."
        raise DemoError(f"{directory} exists and is not empty", hint)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / MARK).touch()


def _token(config: Config, directory: Path) -> Path | None:
    """Writes the bearer token that the gateway will present to a file, for the store to require."""
    credentials = config.dicom[0].upstreams[0].credentials
    if credentials is None or credentials.method != "bearer":
        return None
    path = directory / "token"
    path.touch(mode=0o600)
    path.write_text(credentials.token.reveal(), encoding="utf-8")
    return path


@contextmanager
def _running(log: Path, *arguments: str, directory: Path | None = None) -> Iterator[Program]:
    """Runs `fastjmix …` until the block ends; then SIGINT. Raises DemoError if that ends badly."""
    program = Program(*arguments, log=log, directory=directory)
    try:
        yield program
    except BaseException:
        program.stop(STOP_SECS)
        raise
    status = program.stop(STOP_SECS)
    if status != 0:
        raise DemoError(f"fastjmix {arguments[0]} ended with status {status}", f"See {log}.")


@contextmanager
def _store(directory: Path, token: Path | None) -> Iterator[str]:
    """Runs the embedded store on a free port. Yields the URL to which envelopes are posted."""
    log = directory / "store.log"
    arguments = ["--port", "0", "--dir", str(directory / "store")]
    if token is not None:
        arguments += ["--token-file", str(token)]
    with _running(log, "store", *arguments) as program:
        try:
            url = _until(lambda: program.found(STORE_LISTENING), START_SECS)
        except LaunchError:
            url = None
        if url is None:
            raise DemoError("the store did not start", f"See {log}.")
        yield url


@contextmanager
def _gateway(directory: Path, name: str) -> Iterator[int]:
    """Runs the gateway in `directory` until it is ready. Yields its DICOM port."""
    log = directory / "gateway.log"
    with _running(log, "run", "-c", name, directory=directory) as program:

        def ready() -> int | None:
            http = program.port("http")
            if http is None or not _is_ready(f"http://{LOOPBACK}:{http}/readyz"):
                return None
            return program.port("dicom")

        try:
            port = _until(ready, START_SECS)
        except LaunchError:
            raise DemoError("the gateway did not start", f"See {log}.") from None
        if port is None:
            raise DemoError(f"the gateway was not ready within {START_SECS:g} s", f"See {log}.")
        yield port


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


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
    heading(console, "3", "A modality", f"{len(instances)} files of pydicom to {peer}")
    report = send.send(peer, instances)
    if report.failed:
        worst = report.failed[0]
        message = f"{len(report.failed)} instances were not accepted"
        raise DemoError(message, f"The first: {worst.instance.path}: {worst.meaning}")
    console.print(
        f"   {len(report.accepted)} times C-STORE-RSP 0x0000 Success: {size(report.bytes_sent)}"
        f" in {report.seconds:.2f} s, over {report.associations} association"
    )
    return report


def _delivered(storage: Path) -> list[Ticket]:
    """Waits until nothing is left to build or to deliver. Returns the tickets, oldest first."""
    spool = Spool(storage)

    def done() -> bool | None:
        # In the direction of the flow, so that an envelope in motion is seen at least once.
        waiting = any(spool.building.iterdir()) or bool(spool.outbox_listing.ids())
        return (not waiting and any(spool.sent.glob("*.zip"))) or None

    if not _until(done, DELIVERY_SECS):
        left = len(spool.outbox_listing.ids())
        message = f"{left} envelopes were not delivered within {DELIVERY_SECS:g} s"
        raise DemoError(message, f"They are in {spool.outbox}; gateway.log says why.")
    if any(spool.rejected.glob("*.zip")):
        raise DemoError("the store refused envelopes for good", f"They are in {spool.rejected}.")
    tickets = [spool.ticket("sent", path.stem) for path in spool.sent.glob("*.zip")]
    return sorted(tickets, key=lambda ticket: ticket.sealed_at)


def _until(happened: Callable[[], _T | None], secs: float) -> _T | None:
    """Waits until `happened` returns something, and returns that; None after `secs`."""
    deadline = time.monotonic() + secs
    while (found := happened()) is None:
        if time.monotonic() > deadline:
            return None
        time.sleep(POLL_SECS)
    return found
