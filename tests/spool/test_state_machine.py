"""Compares the real spool with a model: any history of instances, crashes, power cuts and uploads,
and of people who put files of their own where a file of ours is to go.

The model records the acknowledged instances. A crash loses any uncommitted bytes, or leaves garbage
there. It may come inside a step: a child process does the step, and ends before it makes, renames
or deletes its n-th file. After each start every acknowledged instance is in an envelope, byte for
byte. No archive in outbox/ is partial, an id has one content for ever, and a delivered envelope has
its receipt. Each of several upstreams has exactly one end in the record, and none that has taken an
envelope is pending again, however often it is moved back for those that refused it. A person's file
is where it was put, with its bytes. All of this is tried on a file system that renames without
replacing, and on one that cannot.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import traceback
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fastjmix.dicom.dataset import file_meta_prefix
from fastjmix.ipc.ingest_rules import tabulate
from fastjmix.packer import seal as sealing
from fastjmix.packer.open_envelope import OpenEnvelope
from fastjmix.packer.recovery import recover
from fastjmix.spool import AssociationFacts, Ends, Provenance, Retention, Spool, ends
from fastjmix.spool import rename as renaming
from fastjmix.spool.ticket import End
from tests import reference
from tests.support import configs, wire
from tests.support.nightly import by_form

STUDIES = ("1.2.1", "1.2.2")
INSTANCES = ("1.9.1", "1.9.2", "1.9.3")
DOCUMENTS = ("manifest.json", "payload/metadata.json")


def arrival(study: str, instance: str, data: bytes) -> tuple[Any, list[memoryview]]:
    """Returns an instance as a lane announces it, and its buffers."""
    meta = file_meta_prefix(wire.CT, wire.EXPLICIT, "PEER", "JMIX").render(instance.encode())
    member = meta + data
    announced = SimpleNamespace(
        association=1,
        arrived_ms=1_700_000_000_000,
        association_facts=AssociationFacts("1-1").dump(),
        study_instance_uid=study.encode(),
        series_instance_uid=b"1.2.3.2",
        sop_class_uid=wire.CT.encode(),
        sop_instance_uid=instance.encode(),
        transfer_syntax_uid=wire.EXPLICIT.encode(),
        instance_number=1,
        head_length=len(data),
        elements=b"",
        fault=b"",
        prefix_length=len(meta),
        data_bytes=len(data),
        size=len(member),
        crc=zlib.crc32(member),
        digest=hashlib.sha256(member).digest(),
        spilled=False,
    )
    return announced, [memoryview(meta), memoryview(data)]


def dies_at_change(step: Callable[[], object], count: int) -> bool:
    """Does a step in a child that is killed before it changes a directory for the `count`-th time.

    Returns True if it was killed. A name that is taken ends the step, and is no failure.
    """
    child = os.fork()
    if child == 0:
        left = count
        rename = renaming._rename_by_renameat2

        def count_down() -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                os._exit(9)

        def counted(source: Path, target: Path) -> None:
            count_down()
            rename(source, target)

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            made = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
            if made or event in ("os.remove", "os.rmdir", "os.mkdir", "os.link", "os.rename"):
                count_down()

        renaming._rename_by_renameat2 = counted
        sys.addaudithook(watch)
        try:
            step()
        except FileExistsError:
            pass
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), "the step failed by itself"
    return status == 9


def unknown_flag(source: Path, target: Path) -> None:
    """Fails as renameat2(2) does on a file system without RENAME_NOREPLACE."""
    raise OSError(errno.EINVAL, "Invalid argument", str(source))


KINDS = ("file", "empty", "directory", "fifo", "dangling", "link")


def put_there(path: Path, kind: str) -> None:
    """Puts a person's file there."""
    if kind in ("file", "empty"):
        path.write_bytes(f"mine: {path.name}".encode() if kind == "file" else b"")
    elif kind == "directory":
        path.mkdir()
        (path / "mine").write_bytes(b"mine")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/nonexistent" if kind == "dangling" else "/etc/hostname")


def looks(path: Path) -> object:
    """Describes a file by all that can be read without following a link or opening a file that
    may wait."""
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode):
        return path.read_bytes()
    if stat.S_ISLNK(mode):
        return path.readlink()
    return sorted(p.name for p in path.iterdir()) if stat.S_ISDIR(mode) else mode


class SpoolMachine(RuleBasedStateMachine):
    """One node with one packer and one uploader."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="fastjmix-machine-"))
        self.ingest = tabulate(configs.loaded(self.root / "config")).rows[0]
        self.spool = Spool(self.root / "spool")
        self.spool.prepare()
        self.open: dict[str, OpenEnvelope] = {}
        self.committed: dict[str, int] = {}
        self.pending: dict[str, list[bytes]] = {}
        self.received: set[bytes] = set()
        self.acknowledged: set[bytes] = set()
        self.retained: set[bytes] = set()
        self.contents: dict[str, str] = {}
        self.foreign: dict[Path, object] = {}
        self.drafts: list[str] = []
        self.several: tuple[str, ...] = ()
        self.took: dict[str, set[str]] = {}
        self.at_once = renaming._rename_by_renameat2

    def teardown(self) -> None:
        renaming._rename_by_renameat2 = self.at_once
        self.stop()
        shutil.rmtree(self.root)

    # -- what people do ----------------------------------------------------------------------

    @initialize(known=st.booleans(), upstreams=st.integers(1, 3))
    def choose_file_system(self, known: bool, upstreams: int) -> None:
        if not known:
            renaming._rename_by_renameat2 = unknown_flag
        if upstreams > 1:
            self.several = ("a", "b", "c")[:upstreams]
            to = tuple(
                replace(self.ingest.listener.upstreams[0], name=name) for name in self.several
            )
            listener = replace(self.ingest.listener, upstreams=to)
            self.ingest = replace(self.ingest, listener=listener)

    @rule(
        data=st.data(),
        state=st.sampled_from(("outbox", "sent", "rejected")),
        ending=st.sampled_from((".zip", ".json", ".new", ".upload")),
        kind=st.sampled_from(KINDS),
    )
    def somebody_puts(self, data: st.DataObject, state: str, ending: str, kind: str) -> None:
        """Puts a file under a name that a file of ours will need, or under any other name."""
        drafts = [self.open[study].draft.id for study in sorted(self.open)]
        ids = [*drafts, *self.waiting()]
        name = data.draw(st.sampled_from(["notes", *ids]))
        path = self.root / "spool" / state / f"{name}{ending}"
        other = path.with_suffix(".json" if ending == ".zip" else ".zip")
        ours = any(os.path.lexists(p) and p not in self.foreign for p in (path, other))
        if ours or os.path.lexists(path) or (name != "notes" and ending in (".new", ".upload")):
            return
        put_there(path, kind)
        self.foreign[path] = looks(path)

    @precondition(lambda self: self.foreign)
    @rule(data=st.data())
    def somebody_takes_away(self, data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(list(self.foreign)))
        del self.foreign[path]
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    # -- what the node does ------------------------------------------------------------------

    @rule(study=st.sampled_from(STUDIES), instance=st.sampled_from(INSTANCES), filler=st.binary())
    def receive(self, study: str, instance: str, filler: bytes) -> None:
        data = wire.data_set(instance, study=study, pixels=filler * 40 + b"\1")
        announced, buffers = arrival(study, instance, data)
        if study not in self.open:
            self.open[study] = OpenEnvelope.create(self.spool, self.ingest, 0, announced, "PEER")
            self.drafts.append(self.open[study].draft.id)
            self.committed[study] = 0
            self.pending[study] = []
        self.open[study].append(announced, buffers)
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

    def seal_envelope(self, one: OpenEnvelope) -> object:
        parts = one.contents, one.members, one.origins
        return sealing.seal(self.spool, one.draft, *parts, "packer-0")

    @precondition(lambda self: self.open)
    @rule(data=st.data(), changes=st.integers(0, 12))
    def seal(self, data: st.DataObject, changes: int) -> None:
        study = data.draw(st.sampled_from(sorted(self.open)))
        self.commit_study(study)
        one = self.open[study]
        if changes:
            if dies_at_change(lambda: self.seal_envelope(one), changes):
                self.start_again()
                return
        else:
            with contextlib.suppress(FileExistsError):  # it stays in building/
                self.seal_envelope(one)
        one.draft.close()
        del self.open[study], self.committed[study], self.pending[study]

    # -- upload, retry, refusal, retention -----------------------------------------------------

    @precondition(lambda self: self.waiting())
    @rule(data=st.data(), changes=st.integers(0, 8), refused=st.booleans())
    def upload(self, data: st.DataObject, changes: int, refused: bool) -> None:
        """Uploads an envelope, and gets an answer; with `changes` the node is killed while it
        records the answer."""
        one = data.draw(st.sampled_from(self.waiting()))
        if self.several:
            self.upload_to_one_of_several(data, one, changes, refused)
            return

        def note() -> None:
            if refused:
                self.spool.reject(one, {"status": 400})
            else:
                self.spool.deliver(one, {"status": 201})

        if not changes:
            note()
        elif dies_at_change(note, changes):
            self.start_again()

    def upload_to_one_of_several(
        self, data: st.DataObject, one: str, changes: int, refused: bool
    ) -> None:
        ticket = self.spool.ticket("outbox", one)
        name = data.draw(st.sampled_from(ends.pending(ticket, ends.read(self.spool, ticket))))
        assert name not in self.took.get(one, ()), "no upstream gets it again that has taken it"
        end: End = {"refusal": {"status": 400}} if refused else {"receipt": {"status": 201}}
        killed = False
        if not changes:
            Ends(self.spool).record(one, {name: end})
        elif killed := dies_at_change(lambda: Ends(self.spool).record(one, {name: end}), changes):
            self.start_again()
        if not refused and (not killed or self.has_end(one, name)):
            self.took.setdefault(one, set()).add(name)

    def has_end(self, one: str, name: str) -> bool:
        """Returns whether a kill came after the end was recorded."""
        found = self.spool.find(one)
        assert found is not None
        state = found[0]
        assert state in ("outbox", "sent", "rejected")
        ticket = self.spool.ticket(state, one)  # type: ignore[arg-type]
        return name in (ends.read(self.spool, ticket) if state == "outbox" else ticket.ends)

    @precondition(lambda self: self.refused())
    @rule(data=st.data(), changes=st.integers(0, 5))
    def requeue(self, data: st.DataObject, changes: int) -> None:
        one = data.draw(st.sampled_from(self.refused()))
        if not changes:
            with contextlib.suppress(FileExistsError):
                self.spool.requeue(one)
        elif dies_at_change(lambda: self.spool.requeue(one), changes):
            self.start_again()

    def refused(self) -> list[str]:
        """Returns the envelopes that upstreams have refused."""
        here = {path.stem for path in self.ours("rejected")}
        return [one for one in self.drafts if one in here and self.several]

    @rule(most=st.integers(0, 40_000), changes=st.integers(0, 3))
    def retain(self, most: int, changes: int) -> None:
        before = {p.stem: set(self.members(p)) for p in self.ours("sent")}
        if changes and dies_at_change(Retention(self.spool, None, most).run, changes):
            self.start_again()
        elif not changes:
            Retention(self.spool, None, most).run()
        for one in before.keys() - {p.stem for p in self.ours("sent")}:
            self.retained |= before[one]

    # -- crashes -----------------------------------------------------------------------------

    @rule(kept=st.floats(0, 1), garbage=st.binary(max_size=40), after=st.booleans())
    def crash(self, kept: float, garbage: bytes, after: bool) -> None:
        """Ends the node; any part of the uncommitted bytes is lost or overwritten."""
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
        for leftover in self.spool.drafts.leftovers():
            try:
                outcome = recover(self.spool, leftover, "packer-0")
                fresh = getattr(outcome, "fresh", None)
                if fresh is not None:
                    recover(self.spool, fresh, "packer-0")
            except FileExistsError:
                taken = {self.spool.outbox / f"{leftover.id}{end}" for end in (".zip", ".json")}
                assert taken & self.foreign.keys()
        left = [p for p in self.spool.building.iterdir() if not self.is_obstructed(p.name)]
        assert not left
        for path in self.spool.provenance.iterdir():
            assert self.spool.find(path.stem) is not None

    def is_obstructed(self, envelope_id: str) -> bool:
        return any(path.stem == envelope_id for path in self.foreign)

    # -- what must hold ------------------------------------------------------------------------

    def members(self, archive: Path) -> list[bytes]:
        """Returns the instances of an archive that a strict reader reads to its end."""
        return [
            data
            for name, data in reference.read_forward(archive.read_bytes())
            if name not in DOCUMENTS and not name.startswith("payload/audit")
        ]

    def waiting(self) -> list[str]:
        """Returns the envelopes that an uploader uploads, without those whose name a person's file
        has."""
        here = {path.stem for path in self.ours("outbox")}
        return [one for one in self.drafts if one in here]

    def ours(self, state: str) -> list[Path]:
        directory = self.root / "spool" / state
        return sorted(path for path in directory.glob("*.zip") if path not in self.foreign)

    @invariant()
    def every_promise_is_kept(self) -> None:
        found: set[bytes] = set(self.retained)
        for state in ("outbox", "sent", "rejected"):
            for archive in self.ours(state):
                found |= set(self.members(archive))
        for study, one in self.open.items():
            text = one.draft.archive.read_bytes()[: self.committed[study]]
            found |= {m for m in self.acknowledged if m in text}
        being_built = {one.draft.archive for one in self.open.values()}
        for archive in set(self.spool.building.glob("*/envelope.zip")) - being_built:
            text = archive.read_bytes()  # its place was taken: the next start tries again
            found |= {m for m in self.acknowledged if m in text}
        assert self.acknowledged <= found
        assert found <= self.received

    @invariant()
    def what_others_put_there_stays(self) -> None:
        assert {path: looks(path) for path in self.foreign} == self.foreign

    @invariant()
    def nothing_is_partial(self) -> None:
        for state in ("outbox", "sent", "rejected"):
            directory = self.root / "spool" / state
            archives = {p.stem for p in self.ours(state)}
            records = {p.stem for p in directory.glob("*.json") if p not in self.foreign}
            assert records == archives
            for one in archives:
                ticket = self.spool.ticket(state, one)
                path = self.spool.path(state, one)
                elsewhere = "envelope" in (ticket.refusal or {})
                assert ticket.size_bytes == path.stat().st_size
                assert ticket.instances == len(self.members(path)) > 0
                assert elsewhere or (ticket.receipt is not None) == (state == "sent")
                assert (ticket.refusal is not None) == (state == "rejected")
                if self.several and state != "outbox" and not elsewhere:
                    assert ticket.upstreams == self.several
                    assert ticket.ends.keys() == set(self.several)
                    refused = any("refusal" in end for end in ticket.ends.values())
                    assert refused == (state == "rejected")
                if self.several and not elsewhere:
                    kept = ends.read(self.spool, ticket) if state == "outbox" else ticket.ends
                    assert self.took.get(one, set()) <= {
                        name for name, end in kept.items() if "receipt" in end
                    }

    @invariant()
    def what_was_sealed_has_its_provenance(self) -> None:
        for state in ("outbox", "sent"):
            for archive in self.ours(state):
                found = Provenance.read(self.spool, archive.stem)
                kept = [one for one in found.instances if one.kept]
                assert len(kept) == self.spool.ticket(state, archive.stem).instances
                # An instance that was never committed is not in the journal: its origin is unknown.
                assert {one.association for one in kept} <= {0, -1}
                assert {one.id for one in found.associations} <= {"1-1"}

    @invariant()
    def an_id_has_one_content_in_one_place(self) -> None:
        seen: list[str] = []
        for state in ("outbox", "sent", "rejected"):
            for archive in self.ours(state):
                seen.append(archive.stem)
                digest = hashlib.sha256(archive.read_bytes()).hexdigest()
                assert self.contents.setdefault(archive.stem, digest) == digest
        assert len(seen) == len(set(seen))


@pytest.mark.fault("F18", "F84")
@pytest.mark.once
@pytest.mark.timeout(by_form(480, 7200))  # Hypothesis shrinks a failure for up to 300 s
def test_any_history_of_torn_writes_crashes_and_other_peoples_files() -> None:
    """Loses or garbles uncommitted bytes in part; the order within a file is not simulated."""
    chosen = settings(
        max_examples=by_form(25, 2000),
        stateful_step_count=by_form(30, 60),
        deadline=None,
        print_blob=True,  # how to repeat what it found
    )
    run_state_machine_as_test(SpoolMachine, settings=chosen)
