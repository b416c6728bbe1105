"""The storage directory goes away, its inodes run out, an instance fills it while it arrives."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastjmix import log
from fastjmix.errors import SpoolError
from fastjmix.spool import POST_INODES, FreeSpace, Spool
from fastjmix.spool.recipe import UNKNOWN
from fastjmix.uploader.maintenance import StorageLimits
from tests.support import wire
from tests.support.apis import LISTENER, UPSTREAM
from tests.support.apis import running as api_running
from tests.support.disks import (
    Disk,
    Ledger,
    Memory,
    Strace,
    as_root,
    child,
    free,
    opened,
    rejection,
    settled,
    where,
)
from tests.support.envelopes import ID, envelope
from tests.support.gateway import Gateway, Peer, Store, get, members, running, until
from tests.support.hazards import delete_whole
from tests.support.nodes import FAST, node, run, to
from tests.support.upstreams import Upstream

A700 = 0xA700
RJ_CONGESTION = (2, 3, 1)
SOON = "release_grace_secs = 0.05"
LATE = "release_grace_secs = 60\nquiet_secs = 60"
NO_MARKS = "soft_reserve_bytes = 0\nhard_reserve_bytes = 0"


DiskOn = Callable[..., Disk]


@pytest.fixture
def disk_on(tmp_path: Path) -> Iterator[DiskOn]:
    """Makes a file system where the gateway under test has its spool."""
    made: list[Disk] = []

    def one(*options: str, size: int = 0) -> Disk:
        made.append(Disk(tmp_path / "own" / "spool", "ext4", *options, size=size))
        return made[0]

    yield one
    for disk in made:
        disk.close()


@pytest.fixture
def gateway_defaults(disk_on: DiskOn) -> dict[str, Any]:
    """Ends gateways before their disk goes."""
    return {}


# -- F87: the storage directory goes away ----------------------------------------------------------


def deleted(spool: Path) -> Callable[[], object]:
    shutil.rmtree(spool)
    return lambda: spool.mkdir(mode=0o700)


def moved(spool: Path) -> Callable[[], object]:
    spool.rename(spool.with_name("elsewhere"))
    return lambda: spool.mkdir(mode=0o700)


def moved_and_back(spool: Path) -> Callable[[], object]:
    away = spool.rename(spool.with_name("elsewhere"))
    return lambda: away.rename(spool)


def replaced(spool: Path) -> Callable[[], object]:
    """Puts another directory in its place, with all files of a spool, and a lock of its own."""
    spool.rename(spool.with_name("elsewhere"))
    other = Spool(spool)
    other.prepare()
    return other.release


def covered(spool: Path) -> Callable[[], object]:
    return Memory(spool, 8 << 20).close


def without_building(spool: Path) -> Callable[[], object]:
    shutil.rmtree(spool / "building")
    return lambda: None


def without_files(spool: Path) -> Callable[[], object]:
    for path in spool.rglob("*"):
        if not path.is_dir():
            path.unlink()
    return lambda: None


def another_file(spool: Path) -> Callable[[], object]:
    """Makes a file with the same name and bytes and another inode, as a restore of a copy does."""
    (archive,) = spool.glob("building/*/envelope.zip")
    copy = archive.with_name("copy")
    shutil.copy(archive, copy)
    copy.rename(archive)
    return lambda: None


WAYS = [
    deleted,
    moved,
    moved_and_back,
    replaced,
    covered,
    without_building,
    without_files,
    another_file,
]


@pytest.mark.fault("F87")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("durability", ["fsync", "page-cache"])
def test_nothing_is_acknowledged_into_a_file_without_a_name(
    start: Callable[..., Gateway], way: Callable[[Path], Callable[[], object]], durability: str
) -> None:
    """Not even instances that are there already; those acknowledged before are delivered."""
    own, ledger = start(builder=f'{LATE}\ndurability = "{durability}"'), Ledger()
    uid, data = ledger.make("1.2.3.1", 1000)
    with opened(own) as peer:
        assert ledger.store(peer) == 0
        assert peer.store(data, uid) == 0
        ledger.promised[uid] = data
        put_back = way(own.spool)
        assert peer.store(data, uid) == A700
        assert ledger.store(peer) == A700
        own.wait_for("intake_stopped")
        put_back()
        own.wait_for("intake_resumed")
        assert ledger.store(peer) == 0  # to an envelope of its own
        own.wait_for("envelope_recovered")
    assert own.stop() == 0
    ledger.check(own.envelopes("outbox"))
    assert "envelope_lost" not in own.log()


@pytest.mark.fault("F87")
def test_a_seal_after_the_directory_went_loses_nothing(start: Callable[..., Gateway]) -> None:
    """The envelope is due while there is no directory to seal it in, nor to save it in."""
    own, ledger = start(builder="release_grace_secs = 0.3"), Ledger()
    with opened(own) as peer:
        assert ledger.store(peer) == 0
        delete_whole(own.spool)
    own.wait_for("seal_failed")
    own.wait_for("recovery_failed|intake_stopped")
    assert rejection(own) == RJ_CONGESTION
    assert b"nothing is taken" in get(f"{own.http}/readyz")[2]
    own.wait_for("intake_still_stopped .*Make the directory of")
    own.spool.mkdir(mode=0o700)
    own.wait_for("intake_resumed")
    own.wait_for("envelope_recovered")
    ledger.check(settled(own))


@pytest.mark.fault("F87")
@pytest.mark.parametrize("name", ["outbox", "sent"])
def test_one_state_directory_goes(start: Callable[..., Gateway], tmp_path: Path, name: str) -> None:
    with running(Store(tmp_path / "upstream")) as store:
        own, ledger = start(store.port, builder=SOON), Ledger()
        with opened(own) as peer:
            delete_whole(own.spool / name)
            assert ledger.store(peer) == 0
        store.wait_held(1)
        ledger.check(own.wait_sent())
        assert own.stop() == 0


@pytest.mark.fault("F87")
def test_an_instance_that_waits_for_the_upstream_is_refused(
    start: Callable[..., Gateway],
) -> None:
    own = start(endpoint='ack = "uploaded"')
    with opened(own) as peer:
        delete_whole(own.spool)
        assert Ledger().store(peer) == A700


@pytest.mark.fault("F87")
def test_a_directory_that_another_fastjmix_has_taken_is_left_alone(
    start: Callable[..., Gateway],
) -> None:
    """Two packers of one run share the new directory; another run has it alone."""
    own, ledger = start(builder=LATE, fastjmix="packers = 2"), Ledger()
    with opened(own) as peer:
        studies = [f"1.2.3.{n}" for n in range(8)]
        assert {ledger.store(peer, study) for study in studies} == {0}
        delete_whole(own.spool)
        assert {ledger.store(peer, study) for study in studies} == {A700}
        own.wait_for("intake_stopped", 2)
        other_run = Spool(own.spool)
        other_run.prepare()
        own.wait_for("intake_still_stopped .*another fastjmix", 2)
        assert not list((own.spool / "building").iterdir())
        other_run.release()
        own.wait_for("intake_resumed", 2)
        with pytest.raises(SpoolError, match="another fastjmix"):
            other_run.prepare()
        assert {ledger.store(peer, study) for study in studies} == {0}
        own.wait_for("envelope_recovered", len(studies))
    assert own.stop() == 0
    ledger.check(own.envelopes("outbox"))
    other_run.prepare()  # the last of them has released it
    other_run.release()


@pytest.mark.fault("F87")
def test_a_restarted_packer_checks_that_the_directory_is_ours(
    start: Callable[..., Gateway],
) -> None:
    own, ledger = start(builder=LATE, fastjmix="packers = 1"), Ledger()
    with opened(own) as peer:
        assert Ledger().store(peer) == 0  # it is at work
    own.spool.rename(own.spool.with_name("elsewhere"))
    other_run = Spool(own.spool)
    other_run.prepare()
    draft = other_run.drafts.new(replace(UNKNOWN, ack="uploaded"))
    os.kill(own.children()["packer-0"], 9)
    own.wait_for("child_restarted")
    own.wait_for("intake_stopped")
    assert draft.archive.exists()  # a packer deletes such a draft if it is its own
    draft.abandon()
    other_run.release()
    own.wait_for("intake_resumed")
    with opened(own) as peer:
        assert ledger.store(peer) == 0
    assert own.stop() == 0
    ledger.check(own.envelopes("outbox"))


@pytest.mark.fault("F87")
def test_what_a_mount_covers_is_not_written_to(
    start: Callable[..., Gateway], disk_on: Callable[..., Disk]
) -> None:
    """The disk is unmounted meanwhile: the directory under it is on another file system."""
    disk = disk_on()
    own, ledger = start(builder=LATE), Ledger()
    with opened(own) as peer:
        assert ledger.store(peer) == 0
        as_root("umount", "-l", disk.at)
        assert ledger.store(peer) == A700
        own.wait_for("intake_still_stopped .*another file system")
        assert not list(disk.at.iterdir())
        disk.mount()
        own.wait_for("intake_resumed")
        assert ledger.store(peer) == 0
        own.wait_for("envelope_recovered")
    assert own.stop() == 0
    ledger.check(own.envelopes("outbox"))


# -- F26: descriptors run out between two steps ----------------------------------------------------


@pytest.mark.fault("F26")
def test_a_storm_without_descriptors_leaves_nothing(start: Callable[..., Gateway]) -> None:
    """Each number of free descriptors makes another step of a draft fail."""
    own, ledger = start(builder=LATE, fastjmix="packers = 1"), Ledger()
    packer = child(own, "packer-0")
    most = resource.prlimit(packer, resource.RLIMIT_NOFILE)[1]
    building = own.spool / "building"
    statuses: list[int] = []
    with opened(own) as peer:
        for spare in (*range(7), 0, 0, 0):
            held = {int(one.name) for one in Path(f"/proc/{packer}/fd").iterdir()}
            limit = max(n for n in range(1, 4096) if n - len([f for f in held if f < n]) == spare)
            resource.prlimit(packer, resource.RLIMIT_NOFILE, (limit, most))
            for number in range(4):
                statuses.append(ledger.store(peer, f"1.2.3.{len(statuses)}.{number}"))
            resource.prlimit(packer, resource.RLIMIT_NOFILE, (most, most))
        assert {0, A700} == set(statuses)
        left = {path.name for path in building.iterdir()}
        assert len(left) == statuses.count(0), left
        assert not [name for name in left if "." in name]
        assert "intake_stopped" not in own.log()
        assert ledger.store(peer, "1.2.3.999") == 0
    assert own.stop() == 0
    ledger.check(own.envelopes("outbox"))


# -- F88: inodes -----------------------------------------------------------------------------------


def inodes(path: Path) -> int:
    return os.statvfs(path).f_favail


def take_inodes(disk: Disk, leave: int) -> list[Path]:
    files = [disk.at / f"inode-{number}" for number in range(inodes(disk.at) - leave)]
    for file in files:
        file.touch()
    return files


@pytest.mark.fault("F88")
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_marks_to_the_inode(disk_on: Callable[..., Disk], more: int) -> None:
    """On a real file system of 96 inodes, where the least marks hold: 16 and 8."""
    disk = disk_on("-N", "96", size=16 << 20)
    take_inodes(disk, 16 - more)
    assert FreeSpace(disk.at, 0, 0).low() == (more > 0)
    room = FreeSpace(disk.at, 0, 0)
    assert room.fits(0, 8) == (more <= 0)
    assert not room.exhausted()  # a write without a new inode is not refused
    # until there is a tenth more than the mark, and not before a twentieth more is reached
    assert FreeSpace(disk.at, 0, 0).wanted_inodes() == {-1: 0, 0: 1, 1: 2}[more]


@pytest.mark.fault("F88")
def test_a_file_system_that_counts_no_inodes_has_no_marks() -> None:
    nowhere = Path("/proc")
    assert os.statvfs(nowhere).f_files == 0
    room = FreeSpace(nowhere, 0, 0)
    assert (room.low(), room.fits(0, 1000), room.wanted_inodes()) == (False, True, 0)


@pytest.mark.fault("F88")
def test_what_is_open_can_be_sealed_and_delivered(
    start: Callable[..., Gateway], disk_on: Callable[..., Disk], tmp_path: Path
) -> None:
    """Studies are sent until no more are accepted; then all of them are delivered, though nothing
    else frees an inode. Spilled instances take none that sealing needs."""
    disk_on("-N", "96", size=24 << 20)
    with running(Store(tmp_path / "upstream")) as store:
        own = start(store.port, builder=LATE, storage=NO_MARKS, fastjmix="lane_bytes = 1048576")
        ledger = Ledger()
        before = [Peer(own.dicom_port) for _ in range(8)]
        for peer in before:
            assert peer.associate()[0] == 2
        studies = iter(range(1000))
        while ledger.store(before[0], f"1.2.3.{next(studies)}") == 0:
            pass
        assert ledger.store(before[0], "1.2.3.0") == 0  # an open envelope takes no more inodes
        for number, peer in enumerate(before[1:]):
            begin_large(peer, f"1.2.9.{number}", 700_000)
        assert rejection(own) == RJ_CONGESTION
        own.wait_for("association_rejected .*few inodes are left")
        assert b"few inodes" in get(f"{own.http}/readyz")[2]
        assert len(ledger.promised) > 8
        before[0].release()
        for peer in before:
            peer.socket.close()
        assert own.stop() == 0  # seals all
        again = start(store.port, builder=SOON, storage=NO_MARKS)
        until(lambda: not again.envelopes("outbox"), "everything is delivered")
        archives = list(store.directory.rglob("*.zip"))
        ledger.check(archives)
        until(lambda: rejection(again) is None, "retention gives inodes back")


@pytest.mark.fault("F88")
def test_a_posted_envelope_is_refused_for_inodes(
    disk_on: Callable[..., Disk], tmp_path: Path
) -> None:
    """Its archive, ticket, receipt and provenance: so many more than the hard mark."""
    disk = disk_on("-N", "96", size=16 << 20)
    configured = replace(LISTENER, upstreams=(UPSTREAM,))
    with api_running(disk.at, configured) as gateway:
        until((gateway.spool.root / "control.sock").exists, "the api has its socket")
        taken = take_inodes(disk, 8 + POST_INODES - 1)
        answer = gateway.post(envelope(ID))
        assert (answer.status, "inodes" in answer.json["error"]) == (507, True)
        taken.pop().unlink()
        until(lambda: gateway.post(b"no archive").status == 400, "bodies are read again")


@pytest.mark.fault("F88")
def test_delivered_envelopes_give_inodes_back(disk_on: Callable[..., Disk], tmp_path: Path) -> None:
    """Before the soft mark is reached, the oldest first, and no more than are wanted."""
    disk = disk_on("-N", "96", size=16 << 20)

    async def test() -> None:
        pace = replace(FAST, upkeep_secs=0.3)
        async with (
            Upstream().open() as store,
            node(
                disk.at, to(store.url), pace, limits=StorageLimits(room=FreeSpace(disk.at, 0, 0))
            ) as one,
        ):
            ids = []
            for count in range(1, 7):
                ids.append(one.seal())
                await one.left(count)
            take_inodes(disk, 15)
            ids.append(one.seal())
            await one.left(7)
            line, *_ = await one.logged("envelopes_expired")
            assert "for_inodes=" in line
            kept = {path.stem for path in one.spool.sent.glob("*.zip")}
            assert set(ids[-3:]) <= kept < set(ids)

    try:
        run(test)
    finally:
        log.setup("debug", tmp_path / "log", "test")  # the uploader's was on that disk


# -- F89: an instance passes the hard mark while it arrives ----------------------------------------


def begin_large(peer: Peer, uid: str, size: int, study: str = "1.2.3.77") -> None:
    """Sends a C-STORE-RQ, and this many bytes of an unfinished data set."""
    peer.send(wire.p_data(wire.pdvs(1, wire.store_rq(uid), True)))
    go_on(peer, wire.data_set(uid, study=study))
    while size > 0:
        go_on(peer, os.urandom(min(size, 100_000)))
        size -= 100_000


def go_on(peer: Peer, data: bytes, *, last: bool = False) -> None:
    peer.send(wire.p_data([struct.pack(">LBB", len(data) + 2, 1, 2 * last) + data]))


def spills(own: Gateway) -> int:
    return sum(path.stat().st_size for path in (own.spool / "building").glob("*.spill"))


@pytest.mark.fault("F89")
@pytest.mark.parametrize("packers", [1, 2])
def test_instances_that_never_end_leave_what_sealing_needs(
    start: Callable[..., Gateway], disk_on: Callable[..., Disk], packers: int
) -> None:
    """Several at once, each of a study of its own: none passes the mark, and all are refused at
    their end. Their files are deleted at once, and acknowledged instances are sealed meanwhile."""
    disk = disk_on(size=96 << 20)
    hard = 24 << 20
    own = start(
        builder=SOON,
        endpoint="accept_malformed = true",  # what breaks off is cut, and C000 by itself
        storage=f"soft_reserve_bytes = {hard}\nhard_reserve_bytes = {hard}",
        fastjmix=f"packers = {packers}\nlane_bytes = 1048576",
    )
    ledger, least, stop = Ledger(), [free(disk.at)], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            least.append(free(disk.at))
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with contextlib.ExitStack() as stack:
            honest = stack.enter_context(opened(own))
            assert ledger.store(honest) == 0
            endless = [stack.enter_context(opened(own)) for _ in range(3)]
            for number, peer in enumerate(endless):
                begin_large(peer, f"1.2.9.{number}", 100_000, f"1.2.3.9.{number}")
            for _ in range(1000):
                for peer in endless:
                    go_on(peer, os.urandom(100_000))
                if own.log().count("spill_failed") == len(endless):
                    break
            own.wait_for("spill_failed .*nearly full", len(endless))
            until(lambda: spills(own) == 0, "the space is given back")
            assert ledger.store(honest, "1.2.3.2") == 0
            for peer in endless:
                go_on(peer, b"", last=True)
                assert peer.status() == A700
        ledger.check(settled(own))
    finally:
        stop.set()
        watcher.join()
    assert min(least) >= hard - (1 << 20), min(least)
    assert "seal_failed" not in own.log()


@pytest.mark.fault("F89")
def test_joining_needs_no_second_copy_of_the_space(
    start: Callable[..., Gateway], disk_on: Callable[..., Disk]
) -> None:
    """More than half of the disk in one instance: its file shrinks as its envelope grows."""
    disk = disk_on(size=96 << 20)
    own = start(
        builder=SOON,
        storage="soft_reserve_bytes = 4194304\nhard_reserve_bytes = 4194304",
        fastjmix="lane_bytes = 1048576",
    )
    ledger = Ledger()
    with opened(own) as peer:
        assert free(disk.at) < 2 * (60 << 20)
        assert ledger.store(peer, pixels=60 << 20) == 0
    ledger.check(settled(own))


# -- S30: what one association does to its neighbours ----------------------------------------------


def calls(trace: Strace, name: str) -> int:
    return sum(f"{name}(" in line for line in trace.lines())


@pytest.mark.fault("S30")
def test_one_uid_again_and_again_costs_each_the_same(
    start: Callable[..., Gateway], tmp_path: Path
) -> None:
    """Other bytes of the same length come each time: all are kept, none is read back for them, and
    the log has one line for all."""
    own, count = start(builder=LATE, fastjmix="packers = 1"), 120
    with opened(own) as peer:
        sent = {wire.data_set("1.2.5", pixels=os.urandom(60_000)) for _ in range(count)}
        reads = Strace(tmp_path / "trace", "-e", "trace=pread64", pids=[child(own, "packer-0")])
        with reads:
            assert {peer.store(data, "1.2.5") for data in sent} == {0}
        assert calls(reads, "pread64") < 10 * count
        again = next(iter(sent))
        assert peer.store(again, "1.2.5") == 0  # the same bytes are still found
    assert own.stop() == 0
    (archive,) = own.envelopes("outbox")
    assert data_sets(archive) == sorted(sent)
    assert own.log().count("instance_conflict ") == 1
    assert f"conflicting={count - 1}" in own.log()


def data_sets(archive: Path) -> list[bytes]:
    """Returns every instance, those with equal UIDs too."""
    found = []
    for name, data in members(archive).items():
        if name.endswith(".dcm"):
            found.append(data[144 + int.from_bytes(data[140:144], "little") :])
    return sorted(found)


@pytest.mark.fault("S30")
def test_others_are_answered_while_a_large_instance_is_joined(
    start: Callable[..., Gateway], tmp_path: Path
) -> None:
    """On a disk that copies 4 MB in 0.2 s, instances of its study wait, and others do not. An
    instance that is sent again is found, though it is in a file of its own."""
    own, ledger = start(builder=LATE, fastjmix="packers = 1\nlane_bytes = 1048576"), Ledger()
    uid, data = ledger.make("1.2.3.1", 24 << 20)
    slow = ["-e", "trace=copy_file_range", "-e", "inject=copy_file_range:delay_enter=200000"]
    joined: list[int] = []
    with contextlib.ExitStack() as stack:
        large, sibling, other = (stack.enter_context(opened(own)) for _ in range(3))
        assert ledger.store(sibling) == 0
        with Strace(tmp_path / "trace", *slow, pids=[child(own, "packer-0")]) as trace:
            sender = threading.Thread(target=lambda: joined.append(large.store(data, uid)))
            sender.start()
            until(lambda: calls(trace, "copy_file_range"), "it is being joined")
            waits = threading.Thread(target=lambda: joined.append(ledger.store(sibling)))
            waits.start()
            answered = 0
            while not joined:
                assert ledger.store(other, "1.2.3.2") == 0
                answered += bool(not joined)
            sender.join()
            waits.join()
        assert joined == [0, 0]
        assert answered > 20
        ledger.promised[uid] = data
        assert large.store(data, uid) == 0
    assert own.stop() == 0
    archives = own.envelopes("outbox")
    ledger.check(archives)
    assert len(archives) == 2
    assert len(where(archives)[uid]) == 1


@pytest.mark.fault("S30")
@pytest.mark.parametrize("how", ["SIGKILL", "EIO", "ENOSPC"])
@pytest.mark.parametrize("call", ["copy_file_range", "sync_file_range", "fallocate"])
def test_a_fault_while_an_instance_is_joined(
    start: Callable[..., Gateway], tmp_path: Path, call: str, how: str
) -> None:
    """At the third step of six: it is not acknowledged, and the instances before it and those that
    waited are kept."""
    own, ledger = start(builder=SOON, fastjmix="packers = 1\nlane_bytes = 1048576"), Ledger()
    fault = f"signal={how}" if how == "SIGKILL" else f"error={how}"
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:{fault}:when=3+"]
    with contextlib.ExitStack() as stack:
        large, before = (stack.enter_context(opened(own)) for _ in range(2))
        assert ledger.store(before) == 0
        with Strace(tmp_path / "trace", *inject, pids=[child(own, "packer-0")]) as trace:
            uid, data = ledger.make("1.2.3.1", 24 << 20)
            status = large.store(data, uid)
        assert status == A700
        assert any("INJECTED" in line or "killed" in line for line in trace.lines())
        until(lambda: ledger.store(before) == 0, "instances are taken again")
    ledger.check(settled(own))
    assert all(len(ids) == 1 for name, ids in where(settled(own)).items() if name != uid)
    assert not list((own.spool / "building").glob("*.spill"))
