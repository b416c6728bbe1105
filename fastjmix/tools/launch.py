"""A `fastjmix` command in a process of its own, with its log in a file.

Guaranteed: where the program listens is what its log says; a program that ends before it is ready
raises LaunchError with the end of its log.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from fastjmix.errors import FastjmixError

COMMAND: Final = (sys.executable, "-m", "fastjmix")

STARTED: Final = r" started "
"""Is in the line with which the gateway says that all its processes run."""

STORE_LISTENING: Final = r" store_listening url=(\S+)"
"""Matches the line with which the store says where it listens; the group is its URL."""

END_CHARACTERS: Final = 2000
"""This much of a log explains why a program ended."""


def listening(what: str) -> str:
    """Returns a pattern of the line with which the gateway says where a listener is.

    `what` is a kind of listener, such as "dicom" or "http". The group of the pattern is the port.
    """
    return rf"(?m) listening .*what={what} .*:(\d+)\s*$"


class LaunchError(FastjmixError):
    """A program ended before it was ready. `log_end` is what its log says at the end."""

    def __init__(self, name: str, status: int, log_end: str) -> None:
        super().__init__(f"fastjmix {name} ended with status {status}:\n{log_end}")
        self.log_end = log_end


class Program:
    """A running `fastjmix` command.

    It is in a process group of its own when `own_group`: Ctrl-C in the terminal does not reach it
    then.
    """

    def __init__(
        self,
        *arguments: str,
        log: Path,
        directory: Path | None = None,
        own_group: bool = False,
    ) -> None:
        self.log = log
        self._name = arguments[0]
        self._own_group = own_group
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [*COMMAND, *arguments],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
                process_group=0 if own_group else None,
            )

    @property
    def pid(self) -> int:
        """Returns the process ID."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Returns the exit status; None while the program runs."""
        return self._process.poll()

    def text(self) -> str:
        """Returns the log so far."""
        return self.log.read_text("utf-8", "replace")

    def found(self, pattern: str) -> str | None:
        """Returns the first group of the first match in the log; None while there is no match.

        Raises LaunchError when there is none and the program has ended.
        """
        status = self.status  # before the log is read: a program that has ended adds nothing to it
        text = self.text()
        match = re.search(pattern, text)
        if match is not None:
            return match[1]
        if status is not None:
            raise LaunchError(self._name, status, text[-END_CHARACTERS:].strip())
        return None

    def port(self, what: str) -> int | None:
        """Returns the port of a gateway's listener, once the gateway has started; None before.

        Raises LaunchError when it ended before that.
        """
        if self.found(f"({STARTED})") is None:
            return None
        found = self.found(listening(what))
        return None if found is None else int(found)

    def stop(self, secs: float) -> int:
        """Sends SIGINT, which stops a gateway without a drain; returns the exit status. After
        `secs` the program is killed.
        """
        self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(secs)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.wait()

    def kill(self) -> None:
        """Kills the program, with its process group if that is its own; does not wait."""
        with contextlib.suppress(ProcessLookupError):
            if self._own_group:
                os.killpg(self.pid, signal.SIGKILL)
            else:
                self._process.kill()

    def wait(self) -> int:
        """Waits until the program has ended; returns the exit status."""
        return self._process.wait()
