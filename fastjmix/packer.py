"""Process: lanes → archive → spool, and digests behind. Never sees a DICOM socket.

Wanted: an instance is appended once it is whole, acknowledged once it is durable, and digested
while its sender is busy with the next (digesting.py), or while it arrives when there are others.
Guaranteed: the process that writes is the one that syncs and grants the status. Group commit: all
instances that are whole when a commit begins are covered by it; a status is granted only after the
fdatasync(2) that covers the instance (durability = "fsync").
An envelope that cannot be sealed is tried again from the disk. After a failed sync its instances
are answered A700, the file is left alone, and what it had promised is read back from the disk,
verified, and sealed in another (recovery.py). Storage that fails twice takes nothing for a while
(health.py). Recovery, and encryption at the seal, take as long as reading all of an envelope: both
are done beside this loop (mending.py, aside.py).
Still wrong: a seal that does not encrypt is made in the loop, and the other associations of this
packer wait for it.
"""

from __future__ import annotations

import errno
import math
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import orjson
from isal.isal_zlib import crc32

from fastjmix import _core, log
from fastjmix._core import Arrival, Intake
from fastjmix.aside import Aside
from fastjmix.config import Builder, Config
from fastjmix.dicom.dimse import MEANING, Status
from fastjmix.digesting import Digests
from fastjmix.errors import ConfigError
from fastjmix.failpoints import reach
from fastjmix.health import Health
from fastjmix.jmix.digests import Hash, new_hash
from fastjmix.jmix.envelope import Instance
from fastjmix.links import Links
from fastjmix.mending import Mending
from fastjmix.packing import Packing, encrypts, key_of
from fastjmix.sealing import seal, signing_keys
from fastjmix.settings import Settings, tabulate
from fastjmix.spool import SCARCE, Room, Spill, Spool, Ticket, seal_bytes
from fastjmix.wiring import Wiring

SPIN_TURNS: Final = 20_000
"""Looks at the lanes before sleeping, a sched_yield every 50: the measured optimum of a hand-over
between two processes on two cores (ARCHITECTURE.md, "Waking")."""

NAP_SECS: Final = 1.0
"""The longest sleep while an association is live: a bell that was lost costs this, no more."""

OPEN_MAX: Final = 512
"""Envelopes that are open at once, of one packer; each costs two descriptors, and memory until its
seal. When one more study begins, the one that was quiet for longest is sealed."""

OUTCOME_BYTES: Final = 4096
"""A datagram of the uploader about one envelope."""


@dataclass(slots=True)
class _Pending:
    """An instance that is written, and waits for the commit that covers it."""

    lane: int
    packing: Packing


def hasher_for(builder: Builder) -> Callable[[], Hash] | None:
    """Makes the hash object of an instance; None when it is not hashed."""
    return None if builder.skip_hashing else partial(new_hash, builder.digest)


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
        self._room = Room.of(config)
        self._health = Health(spool, links.stats)
        self._unsealed = 0
        self._rows = tabulate(config).rows
        hashers = [hasher_for(row.builder) for row in self._rows]
        self._intake = Intake(self._lanes, self._process, hashers, crc32)
        self._digests = Digests()
        self._open: dict[tuple[Any, ...], Packing] = {}
        self._sent_by: dict[int, set[Packing]] = {}
        self._pending: list[_Pending] = []
        self._spills: dict[int, tuple[Spill | None, bytes]] = {}
        self._awaiting: dict[str, int] = {}
        self._encrypts = any(encrypts(row.builder) for row in self._rows)
        self._encrypting: dict[str, int] = {}
        self._aside = Aside(lambda: os.eventfd_write(wiring.wake[self._process], 1))
        self._mending = Mending(spool, links, self._name, self._aside, self._blame)
        self._outcomes = links.outcomes[self._name]
        self._poll = select.poll()
        for descriptor in (wiring.wake[self._process], links.stop, self._outcomes.fileno()):
            self._poll.register(descriptor, select.POLLIN)
        self._stopping = False

    # -- the loop ----------------------------------------------------------------------------

    def run(self) -> None:
        """Packs until the stop descriptor is readable, then seals everything and returns."""
        self._read_keys()
        self._recover()
        while True:
            # With other work at hand each lane is looked at once, so that it is not late.
            behind = self._digests.oldest
            report = self._intake.poll(0 if self._pending or behind else self._turns())
            if report is not None:
                self._handle(*report)
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
            self._mending.tend()
            self._count_encrypting()
            self._health.probe_due()
            if self._stopping and not self._awaiting:
                break
            if self._digests.oldest is None:
                self._sleep()
        for packing in list(self._open.values()):
            self._seal(packing, "shutting down")
        self._mending.finish()

    def _turns(self) -> int:
        """Spin only while an association is live, and no timer is due."""
        return SPIN_TURNS if self._intake.listening and not self._overdue() else 1

    def _overdue(self) -> bool:
        return self._next_due() <= time.monotonic()

    def _next_due(self) -> float:
        due = [p.due() for p in self._open.values()] + self._mending.due
        return min([*due, self._health.due])

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
            elif descriptor == self._outcomes.fileno():
                self._take_outcomes()
            else:
                os.eventfd_read(descriptor)

    def _handle(self, event: int, lane: int) -> None:
        if event == _core.ARRIVED:
            self._arrived(lane)
        elif event == _core.SPILL:
            self._spill(lane)
        elif event == _core.CLOSED:
            self._closed(self._intake.association)
        elif event == _core.ROOM:
            self._wake_owner(lane)
        elif event == _core.FORGOTTEN:
            self._drop_spill(lane)
            self._grant(lane, Status.INTERNAL)
        else:
            self._log.error("instance_lost", lane=lane, why="the packer that held it died")
            self._grant(lane, Status.OUT_OF_RESOURCES, b"the packer restarted; send again")

    def _read_keys(self) -> None:
        """Now rather than at the first seal: an operator is looking."""
        for row in self._rows:
            try:
                signing_keys(row.builder.published)
            except ConfigError as problem:
                self._log.error("key_unreadable", why=problem.message)

    def _recover(self) -> None:
        """Before anything new is begun: what is there was left."""
        self._spool.take_over(self._name)
        # Copies first: whether one counts is asked while its original is still there.
        found = sorted(self._spool.leftovers(), key=lambda one: "replaces" not in one.recipe)
        for leftover in found:
            if leftover.recipe["packer"] % self._wiring.packers == self._number:
                self._mending.give(leftover)

    # -- instances ---------------------------------------------------------------------------

    def _arrived(self, lane: int) -> None:
        """An instance is whole: it is appended to its study's envelope."""
        arrival = self._intake.arrival(lane)
        settings = self._rows[arrival.settings]
        spill, head = self._spills.pop(lane, (None, b""))
        try:
            if arrival.spilled and spill is None:
                raise OSError("the instance's spill file could not be written")
            if self._health.stopped:
                raise OSError(errno.EIO, "the storage has failed")
            if self._room.exhausted(arrival.size + self._owed(arrival.size, settings)):
                raise OSError(errno.ENOSPC, "the storage directory is nearly full")
            if spill is not None:
                spill.append(self._intake.buffers(lane))  # the rest of it
            self._append(lane, arrival, settings, spill, head or self._intake.head(lane))
        except OSError as problem:
            self._log.error("append_failed", why=problem.strerror or str(problem))
            self._grant(lane, Status.OUT_OF_RESOURCES, MEANING[Status.OUT_OF_RESOURCES].encode())
            if not self._health.stopped:
                self._blame(problem)
        finally:
            if spill is not None:
                spill.drop()

    def _owed(self, size: int, settings: Settings) -> int:
        """Bytes that the open envelopes will still take, with one more instance in them."""
        owed = seal_bytes(len(self._open), self._unsealed)
        if self._encrypts:  # what is to be encrypted is written once more, beside the first
            self._count_encrypting()
            owed += self._stats.total("bytes_to_encrypt")  # every packer's: they share the disk
            owed += size if encrypts(settings.builder) else 0
        return owed

    def _count_encrypting(self) -> None:
        """Tells the other packers how much room ours will take."""
        if not self._encrypts:
            return
        mine = self._mending.to_encrypt + sum(self._encrypting.values())
        mine += sum(packing.draft.end for packing in self._open.values() if packing.encrypts)
        self._stats.set("bytes_to_encrypt", mine)

    def _append(
        self, lane: int, arrival: Arrival, settings: Settings, spill: Spill | None, head: bytes
    ) -> None:
        packing = self._packing_for(lane, arrival, settings)
        # Where the page cache is promise enough, the sender goes on while the rest is entered.
        at_once = packing.builder.durability == "page-cache" and settings.listener.ack == "stored"
        written = partial(self._written, lane, packing) if at_once else None
        try:
            taken = packing.append(arrival, self._intake.buffers(lane), spill, head, written)
        except OSError:
            if packing.draft.suspect:
                self._give_up(packing)
            raise
        packing.instance_arrived(arrival.association, time.monotonic())
        self._sent_by.setdefault(arrival.association, set()).add(packing)
        self._room.spend(arrival.size)
        self._account(packing, arrival, taken)
        if settings.listener.ack == "uploaded":
            self._awaiting[packing.draft.id] = lane
            self._seal(packing, "ack = uploaded")
        elif not at_once:
            self._pending.append(_Pending(lane, packing))
        elif taken is None:  # nothing was written
            self._grant(lane, Status.SUCCESS)

    def _account(self, packing: Packing, arrival: Arrival, taken: Instance | None) -> None:
        """Counts an instance, and owes it its digest; None when the envelope had it already."""
        if taken is None:
            self._stats.add("instances_duplicate_total")
            return
        self._unsealed += 1
        if packing.is_conflict(arrival):
            self._stats.add("instances_conflicting_total")
            self._log.warning("instance_conflict", envelope=packing.draft.id)
        if taken.digest is None and not packing.builder.skip_hashing:
            self._digests.owe(packing, taken)

    def _written(self, lane: int, packing: Packing) -> None:
        packing.draft.commit()
        self._grant(lane, Status.SUCCESS)

    def _packing_for(self, lane: int, arrival: Arrival, settings: Settings) -> Packing:
        """The open envelope of the instance's study, or a new one. Raises OSError."""
        key: tuple[Any, ...] = key_of(settings, arrival.study_instance_uid)
        packing = self._open.get(key)
        if packing is not None and packing.full_with(arrival.size):
            self._seal_early(packing, "full")
            packing = None
        if packing is None:
            if len(self._open) >= OPEN_MAX:
                longest = min(self._open.values(), key=lambda one: one.last_arrival)
                self._seal_early(longest, "too many are open")
            calling_ae = self._lanes.calling_ae(lane).decode("latin-1").strip()
            packing = Packing.open(self._spool, settings, self._number, arrival, calling_ae)
            self._open[key] = packing
            self._stats.set("envelopes_building", len(self._open))
        return packing

    def _seal_early(self, packing: Packing, why: str) -> None:
        """Room for another: what has no status yet gets it first."""
        if any(one.packing is packing for one in self._pending):
            self._commit()
        if any(one is packing for one in self._open.values()):  # the commit did not fail
            self._seal(packing, why)

    def _spill(self, lane: int) -> None:
        """An instance larger than its lane: what is there goes to a file of its own."""
        spill, head = self._spills.get(lane, (None, b""))
        try:
            if lane not in self._spills:
                head = self._intake.head(lane)
                spill = self._spool.new_spill(self._name)
            if spill is not None:
                spill.append(self._intake.buffers(lane))
                reach("packer.spilled")
        except OSError as problem:
            self._log.error("spill_failed", why=problem.strerror)
            self._blame(problem)
            if spill is not None:
                spill.drop()
            spill = None
        self._spills[lane] = (spill, head)
        if self._intake.release(lane):
            self._wake_owner(lane)

    def _drop_spill(self, lane: int) -> None:
        spill, _ = self._spills.pop(lane, (None, b""))
        if spill is not None:
            spill.drop()

    def _closed(self, association: int) -> None:
        now = time.monotonic()
        for packing in self._sent_by.pop(association, ()):
            packing.association_ended(association, now)

    # -- digests -----------------------------------------------------------------------------

    def _digest(self, packing: Packing) -> None:
        """A step. What cannot be read back is left to recovery, which verifies all of it."""
        try:
            self._digests.step(packing)
        except OSError as problem:
            self._log.error("digest_failed", envelope=packing.draft.id, why=problem.strerror)
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
            except OSError as problem:
                failed.add(packing)
                self._log.error("commit_failed", envelope=packing.draft.id, why=problem.strerror)
                self._health.failed(problem)
        reach("packer.synced")
        for one in pending:
            if one.packing in failed:
                self._grant(one.lane, Status.OUT_OF_RESOURCES, b"the storage failed; send again")
            else:
                self._grant(one.lane, Status.SUCCESS)
        reach("packer.granted")
        for packing in failed:
            self._give_up(packing)

    def _give_up(self, packing: Packing) -> None:
        """After a failed sync pages may be gone: what the file promised goes to another one."""
        mine = [one for one in self._pending if one.packing is packing]
        self._pending = [one for one in self._pending if one.packing is not packing]
        for one in mine:
            self._grant(one.lane, Status.OUT_OF_RESOURCES, b"the storage failed; send again")
        self._forget(packing)
        self._digests.forget(packing)
        leftover = packing.draft.leave()
        if packing.draft.promised:
            self._mending.give(leftover)
        else:
            packing.draft.abandon()

    def _blame(self, problem: OSError) -> None:
        """What has run out comes back, and so may a key that signs envelopes; anything else says
        that the storage is unwell."""
        if problem.errno is not None and problem.errno not in (*SCARCE, errno.ENOKEY):
            self._health.failed(problem)

    def _grant(self, lane: int, status: int, comment: bytes = b"") -> None:
        if self._intake.grant(lane, status, comment):
            self._wake_owner(lane)

    def _wake_owner(self, lane: int) -> None:
        owner = self._intake.owner(lane)
        if owner >= 0:
            os.eventfd_write(self._wiring.wake[owner], 1)

    # -- seal --------------------------------------------------------------------------------

    def _seal_due(self) -> None:
        now = time.monotonic()
        for packing in [p for p in self._open.values() if p.due() <= now]:
            self._seal(packing, "released" if packing.released_at is not None else "quiet")

    def _forget(self, packing: Packing) -> None:
        self._open = {key: p for key, p in self._open.items() if p is not packing}
        self._unsealed -= len(packing.members)
        for packings in self._sent_by.values():
            packings.discard(packing)
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
        except OSError as problem:
            self._unsealable(packing, problem)
            return
        work = partial(seal, draft, packing.contents, packing.members, self._name)
        if packing.encrypts:
            self._encrypting[draft.id] = draft.end
            self._aside.begin(work, partial(self._sealed, packing, why))
        else:
            self._sealed(packing, why, work)

    def _sealed(self, packing: Packing, why: str, work: Callable[[], Ticket]) -> None:
        """When it failed, what was promised is tried again from the disk."""
        self._encrypting.pop(packing.draft.id, None)
        try:
            ticket = work()
        except OSError as problem:
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
        )
        self._links.ring_outbox()

    def _unsealable(self, packing: Packing, problem: OSError) -> None:
        self._log.error("seal_failed", envelope=packing.draft.id, why=problem.strerror)
        leftover = packing.draft.leave()
        self._blame(problem)
        self._refuse_awaiting(packing.draft.id)
        if leftover.suspect:
            self._mending.give(leftover)
        else:
            self._mending.give_later(leftover)

    # -- ack = "uploaded" --------------------------------------------------------------------

    def _refuse_awaiting(self, envelope_id: str) -> None:
        """The instance's envelope is not going anywhere: its draft is deleted."""
        lane = self._awaiting.pop(envelope_id, None)
        if lane is not None:
            meaning = MEANING[Status.OUT_OF_RESOURCES].encode()
            self._grant(lane, Status.OUT_OF_RESOURCES, meaning)

    def _take_outcomes(self) -> None:
        """Statuses of envelopes whose instance waits for the upstream's answer."""
        while True:
            try:
                outcome = orjson.loads(self._outcomes.recv(OUTCOME_BYTES))
            except BlockingIOError:
                return
            lane = self._awaiting.pop(outcome["id"], None)
            if lane is None:
                continue
            comment = str(outcome.get("detail", "")).encode("ascii", "replace")
            if outcome["outcome"] == "delivered":
                self._grant(lane, Status.SUCCESS)
            elif outcome["outcome"] == "refused":
                self._grant(lane, Status.CANNOT_UNDERSTAND, comment or b"refused by the upstream")
            else:
                self._grant(lane, Status.OUT_OF_RESOURCES, comment or b"the upstream failed")


def run(config: Config, number: int, wiring: Wiring, links: Links, spool: Spool) -> None:
    """The packer process: returns when it has sealed everything."""
    Packer(config, number, wiring, links, spool).run()
