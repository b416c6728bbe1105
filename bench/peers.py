"""Receivers: fastjmix as it is run, its peers, and the floors, behind one small interface.

Wanted: every receiver of a row is up before the row starts, and its output can be deleted and
checked between rounds.
Guaranteed: receivers are processes of their own which end with `stop`, and die with the benchmark.
A receiver that cannot be had on this machine raises Missing with the reason.
Still wrong: Orthanc's output is checked by the number of its files only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from typing import Final

from bench import check, sender
from bench.study import Study
from tests.support import gateway
from tests.support.acceptors import dcmtk

PATIENCE: Final = 120.0
POLL: Final = 0.002
NOWHERE: Final = 9
"""A port where nothing listens: what is sealed stays in outbox/."""


class Missing(Exception):
    """This receiver is not to be had here, and why."""


def _mortal(command: Sequence[str]) -> list[str]:
    """The command so that it dies with this process, however that ends, where util-linux is."""
    program = shutil.which("setpriv")
    return [program, "--pdeathsig", "KILL", "--", *command] if program else list(command)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def _emptied(directory: Path) -> Path:
    """A new place beside a receiver's directory, for files that were emptied.

    They are not deleted: ext4 does not give the inode of a deleted file to a new one for minutes,
    and searches past all of them at each file that is created (recently_deleted in
    fs/ext4/ialloc.c). Who makes many files would be timed with that. The directory of the whole
    benchmark is deleted in the end.
    """
    place = directory.parent / "emptied" / uuid.uuid4().hex
    place.mkdir(parents=True)
    return place


def _put_away(paths: Sequence[Path], directory: Path) -> None:
    """Empties files and moves them there; one may be gone, as fastjmix moves them, too."""
    place = _emptied(directory)
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.truncate(path, 0)
            path.rename(place / path.name)


class Receiver:
    """Something that is sent to: `clear` before a round, `check` after it, `stop` in the end."""

    aet = "ANY-SCP"

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.out = directory / "out"
        self.port = 0
        self.command = ""
        self.out.mkdir(parents=True)

    def clear(self) -> None:
        """Takes the output of the run before out of the way."""
        for path in self.out.rglob("*"):
            if path.is_file():
                os.truncate(path, 0)
        self.out.rename(_emptied(self.directory) / "out")
        self.out.mkdir()

    def check(self, studies: Sequence[Study]) -> None:
        """Raises check.OutputError unless the output is what was sent."""
        check.files(self.out, studies)

    def stop(self) -> None:
        """Ends its processes."""


class Process(Receiver):
    """A receiver whose lines on standard output are read: its port, then one an association."""

    def __init__(self, name: str, directory: Path, *command: str, **environment: str) -> None:
        super().__init__(name, directory)
        self.command = " ".join([*(f"{k}={v}" for k, v in environment.items()), *command])
        clean = {key: value for key, value in os.environ.items() if key != "TCP_NODELAY"}
        self.child = subprocess.Popen(
            _mortal(command),
            cwd=Path(__file__).resolve().parents[1],
            env={**clean, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.lines: Queue[str] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.lines.put(line.strip())

    def line(self) -> str:
        """The next line. Raises Missing when the process has nothing more to say."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                return self.lines.get(timeout=0.5)
            except Empty:
                if self.child.poll() is not None and self.lines.empty():
                    break
        raise Missing(f"{self.name} says nothing (exit code {self.child.poll()})")

    def hush(self) -> None:
        """Forgets the lines of earlier rounds."""
        while not self.lines.empty():
            self.lines.get()

    def await_port(self, port: int) -> None:
        """Until it listens there. Raises Missing."""
        deadline = time.monotonic() + PATIENCE
        while self.child.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                self.port = port
                return
            time.sleep(0.02)
        self.stop()
        raise Missing(f"{self.name} does not listen (exit code {self.child.poll()})")

    def stop(self) -> None:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.terminate()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self._reader.join(10)
        self.child.stdin.close()
        self.child.stdout.close()


class FastJmix(Receiver):
    """The real program, `python -m fastjmix run`, with the configuration that the tests use.

    `builder` are lines for the jmix_builder's options; release_grace_secs is lowered so that a
    round need not wait a second for its envelope (it is outside of what is timed).
    """

    aet = "JMIX_RECEIVER"

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        durability: str = "page-cache",
        hashing: bool = True,
        grace: float = 0.3,
        upstream: int = NOWHERE,
        max_associations: int = 64,
        max_instances: int = 10_000,
        python: str = sys.executable,
    ) -> None:
        super().__init__(name, directory)
        self.hashing = hashing
        skip = "" if hashing else "skip_hashing = true\nskip_listing = true\n"
        self.builder = (
            f'durability = "{durability}"\nrelease_grace_secs = {grace}\n'
            f"max_envelope_instances = {max_instances}\n{skip}"
        )
        self.command = "fastjmix run: " + self.builder.strip().replace("\n", ", ")
        self.process = gateway.Gateway(
            directory / "node",
            upstream,
            builder=self.builder,
            endpoint=f"max_associations = {max_associations}",
            python=python,
        )
        self.port = self.process.dicom_port
        self.spool = self.process.spool

    @property
    def pid(self) -> int:
        return self.process.child.pid

    def clear(self) -> None:
        for state in ("outbox", "sent"):
            found = [*(self.spool / state).glob("*.json"), *(self.spool / state).glob("*.zip")]
            _put_away(found, self.directory)

    def sealed(self, state: str) -> dict[Path, int]:
        """Archives in a state, and how many instances their tickets count.

        The timed work goes on meanwhile, on the same processors: so this is no glob, which took a
        third of one of them from P8.
        """
        found = {}
        with os.scandir(self.spool / state) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(".zip")]
        for archive in (self.spool / state / name for name in names):
            with contextlib.suppress(OSError, ValueError):
                ticket = json.loads(archive.with_suffix(".json").read_bytes())
                found[archive] = int(ticket["instances"])
        return found

    def await_instances(self, count: int, states: Sequence[str] = ("outbox", "sent")) -> list[Path]:
        """Until so many instances are in sealed envelopes: where these are."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = {path: n for state in states for path, n in self.sealed(state).items()}
            if sum(found.values()) >= count:
                return list(found)
            time.sleep(POLL)
        raise check.OutputError(f"{sum(found.values())} of {count} instances sealed")

    def check(self, studies: Sequence[Study]) -> None:
        archives = self.await_instances(sum(study.instances for study in studies))
        check.envelopes(archives, studies, hashed=self.hashing, listed=self.hashing)

    def stop(self) -> None:
        try:
            self.process.stop()
        finally:
            self.process.close()


class Store:
    """A `fastjmix store`, for rows that deliver."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process = gateway.Store(directory)
        self.port, self.url = self.process.port, self.process.url

    def clear(self) -> None:
        """Takes its envelopes out of the way; it goes on to know their ids."""
        _put_away(list((self.directory / "store").rglob("*.zip")), self.directory)

    def stop(self) -> None:
        try:
            self.process.stop()
        finally:
            self.process.close()


class Curl(Receiver):
    """A floor for the uploader: curl, which sends an archive that `sealed` has sealed to a store of
    its own, chunked. Each time to another one, since a store takes an id once; it is warm, as it
    has refused the same archive without its end."""

    COMMAND: Final = (
        "curl", "--silent", "--request", "POST", "--output", os.devnull, "--write-out",
        "%{http_code}", "--header", "Content-Type: application/zip", "--header",
        "Transfer-Encoding: chunked", "--header", "Expect:", "--upload-file",
    )  # fmt: skip

    def __init__(self, name: str, directory: Path, sealed: FastJmix) -> None:
        if shutil.which("curl") is None:
            raise Missing("curl is not installed")
        super().__init__(name, directory)
        self.command = " ".join(map(shlex.quote, (*self.COMMAND, "ENVELOPE", "URL")))
        self._sealed = sealed
        self._archive = directory / "sealed.zip"
        self._torn = directory / "torn.zip"
        self._store: Store | None = None

    def clear(self) -> None:
        """An empty store. Raises check.OutputError."""
        if not self._archive.exists():
            (sealed,) = self._sealed.await_instances(1, ("sent",))
            shutil.copyfile(sealed, self._archive)
            shutil.copyfile(self._archive, self._torn)
            os.truncate(self._torn, self._torn.stat().st_size - 1)
        self.stop()
        self._store = Store(self.out / uuid.uuid4().hex)
        self._post(self._torn, "400")

    def run(self) -> float:
        """Until the store's answer; seconds. Raises check.OutputError."""
        begun = time.perf_counter()
        self._post(self._archive, "201")
        return time.perf_counter() - begun

    def _post(self, archive: Path, expected: str) -> None:
        assert self._store is not None
        command = [*self.COMMAND, str(archive), self._store.url]
        answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        if answer != expected:
            raise check.OutputError(f"the store answers {answer!r} to curl, not {expected}")

    def check(self, studies: Sequence[Study]) -> None:
        """Raises check.OutputError unless the store has what was sealed."""
        assert self._store is not None
        check.envelopes(list(self._store.directory.rglob("*.zip")), studies)

    def stop(self) -> None:
        if self._store is not None:
            self._store.stop()
            self._store = None


class StoreScp(Process):
    """DCMTK's storescp: `tuned` by hand, or as shipped; `fork` for many associations."""

    TUNED: Final = ("-pdu", "131072", "--unique-filenames")

    def __init__(
        self, name: str, directory: Path, *, tuned: bool = True, fork: bool = False
    ) -> None:
        try:
            program = dcmtk("storescp")
        except AssertionError as problem:
            raise Missing(str(problem)) from None
        port = free_port()
        options = [*(self.TUNED if tuned else ()), *(("--fork",) if fork else ())]
        environment = {"TCP_NODELAY": "1"} if tuned else {}
        out = str(directory / "out")
        super().__init__(name, directory, program, *options, "-od", out, str(port), **environment)
        self.command = self.command.replace(out, "OUT").replace(str(port), "PORT")
        self.await_port(port)


class Script(Process):
    """pynetdicom: a file an instance; with `url`, the whole straightforward script."""

    def __init__(self, name: str, directory: Path, url: str = "") -> None:
        verb = (
            ["deliver", str(directory / "out"), url] if url else ["receive", str(directory / "out")]
        )
        super().__init__(name, directory, sys.executable, "-m", "bench.script_peer", *verb)
        self.command = f"python -m bench.script_peer {verb[0]}"
        self.port = int(self.line())

    def clear(self) -> None:
        super().clear()
        self.hush()


class Floor(Process):
    """The project's own bare C loop (floor.c): discard, write, hash, lane or relay."""

    def __init__(self, name: str, directory: Path, build: Callable[[], Path], mode: str) -> None:
        out = directory / "out" / "data"
        super().__init__(name, directory, str(build()), mode, str(out))
        self.command = f"floor {mode} FILE"
        self.mode = mode
        try:
            self.port = int(self.line())
        except Missing:
            code = self.child.wait()
            self.stop()
            raise Missing(
                "built without the headers of OpenSSL" if code == 3 else f"exit code {code}"
            ) from None

    def clear(self) -> None:
        self.hush()
        os.truncate(self.out / "data", 0)

    def check(self, studies: Sequence[Study]) -> None:
        instances, total = map(int, self.line().split())
        wanted = (sum(s.instances for s in studies), sum(s.data_bytes for s in studies))
        written = (self.out / "data").stat().st_size
        if (instances, total) != wanted or written != (0 if self.mode == "discard" else total):
            raise check.OutputError(f"{instances} instances of {total} bytes, {written} written")


def compile_floor(directory: Path) -> Path:
    """Builds floor.c with what the machine has. Raises Missing when there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Missing("no C compiler")
    source, program = Path(__file__).with_name("floor.c"), directory / "floor"
    variants = (
        ("-DWITH_EVP", "-DWITH_LIBDEFLATE", "-lcrypto", "-ldeflate"),
        ("-DWITH_EVP", "-lcrypto", "-lz"),
        (),
    )
    for flags in variants:
        defines = [flag for flag in flags if flag.startswith("-D")]
        libraries = [flag for flag in flags if flag.startswith("-l")]
        command = [compiler, "-O2", *defines, str(source), "-o", str(program), *libraries]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return program
    raise Missing("floor.c does not compile here")


class Orthanc(Process):
    """Orthanc, when it is installed: as shipped but for its port and TCP_NODELAY."""

    aet = "ORTHANC"

    def __init__(self, name: str, directory: Path, *, tuned: bool = True) -> None:
        program = shutil.which("Orthanc")
        if program is None:
            raise Missing("Orthanc is not installed")
        port, out = free_port(), directory / "out"
        settings = {
            "Name": "bench",
            "StorageDirectory": str(out),
            "IndexDirectory": str(out),
            "DicomPort": port,
            "HttpServerEnabled": False,
            "DicomAet": self.aet,
            "DicomCheckCalledAet": False,
            "OverwriteInstances": True,
        }
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "orthanc.json").write_text(json.dumps(settings))
        environment = {"TCP_NODELAY": "1"} if tuned else {}
        self._again = partial(
            super().__init__,
            name,
            directory,
            program,
            str(directory / "orthanc.json"),
            **environment,
        )
        self._wanted = port
        self._again()
        self.command = f"{'TCP_NODELAY=1 ' if tuned else ''}Orthanc orthanc.json"
        self.await_port(port)

    def clear(self) -> None:
        self.stop()  # its index must go with its files
        Receiver.clear(self)
        self.out.rmdir()
        self._again()
        self.await_port(self._wanted)

    def check(self, studies: Sequence[Study]) -> None:
        files = [p for p in self.out.rglob("*") if p.is_file() and not p.name.startswith("index")]
        if len(files) < sum(study.instances for study in studies):
            raise check.OutputError(f"{len(files)} files")


def storescu_to(receiver: Receiver, directories: Sequence[Path], **options: object) -> float:
    """`sender.storescu` to one receiver, an association a directory."""
    targets = [(receiver.port, receiver.aet, directory) for directory in directories]
    return sender.storescu(targets, **options)  # type: ignore[arg-type]


def delivered_by(receiver: FastJmix, directories: Sequence[Path], instances: int) -> float:
    """The same, until so many instances are delivered upstream."""
    begun = time.perf_counter()
    storescu_to(receiver, directories)
    receiver.await_instances(instances, ("sent",))
    return time.perf_counter() - begun
