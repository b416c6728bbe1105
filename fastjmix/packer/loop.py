"""Process: lanes → archive → spool, and digests behind. Never sees a DICOM socket.

Wanted: an instance is appended once it is whole, acknowledged once it is durable, and digested
while its sender is busy with the next (digests.py), or while it arrives when there are others.
Guaranteed: the process that writes is the one that syncs and grants the status. Group commit: all
instances that are whole when a commit begins are covered by it; a status is granted only after the
fdatasync(2) that covers the instance (durability = "fsync"). An envelope that cannot be sealed is
tried again from the disk. After a failed sync its instances are answered A700, the file is left
alone, and what it had promised is read back from the disk, verified, and sealed in another
(recovery.py). Storage that fails twice takes nothing for a while (storage_health.py). Recovery, and
encryption at the seal, take as long as reading all of an envelope: both are done beside this loop
(recovery_queue.py, worker.py). So is the joining of an instance that was larger than its lane, on a
thread of its own; instances of the same envelope wait for it, others do not.
Still wrong: a seal that does not encrypt is made in the loop, and the other associations of this
packer wait for it.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from isal.isal_zlib import crc32

from fastjmix import _core, log
from fastjmix._core import Arrival, Intake
from fastjmix.config import Config
from fastjmix.dicom.dimse import Status
from fastjmix.errors import (
    LimitReached,
    StorageError,
    StorageFailed,
    StorageGone,
    reason,
    storage_error,
)
from fastjmix.failpoints import reach
from fastjmix.ipc.channels import Links
from fastjmix.ipc.ingest_rules import Settings, tabulate
from fastjmix.ipc.wiring import Wiring
from fastjmix.jmix.write.envelope import Instance
from fastjmix.packer import conflicts
from fastjmix.packer.digests import Digests, hasher_for
from fastjmix.packer.open_envelope import Packing, encrypts, key_of
from fastjmix.packer.open_envelopes import OpenEnvelopes
from fastjmix.packer.recovery_queue import RecoveryQueue
from fastjmix.packer.reservation import Reservation
from fastjmix.packer.seal import seal, try_keys
from fastjmix.packer.senders import Senders
from fastjmix.packer.spills import Spilling, Spills
from fastjmix.packer.statuses import Statuses
from fastjmix.packer.storage_health import Health
from fastjmix.packer.worker import Aside
from fastjmix.spool import DRAFT_INODES, OPEN_INODES, Room, Spool, Ticket, seal_bytes

SPIN_TURNS: Final = 20_000
"""Looks at the lanes before sleeping, a sched_yield every 50: the measured optimum of a hand-over
between two processes on two cores (ARCHITECTURE.md, "Waking")."""

NAP_SECS: Final = 1.0
"""The longest sleep while an association is live: a bell that was lost costs this, no more."""

OPEN_MAX: Final = 512
"""Envelopes that are open at once, of one packer; each costs two descriptors, and memory until its
seal. When one more study begins, the one that was quiet for longest is sealed."""


@dataclass(slots=True)
class _Pending:
    """An instance that is written, and waits for the commit that covers it."""

    lane: int
    packing: Packing


class Packer:
    """One packer process. `number` counts packers from 0."""

    def __init__(
        self, config: Config, number: int, wiring: Wiring, links: Links, spool: Spool
    ) -> None:
        self._name = f"packer-{number}"
        self._number = number
        self._process = wiring.receivers + number
        self._wiring = wiring
        self._lanes = wiring.passage.lanes
        self._links = links
        self._stats = links.stats
        self._log = log.get()
        self._spool = spool
        self._room = Room.of(config, links.stats)
        self._health = Health(spool, links.stats)
        self._rows = tabulate(config).rows
        hashers = [hasher_for(row.builder) for row in self._rows]
        self._intake = Intake(self._lanes, self._process, hashers, crc32)
        outcomes = links.outcomes[self._name]
        self._statuses = Statuses(self._intake, wiring, outcomes.recv)
        self._digests = Digests()
        self._open = OpenEnvelopes()
        self._senders = Senders(
            self._intake, self._lanes, self._rows, self._open, spool, links.stats
        )
        self._pending: list[_Pending] = []
        ring = partial(os.eventfd_write, wiring.wake[self._process], 1)
        self._aside = Aside(ring)
        self._joins = Aside(ring)
        self._spills = Spills(spool, self._room, self._name, self._joins.do)
        self._recoveries = RecoveryQueue(
            spool, links, self._name, self._aside, self._health.doubted
        )
        self._reservation = Reservation(links.stats, self._open, self._recoveries, self._spills)
        self._answered = outcomes.fileno()
        self._poll = select.poll()
        for descriptor in (wiring.wake[self._process], links.stop, self._answered):
            self._poll.register(descriptor, select.POLLIN)
        self._stopping = False
        self._recovered = False

    # -- the loop ----------------------------------------------------------------------------

    def run(self) -> None:
        """Packs until the stop descriptor is readable, then seals everything and returns."""
        try_keys(row.builder for row in self._rows)
        if self._health.reclaim():
            self._recover()
        while True:
            self._joins.settle()
            # With other work at hand each lane is looked at once, so that it is not late.
            behind = self._digests.oldest
            report = self._intake.poll(0 if self._pending or behind else self._turns())
            if report is not None:
                self._handle(*report)
                self._hold_less()
                self._keep_up()
                continue
            if self._pending:
                self._commit()
                self._keep_up()
                continue
            if behind is not None:
                self._digest(behind)
                ready = self._poll.poll(0)
                if not ready and not self._overdue():
                    continue
                self._answer(ready)
            self._aside.settle()
            self._seal_due()
            self._recoveries.retry_due()
            self._reservation.tell()
            if self._health.probe_due():
                self._resume()
            if self._stopping and not self._statuses.awaited and not self._joins.busy:
                break
            if self._digests.oldest is None:
                self._sleep()
        for packing in self._open:
            self._seal(packing, "shutting down")
        self._recoveries.finish()
        self._joins.finish()

    def _turns(self) -> int:
        """Spin only while an association is live, and no timer is due."""
        return SPIN_TURNS if self._intake.listening and not self._overdue() else 1

    def _overdue(self) -> bool:
        return self._next_due() <= time.monotonic()

    def _next_due(self) -> float:
        return min([*self._recoveries.due, self._open.due, self._health.due])

    def _sleep(self) -> None:
        seconds = max(0.0, self._next_due() - time.monotonic())
        if self._intake.listening:
            seconds = min(seconds, NAP_SECS)
        timeout = None if math.isinf(seconds) else seconds * 1000 + 1
        self._lanes.doze(self._process)
        try:
            report = self._intake.poll(1)
            if report is not None:
                self._handle(*report)
                return
            ready = self._poll.poll(timeout)
        finally:
            self._lanes.rouse(self._process)
        self._answer(ready)

    def _answer(self, ready: list[tuple[int, int]]) -> None:
        """What others wrote to us: the supervisor, the uploader, whoever rang."""
        for descriptor, _ in ready:
            if descriptor == self._links.stop:
                self._stopping = True
                self._poll.unregister(descriptor)
            elif descriptor == self._answered:
                self._statuses.take_outcomes()
            else:
                os.eventfd_read(descriptor)

    def _handle(self, event: int, lane: int) -> None:
        if event == _core.ARRIVED:
            self._arrived(lane)
        elif event == _core.SPILL:
            self._spill(lane)
        elif event == _core.CLOSED:
            self._senders.ended(self._intake.association)
        elif event == _core.ROOM:
            self._statuses.wake_owner(lane)
        elif event == _core.FORGOTTEN:
            self._senders.broke_off(lane)
            self._spills.forget(lane)
            self._statuses.grant(lane, Status.INTERNAL)
        else:
            self._log.error("instance_lost", lane=lane, why="the packer that held it died")
            self._statuses.refuse(lane, b"the packer restarted; send again")

    def _recover(self) -> None:
        """Before anything new is begun: what is there was left."""
        self._recovered = True
        self._spool.take_over(self._name)
        # Copies first: whether one counts is asked while its original is still there.
        found = sorted(self._spool.drafts.leftovers(), key=lambda one: one.recipe.replaces is None)
        for leftover in found:
            if leftover.recipe.packer % self._wiring.packers == self._number:
                self._recoveries.submit(leftover)

    def _resume(self) -> None:
        """Resumes when the storage is well again. Work that waited for it is tried at once.
        Drafts that did not come back with it are given up before anything is added to them."""
        if not self._recovered:
            self._recover()
        for packing in self._open:
            if not packing.joining and not packing.draft.is_there():
                self._give_up(packing)
        self._recoveries.make_due()

    # -- instances ---------------------------------------------------------------------------

    def _arrived(self, lane: int) -> None:
        """An instance is whole: it is appended to its study's envelope."""
        arrival = self._intake.arrival(lane)
        settings = self._rows[arrival.settings]
        packing = self._open.get(key_of(settings, arrival.study_instance_uid))
        if packing is not None and packing.joining:
            packing.waiting.append(lane)
            return
        try:
            if self._health.stopped:
                raise StorageFailed("the storage has failed")
            if lane in self._spills:
                self._take_spilled(lane, packing, arrival, settings)
                return
            size = arrival.size * (2 if encrypts(settings.builder) else 1)
            packing = self._packing_for(packing, lane, arrival, settings, size)
            self._append(lane, packing, arrival)
        except OSError as problem:
            self._refuse(lane, problem)
        except Exception as problem:  # a fault of ours costs one instance
            self._fail(lane, problem)

    def _refuse(self, lane: int, problem: OSError) -> None:
        self._log.error("append_failed", why=reason(problem))
        self._spills.forget(lane)
        self._statuses.refuse(lane)
        if not self._health.stopped:
            self._health.blame(problem)

    def _fail(self, lane: int, problem: Exception) -> None:
        self._log.error("append_failed", why=repr(problem), exc_info=problem)
        self._spills.forget(lane)
        with contextlib.suppress(ValueError):  # it has its status
            self._statuses.fail(lane)

    def _packing_for(
        self, packing: Packing | None, lane: int, arrival: Arrival, settings: Settings, size: int
    ) -> Packing:
        """Returns the envelope that is open for the instance's study, or a new one, if the
        storage has room for `size` more bytes and what comes of them. Raises OSError."""
        if packing is not None and packing.full_with(arrival.size):
            full, packing = packing, None
        else:
            full = None
        files = DRAFT_INODES + OPEN_INODES if packing is None else 0
        if not self._room.fits(size + seal_bytes(packing is None, 1), files):
            raise self._spills.full()
        if packing is not None:
            return packing
        if full is not None:
            self._seal_early(full, "full")
        if len(self._open) >= OPEN_MAX:
            self._senders.note_inside()
            if (quietest := self._open.quietest()) is not None:
                self._seal_early(quietest, "too many are open")
        calling_ae = self._lanes.calling_ae(lane).decode("latin-1").strip()
        packing = Packing.open(self._spool, settings, self._number, arrival, calling_ae)
        self._room.spend(0, files=DRAFT_INODES)
        self._open.add(packing)
        self._stats.set("envelopes_building", len(self._open))
        self._reservation.tell()
        return packing

    def _append(self, lane: int, packing: Packing, arrival: Arrival) -> None:
        # Where the page cache is promise enough, the sender goes on while the rest is entered.
        rules = packing.settings
        at_once = rules.builder.durability == "page-cache" and rules.listener.ack == "stored"
        written = partial(self._written, lane, packing) if at_once else None
        try:
            taken = packing.append(arrival, self._intake.buffers(lane), written)
        except Exception as problem:
            self._give_up_if(packing, problem)
            raise
        self._room.spend(arrival.size)
        self._senders.arrived(lane, packing, arrival)
        self._account(lane, packing, taken, granted=at_once and taken is not None)

    def _account(
        self, lane: int, packing: Packing, taken: Instance | None, *, granted: bool
    ) -> None:
        """Counts an instance, and owes it its digest and its status.

        None: the envelope had it already. The earlier copy is in the same file, and its status
        needs the same commit.
        """
        if taken is None:
            self._stats.add("instances_duplicate_total")
        else:
            self._open.grown(packing, 1)
            conflicts.count(packing, taken, self._stats)
            if taken.digest is None and not packing.builder.skip_hashing:
                self._digests.owe(packing, taken)
        self._reservation.tell_bytes()
        if packing.settings.listener.ack == "uploaded":
            self._statuses.await_upstream(packing.draft.id, lane)
            self._seal(packing, "ack = uploaded")
        elif not granted:
            self._pending.append(_Pending(lane, packing))

    def _written(self, lane: int, packing: Packing) -> None:
        packing.draft.commit()
        self._statuses.grant(lane)

    def _hold_less(self) -> None:
        """Seals the largest envelope when those that are open hold too many instances."""
        if (largest := self._open.too_large()) is not None:
            self._seal_early(largest, "too many instances are held")

    def _seal_early(self, packing: Packing, why: str) -> None:
        """Room for another: what has no status yet gets it first."""
        self._commit_now(packing)
        if packing in self._open:  # the commit did not fail
            self._seal(packing, why)

    # -- instances that are larger than their lanes ------------------------------------------

    def _spill(self, lane: int) -> None:
        """Moves the bytes in the lane to a file of the instance's own."""
        try:
            if lane not in self._spills:
                settings = self._rows[self._intake.arrival(lane).settings]
                twice = encrypts(settings.builder)
                self._spills.begin(lane, twice=twice)
                if self._health.stopped:
                    raise StorageFailed("the storage has failed")
                self._spills.open(lane)
            self._spills.append(lane, self._intake.buffers(lane))
        except Exception as problem:
            self._log.error("spill_failed", why=reason(problem))
            if not self._health.stopped:
                self._health.blame(problem)
            self._spills.refuse(lane)
        self._reservation.tell()
        self._statuses.release(lane)

    def _take_spilled(
        self, lane: int, packing: Packing | None, arrival: Arrival, settings: Settings
    ) -> None:
        """Joins an instance that is all here: its file goes into the envelope beside the loop.
        Raises OSError.
        """
        spilled = self._spills.whole(lane)
        spill = spilled.file
        self._spills.append(lane, self._intake.buffers(lane))  # the rest of it
        self._reservation.tell()
        packing = self._packing_for(packing, lane, arrival, settings, 0)
        self._commit_now(packing)  # while it is joined, a sync would wait for that
        if packing not in self._open:
            raise StorageError("the envelope could not keep an earlier instance")
        work = packing.join(arrival, spill)
        self._senders.arrived(lane, packing, arrival)
        self._spills.take(lane)
        self._joins.begin(work, partial(self._joined, lane, packing, arrival, spilled))

    def _joined(
        self,
        lane: int,
        packing: Packing,
        arrival: Arrival,
        spilled: Spilling,
        work: Callable[[], int | None],
    ) -> None:
        """Notes that an instance was joined. It has its status with the next commit; then it is the
        turn of those that waited.
        """
        packing.joining = False
        waiting, packing.waiting = packing.waiting, []
        self._spills.drop(spilled)
        try:
            taken = packing.joined(arrival, work())
        except OSError as problem:
            self._open.grown(packing, 0)
            self._give_up_if(packing, problem)
            self._refuse(lane, problem)
        except Exception as problem:
            self._open.grown(packing, 0)
            self._give_up_if(packing, problem)
            self._fail(lane, problem)
        else:
            packing.last_arrival = time.monotonic()
            self._account(lane, packing, taken, granted=False)
        for one in waiting:
            self._arrived(one)

    # -- digests -----------------------------------------------------------------------------

    def _digest(self, packing: Packing) -> None:
        """A step. What cannot be read back is left to recovery, which verifies all of it."""
        try:
            self._digests.step(packing)
        except Exception as problem:
            self._log.error("digest_failed", envelope=packing.draft.id, why=reason(problem))
            if isinstance(problem, OSError):
                self._health.failed(problem)
            self._give_up(packing)

    def _keep_up(self) -> None:
        """No more waits for its digest than what a seal can do at once. Answers go before it."""
        while (
            not self._pending
            and self._digests.too_many
            and (behind := self._digests.oldest) is not None
        ):
            self._digest(behind)

    # -- commit and grant --------------------------------------------------------------------

    def _commit(self) -> None:
        """One fdatasync an envelope; then the statuses of all instances it covers."""
        pending, self._pending = self._pending, []
        failed: set[Packing] = set()
        for packing in dict.fromkeys(p.packing for p in pending):
            try:
                packing.draft.commit()
            except StorageError as problem:
                failed.add(packing)
                self._log.error("commit_failed", envelope=packing.draft.id, why=problem.message)
                if not isinstance(problem, LimitReached):  # a full disk, too: its pages are lost
                    self._health.failed(problem)
        reach("packer.synced")
        for one in pending:
            if one.packing in failed:
                self._statuses.refuse(one.lane, b"the storage failed; send again")
            else:
                self._statuses.grant(one.lane)
        reach("packer.granted")
        for packing in failed:
            self._give_up(packing)

    def _commit_now(self, packing: Packing) -> None:
        """Gives all instances of this envelope without a status their status."""
        if any(one.packing is packing for one in self._pending):
            self._commit()

    def _give_up_if(self, packing: Packing, problem: Exception) -> None:
        """Gives the draft up after a failure that says that the file is not to be written again,
        or when memory does not say any more what the file holds."""
        failure = storage_error(problem) if isinstance(problem, OSError) else None
        if packing.draft.suspect or isinstance(failure, StorageGone):
            self._give_up(packing)
        elif packing.draft.end != packing.end:
            self._commit_now(packing)  # others' instances in it get their status first
            if packing in self._open:  # the commit did not fail
                self._give_up(packing)

    def _give_up(self, packing: Packing) -> None:
        """After a failed sync pages may be gone: what the file promised goes to another one."""
        mine = [one for one in self._pending if one.packing is packing]
        self._pending = [one for one in self._pending if one.packing is not packing]
        for one in mine:
            self._statuses.refuse(one.lane, b"the storage failed; send again")
        self._forget(packing)
        self._digests.forget(packing)
        leftover = packing.draft.leave()
        if packing.draft.promised:
            self._recoveries.submit(leftover)
        else:
            packing.draft.abandon()

    # -- seal --------------------------------------------------------------------------------

    def _seal_due(self) -> None:
        now = time.monotonic()
        if self._open.due <= now:
            self._senders.note_inside()
        for packing in self._open.take_due(now):
            self._seal(packing, packing.why_due)

    def _forget(self, packing: Packing) -> None:
        self._open.remove(packing)
        self._stats.set("envelopes_building", len(self._open))

    def _seal(self, packing: Packing, why: str) -> None:
        """To outbox/; an encrypted one aside, where it takes the time that it takes."""
        self._forget(packing)
        draft = packing.draft
        if not packing.members:
            draft.abandon()
            return
        try:
            self._digests.finish(packing)
        except Exception as problem:
            self._unsealable(packing, problem)
            return
        work = partial(seal, draft, packing.contents, packing.members, self._name)
        if packing.encrypts:
            self._reservation.encrypting[draft.id] = draft.end
            self._aside.begin(work, partial(self._sealed, packing, why))
        else:
            self._sealed(packing, why, work)

    def _sealed(self, packing: Packing, why: str, work: Callable[[], Ticket]) -> None:
        """When it failed, what was promised is tried again from the disk."""
        self._reservation.encrypting.pop(packing.draft.id, None)
        try:
            ticket = work()
        except Exception as problem:
            self._unsealable(packing, problem)
            return
        self._stats.add("envelopes_sealed_total")
        self._log.info(
            "envelope_sealed",
            envelope=ticket.id,
            calling_ae=ticket.calling_ae,
            instances=ticket.instances,
            bytes=ticket.size_bytes,
            why=why,
            **conflicts.counted(packing),
        )
        self._links.ring_outbox()

    def _unsealable(self, packing: Packing, problem: Exception) -> None:
        self._log.error("seal_failed", envelope=packing.draft.id, why=reason(problem))
        leftover = packing.draft.leave()
        self._health.blame(problem)
        self._statuses.give_up(packing.draft.id)
        if leftover.suspect:
            self._recoveries.submit(leftover)
        else:
            self._recoveries.submit_later(leftover)


def run(config: Config, number: int, wiring: Wiring, links: Links, spool: Spool) -> None:
    """The packer process: returns when it has sealed everything."""
    Packer(config, number, wiring, links, spool).run()
