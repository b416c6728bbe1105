"""Runs a hook's command for one envelope, within limits of time, memory and output.

Guaranteed: no shell. The command's environment has PATH, LANG and what ENVIRONMENT names, and
nothing of ours; of our descriptors it has none. It leads a session of its own, which is killed
whole when the command is over or a limit is reached. Its address space is limited from its first
instructions on; a command that has allocated more in its first microseconds gets no more.
Still wrong: a command that starts a session of its own again is not killed with it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fastjmix.config.tree import Hook
from fastjmix.errors import reason
from fastjmix.hooks.verdict import OUTPUT_BYTES_MAX, Ended

ENVIRONMENT: Final = ("FASTJMIX_ENVELOPE_ID", "FASTJMIX_PIPELINE")
"""Variables that a command gets: the envelope's id, and the name of its pipeline."""

ERR_BYTES_MAX: Final = 4096
"""Bytes of the end of stderr that are kept: its last line is the reason."""

CPU_GRACE_SECS: Final = 5
"""Seconds of processor time beyond timeout_secs. A command whose uploader has died ends by this
limit, however busy it is."""

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PIECE_BYTES: Final = 1 << 16


@dataclass(slots=True)
class Commands:
    """The commands that run now. `stop` may be called from another thread than `run`."""

    _running: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: bool = False

    def run(self, hook: Hook, archive: Path, envelope_id: str, pipeline: str) -> Ended:
        """Runs a hook with the archive's path as its last argument, and waits for its end."""
        values = dict(zip(ENVIRONMENT, (envelope_id, pipeline), strict=True))
        with self._lock:
            if self._stopped:
                return Ended(0, limit="fastjmix is stopping")
            try:
                process = subprocess.Popen(
                    [*hook.argv, str(archive)],
                    env={"PATH": _PATH, "LANG": "C.UTF-8", **values},
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            except (OSError, ValueError) as problem:
                why = reason(problem) if isinstance(problem, OSError) else str(problem)
                return Ended(0, limit=f"it cannot be started: {why}")
            self._running.add(process.pid)
        watch = _Watch(process, hook.timeout_secs)
        try:
            _limit(process.pid, hook)
            limit = watch.until_its_end()
        finally:
            with self._lock:  # it has not been waited for: nobody else has its number
                _kill(process.pid)
                self._running.discard(process.pid)
            code = process.wait()
        with process:  # closes the pipes
            watch.drain()
        return Ended(code, bytes(watch.out), bytes(watch.err), limit)

    def stop(self) -> None:
        """Kills what runs, and starts nothing more."""
        with self._lock:
            self._stopped = True
            for pid in self._running:
                _kill(pid)


def _limit(pid: int, hook: Hook) -> None:
    cpu = int(hook.timeout_secs) + CPU_GRACE_SECS
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it is over already
        resource.prlimit(pid, resource.RLIMIT_AS, (hook.memory_bytes, hook.memory_bytes))
        resource.prlimit(pid, resource.RLIMIT_CPU, (cpu, cpu))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))


def _kill(pid: int) -> None:
    """Kills the process group of a session, which has the number of its leader."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


class _Watch:
    """Reads what a command writes until it ends or reaches a limit: `out` and `err`."""

    def __init__(self, process: subprocess.Popen[bytes], secs: float) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._pid = process.pid
        self._pipes = (process.stdout.fileno(), process.stderr.fileno())
        self._secs = secs
        self._deadline = time.monotonic() + secs
        self.out = bytearray()
        self.err = bytearray()
        for pipe in self._pipes:
            os.set_blocking(pipe, False)

    def until_its_end(self) -> str:
        """Returns the limit that the command has reached; "" when it has ended by itself. It is
        left for the caller to wait for."""
        end = os.pidfd_open(self._pid)  # readable when the process has ended (pidfd_open(2))
        try:
            with selectors.DefaultSelector() as selector:
                for descriptor in (end, *self._pipes):
                    selector.register(descriptor, selectors.EVENT_READ)
                while (left := self._deadline - time.monotonic()) > 0:
                    ready = {key.fd for key, _ in selector.select(left)}
                    for pipe in ready & set(self._pipes):
                        if not self._take(pipe):
                            selector.unregister(pipe)
                    if len(self.out) > OUTPUT_BYTES_MAX:
                        return f"more than {OUTPUT_BYTES_MAX} bytes on stdout"
                    if end in ready:
                        return ""
                return f"it took longer than timeout_secs = {self._secs:g}"
        finally:
            os.close(end)

    def drain(self) -> None:
        """Reads what is left in the pipes."""
        for pipe in self._pipes:
            with contextlib.suppress(BlockingIOError):
                while len(self.out) <= OUTPUT_BYTES_MAX and self._take(pipe):
                    pass

    def _take(self, pipe: int) -> bool:
        """Reads a piece. Returns False at the end of the pipe. Raises BlockingIOError."""
        data = os.read(pipe, _PIECE_BYTES)
        if pipe == self._pipes[0]:
            self.out += data
        else:
            self.err = (self.err + data)[-ERR_BYTES_MAX:]
        return bool(data)
