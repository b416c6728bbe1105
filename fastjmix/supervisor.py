"""The parent: owns shared memory and listening sockets; starts, watches, restarts, drains in order.

Wanted: dull. It touches no image and no token.
Guaranteed: every child is forked from this single-threaded process and dies with it
(PR_SET_PDEATHSIG); a child that dies is started again, with a pause that grows while it keeps
dying; SIGTERM or SIGINT drains receivers, then packers, then the rest, and exits 0; a second SIGINT
ends everything at once, and the next start recovers what was promised. A child keeps only the
sockets and the memory that its verb needs, may gain no privilege, and, if it has a secret, cannot
be looked into by others of its user. Those that write in the spool hold its lock with the
supervisor: the lock is free when the last of them is gone.
Still wrong: the configuration is read once; a change needs a restart (SIGHUP says so in the log).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from fastjmix import failpoints, log, packer, receiver
from fastjmix._version import __version__
from fastjmix.config import Config
from fastjmix.errors import FastjmixError, PlatformError
from fastjmix.lane import Passage
from fastjmix.links import Links
from fastjmix.spool import Spool
from fastjmix.stats import StatsPage
from fastjmix.vault import Vault, read
from fastjmix.wiring import Wiring

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_NAME: Final = 15
PR_SET_NO_NEW_PRIVS: Final = 38
BACKLOG: Final = 1024
"""Connections that may wait to be accepted: a department's modalities after a power failure."""

RESTART_SECS: Final = 0.1
RESTART_MAX_SECS: Final = 10.0
"""The pause before a restart doubles from the first to the second while a child keeps dying."""

HEALTHY_SECS: Final = 60.0
"""A child that lived so long starts with the short pause again."""

SEAL_SECS: Final = 60.0
"""How long packers may take to seal while draining; recovery does it at the next start else."""

LANE_PDUS: Final = 4
"""A lane holds at least so many PDUs of max_pdu."""


class Stage(IntEnum):
    """The order of the drain: a later stage is stopped when the earlier has ended."""

    RECEIVE = 0
    PACK = 1
    SERVE = 2
    UPLOAD = 3  # last: packers and API may wait for its outcomes


@dataclass(slots=True, eq=False)
class Child:
    """A process to keep alive. `start` runs in the child and returns when it has drained."""

    name: str
    stage: Stage
    start: Callable[[], None]
    pid: int = 0
    started: float = 0.0
    pause: float = RESTART_SECS
    due: float | None = None


def listen(host: str, port: int, what: str) -> socket.socket:
    """A non-blocking listening socket. Raises PlatformError that says what is in the way."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as problem:
        listening.close()
        raise PlatformError(
            f"{what} cannot listen on {host}:{port}: {problem.strerror}",
            "Another program may be using the port, or the address is not this machine's.",
        ) from problem
    listening.setblocking(False)
    return listening


class Supervisor:
    """One running fastjmix. `run()` returns the exit code."""

    def __init__(self, config: Config, vault: Vault) -> None:
        self._config = config
        self._vault = vault
        self._log = log.get()
        self._signals: list[int] = []
        self._hangups = 0
        self._signal_pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        runtime = config.runtime
        self._spool = Spool(config.storage_dir, durable=_any_durable(config))
        self._spool.prepare()
        self._dicom = [listen(d.host, d.port, f"DICOM endpoint {d.endpoint}") for d in config.dicom]
        self._http = [listen(h.host, h.port, f"HTTP endpoint {h.endpoint}") for h in config.http]
        processes = runtime.receivers + runtime.packers
        self._wiring = Wiring(
            passage=Passage(_lane_count(config), _lane_bytes(config), processes),
            wake=[os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(processes)],
            receivers=runtime.receivers,
            packers=runtime.packers,
        )
        self._stats = StatsPage(processes + 3)
        self._own = self._stats.row(self._stats.rows - 1)
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stops = {stage: os.eventfd(0, os.EFD_CLOEXEC) for stage in Stage}
        origins = [f"packer-{n}" for n in range(runtime.packers)] + ["api"]
        self._outcomes = {origin: _datagrams() for origin in origins}
        self._children = self._make_children()

    # -- children ----------------------------------------------------------------------------

    def _make_children(self) -> list[Child]:
        config = self._config
        children = [
            Child(f"receiver-{n}", Stage.RECEIVE, self._receiver(n, row=n))
            for n in range(config.runtime.receivers)
        ]
        rows = config.runtime.receivers
        children += [
            Child(f"packer-{n}", Stage.PACK, self._packer(n, row=rows + n))
            for n in range(config.runtime.packers)
        ]
        rows += config.runtime.packers
        children.append(Child("uploader", Stage.UPLOAD, self._uploader(rows)))
        if config.http:
            children.append(Child("api", Stage.SERVE, self._api(rows + 1)))
        return children

    def _links(self, stage: Stage, row: int, outcomes: Mapping[str, socket.socket]) -> Links:
        return Links(self._stops[stage], self._bell, outcomes, self._stats.row(row))

    def _keep(
        self,
        *,
        sockets: Sequence[socket.socket] = (),
        outcome: str = "",
        senders: bool = False,
        lanes: bool = False,
    ) -> None:
        """In a child: closes what it does not need. `outcome`: whose receiving end is its own."""
        for listening in (*self._dicom, *self._http):
            if listening not in sockets:
                listening.close()
        for name, (receiving, sending) in self._outcomes.items():
            if not senders:
                sending.close()
            if name != outcome:
                receiving.close()
        if not lanes:
            self._wiring.close()

    def _receiver(self, number: int, row: int) -> Callable[[], None]:
        def start() -> None:
            self._vault.close()
            self._keep(sockets=self._dicom, lanes=True)
            self._spool.release()  # it writes nothing there
            links = self._links(Stage.RECEIVE, row, {})
            receiver.run(self._config, number, self._wiring, links, self._dicom)

        return start

    def _packer(self, number: int, row: int) -> Callable[[], None]:
        def start() -> None:
            self._vault.close()
            name = f"packer-{number}"
            self._keep(outcome=name, lanes=True)
            links = self._links(Stage.PACK, row, {name: self._outcomes[name][0]})
            packer.run(self._config, number, self._wiring, links, self._spool.inherited())

        return start

    def _uploader(self, row: int) -> Callable[[], None]:
        def start() -> None:
            from fastjmix import uploader

            senders = {origin: pair[1] for origin, pair in self._outcomes.items()}
            self._keep(senders=True)
            _hide()
            uploader.run(
                self._vault.open("uploader"),
                self._spool.inherited(),
                self._links(Stage.UPLOAD, row, senders),
            )

        return start

    def _api(self, row: int) -> Callable[[], None]:
        def start() -> None:
            from fastjmix import api

            self._keep(sockets=self._http, outcome="api")
            _hide()
            links = self._links(Stage.SERVE, row, {"api": self._outcomes["api"][0]})
            api.run(self._vault.open("api"), self._spool.inherited(), links, self._http)

        return start

    def _fork(self, child: Child) -> None:
        parent = os.getpid()
        child.pid = os.fork()
        child.started = time.monotonic()
        child.due = None
        if child.pid == 0:
            for end in self._signal_pipe:
                os.close(end)
            _be_child(self._config, child, parent)

    # -- the loop ----------------------------------------------------------------------------

    def run(self) -> int:
        """Runs until a signal says otherwise; returns the exit code."""
        watch = self._watch_signals()
        self._announce()
        for child in self._children:
            if child.stage >= Stage.SERVE:
                _load_web()
            self._fork(child)
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        while not self._asked_to_stop():
            self._start_due()
            poll.poll(self._poll_timeout())
            _drain(watch)
            self._reap()
            self._count_down()
            self._answer_hangups()
        self._log.info("stopping", grace_secs=self._config.runtime.grace_secs)
        return self._drain_in_order(poll, watch)

    def _announce(self) -> None:
        config = self._config
        if config.ignored:
            self._log.info("configuration_ignored", keys=", ".join(config.ignored))
        for warning in config.warnings:
            self._log.warning("configuration_warning", what=warning)
        if failpoints.ARMED:
            self._log.warning("failpoints_armed", points=failpoints.ARMED)
        for d, bound in zip(config.dicom, self._dicom, strict=True):
            host, port = bound.getsockname()[:2]
            self._log.info("listening", what="dicom", ae_title=d.ae_title, address=f"{host}:{port}")
        for h, bound in zip(config.http, self._http, strict=True):
            host, port = bound.getsockname()[:2]
            self._log.info("listening", what="http", prefix=h.path_prefix, address=f"{host}:{port}")
        self._log.info(
            "started", version=__version__, name=config.name, storage=str(config.storage_dir)
        )

    def _watch_signals(self) -> int:
        """Signals become bytes in a pipe, so that the loop has one thing to wait for."""
        reader, writer = self._signal_pipe
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self._signals.append(number))
        signal.signal(signal.SIGHUP, self._hang_up)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        return reader

    def _hang_up(self, *_: object) -> None:
        self._hangups += 1

    def _answer_hangups(self) -> None:
        """SIGHUP: a habit of administrators, and what a closed terminal sends. It ends nothing."""
        while self._hangups:
            self._hangups -= 1
            hint = "the configuration is read at the start only: restart fastjmix to apply it"
            self._log.warning("not_reloaded", hint=hint)

    def _asked_to_stop(self) -> bool:
        return bool(self._signals)

    def _hurried(self) -> bool:
        return self._signals.count(signal.SIGINT) > 1

    def _start_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.due is not None and child.due <= now:
                self._own.add("children_restarted_total")
                self._log.warning("child_restarted", child=child.name)
                self._fork(child)
        self._count_down()

    def _count_down(self) -> None:
        """For /readyz: how many receivers and packers are not there."""
        for name, stage in (("receivers_down", Stage.RECEIVE), ("packers_down", Stage.PACK)):
            self._own.set(name, sum(c.stage == stage and not c.pid for c in self._children))

    def _poll_timeout(self) -> float | None:
        due = [child.due for child in self._children if child.due is not None]
        return max(0.0, min(due) - time.monotonic()) * 1000 + 1 if due else None

    def _reap(self) -> None:
        """Notes which children have ended, and when each is to be started again."""
        for child in self._children:
            if not child.pid:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if not pid:
                continue
            child.pid = 0
            self._wake_sleepers()
            now = time.monotonic()
            lived = now - child.started
            child.pause = RESTART_SECS if lived > HEALTHY_SECS else child.pause
            child.due = now + child.pause
            child.pause = min(child.pause * 2, RESTART_MAX_SECS)
            if not self._signals:
                self._log.error("child_died", child=child.name, how=_how(status))

    def _wake_sleepers(self) -> None:
        """Who died may have taken back a sleeper's word that it sleeps, and not have woken it; or
        have put an envelope in outbox/ without ringing."""
        for wake in (*self._wiring.wake, self._bell):
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(wake, 1)

    # -- the end -----------------------------------------------------------------------------

    def _drain_in_order(self, poll: select.poll, watch: int) -> int:
        limits = {
            Stage.RECEIVE: self._config.runtime.grace_secs + 2.0,
            Stage.PACK: SEAL_SECS,
            Stage.SERVE: self._config.runtime.grace_secs + 2.0,
            Stage.UPLOAD: self._config.runtime.grace_secs + 2.0,
        }
        for listening in (*self._dicom, *self._http):
            listening.close()  # the children have theirs: when they close them, nobody can connect
        for stage in Stage:
            os.eventfd_write(self._stops[stage], 1)
            deadline = time.monotonic() + limits[stage]
            while any(c.pid for c in self._children if c.stage == stage):
                left = deadline - time.monotonic()
                if left <= 0 or self._hurried():
                    self._kill(stage if left <= 0 else None)
                poll.poll(max(left, 0) * 1000 + 1)
                _drain(watch)
                self._reap()
        self._spool.release()
        self._log.info("stopped", at_once=self._hurried() or None)
        return 130 if self._hurried() else 0

    def _kill(self, stage: Stage | None) -> None:
        for child in self._children:
            if child.pid and (stage is None or child.stage == stage):
                self._log.warning("child_killed", child=child.name)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)


def _be_child(config: Config, child: Child, parent: int) -> None:
    """The forked process: runs its verb and never returns."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the parent drains us in order
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        libc = ctypes.CDLL(None)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(PR_SET_NAME, child.name.encode())
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        log.setup(config.log.level, config.log.file, child.name)
        child.start()
        code = 0
    except FastjmixError as problem:
        log.get().error("child_failed", why=str(problem))
    except BaseException:
        log.get().exception("child_failed")
    finally:
        os._exit(code)  # whatever happens: this is not the supervisor


def _load_web() -> None:
    """What the last two kinds of children need, once for both, and after the others were forked: no
    modality waits for an HTTP library, which is a third of all that is imported."""
    for name in ("api", "uploader"):
        importlib.import_module(f"fastjmix.{name}")


def _hide() -> None:
    """This process has a secret: no core file, and no look into its memory but for root."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit code {os.waitstatus_to_exitcode(status)}"


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 512):
            pass


def _datagrams() -> tuple[socket.socket, socket.socket]:
    """(receiving end, sending end), non-blocking."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in pair:
        end.setblocking(False)
    return pair


def _any_durable(config: Config) -> bool:
    return any(listener.builder.durability == "fsync" for listener in config.dicom)


def _lane_count(config: Config) -> int:
    return max(1, sum(listener.max_associations for listener in config.dicom))


def _lane_bytes(config: Config) -> int:
    """lane_bytes, or more where max_pdu asks for it; whole pages."""
    largest = max((listener.max_pdu for listener in config.dicom), default=0)
    return max(config.runtime.lane_bytes, (LANE_PDUS * largest + 4095) // 4096 * 4096)


def _raise_descriptor_limit() -> None:
    """As many descriptors as we may have: each association and envelope needs one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(path: Path) -> int:
    """Runs fastjmix with the configuration at `path` until SIGTERM or SIGINT; the exit code.

    Raises ConfigError, PlatformError (ports, memory, kernel) and SpoolError before anything is
    started.
    """
    os.umask(0o077)  # patients' images, whoever makes the file
    config, vault = read(path)
    try:
        log.setup(config.log.level, config.log.file, "supervisor")
    except OSError as problem:
        raise PlatformError(
            f"{config.log.file}: the log file cannot be written: {problem.strerror}",
            "Check logging.log_file_path, or set log_to_file = false.",
        ) from problem
    _raise_descriptor_limit()
    return Supervisor(config, vault).run()
