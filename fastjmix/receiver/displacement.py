"""Chooses who gives its place to a newcomer, when every place for an association is taken.

Wanted: nobody keeps a place that others ask for by being busy without storing anything.
Guaranteed: while there are places, nothing here matters. When a peer is rejected for want of one,
an association gives way (A-ABORT) that has stored nothing for HOLD_SECS and is in no data set, or
in one that comes slower than PRESSED_BYTES_PER_SEC; of the address with the most of them, the one
that has stored nothing for longest. It gives way to the same address, or to one with fewer
associations; a slow one only where its address has others. An association whose instance the packer
has, or that waits for room in its lane, waits for us, and never gives way.
Still wrong: whoever stores an instance every HOLD_SECS keeps its place, whatever it is. The address
of a peer that another receiver process rejected is not known: then only an address with several
such associations gives way, two times a second at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from fastjmix.dicom import dimse
from fastjmix.ipc.metrics import Stats
from fastjmix.receiver.connection import Connection, State

HOLD_SECS: Final = 30.0
"""Seconds for which an association may store nothing while others are rejected. They are longer
than the pauses of a modality between two images of an examination that is being sent."""

PRESSED_BYTES_PER_SEC: Final = 16 * 1024
"""A data set slower than this is not reason enough to keep several places: 128 kbit/s carries no
images. (min_bytes_per_sec, far lower, ends a peer that nobody waits for.)"""

MEASURED_SECS: Final = 10.0
"""Seconds over which a pace is measured, at least, before it is judged."""

REJECTED: Final = "associations_rejected_full_total"


class Places:
    """Keeps count of those who were rejected for want of a place, here and by other receivers."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._own = 0
        self._seen = stats.total(REJECTED)

    def rejected(self) -> None:
        """Notes that somebody was rejected here."""
        self._own += 1
        self._stats.add(REJECTED)

    def others_rejected(self) -> bool:
        """Tells whether another receiver has rejected somebody since this was asked."""
        others = self._stats.total(REJECTED) - self._own
        seen, self._seen = self._seen, others
        return others > seen


def gives_way(
    open_now: Iterable[Connection],
    now: float,
    among: Callable[[Connection], bool],
    newcomer: str | None,
) -> Connection | None:
    """Returns the association that ends for a newcomer from this address; None when none does.

    `among` says whose place is of use to it. `newcomer` None: from an address that is not known.
    """
    held: Counter[str] = Counter()
    holders: dict[str, list[Connection]] = {}
    for connection in open_now:
        if connection.state is State.OPEN:
            held[connection.host] += 1
            if among(connection) and _holds(connection, now):
                holders.setdefault(connection.host, []).append(connection)
    candidates = [
        (len(found), -found[0].stored_at, found[0])
        for host, found in ((h, _in_order(f, held[h])) for h, f in holders.items())
        if found and _may_take(newcomer, host, held)
    ]
    return max(candidates, key=lambda one: one[:2])[2] if candidates else None


def _may_take(newcomer: str | None, host: str, held: Counter[str]) -> bool:
    if newcomer is None:
        return held[host] > 1
    return newcomer == host or held[host] > held[newcomer]


def _in_order(found: list[Connection], held: int) -> list[Connection]:
    """Sorts them: longest without a store first; without those that are slow and alone."""
    kept = [one for one in found if held > 1 or not _is_in_a_data_set(one)]
    return sorted(kept, key=lambda one: one.stored_at)


def _holds(connection: Connection, now: float) -> bool:
    """Tells whether it has stored nothing for long, and will not soon."""
    if now - connection.stored_at < HOLD_SECS:
        return False
    if not _is_in_a_data_set(connection):
        return True
    scanner = connection.scanner
    if scanner is None or connection.stalled or not scanner.hungry:
        return False  # it waits for us
    secs = now - connection.paced_at
    came = scanner.arrived - connection.paced_bytes
    return secs >= MEASURED_SECS and came < PRESSED_BYTES_PER_SEC * secs


def _is_in_a_data_set(connection: Connection) -> bool:
    """Tells whether a C-STORE-RQ that was not refused is being answered."""
    request = connection.request
    return request is not None and request.field == dimse.C_STORE_RQ and connection.refusal is None
