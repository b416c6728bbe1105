"""Instances → associations → report."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fastjmix.dicom.requests import Pair, message_id
from fastjmix.errors import UsageError
from fastjmix.tools.send.association import Association, Lost
from fastjmix.tools.send.files import Instance, Skipped, find
from fastjmix.tools.send.peer import NoAssociation, Peer
from fastjmix.tools.send.record import Record
from fastjmix.tools.send.report import Outcome, Report, kind_of

MAX_CONTEXTS: Final = 128
"""Presentation context identifiers are the odd numbers 1 to 255 (PS3.8 §9.3.2.2)."""

MAX_IN_VAIN: Final = 3
"""A worker ends after this many associations in a row that broke before any answer. A bad file
costs one of them; a peer that breaks all of them must not be called for ever."""

NOTHING: Final = "there is no DICOM Part 10 file in what was named"


def send_files(
    peer: Peer,
    paths: Iterable[Path],
    *,
    associations: int = 1,
    leave_out: bool = False,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> Report:
    """Finds the instances below `paths` and sends them; raises what `find` and `send` raise."""
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
    record: Record | None = None,
    on_interrupt: Callable[[], None] = lambda: None,
) -> Report:
    """Sends each instance with C-STORE, over `associations` associations that share the work.

    More than 128 kinds of (SOP class, transfer syntax) are sent in several rounds. `on_outcome`
    is called once for each instance, never by two threads at once. An interrupt (SIGINT) lets
    the instances in flight finish (and calls `on_interrupt`), a second one breaks them off; the
    rest are reported as not tried. `skipped` makes the report's exit code 1, unless `leave_out`.
    Instances that `record` has are left out, and what is accepted is noted there. Raises
    UsageError for no instance at all and NoAssociation when not a single association could be
    established: `on_outcome` is not called then.
    """
    if not instances:
        raise UsageError(NOTHING)
    wanted = [one for one in instances if record is None or not record.has(peer, one)]
    run = _Run(peer, on_outcome or (lambda _: None), record, on_interrupt)
    started = time.perf_counter()
    with _interrupts(run.interrupt):
        run.rounds(wanted, associations)
        interrupted = run.stop.is_set()
        if wanted and not run.established and not interrupted:
            raise run.refusals[0]
        run.leave(wanted)
    seconds = time.perf_counter() - started
    outcomes, left, before = tuple(run.outcomes), tuple(skipped), len(instances) - len(wanted)
    return Report(outcomes, left, seconds, run.established, leave_out, interrupted, before)


def _rounds(instances: Sequence[Instance]) -> Iterator[tuple[list[Pair], list[Instance]]]:
    """Yields the pairs, 128 at a time in order of first need, with the instances that use them."""
    needed = list(dict.fromkeys(instance.pair for instance in instances))
    for first in range(0, len(needed), MAX_CONTEXTS):
        pairs = needed[first : first + MAX_CONTEXTS]
        mine = set(pairs)
        yield pairs, [instance for instance in instances if instance.pair in mine]


@contextlib.contextmanager
def _interrupts(handler: Callable[[], None]) -> Iterator[None]:
    """Lets SIGINT call `handler` instead of raising KeyboardInterrupt, which could leave a worker
    behind that was just being started. Does nothing in another thread, and where SIGINT is ignored
    or has another handler."""
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: handler())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(slots=True)
class _Run:
    """The state that the workers of one `send` share."""

    peer: Peer
    on_outcome: Callable[[Outcome], None]
    record: Record | None
    on_interrupt: Callable[[], None]
    outcomes: list[Outcome] = field(default_factory=list)
    refusals: list[NoAssociation] = field(default_factory=list)
    established: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    live: list[Association] = field(default_factory=list)
    broken_off: bool = False
    opening: bool = False

    def rounds(self, wanted: Sequence[Instance], workers: int) -> None:
        """Sends these instances in as many rounds as their kinds need, until an interrupt, or
        until no association could be established."""
        for pairs, batch in _rounds(wanted):
            self._round(pairs, batch, workers)
            if self.stop.is_set() or not self.established:
                return

    def _round(self, pairs: Sequence[Pair], batch: Sequence[Instance], workers: int) -> None:
        """Sends one batch. Instances that were not tried have no outcome afterwards."""
        queue = deque(batch)
        # The first alone: a peer that takes no more than one might reject all of several.
        first = self._open_first(pairs)
        if first is None:
            return
        count = max(1, min(workers, len(batch)))
        with ThreadPoolExecutor(count, thread_name_prefix="send") as pool:
            work = [
                pool.submit(self._work, pairs, queue, first if number == 0 else None)
                for number in range(count)
            ]
            for one in work:
                one.result()

    def interrupt(self) -> None:
        """Handles SIGINT, wherever the main thread is: the first one ends the queue, the second one
        breaks off what is in flight. Raises KeyboardInterrupt while the first association is being
        established."""
        if self.opening:
            raise KeyboardInterrupt
        if self.stop.is_set():
            self.broken_off = True
            for association in list(self.live):
                association.break_off()
        else:
            self.stop.set()
            self.on_interrupt()

    def _open_first(self, pairs: Sequence[Pair]) -> Association | None:
        try:
            self.opening = True
            return self._open(pairs)
        except KeyboardInterrupt:
            self.stop.set()
            return None
        finally:
            self.opening = False

    def leave(self, wanted: Sequence[Instance]) -> None:
        """Reports an outcome for each instance that was not tried."""
        why = "interrupted" if self.stop.is_set() else self._reason_left_over()
        done = {id(outcome.instance) for outcome in self.outcomes}
        for instance in wanted:
            if id(instance) not in done:
                self._report(Outcome(instance, None, why, 0.0, tried=False))

    def _reason_left_over(self) -> str:
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
            self.live.append(association)
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
            try:
                answered = self._drain(association, queue)
            finally:
                with self.lock:
                    self.live.remove(association)
            in_vain = 0 if answered else in_vain + 1
            association = None

    def _drain(self, association: Association, queue: deque[Instance]) -> int:
        """Sends until nothing is left or the association is lost. Returns the number of answers."""
        answered = 0
        while not self.stop.is_set() and not association.ended():
            try:
                instance = queue.popleft()
            except IndexError:
                break
            started = time.perf_counter()
            try:
                outcome = self._store(association, instance, message_id(answered))
            except Lost as how:
                association.abort()
                seconds = time.perf_counter() - started
                why = "interrupted before it was answered"
                why = why if self.broken_off else f"the association was lost: {how}"
                self._report(Outcome(instance, None, why, seconds))
                return answered
            answered += outcome.status is not None
            self._report(outcome)
        association.release()
        return answered

    def _store(self, association: Association, instance: Instance, message: int) -> Outcome:
        """Sends one instance. Raises Lost when the association is lost."""
        if instance.pair not in association.accepted:
            return Outcome(instance, None, _refused_context(instance), 0.0)
        started = time.perf_counter()
        try:
            status, detail = association.store(instance, message)
        except OSError as error:
            return Outcome(instance, None, error.strerror or str(error), 0.0)
        return Outcome(instance, status, detail, time.perf_counter() - started)

    def _report(self, outcome: Outcome) -> None:
        with self.lock:
            if self.record is not None and outcome.accepted:
                self.record.add(self.peer, outcome.instance)
            self.outcomes.append(outcome)
            self.on_outcome(outcome)


def _refused_context(instance: Instance) -> str:
    return f"the peer does not accept {kind_of(instance)}"
