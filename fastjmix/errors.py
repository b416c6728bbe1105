"""One tree of errors. Each says whose fault it is, and what to do next.

    FastjmixError                exit 1   ours, unless a branch below says otherwise
    ├── UsageError               exit 2   the caller's: a path, an option or an argument
    ├── ConfigError              exit 2   the operator's: a configuration file
    ├── PlatformError            exit 2   the operator's: this machine cannot run fastjmix
    ├── SpoolError               exit 2   the operator's: the storage directory
    │   └── DamagedTicket                 a record beside an envelope cannot be read
    ├── PeerError                         the DICOM peer's
    │   ├── NoAssociation    exit 3   (send/) the peer we call did not accept us
    │   ├── ProtocolError                 PS3.8 was broken: answered with A-ABORT
    │   └── UnreadableHead                the data set's head cannot be understood: status C000
    ├── EnvelopeError            exit 1   the envelope's author's: not a valid JMIX envelope
    ├── BuildError               exit 1   (envelope/) what was given makes no envelope
    └── OutputError              exit 1   (envelope/) the target exists, or cannot be written

A message and its hint speak to a caller of the function: they name arguments (`force=True`). The
command line puts its options in their place (tools/envelope/options.py).

Imports nothing of ours, so that every room may use it.
"""

from __future__ import annotations

from collections.abc import Sequence


class FastjmixError(Exception):
    """Base of all. `hint` is one sentence that tells the reader what to do. `faults`: where there
    may be several, each of them."""

    exit_code = 1
    faults: Sequence[object] = ()

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(FastjmixError):
    """The caller's: a path that does not exist, no sendable file, an AE title that is none."""

    exit_code = 2


class ConfigError(FastjmixError):
    """The operator's configuration cannot be used."""

    exit_code = 2


class PlatformError(FastjmixError):
    """This machine lacks something that fastjmix cannot do without."""

    exit_code = 2


class SpoolError(FastjmixError):
    """The storage directory cannot keep what it is given."""

    exit_code = 2


class DamagedTicket(SpoolError):
    """The record beside an envelope is not what we wrote."""


class PeerError(FastjmixError):
    """The DICOM peer sent something that it should not have sent."""


class ProtocolError(PeerError):
    """PS3.8 was broken. `reason` is the A-ABORT provider reason (PS3.8 Table 9-26)."""

    def __init__(self, message: str, reason: int = 0) -> None:
        super().__init__(message)
        self.reason = reason


class UnreadableHead(PeerError):
    """The data set's head cannot be understood (C-STORE status C000, PS3.4 Table B.2-1)."""


class EnvelopeError(FastjmixError):
    """Not a valid JMIX envelope. The message names the member or the key."""


def reason(problem: Exception) -> str:
    """Returns the words for a failure in the log: the system's, or which exception it was."""
    if isinstance(problem, FastjmixError):
        return problem.message
    told = problem.strerror or str(problem) if isinstance(problem, OSError) else ""
    return told or repr(problem)


def printable(text: object) -> str:
    """Text of a stranger without control characters, so that it cannot draw a lie."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
