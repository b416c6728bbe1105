"""Instances → associations → report."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydicom.uid import UID

from fastjmix.send.association import Association, Lost
from fastjmix.send.files import Instance, Skipped, find
from fastjmix.send.peer import NoAssociation, Peer, UsageError
from fastjmix.send.report import Outcome, Report

# Presentation context identifiers are the odd numbers 1 to 255 (PS3.8 §9.3.2.2).
MAX_CONTEXTS: Final = 128

# A worker gives up after this many associations in a row that broke before any answer: one bad
# file costs one of them, a peer that cannot work must not be called for ever.
MAX_IN_VAIN: Final = 3

# Message IDs are unsigned 16 bit (PS3.7 §9.3.1.1); 0 is legal and confuses some peers.
MAX_MESSAGE_ID: Final = 0xFFFF

Pair = tuple[str, str]


def send_files(
    peer: Peer,
    paths: Iterable[Path],
    *,
    associations: int = 1,
    leave_out: bool = False,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> Report:
    """Finds and sends; see `find` and `send`. Raises what they raise."""
    instances, skipped = find(paths)
    return send(
        peer,
        instances,
        skipped,
        associations=associations,
        leave_out=leave_out,
        on_outcome=on_outcome,
    )


def send(
    peer: Peer,
    instances: Sequence[Instance],
    skipped: Iterable[Skipped] = (),
    *,
    associations: int = 1,
    leave_out: bool = False,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> Report:
    """C-STORE of each instance, over `associations` parallel associations that share the work.

    More than 128 kinds of (SOP class, transfer syntax) are sent in several rounds. `on_outcome`
    is called once for each instance, never by two threads at once. An interrupt (SIGINT) lets
    the instances in flight finish; the rest are reported as not sent. `skipped` makes the report's
    exit code 1, unless `leave_out`. Raises UsageError for
    no instance at all and NoAssociation when not a single association could be established.
    """
    if not instances:
        raise UsageError("there is no DICOM Part 10 file in what was named")
    run = _Run(peer, on_outcome or (lambda _: None))
    started = time.perf_counter()
    for pairs, batch in _rounds(instances):
        run.round(pairs, batch, associations)
    if not run.established:
        raise run.refusals[0]
    seconds = time.perf_counter() - started
    return Report(tuple(run.outcomes), tuple(skipped), seconds, run.established, leave_out)


def _rounds(instances: Sequence[Instance]) -> Iterator[tuple[list[Pair], list[Instance]]]:
    """The pairs, 128 at a time in order of first need, each with the instances that use them."""
    needed = list(dict.fromkeys(instance.pair for instance in instances))
    for first in range(0, len(needed), MAX_CONTEXTS):
        pairs = needed[first : first + MAX_CONTEXTS]
        mine = set(pairs)
        yield pairs, [instance for instance in instances if instance.pair in mine]


@dataclass(slots=True)
class _Run:
    """What the workers of one `send` share."""

    peer: Peer
    on_outcome: Callable[[Outcome], None]
    outcomes: list[Outcome] = field(default_factory=list)
    refusals: list[NoAssociation] = field(default_factory=list)
    established: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def round(self, pairs: Sequence[Pair], batch: Sequence[Instance], workers: int) -> None:
        """Sends one batch; every instance of it has an outcome afterwards."""
        queue = deque(batch)
        # The first alone: if the peer takes no more than one, a crowd might all be rejected.
        first = None if self.stop.is_set() else self._open(pairs)
        crew = max(1, min(workers, len(batch))) if first else 0
        with ThreadPoolExecutor(crew or 1, thread_name_prefix="send") as pool:
            work = [
                pool.submit(self._work, pairs, queue, first if number == 0 else None)
                for number in range(crew)
            ]
            try:
                for one in work:
                    one.result()
            except KeyboardInterrupt:
                self.stop.set()
        why = "interrupted" if self.stop.is_set() else self._why_left_over()
        for instance in queue:
            self._tell(Outcome(instance, None, why, 0.0))

    def _why_left_over(self) -> str:
        return self.refusals[-1].message if self.refusals else "the peer breaks every association"

    def _open(self, pairs: Sequence[Pair]) -> Association | None:
        try:
            association = Association(self.peer, pairs)
        except NoAssociation as refusal:
            with self.lock:
                self.refusals.append(refusal)
            return None
        with self.lock:
            self.established += 1
        return association

    def _work(
        self, pairs: Sequence[Pair], queue: deque[Instance], association: Association | None
    ) -> None:
        """Sends over one association after another, until the queue is empty."""
        in_vain = 0
        while association or (queue and not self.stop.is_set() and in_vain < MAX_IN_VAIN):
            association = association or self._open(pairs)
            if association is None:
                return
            answered = self._drain(association, queue)
            in_vain = 0 if answered else in_vain + 1
            association = None

    def _drain(self, association: Association, queue: deque[Instance]) -> int:
        """Sends until nothing is left or the association is lost. How many got an answer."""
        answered = 0
        while not self.stop.is_set() and not association.ended():
            try:
                instance = queue.popleft()
            except IndexError:
                break
            started = time.perf_counter()
            try:
                outcome = self._store(association, instance, answered % MAX_MESSAGE_ID + 1)
            except Lost as how:
                association.abort()
                seconds = time.perf_counter() - started
                self._tell(Outcome(instance, None, f"the association was lost: {how}", seconds))
                return answered
            answered += outcome.status is not None
            self._tell(outcome)
        association.release()
        return answered

    def _store(self, association: Association, instance: Instance, message: int) -> Outcome:
        """One C-STORE. Raises Lost when the association is no more."""
        if instance.pair not in association.accepted:
            return Outcome(instance, None, _refused_context(instance), 0.0)
        started = time.perf_counter()
        try:
            status, detail = association.store(instance, message)
        except OSError as error:
            return Outcome(instance, None, error.strerror or str(error), 0.0)
        return Outcome(instance, status, detail, time.perf_counter() - started)

    def _tell(self, outcome: Outcome) -> None:
        with self.lock:
            self.outcomes.append(outcome)
            self.on_outcome(outcome)


def _refused_context(instance: Instance) -> str:
    sop_class, transfer_syntax = UID(instance.sop_class).name, UID(instance.transfer_syntax).name
    return f"the peer does not accept {sop_class} as {transfer_syntax}"
