"""A receiver and a packer without their processes: what becomes of a C-STORE, up to its draft.

The parts are the real ones: lane, scanner, messages, intake, the packer and its spool. Only the
loops are the test's: bytes go into the lane instead of coming from a socket.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastjmix import _core
from fastjmix._core import PdvScanner
from fastjmix.dicom.association import Accepted, Acceptor, Policy
from fastjmix.ipc.channels import Channels
from fastjmix.ipc.ingest_rules import tabulate
from fastjmix.ipc.lane import Passage
from fastjmix.ipc.metrics import MetricsPage
from fastjmix.ipc.shared_lanes import SharedLanes
from fastjmix.packer.loop import Packer
from fastjmix.packer.parts import connect
from fastjmix.packer.recovery import Outcome, recover
from fastjmix.receiver.connection import Association
from fastjmix.receiver.messages import Messages, Need
from fastjmix.receiver.reports import Reports
from fastjmix.spool import AssociationFacts, Spool
from tests.support import configs, strange, wire

POLICY = Policy("JMIX_RECEIVER", True, None, 131072, True, True)


class Reception:
    """One association that stays open, and one packer."""

    def __init__(self, root: Path, capacity: int = 1 << 20, changes: str = "") -> None:
        config = configs.loaded(root / "config", changes)
        config = replace(
            config, storage_dir=root / "spool", soft_reserve_bytes=0, hard_reserve_bytes=0
        )
        self.spool = Spool(root / "spool", durable=False)
        self.spool.prepare()
        self.passage = Passage(1, capacity, 2)
        self._descriptors = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(4)]
        *wake, stop, outbox_wake = self._descriptors
        self._outcomes = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        channels = Channels(
            stop, outbox_wake, {"packer-0": self._outcomes[1]}, MetricsPage(1).row(0)
        )
        shared_lanes = SharedLanes(self.passage, wake, 1, 1)
        self.parts = connect(config, tabulate(config), 0, shared_lanes, channels, self.spool)
        self.packer = Packer(self.parts, 0, shared_lanes, channels)
        self._messages = Messages(shared_lanes, channels.metrics, Reports(channels.events))
        lanes = self.passage.lanes
        lane = lanes.lease(0)
        assert self.passage.back(lane)
        self.facts = AssociationFacts("7-1", "MODALITY", "JMIX", "::1:4711", "1.2", "V1", 5.5)
        lanes.open(lane, 1, 0, b"MODALITY", self.facts.dump())
        self._scanner = PdvScanner(lanes, lane, POLICY.max_pdu)
        answer = Acceptor(POLICY).answer(
            wire.associate_rq(*strange.contexts(), calling=b"MODALITY")
        )
        assert isinstance(answer, Accepted)
        self._association = Association(1, "", config.dicom[0], answer, self._scanner)
        self._statuses: list[int] = []
        self._waits = False

    # -- the loop's part ---------------------------------------------------------------------

    def _advance(self) -> None:
        need = self._messages.advance(self._association, self._scanner.scan())
        while need is Need.SEND:
            self._answered(self._association.response)
            need = self._messages.advance(self._association, self._scanner.scan())
        assert isinstance(need, Need), (need, self._association.violation)
        self._waits = self._waits or need is Need.STATUS

    def _answered(self, response: bytes) -> None:
        command = wire.parse_command(response[12:])
        self._statuses.append(int.from_bytes(command[0x0900], "little"))

    # -- what a test does --------------------------------------------------------------------

    def store(self, data: bytes, instance: str, sizes: list[int] | None = None) -> int:
        """Sends a C-STORE; returns its status."""
        number = strange.context_of(data)
        items = wire.pdvs(number, wire.store_rq(instance), True)
        items += wire.pdvs(number, data, False, sizes or [100_000] * (len(data) // 100_000 + 1))
        left = memoryview(wire.p_data(items))
        while left:
            view = self._scanner.reserve(65536)
            part = left[: len(view)]
            view[: len(part)] = part
            self._scanner.commit(len(part))
            left = left[len(part) :]
            self._advance()
            self._pack()
            while self._scanner.unscanned and not self._scanner.stalled:
                before = self._scanner.unscanned
                self._advance()
                self._pack()
                if self._scanner.unscanned == before:
                    break
        self._association.answered = 0
        return self._statuses.pop()

    def _pack(self) -> None:
        while (report := self.parts.intake.poll(0)) is not None:
            self.packer.handle(*report)
        self.parts.joins.drain()
        if self.parts.commit.waiting:
            self.parts.commit.commit()
        if self._waits and self._scanner.granted:
            self._waits = False
            self._answered(self._messages.granted(self._association))
            self._advance()

    def as_a_kill_leaves_it(self, root: Path, changed: Mapping[str, Any] | None = None) -> Spool:
        """Makes another spool with a copy of what is in building/ now; `changed` keys of the
        recipes, which have none where that is None."""
        import orjson

        spool = Spool(root, durable=False)
        spool.prepare()
        for draft in self.spool.building.iterdir():
            copy = shutil.copytree(draft, spool.building / draft.name)
            recipe = orjson.loads((copy / "draft.json").read_bytes()) | (changed or {})
            kept = {key: value for key, value in recipe.items() if value is not None}
            (copy / "draft.json").write_bytes(orjson.dumps(kept))
        return spool

    def seal(self) -> list[Path]:
        """Seals all that is open; returns the archives that are in outbox/ then."""
        for envelope in self.parts.envelopes:
            self.parts.sealer.seal(envelope, "the test says so")
        return sorted(self.spool.outbox.glob("*.zip"))

    def close(self) -> None:
        for worker in (self.parts.joins, self.parts.sealing):
            worker.drain()  # its thread wakes the loop by a descriptor that is closed below
        for envelope in self.parts.envelopes:
            envelope.draft.close()
        self.spool.release()
        for end in self._outcomes:
            end.close()
        del self.packer, self.parts, self._messages, self._scanner
        self.passage.close()
        for descriptor in self._descriptors:
            os.close(descriptor)


def recovered(spool: Spool) -> list[Outcome]:
    """Returns a packer's result from all that was left: it runs until nothing is left."""
    outcomes = []
    deadline = time.monotonic() + 60
    while left := spool.drafts.leftovers():
        assert time.monotonic() < deadline
        outcomes += [recover(spool, one, "packer-0") for one in left]
    return outcomes


HEAD_BYTES = _core.head_limit(1 << 20)
"""Bytes that wait for their UIDs in a lane of the smallest size."""
