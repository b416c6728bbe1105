"""Runs the parent: owns shared memory and listening sockets; starts, watches, restarts, drains in
order.

Wanted: dull. It touches no image and no token.
Guaranteed: every child is forked from this single-threaded process and dies with it
(PR_SET_PDEATHSIG); a child that dies, or could not be forked, is started again, with a pause that
grows (children.py); no error of a log, a fork, a counter or a clock ends this loop. SIGTERM or
SIGINT drains receivers, then packers, then the rest, and exits 0; a second SIGINT ends everything
at once, and the next start recovers what was promised. A child keeps only the sockets and the
memory that its verb needs, may gain no privilege, and, if it has a secret, cannot be looked into by
others of its user. Those that write in the spool hold its lock with the supervisor: the lock is
free when the last of them is gone. There are as many lanes as the memory limit has room for
(memory.py).
Still wrong: the configuration is read once; a change needs a restart (SIGHUP says so in the log).
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fastjmix import failpoints, log
from fastjmix._version import __version__
from fastjmix.config import Config
from fastjmix.errors import PlatformError
from fastjmix.ipc.channels import Links
from fastjmix.ipc.lane import Passage
from fastjmix.ipc.metrics import StatsPage
from fastjmix.ipc.wiring import Wiring
from fastjmix.packer import loop as packer
from fastjmix.receiver import loop as receiver
from fastjmix.spool import Spool, presence
from fastjmix.supervisor import memory
from fastjmix.supervisor.address_space import save_address_space
from fastjmix.supervisor.children import Child, Children, Stage, hide
from fastjmix.supervisor.configuration import Vault, read

BACKLOG: Final = 1024
"""Connections that may wait to be accepted: a department's modalities after a power failure."""

SEAL_SECS: Final = 60.0
"""How long packers may take to seal while draining; recovery does it at the next start else."""

PLACE_IS_WRONG: Final = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM,
    errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO,
)  # fmt: skip
"""Errors of open(2) for a log file whose path or rights are wrong: the configuration's fault."""

FAULT_SECS: Final = 1.0
"""Seconds that the supervisor waits after a fault of its own: a lasting one costs no processor."""

DESCRIPTORS_WANTED: Final = 2048
"""Descriptors of each process: a packer has two for each of 512 open envelopes, a receiver one for
each of max_half_open, CLOSING_MAX and max_associations. Every usual limit is higher."""


Ready = Callable[[Mapping[str, Any]], None]
"""Hears once where the gateway listens, before anything is forked."""


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
        hint = "Another program may be using the port, or the address is not this machine's."
        if problem.errno == errno.EACCES:  # net.ipv4.ip_unprivileged_port_start is 1024, if not set
            hint = (
                "A port below 1024 needs CAP_NET_BIND_SERVICE (with systemd"
                " AmbientCapabilities=, in a container --cap-add NET_BIND_SERVICE)."
            )
        told = f"{what} cannot listen on {host}:{port}: {problem.strerror}"
        raise PlatformError(told, hint) from problem
    listening.setblocking(False)
    return listening


class Supervisor:
    """One running fastjmix. `run()` returns the exit code."""

    def __init__(self, config: Config, vault: Vault, spool: Spool) -> None:
        self._config = config
        self._vault = vault
        self._log = log.get()
        self._signals: list[int] = []
        self._hangups = 0
        self._signal_pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        runtime = config.runtime
        self._plan = memory.plan(config)
        self._spool = spool
        self._spool.prepare()
        self._dicom = [listen(d.host, d.port, f"DICOM endpoint {d.endpoint}") for d in config.dicom]
        self._http = [listen(h.host, h.port, f"HTTP endpoint {h.endpoint}") for h in config.http]
        processes = runtime.receivers + runtime.packers
        self._wiring = Wiring(
            passage=Passage(self._plan.lanes, self._plan.lane_bytes, processes),
            wake=[os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(processes)],
            receivers=runtime.receivers,
            packers=runtime.packers,
        )
        self._stats = StatsPage(processes + 3)
        self._own = self._stats.row(self._stats.rows - 1)
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stops = {s: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for s in Stage}
        origins = [f"packer-{n}" for n in range(runtime.packers)] + ["api"]
        self._outcomes = {origin: _datagrams() for origin in origins}
        self._children = Children(
            self._make_children(), config.log, self._own, self._wake_sleepers, self._signal_pipe
        )

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
            from fastjmix.uploader import loop as uploader

            senders = {origin: pair[1] for origin, pair in self._outcomes.items()}
            self._keep(senders=True)
            hide()
            uploader.run(
                self._vault.open("uploader"),
                self._spool.inherited(),
                self._links(Stage.UPLOAD, row, senders),
            )

        return start

    def _api(self, row: int) -> Callable[[], None]:
        def start() -> None:
            from fastjmix.api import server as api

            self._keep(sockets=self._http, outcome="api")
            hide()
            links = self._links(Stage.SERVE, row, {"api": self._outcomes["api"][0]})
            api.run(self._vault.open("api"), self._spool.inherited(), links, self._http)

        return start

    # -- the loop ----------------------------------------------------------------------------

    def run(self, ready: Ready | None = None) -> int:
        """Runs until a signal says otherwise; returns the exit code. `ready` hears where it
        listens."""
        watch = self._watch_signals()
        self._announce()
        if ready is not None:
            ready(self._whereabouts())
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        gc.freeze()  # else each child's first collection copies what it shares with this process
        for child in self._children:
            if child.stage >= Stage.SERVE:
                self._load_web()
            self._children.start(child)
        while not self._asked_to_stop():
            self._children.start_due()
            self._attend(poll, watch, self._children.wait_secs())
            self._answer_hangups()
        self._log.info("stopping", grace_secs=self._config.runtime.grace_secs)
        return self._drain_in_order(poll, watch)

    def _attend(self, poll: select.poll, watch: int, secs: float | None) -> None:
        """Waits for a signal or a child's end, so long at most; collects the children that ended.

        A fault of its own ends nothing: reception and delivery are the children's.
        """
        try:
            poll.poll(None if secs is None else max(secs, 0) * 1000 + 1)
            _drain(watch)
            self._children.collect(stopping=self._asked_to_stop())
        except Exception:
            self._log.exception("supervisor_failed")
            time.sleep(FAULT_SECS)

    def _load_web(self) -> None:
        """Imports what the last two kinds of children need, once for both, and after the others
        were forked: no modality waits for an HTTP library, a third of all that is imported.

        Where that fails, each of them tries it for itself.
        """
        try:
            for name in ("api.server", "uploader.loop"):
                importlib.import_module(f"fastjmix.{name}")
            gc.freeze()
        except Exception as problem:
            self._log.warning("import_failed", why=repr(problem))

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
        self._plan.announce(self._log)
        self._log.info(
            "started", version=__version__, name=config.name, storage=str(config.storage_dir)
        )

    def _whereabouts(self) -> dict[str, Any]:
        """What `run --json` prints: as the log says it."""
        config = self._config
        listening: list[dict[str, Any]] = [
            {"what": "dicom", "ae_title": d.ae_title, **_address(bound)}
            for d, bound in zip(config.dicom, self._dicom, strict=True)
        ]
        listening += [
            {"what": "http", "prefix": h.path_prefix, **_address(bound)}
            for h, bound in zip(config.http, self._http, strict=True)
        ]
        return {
            "name": config.name,
            "version": __version__,
            "pid": os.getpid(),
            "storage": str(config.storage_dir),
            "listening": listening,
        }

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

    def _wake_sleepers(self) -> None:
        """Who died may have taken back a sleeper's word that it sleeps, and not have woken it; or
        have put an envelope in outbox/ without ringing."""
        for wake in (*self._wiring.wake, self._bell):
            with contextlib.suppress(OSError):
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
            with contextlib.suppress(OSError):  # it is readable already
                os.eventfd_write(self._stops[stage], 1)
            deadline = time.monotonic() + limits[stage]
            while self._children.alive(stage):
                left = deadline - time.monotonic()
                if left <= 0 or self._hurried():
                    self._children.kill(stage if left <= 0 else None)
                self._attend(poll, watch, left)
        self._spool.release()
        self._log.info("stopped", at_once=self._hurried() or None)
        return 130 if self._hurried() else 0


def _address(listening: socket.socket) -> dict[str, Any]:
    host, port = listening.getsockname()[:2]
    return {"host": host, "port": port}


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


def _raise_descriptor_limit() -> None:
    """As many descriptors as we may have: each association and envelope needs one."""
    with contextlib.suppress(OSError, ValueError):  # then those that there are must do
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < DESCRIPTORS_WANTED and most != resource.RLIM_INFINITY:
        hint = "raise LimitNOFILE= of the service (or `ulimit -n`): without descriptors connections"
        hint += " wait, and instances of new studies are refused (A700)"
        log.get().warning("few_descriptors", limit=most, wanted=DESCRIPTORS_WANTED, hint=hint)


def run(path: Path, ready: Ready | None = None) -> int:
    """Runs fastjmix with the configuration at `path` until SIGTERM or SIGINT; the exit code.
    `ready` hears once where it listens.

    Raises ConfigError, PlatformError (ports, memory, kernel) and SpoolError before anything is
    started.
    """
    os.umask(0o077)  # patients' images, whoever makes the file
    save_address_space()
    config, vault = read(path)
    # Before the log file is made: its directory may be, or be below, the storage's.
    create = presence.require(config.storage_dir, config.create_storage, config.source)
    _begin_log(config)
    _raise_descriptor_limit()
    spool = Spool(config.storage_dir, durable=_any_durable(config), create=create)
    return Supervisor(config, vault, spool).run(ready)


def _begin_log(config: Config) -> None:
    """Raises PlatformError where the operator has named a place that cannot hold a log file."""
    try:
        log.setup(config.log.level, config.log.file, "supervisor")
    except OSError as problem:
        if problem.errno not in PLACE_IS_WRONG:  # a full or broken disk: the next start has it, too
            log.get().error("log_file_failed", file=config.log.file, why=problem.strerror)
            return
        raise PlatformError(
            f"{config.log.file}: the log file cannot be written: {problem.strerror}",
            "Check logging.log_file_path, or set log_to_file = false.",
        ) from problem
