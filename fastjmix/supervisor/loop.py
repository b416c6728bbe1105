"""Runs the parent process: starts, watches and restarts the children, and ends them in order.

Wanted: little happens here. It touches no image and no token.
Guaranteed: every child is forked from this single-threaded process and dies with it
(PR_SET_PDEATHSIG). A child that dies, or could not be forked, is started again, with a pause that
grows (children.py). No error of a log, a fork, a counter or a clock ends this loop. SIGTERM drains
(drain.py) and then stops; SIGINT, or a second SIGTERM, stops: receivers within grace_secs, then
packers, then the rest, and exits 0. A second SIGINT ends everything at once, and the next start
recovers what was promised. There are as many lanes as the memory limit has room for (memory.py).
A service manager is told what happens (systemd.py).
SIGUSR1 and SIGHUP open the log file again, in every process. SIGHUP, and a person's request, have
the configuration read again (reload.py).
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from fastjmix import log
from fastjmix.config import Config, storage_path
from fastjmix.ipc.configuration import change_log
from fastjmix.ipc.requests import NOBODY, Do, NodeAnswer, NodeRequest
from fastjmix.spool import Spool
from fastjmix.supervisor import memory
from fastjmix.supervisor.address_space import save_address_space
from fastjmix.supervisor.asked import Asked
from fastjmix.supervisor.board_row import BoardRow
from fastjmix.supervisor.children import Children, Stage
from fastjmix.supervisor.configuration import read
from fastjmix.supervisor.drain import Drain
from fastjmix.supervisor.generations import Generation
from fastjmix.supervisor.memory_files import MemoryFiles
from fastjmix.supervisor.node_report import log_start, status_line, whereabouts
from fastjmix.supervisor.own_process import begin_log, raise_descriptor_limit
from fastjmix.supervisor.reload import Reload
from fastjmix.supervisor.shared import Shared
from fastjmix.supervisor.signals import Signals
from fastjmix.supervisor.systemd import InheritedSockets, Notifier

SEAL_SECS: Final = 60.0
"""Seconds that packers may take to seal while draining; else recovery does it at the next start."""

FAULT_SECS: Final = 1.0
"""Seconds that the supervisor waits after a fault of its own: a lasting one costs no processor."""


UNDO_TOO_LATE: Final = "the service manager stops this node, and would kill it after a while"

ENDS: Final = "the node ends"

Ready = Callable[[Mapping[str, Any]], None]
"""Called once with the addresses that the gateway listens on, before anything is forked."""


class Supervisor:
    """One running fastjmix. `run()` returns the exit code."""

    def __init__(self, path: Path, config: Config, files: MemoryFiles, spool: Spool) -> None:
        self._log = log.get()
        self._signals = Signals()
        self._plan = memory.plan(config)
        self._spool = spool
        self._spool.prepare()
        inherited = InheritedSockets(os.environ)
        self._shared = shared = Shared(config, files, spool, self._plan, inherited)
        self._notifier = Notifier(os.environ)
        self._drain = Drain(self._shared.drain, config.runtime.drain_secs, self._shared.wake_all)
        self._children = Children(
            self._shared.children,
            config.log,
            self._shared.own,
            self._shared.wake_all,
            (*self._signals.pipe, *self._notifier.descriptors),
        )
        self._row = BoardRow(shared.board, shared.generations.newest)
        self._asked = Asked(shared.requests)
        self._reload = Reload(
            path,
            self._plan,
            shared,
            self._children,
            self._row,
            answer=self._asked.answer,
            began=self._notifier.reloading,
            applied=self._configure,
            ended=lambda: self._notifier.ready(self._status()),
        )
        self._asked.handlers = {
            Do.RELOAD: self._reload.ask,
            Do.DRAIN: self._drain_asked,
            Do.UNDRAIN: self._undrain_asked,
        }

    @property
    def _config(self) -> Config:
        return self._shared.generations.newest.config

    def run(self, ready: Ready | None = None) -> int:
        """Runs until a drain is over, or SIGINT; returns the exit code. `ready` is called once with
        the addresses it listens on."""
        self._signals.watch()
        first = self._shared.generations.newest
        log_start(self._log, first, self._shared.inherited, self._plan)
        if ready is not None:
            ready(whereabouts(first))
        poll = select.poll()
        for end in (self._signals, self._asked, *self._shared.links):
            poll.register(end.descriptor, select.POLLIN)
        gc.freeze()  # else each child's first collection copies what it shares with this process
        for child in self._children:
            if child.stage in (Stage.SERVE, Stage.UPLOAD):
                _load_web()
            self._children.start(child)
        self._notifier.ready(self._status())
        while not self._ending:
            self._children.start_due()
            times = self._children.wait_secs(), self._drain.wait_secs, self._reload.wait_secs
            self._attend(poll, _soonest(*times))
            self._answer_signals()
            self._answer_requests()
            self._drain.step()
            self._notifier.status(self._status())
        self._log.info("stopping", grace_secs=self._config.runtime.grace_secs)
        return self._stop_in_order(poll)

    @property
    def _ending(self) -> bool:
        """True when the children are to end."""
        return self._signals.stop or self._drain.over

    def _attend(self, poll: select.poll, secs: float | None) -> None:
        """Waits for a signal or a child's end, `secs` at most; collects the children that ended.

        A fault of the supervisor's own ends nothing: reception and delivery are the children's.
        """
        try:
            self._notifier.keep_alive()
            secs = _soonest(secs, self._notifier.wait_secs)
            poll.poll(None if secs is None else max(secs, 0) * 1000 + 1)
            self._signals.take()
            self._children.collect(stopping=self._ending)
        except Exception:
            self._log.exception("supervisor_failed")
            time.sleep(FAULT_SECS)

    def _status(self) -> str:
        return status_line(self._config, self._drain.phase, self._shared.own)

    def _terminated(self) -> None:
        """Handles a SIGTERM: the first drains, the second ends the drain."""
        if self._drain.hastened:
            self._drain.cut()
            return
        self._notifier.stopping()
        self._drain.begin("SIGTERM", restart=True, waits=bool(self._shared.inherited.addresses))

    def _answer_signals(self) -> None:
        """Drains after SIGTERM. Opens the log file again after SIGUSR1 or SIGHUP, in every process.
        SIGHUP has the configuration read again, too.
        """
        while self._signals.take_termination():
            self._terminated()
        rotate, hangup = self._signals.take_rotation(), self._signals.take_hangup()
        if rotate or hangup:
            self._reopen_log()
        if hangup:
            self._reload.ask(NodeRequest(NOBODY, Do.RELOAD, "SIGHUP"))

    def _answer_requests(self) -> None:
        """Does what a person asks for, and the next step of a reload. A fault of ours ends
        nothing."""
        try:
            self._asked.serve()
            self._reload.step()
            self._row.draining(self._drain.as_json())
        except Exception:
            self._log.exception("supervisor_failed")
            time.sleep(FAULT_SECS)

    def _drain_asked(self, request: NodeRequest) -> None:
        self._drain.begin(request.by)
        self._asked.answer(NodeAnswer(request.id, True, self._shared.generations.newest.number))

    def _undrain_asked(self, request: NodeRequest) -> None:
        too_late = UNDO_TOO_LATE if self._notifier.is_stopping else ENDS if self._ending else ""
        undone = not too_late and self._drain.undo()
        faults = () if undone else (too_late or "no drain lasts",)
        number = self._shared.generations.newest.number
        self._asked.answer(NodeAnswer(request.id, undone, number, faults))

    def _configure(self, generation: Generation) -> None:
        """Goes by a new configuration, before the children do."""
        config = generation.config
        change_log(config.log)
        self._children.configure(config.log)
        self._spool.configure(config)
        self._drain.drain_secs = config.runtime.drain_secs

    def _reopen_log(self) -> None:
        file = self._config.log.file
        if file is None:
            return
        self._children.reopen_logs()
        if self._log.reopen():
            self._log.info("log_file_reopened", file=file)
        else:
            hint = "the renamed file takes the lines until this one can be opened"
            self._log.error("log_file_failed", file=file, hint=hint)

    def _stop_in_order(self, poll: select.poll) -> int:
        """Ends the children, one stage after the other; returns the exit code."""
        self._notifier.stopping()
        grace = self._config.runtime.grace_secs + 2.0
        for link in self._shared.links:  # nobody reads what a child says there any more
            poll.unregister(link.descriptor)
        self._reload.end(ENDS)
        self._asked.end(ENDS, self._shared.generations.newest.number)
        self._shared.generations.stop_listening()
        for stage in Stage:
            self._shared.stop(stage)
            deadline = time.monotonic() + (SEAL_SECS if stage is Stage.PACK else grace)
            while self._children.alive(stage):
                left = deadline - time.monotonic()
                if left <= 0 or self._signals.stop_at_once:
                    self._children.kill(stage if left <= 0 else None)
                self._attend(poll, left)
                self._answer_requests()
        self._spool.release()
        at_once = self._signals.stop_at_once
        self._log.info("stopped", at_once=at_once or None)
        self._notifier.close()
        return 130 if at_once else 0


def _load_web() -> None:
    """Imports the modules of the last two kinds of children, once for both, and after the
    others were forked: no modality waits for an HTTP library, a third of all that is imported.

    Where that fails, each of them tries it for itself.
    """
    try:
        for name in ("api.server", "uploader.loop"):
            importlib.import_module(f"fastjmix.{name}")
        gc.freeze()
    except Exception as problem:
        log.get().warning("import_failed", why=repr(problem))


def _soonest(*times: float | None) -> float | None:
    """Returns the least of these times in seconds; None when all of them are None."""
    return min((one for one in times if one is not None), default=None)


def run(path: Path, ready: Ready | None = None) -> int:
    """Runs fastjmix with the configuration at `path` until SIGTERM or SIGINT; returns the exit
    code. `ready` is called once with the addresses it listens on.

    Raises ConfigError, PlatformError (ports, memory, kernel) and SpoolError before anything is
    started.
    """
    for number in (signal.SIGUSR1, signal.SIGHUP):  # either may come at any moment
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)  # patients' images, whichever process makes the file
    save_address_space()
    config, files = read(path)
    # Before the log file is made: its directory may be, or be below, the storage's.
    create = storage_path.require_of(config)
    begin_log(config)
    raise_descriptor_limit()
    spool = Spool(
        config.storage_dir,
        durable=config.any_durable,
        create=create,
        patient_data=config.ledger.patient_data,
    )
    return Supervisor(path, config, files, spool).run(ready)
