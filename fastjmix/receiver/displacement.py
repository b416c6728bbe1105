"""Chooses which association ends for a newcomer, when every place for one is taken.

Wanted: no peer keeps a place that others ask for by being busy without storing anything.
Guaranteed: while there are places, nothing here matters. When a peer is rejected for want of one,
an association is displaced (A-ABORT) that has stored nothing for HOLD_SECS and is in no data set,
or in one that comes slower than PRESSED_BYTES_PER_SEC. The address with most of them loses the one
that has stored nothing for longest. The newcomer has the same address, or one with fewer
associations; a slow association is displaced only where its address has others. An association
whose instance the packer has, or that is not read because its lane is full, waits for fastjmix, and
is never displaced.
Still wrong: a peer that stores an instance every HOLD_SECS keeps its place, whatever it is. The
address of a peer that another receiver process rejected is not known: then only an address with
several such associations loses one, two times a second at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable
from typing import Final

from fastjmix.dicom import dimse
from fastjmix.ipc.metrics import Metrics
from fastjmix.receiver.connection import Association, Connection
from fastjmix.receiver.states import State

HOLD_SECS: Final = 30.0
"""Seconds for which an association may store nothing while others are rejected. They are longer
than the pauses of a modality between two images of an examination that is being sent."""

PRESSED_BYTES_PER_SEC: Final = 16 * 1024
"""A data set slower than this is not reason enough to keep several places: 128 kbit/s carries no
images. (min_bytes_per_sec, far lower, ends a peer whose place nobody asks for.)"""

MEASURED_SECS: Final = 10.0
"""Seconds over which a pace is measured, at least, before it counts."""

REJECTED: Final = "associations_rejected_full_total"
"""The counter through which receiver processes learn of each other's rejections."""


class FullRejections:
    """Counts the peers that were rejected for want of a place, here and by other receivers."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._own = 0
        self._seen = metrics.total(REJECTED)

    def add(self) -> None:
        """Counts a rejection of this receiver."""
        self._own += 1
        self._metrics.add(REJECTED)

    def others_rejected(self) -> bool:
        """Returns True when another receiver has rejected a peer since the last call."""
        others = self._metrics.total(REJECTED) - self._own
        seen, self._seen = self._seen, others
        return others > seen


def to_displace(
    connections: Iterable[Connection],
    now: float,
    among: Callable[[Association], bool],
    newcomer: str | None,
    paused: Container[Connection] = (),
) -> Connection | None:
    """Returns the connection whose association ends for a newcomer from this address; None when
    there is none.

    `among` says whose place is of use to the newcomer. `newcomer` is None where its address is not
    known. `paused` are the connections that are not read.
    """
    held: Counter[str] = Counter()
    holders: dict[str, list[tuple[Connection, Association]]] = {}
    for connection in connections:
        association = connection.association
        if connection.state is State.OPEN and association is not None:
            held[connection.host] += 1
            if among(association) and _stores_nothing(association, now, connection in paused):
                holders.setdefault(connection.host, []).append((connection, association))
    candidates = [
        (len(found), -found[0][1].stored_at, found[0][0])
        for host, found in ((h, _in_order(f, held[h])) for h, f in holders.items())
        if found and _may_displace(newcomer, host, held)
    ]
    return max(candidates, key=lambda one: one[:2])[2] if candidates else None


def _may_displace(newcomer: str | None, host: str, held: Counter[str]) -> bool:
    if newcomer is None:
        return held[host] > 1
    return newcomer == host or held[host] > held[newcomer]


def _in_order(
    found: list[tuple[Connection, Association]], held: int
) -> list[tuple[Connection, Association]]:
    """Returns them sorted, longest without a store first; without one that is slow and alone."""
    kept = [one for one in found if held > 1 or not _is_in_a_data_set(one[1])]
    return sorted(kept, key=lambda one: one[1].stored_at)


def _stores_nothing(association: Association, now: float, paused: bool) -> bool:
    """Returns True when it has stored nothing for HOLD_SECS, and will not soon."""
    if now - association.stored_at < HOLD_SECS:
        return False
    if not _is_in_a_data_set(association):
        return True
    if paused or not association.scanner.hungry:
        return False  # it waits for fastjmix
    secs = now - association.pace.since
    came = association.scanner.arrived - association.pace.arrived
    return secs >= MEASURED_SECS and came < PRESSED_BYTES_PER_SEC * secs


def _is_in_a_data_set(association: Association) -> bool:
    """Returns True while a C-STORE-RQ that was not refused awaits its response."""
    request = association.request
    return request is not None and request.field == dimse.C_STORE_RQ and association.refusal is None
