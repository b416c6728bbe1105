"""One tree of errors. Each says whose fault it is, and what to do next.

    FastjmixError                exit 1   ours, unless a branch below says otherwise
    ├── UsageError               exit 2   the caller's: a path, an option or an argument
    ├── ConfigError              exit 2   the operator's: a configuration file
    ├── PlatformError            exit 2   the operator's: this machine cannot run fastjmix
    ├── SpoolError               exit 2   the operator's: the storage directory
    │   └── DamagedTicket                 a record beside an envelope cannot be read
    ├── StorageError                      the storage's, and an OSError: a read or a write failed
    │   ├── StorageFull                   no free space for more; all that is there is unharmed
    │   ├── LimitReached                  this process or machine has no descriptor or memory left
    │   ├── NameTaken                     another file has the name
    │   ├── KeyMissing                    a key that signs or encrypts an envelope cannot be read
    │   └── StorageFailed                 any other error: the storage does not work
    │       ├── StorageGone               a directory of it is not where it was
    │       └── MemberDamaged             a member's bytes are not those that were written
    ├── PeerError                         the DICOM peer's
    │   ├── NoAssociation    exit 3   (send/) the peer we call did not accept us
    │   ├── ProtocolError                 PS3.8 was broken: answered with A-ABORT
    │   └── UnreadableHead                the data set's head cannot be understood: status C000
    ├── EnvelopeError            exit 1   the envelope's author's: not a valid JMIX envelope
    ├── BuildError               exit 1   (envelope/) what was given makes no envelope
    └── OutputError              exit 1   (envelope/) the target exists, or cannot be written

A message and its hint are written for a caller of the function: they name arguments
(`force=True`). The command line replaces these by its options (cli/hints.py).

This module imports no other module of fastjmix, so that every one of them can import it.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import ClassVar, Final, NoReturn


class FastjmixError(Exception):
    """Base of all. `hint` is one sentence: the reader's next step. `faults`: each of several."""

    exit_code = 1
    faults: Sequence[object] = ()

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(FastjmixError):
    """The caller's: a path that does not exist, no file to send, an AE title that is not valid."""

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
    """The record beside an envelope is not what fastjmix wrote."""


class StorageError(FastjmixError, OSError):
    """A read or a write of the storage failed.

    It is an OSError, as FileNotFoundError is one (PEP 3151): a caller that only needs to know of
    the failure catches OSError, and one that acts on its kind catches the type. `errno` is None
    where the failure is no error of the system. `storage_error` returns the type for a system
    call's error.
    """

    numbers: ClassVar[tuple[int, ...]] = ()
    """The errors of system calls that mean this. The first is `errno` where none is given."""

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number if number is not None else next(iter(self.numbers), None)
        self.strerror = message


class StorageFull(StorageError):
    """There is no free space for more: of the disk, of a quota, or below the largest file.

    ENOSPC from pwrite(2) leaves existing data intact.
    """

    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class LimitReached(StorageError):
    """This process or machine has no descriptor or memory left. The storage is not the cause."""

    numbers = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)


class NameTaken(StorageError, FileExistsError):
    """Another file has the name that one of ours is to get.

    It is a FileExistsError too: spool/ raises the system's own where a caller needs no other type,
    and one `except` takes both.
    """

    numbers = (errno.EEXIST,)


class KeyMissing(StorageError):
    """A key that signs or encrypts an envelope cannot be read. It may come back."""

    numbers = (errno.ENOKEY,)


class StorageFailed(StorageError):
    """The storage does not work: an error of the system that none of the other types names."""

    numbers: ClassVar[tuple[int, ...]] = (errno.EIO,)


class StorageGone(StorageFailed):
    """A directory of the storage is not where it was, or another one is there."""

    numbers = (errno.ESTALE, errno.ENOENT, errno.ENOTDIR, errno.EXDEV)


class MemberDamaged(StorageFailed):
    """The bytes of a member that was written whole are not those that were written."""


_TYPES: Final = {
    number: kind
    for kind in (StorageFull, LimitReached, NameTaken, KeyMissing, StorageGone)
    for number in kind.numbers
}


def storage_error(problem: OSError) -> StorageError:
    """Returns the typed error for an error of a system call; a typed one as it is.

    An error without errno is not the system's: it becomes a StorageError of no particular type.
    """
    if isinstance(problem, StorageError):
        return problem
    kind = StorageError if problem.errno is None else _TYPES.get(problem.errno, StorageFailed)
    return kind(problem.strerror or str(problem), problem.errno)


def raise_typed(problem: OSError) -> NoReturn:
    """Raises the typed error for an error of a system call, from that."""
    if isinstance(problem, StorageError):
        raise problem
    raise storage_error(problem) from problem


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
    words = problem.strerror or str(problem) if isinstance(problem, OSError) else ""
    return words or repr(problem)


def printable(text: object) -> str:
    """Returns a peer's text with its control characters escaped: it cannot forge a log line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
