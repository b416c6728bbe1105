"""Lets a test kill, fail or stop a process at a named point, if the environment says so.

Wanted: a kill at exactly the moment whose outcome is promised, in the program as it ships.
Guaranteed: without FASTJMIX_FAILPOINT in the environment `reach` does nothing and costs one call
(some 30 ns). With it, a point acts once, at its n-th visit, counted over all processes: the
successor of a process that was killed there inherits the rest of the count, and lives.
Still wrong: visits of two processes at the same moment are counted in either order.

FASTJMIX_FAILPOINT holds points as name:action:nth, separated by commas. Each counts its own visits;
one that kills ends the visit before the points behind it count it:

    packer.synced:kill:2        SIGKILL itself at the second visit
    seal.synced:eio:1           raise OSError(EIO); enospc: OSError(ENOSPC)
    receiver.pdv:raise:1        raise RuntimeError, as a fault of ours would
    packer.synced:stop:1        SIGSTOP itself

The environment is read once, when this module is first imported: before anything is forked.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Mapping
from typing import Final

from fastjmix.errors import ConfigError

VARIABLE: Final = "FASTJMIX_FAILPOINT"

VISITS_MAX: Final = 4096
"""Largest nth: the count is the bytes in a pipe, and a pipe of one page holds this many."""

POINTS: Final[Mapping[str, str]] = {
    # receiver: one instance
    "receiver.pdv": "its packer is named; some of the data set is in the lane, more is to come",
    "receiver.last": "its last PDV was scanned; the packer does not know that it was the last",
    "receiver.granted": "it has its status; the peer was sent nothing",
    # packer: one instance
    "packer.midway": "the packer has begun it; nothing is on disk",
    "packer.decided": "a rule rejected or discarded it; no status",
    "packer.spilled": "larger than its lane: a part is in building/*.spill, more is to come",
    "packer.joining": "larger than its lane: its header is in the draft, its bytes are not",
    "packer.appended": "written to the draft; not synced, no status",
    "packer.synced": "durable in the draft; no status",
    "packer.granted": "durable; the receiver may be answering",
    "packer.digesting": "written, and answered unless a seal waits; its digest is not made",
    # spool: one envelope
    "provenance.written": "the provenance is durable; the archive is in building/, as it was",
    "seal.written": "documents and central directory are in building/, not synced",
    "seal.synced": "the archive is complete and durable in building/; there is no ticket",
    "seal.published": "archive and ticket are in outbox/; building/<id> holds draft.json only",
    "seal.removed": "archive and ticket are in outbox/; building/<id> is gone",
    "spool.dropping": "a draft that counts no more has the name that is swept, and is not deleted",
    "spool.renamed": "a file has its new name; the directory that holds the name was not synced",
    "move.recorded": "the receipt (or refusal) is durable in its new place; archive in outbox/",
    "move.moved": "archive and receipt are in their new place; the ticket in outbox/ is left over",
    "end.recorded": "an upstream's end is durable beside the archive; others have not ended",
    "end.last": "the last upstream has ended; no record says so",
    "end.moved": "archive and record are in their new place; ends are left over in outbox/",
    "requeue.published": "a rejected envelope is in outbox/; its refusal is left over",
    # spool: one envelope whose payload is encrypted; then as above, from seal.published on
    "encrypt.midway": "some of the ciphertext is in building/<id>/sealed.zip.new",
    "encrypt.written": "all of it does, with documents and central directory, not synced",
    "encrypt.settled": "building/<id>/sealed.zip is durable and counts; envelope.zip is there, too",
    # ledger: one transaction
    "ledger.written": "its rows are written; it is not committed",
    # recovery: one draft
    "recovery.walked": "its members were read; nothing was written",
    "recovery.sealed": "the envelope is in outbox/; the uploader was not woken",
    "elsewhere.written": "a target's directory has every byte, durably, under a name with a dot",
    # uploader: one envelope
    "uploader.listed": "outbox/ was listed; nothing was begun",
    "uploader.body": "some of the body was handed to the connection",
    "uploader.answered": "the upstream has answered; nothing was written here",
    # a reload
    "reload.read": "the configuration was read; the supervisor does not know of it",
    # api: one POST
    "api.received": "the body is in building/*.upload, and is a valid envelope; not admitted",
    "api.admitted": "in outbox/; the uploader was not woken, the caller was not answered",
}
"""Every point, with the state of the disk and of the peers when it is reached."""


def _act(name: str, action: str) -> None:
    os.write(2, f"failpoint_reached point={name} action={action} pid={os.getpid()}\n".encode())
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        # To this thread: a signal to the process may wait for another, while this one runs on.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
    elif action == "raise":
        raise RuntimeError(f"fail point {name}")
    else:
        number = errno.EIO if action == "eio" else errno.ENOSPC
        raise OSError(number, os.strerror(number), f"fail point {name}")


ACTIONS: Final = ("kill", "stop", "raise", "eio", "enospc")


class _Armed:
    """One point of the variable. Its count is a pipe: the process that reads its last byte acts."""

    def __init__(self, name: str, action: str, nth: int) -> None:
        self.name = name
        self.action = action
        self._count, end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.write(end, b"." * (nth - 1) + b"!")
        os.close(end)

    def visit(self) -> None:
        if os.read(self._count, 1) == b"!":
            _act(self.name, self.action)


def _parse(text: str) -> list[_Armed]:
    """Returns the points of the variable. Raises ConfigError for one that does not exist."""
    armed = []
    for one in filter(None, text.split(",")):
        name, _, rest = one.partition(":")
        action, _, nth = rest.partition(":")
        count = int(nth) if nth.isdecimal() else 0
        if name not in POINTS or action not in ACTIONS or not 1 <= count <= VISITS_MAX:
            raise ConfigError(
                f"{VARIABLE}: {one!r} is not name:action:nth",
                "It is for tests: unset it, or see the points in fastjmix/failpoints.py.",
            )
        armed.append(_Armed(name, action, count))
    return armed


def _visit(name: str) -> None:
    for one in _armed:
        if one.name == name:
            one.visit()


def _pass(name: str) -> None:
    pass


_armed: Final = _parse(os.environ.get(VARIABLE, ""))

ARMED: Final = ", ".join(f"{one.name}:{one.action}" for one in _armed)
"""The points and actions that are set, for the log; empty when there are none."""

reach = _visit if _armed else _pass
"""Counts a visit of a point, as in reach("packer.synced"), and does its action when that is due."""
