"""The places that log lines go to: stderr and the log file.

Guaranteed: a line is one write(2), so that lines of several processes never mix. No outlet waits
and none raises: a line that stderr does not take at once (a full pipe, a stopped terminal), or that
the disk has no space for, is dropped and counted; the count is the first line that gets through
again. A file that cannot be opened, or fails, is opened again after REOPEN_SECS. A file that is
stderr as well gets each line once. A file that is opened again by its name (after logrotate has
renamed it) loses no line: each is in the one file or in the other.
Still wrong: no rotation of our own (contrib/fastjmix.logrotate shows logrotate's).
A pipe of another user cannot be opened anew: two processes that write into its last free page at
the same moment can make one of them wait for its reader.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket

REOPEN_SECS: Final = 10.0
"""How often a log file that failed is opened again: soon enough after somebody has repaired it, and
one open(2) in ten seconds costs nothing."""

STDERR: Final = 2

Write = Callable[[bytes], int]
"""Takes a line at once, or raises OSError."""


class Outlet:
    """One place that lines go to, and how many it did not take. `close` closes what it opened,
    `reopen` opens it by its name again."""

    def __init__(
        self,
        write: Write,
        close: Callable[[], object] = lambda: None,
        reopen: Callable[[], bool] = lambda: True,
    ) -> None:
        self._write = write
        self.close = close
        self.reopen = reopen
        self._dropped = 0

    def put(self, line: bytes, count_line: Callable[[int], bytes]) -> None:
        """Writes a line, or drops it. `count_line` makes the line about lines dropped before."""
        try:
            if self._dropped:
                self._write(count_line(self._dropped))
                self._dropped = 0
            self._write(line)
        except (OSError, MemoryError):
            self._dropped += 1  # a full disk or a closed terminal must not stop reception


class LogFile:
    """The log file: opened again after a while when it cannot be opened, or fails.

    A full disk is no reason to open it again: the same file takes lines when there is space. While
    stderr is the same file, a line that is written to stderr is in it already.
    """

    STAYS_OPEN: Final = (errno.EAGAIN, errno.ENOSPC, errno.EDQUOT)

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._is_stderr = False
        self._due = 0.0
        self._renamed = False
        self._lock = threading.Lock()  # two threads must not open, or close, the same twice

    def open(self) -> None:
        """Creates the file (mode 0600) and its directory where they are missing. Raises OSError."""
        with self._lock:
            self._open()

    def reopen(self) -> bool:
        """Opens the file by its name again: at once, or before the next line where a line is being
        written now. Returns False where it could not be opened.

        It may be called in a signal handler, so that it waits for nothing.
        """
        self._renamed, self._due = True, 0.0
        if not self._lock.acquire(blocking=False):
            return True
        try:
            if self._descriptor < 0:
                self._open()
            else:
                self._follow()
        except OSError:
            return False
        finally:
            self._lock.release()
        return not self._renamed

    def write(self, line: bytes) -> int:
        """Writes a line; opens the file when that is due. Raises OSError."""
        with self._lock:
            if self._renamed and self._descriptor >= 0:
                self._follow()
            if self._descriptor < 0:
                if time.monotonic() < self._due:
                    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                self._open()
            if self._is_stderr:
                return len(line)
            try:
                return os.write(self._descriptor, line)
            except OSError as problem:
                if problem.errno not in self.STAYS_OPEN:
                    self._close()
                raise

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._close()

    def _open(self) -> None:
        self._renamed = False
        self._due = time.monotonic() + REOPEN_SECS
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        self._descriptor = os.open(self._path, flags, 0o600)
        self._is_stderr = _joined_with_stderr(self._descriptor)

    def _follow(self) -> None:
        """Leaves the file that was renamed for a new one of the name. Where none can be opened, the
        renamed one takes the lines, and the next try is due after REOPEN_SECS.

        Where stderr was the file, it becomes the new one: else the renamed file would grow on.
        """
        if time.monotonic() < self._due:
            return
        before, was_stderr = self._descriptor, self._is_stderr
        try:
            self._open()
        except OSError:
            self._renamed = True
            return
        if was_stderr and not self._is_stderr:
            with contextlib.suppress(OSError):
                os.dup2(self._descriptor, STDERR)
                self._is_stderr = True
        with contextlib.suppress(OSError):
            os.close(before)

    def _close(self) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):  # close(2) may report an error of write(2)
                os.close(self._descriptor)
            self._descriptor = -1


def _joined_with_stderr(descriptor: int) -> bool:
    """Returns True when stderr is the same file (or pipe, or terminal).

    Other writes to stderr must then not overwrite lines: a shell's `2>file` writes at an offset,
    not at the end. So stderr is made to append, for every process that shares it.
    """
    try:
        if not os.path.sameopenfile(descriptor, STDERR):
            return False
        if stat.S_ISREG(os.fstat(STDERR).st_mode):
            flags = fcntl.fcntl(STDERR, fcntl.F_GETFL)
            fcntl.fcntl(STDERR, fcntl.F_SETFL, flags | os.O_APPEND)
    except OSError:  # stderr is closed
        return False
    return True


def stderr() -> Outlet:
    """Returns an outlet that writes to stderr without waiting for its reader.

    The O_NONBLOCK flag of descriptor 2 is left alone: other programs share that terminal or pipe.
    """
    try:
        mode = os.fstat(STDERR).st_mode
    except OSError:
        return Outlet(partial(os.write, STDERR))  # it is closed: each line is dropped and counted
    if stat.S_ISSOCK(mode):  # systemd's journal
        import socket  # only here: most nodes log to a file, a pipe or a terminal

        journal = socket.socket(fileno=STDERR)  # no copy: there may be no descriptor left for one
        return Outlet(partial(_send, journal, socket.MSG_DONTWAIT), journal.detach)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            opened = os.open(f"/proc/self/fd/{STDERR}", flags)
            return Outlet(partial(os.write, opened), partial(os.close, opened))
        return Outlet(_write_if_ready)
    return Outlet(partial(os.write, STDERR))  # a file


def _send(journal: socket.socket, flags: int, line: bytes) -> int:
    return journal.send(line, flags)


def _write_if_ready(line: bytes) -> int:
    poll = select.poll()
    poll.register(STDERR, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError
    return os.write(STDERR, line)
