"""The signals that the supervisor acts on: SIGTERM drains, a second one or SIGINT ends fastjmix,
SIGUSR1 and SIGHUP open the log file again, and SIGHUP has the configuration read again."""

from __future__ import annotations

import os
import signal


class Signals:
    """The signals that have arrived. `descriptor` becomes readable at each, and when a child ends
    (SIGCHLD), so that the loop waits for one thing.

    `pipe` are both ends of the pipe, which only the supervisor uses.
    """

    def __init__(self) -> None:
        self.pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.descriptor = self.pipe[0]
        self._interrupts = 0
        self._terminations = 0
        self._hangups = 0
        self._rotations = 0

    def watch(self) -> None:
        """Installs the handlers."""
        signal.set_wakeup_fd(self.pipe[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGHUP, self._hang_up)
        signal.signal(signal.SIGUSR1, self._rotate)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def _terminate(self, *_: object) -> None:
        self._terminations += 1

    def _interrupt(self, *_: object) -> None:
        self._interrupts += 1

    def _hang_up(self, *_: object) -> None:
        self._hangups += 1

    def _rotate(self, *_: object) -> None:
        self._rotations += 1

    def take(self) -> None:
        """Empties the pipe."""
        try:
            while os.read(self.descriptor, 512):
                pass
        except BlockingIOError:
            pass

    def take_hangup(self) -> bool:
        """Returns True once for all SIGHUP that have arrived."""
        arrived, self._hangups = self._hangups, 0
        return arrived > 0

    def take_termination(self) -> bool:
        """Returns True once for each SIGTERM."""
        if not self._terminations:
            return False
        self._terminations -= 1
        return True

    def take_rotation(self) -> bool:
        """Returns True once for all SIGUSR1 that have arrived."""
        arrived, self._rotations = self._rotations, 0
        return arrived > 0

    @property
    def stop(self) -> bool:
        """True after SIGINT."""
        return self._interrupts > 0

    @property
    def stop_at_once(self) -> bool:
        """True after a second SIGINT."""
        return self._interrupts > 1
