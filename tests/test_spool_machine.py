"""A model against the real spool: any history of instances, crashes, power cuts and uploads.

The model knows what was acknowledged. A crash loses any part of what was not committed, or leaves
garbage there, and may come inside a step: a child process does it and ends before its n-th rename.
After each start: what was acknowledged is in an envelope, byte for byte; nothing in outbox/ is
partial; an id has one content for ever; what is delivered has its receipt.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import configs
import pytest
import reference
import wire
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from nightly import by_form

from fastjmix import sealing
from fastjmix.dicom.dataset import file_meta_prefix
from fastjmix.packing import Packing
from fastjmix.recovery import recover
from fastjmix.settings import tabulate
from fastjmix.spool import Spool

STUDIES = ("1.2.1", "1.2.2")
INSTANCES = ("1.9.1", "1.9.2", "1.9.3")
DOCUMENTS = ("manifest.json", "payload/metadata.json")


def arrival(study: str, instance: str, data: bytes) -> tuple[Any, list[memoryview]]:
    """What a lane announces of an instance, and its buffers."""
    meta = file_meta_prefix(wire.CT, wire.EXPLICIT, "PEER", "JMIX").render(instance.encode())
    member = meta + data
    announced = SimpleNamespace(
        study_instance_uid=study.encode(),
        series_instance_uid=b"1.2.3.2",
        sop_class_uid=wire.CT.encode(),
        sop_instance_uid=instance.encode(),
        transfer_syntax_uid=wire.EXPLICIT.encode(),
        instance_number=1,
        prefix_length=len(meta),
        data_bytes=len(data),
        size=len(member),
        crc=zlib.crc32(member),
        digest=hashlib.sha256(member).digest(),
        spilled=False,
    )
    return announced, [memoryview(meta), memoryview(data)]


def dies_at_rename(step: Callable[[], object], count: int) -> bool:
    """Does a step in a child that is gone before its rename number `count`; True if it died."""
    child = os.fork()
    if child == 0:
        left = count
        rename = Path.rename

        def counted(self: Path, target: Path) -> Path:
            nonlocal left
            left -= 1
            if left <= 0:
                os._exit(9)
            return rename(self, target)

        Path.rename = counted
        try:
            step()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), "the step failed by itself"
    return status == 9


class SpoolMachine(RuleBasedStateMachine):
    """One node with one packer and one uploader."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="fastjmix-machine-"))
        self.rules = tabulate(configs.loaded(self.root / "config")).rows[0]
        self.spool = Spool(self.root / "spool")
        self.spool.prepare()
        self.open: dict[str, Packing] = {}
        self.committed: dict[str, int] = {}
        self.pending: dict[str, list[bytes]] = {}
        self.received: set[bytes] = set()
        self.acknowledged: set[bytes] = set()
        self.retained: set[bytes] = set()
        self.contents: dict[str, str] = {}

    def teardown(self) -> None:
        self.stop()
        shutil.rmtree(self.root)

    # -- what the node does ------------------------------------------------------------------

    @rule(study=st.sampled_from(STUDIES), instance=st.sampled_from(INSTANCES), filler=st.binary())
    def receive(self, study: str, instance: str, filler: bytes) -> None:
        data = wire.data_set(instance, study=study, pixels=filler * 40 + b"\1")
        announced, buffers = arrival(study, instance, data)
        if study not in self.open:
            self.open[study] = Packing.open(self.spool, self.rules, 0, announced, "PEER")
            self.committed[study] = 0
            self.pending[study] = []
        self.open[study].append(announced, buffers, data)
        member = b"".join(buffers)
        self.received.add(member)
        self.pending[study].append(member)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.commit_study(data.draw(st.sampled_from(sorted(self.open))))

    def commit_study(self, study: str) -> None:
        self.open[study].draft.commit()
        self.committed[study] = self.open[study].draft.end
        self.acknowledged.update(self.pending[study])
        self.pending[study] = []

    def seal_packing(self, one: Packing) -> object:
        return sealing.seal(one.draft, one.contents, one.members, "packer-0")

    @precondition(lambda self: self.open)
    @rule(data=st.data(), renames=st.integers(0, 5))
    def seal(self, data: st.DataObject, renames: int) -> None:
        study = data.draw(st.sampled_from(sorted(self.open)))
        self.commit_study(study)
        one = self.open[study]
        if renames and dies_at_rename(lambda: self.seal_packing(one), renames):
            self.start_again()
            return
        if not renames:
            self.seal_packing(one)
        one.draft.close()
        del self.open[study], self.committed[study], self.pending[study]

    # -- upload, retry, refusal, retention -----------------------------------------------------

    @precondition(lambda self: self.spool.waiting())
    @rule(data=st.data(), renames=st.integers(0, 4), refused=st.booleans())
    def upload(self, data: st.DataObject, renames: int, refused: bool) -> None:
        """An attempt that is answered; with `renames` the node dies while it notes the answer."""
        one = data.draw(st.sampled_from(self.spool.waiting()))

        def note() -> None:
            if refused:
                self.spool.reject(one, {"status": 400})
            else:
                self.spool.deliver(one, {"status": 201})

        if not renames:
            note()
        elif dies_at_rename(note, renames):
            self.start_again()

    @rule(most=st.integers(0, 40_000))
    def retain(self, most: int) -> None:
        before = {p.stem: set(self.members(p)) for p in self.spool.sent.glob("*.zip")}
        for one in self.spool.retain(None, most):
            self.retained |= before[one]

    # -- crashes -----------------------------------------------------------------------------

    @rule(kept=st.floats(0, 1), garbage=st.binary(max_size=40), after=st.booleans())
    def crash(self, kept: float, garbage: bytes, after: bool) -> None:
        """The node ends; of what no commit covered, any part is lost or overwritten."""
        for study, one in self.open.items():
            archive, committed = one.draft.archive, self.committed[study]
            loose = one.draft.end - committed
            os.truncate(archive, committed + int(loose * kept))
            if garbage:
                with archive.open("r+b") as file:
                    file.seek(0 if after else committed, os.SEEK_END if after else os.SEEK_SET)
                    file.write(garbage)
        self.start_again()

    def stop(self) -> None:
        for one in self.open.values():
            one.draft.close()
        self.open, self.committed, self.pending = {}, {}, {}
        self.spool.release()

    def start_again(self) -> None:
        self.stop()
        self.spool = Spool(self.root / "spool")
        self.spool.prepare()
        for leftover in self.spool.leftovers():
            outcome = recover(self.spool, leftover, "packer-0")
            fresh = getattr(outcome, "fresh", None)
            if fresh is not None:
                recover(self.spool, fresh, "packer-0")
        assert not list(self.spool.building.iterdir())

    # -- what must hold ------------------------------------------------------------------------

    def members(self, archive: Path) -> list[bytes]:
        """Instances in an archive that a strict reader reads to its end."""
        return [
            data
            for name, data in reference.read_forward(archive.read_bytes())
            if name not in DOCUMENTS and not name.startswith("payload/audit")
        ]

    @invariant()
    def every_promise_is_kept(self) -> None:
        found: set[bytes] = set(self.retained)
        for state in (self.spool.outbox, self.spool.sent, self.spool.rejected):
            for archive in state.glob("*.zip"):
                found |= set(self.members(archive))
        for study, one in self.open.items():
            text = one.draft.archive.read_bytes()[: self.committed[study]]
            found |= {m for m in self.acknowledged if m in text}
        assert self.acknowledged <= found
        assert found <= self.received

    @invariant()
    def nothing_is_partial(self) -> None:
        for state in ("outbox", "sent", "rejected"):
            directory = self.root / "spool" / state
            archives = {p.stem for p in directory.glob("*.zip")}
            assert {p.stem for p in directory.glob("*.json")} == archives
            for one in archives:
                ticket = self.spool.ticket(state, one)
                path = self.spool.path(state, one)
                assert ticket.size_bytes == path.stat().st_size
                assert ticket.instances == len(self.members(path)) > 0
                assert (ticket.receipt is not None) == (state == "sent")
                assert (ticket.refusal is not None) == (state == "rejected")

    @invariant()
    def an_id_has_one_content_in_one_place(self) -> None:
        seen: list[str] = []
        for state in (self.spool.outbox, self.spool.sent, self.spool.rejected):
            for archive in state.glob("*.zip"):
                seen.append(archive.stem)
                digest = hashlib.sha256(archive.read_bytes()).hexdigest()
                assert self.contents.setdefault(archive.stem, digest) == digest
        assert len(seen) == len(set(seen))


@pytest.mark.once
@pytest.mark.timeout(by_form(120, 7200))
def test_f18_any_history_of_torn_writes_and_crashes() -> None:
    """Uncommitted bytes are lost or garbled in part; the order within a file is not simulated."""
    chosen = settings(
        max_examples=by_form(25, 2000),
        stateful_step_count=by_form(30, 60),
        deadline=None,
        print_blob=True,  # how to repeat what it found
    )
    run_state_machine_as_test(SpoolMachine, settings=chosen)
