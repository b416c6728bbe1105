"""Disks that are full, broken, read-only, wrong from the start, or damaged afterwards."""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Set
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastjmix.failpoints import VARIABLE
from fastjmix.jmix.write.archive import data_offset, member_at
from fastjmix.spool import FreeSpace, Spool, journal
from tests.support import wire
from tests.support.disks import (
    SYNC,
    Disk,
    Ledger,
    Memory,
    Strace,
    as_root,
    child,
    contents,
    free,
    injecting,
    opened,
    rejection,
    settled,
    together,
    where,
)
from tests.support.gateway import Gateway, Gateways, Peer, get, until, write_config
from tests.support.nightly import by_form

A700 = 0xA700
RJ_CONGESTION = (2, 3, 1)
"""Rejected-transient, service provider (presentation), temporary congestion: PS3.8 Table 9-21."""

SOON = "release_grace_secs = 0.05"
LATE = "release_grace_secs = 60\nquiet_secs = 60"


DiskOn = Callable[..., Disk]


def is_taken(peer: Peer, uid: str, data: bytes) -> bool:
    return peer.store(data, uid) == 0


def why_kept(own: Gateway, envelope_id: str) -> str:
    """Returns the reason in the ticket of an envelope in rejected/."""
    refusal = Spool(own.spool).ticket("rejected", envelope_id).refusal
    assert refusal is not None
    return str(refusal["why"])


@pytest.fixture
def disk_on(tmp_path: Path) -> Iterator[DiskOn]:
    """A file system where the gateway under test has its spool."""
    made = []

    def one(*options: str, size: int = 0, kind: str = "ext4") -> Disk:
        made.append(Disk(tmp_path / "own" / "spool", kind, *options, size=size))
        return made[0]

    yield one
    for disk in made:
        disk.close()


@pytest.fixture
def gateway_defaults(disk_on: DiskOn) -> dict[str, Any]:
    """Ends gateways before their disk goes."""
    return {}


# -- F19, F21: a sync that fails -------------------------------------------------------------------


def never_synced_again(trace: Strace) -> None:
    """After its sync failed, no file is ever synced again: the next answer would be a lie."""
    failed: set[str] = set()
    for line in trace.lines():
        if found := SYNC.search(line):
            path, answer = found.groups()
            assert path not in failed, line
            if answer != "0":
                failed.add(path)
    assert failed, "nothing failed"


@pytest.mark.fault("F19")
@pytest.mark.parametrize("nth", by_form([1, 2, 4, 6], list(range(1, 51))))
def test_eio_from_the_nth_fdatasync(start: Gateways, tmp_path: Path, nth: int) -> None:
    """One of: the recipe, a commit, a commit with promises before it, the seal, its ticket …"""
    own, ledger = start(builder=f"{SOON}\nmax_envelope_instances = 5"), Ledger()
    with injecting(own, tmp_path / "trace", "fdatasync", "EIO", str(nth)) as trace:
        statuses = []
        with opened(own) as peer:
            while len(ledger.promised) < max(8, nth):  # a sync each, and some more
                statuses.append(ledger.store(peer))
        assert set(statuses) <= {0, A700}
        archives = settled(own)
    # strace counts by thread: what is copied aside has an nth call, too, and then the intake stops.
    stopped = own.log().count('append_failed why="the storage has failed"')
    assert statuses.count(A700) - stopped <= 1
    never_synced_again(trace)
    ledger.check(archives)
    assert {len(ids) for uid, ids in where(archives).items() if uid in ledger.promised} == {1}


@pytest.mark.fault("F21")
@pytest.mark.parametrize("problem", ["ENOSPC", "EDQUOT"])
def test_no_space_from_fdatasync(start: Gateways, tmp_path: Path, problem: str) -> None:
    """Delayed allocation and quotas may say so only there: the pages are as lost as after EIO."""
    own, ledger = start(builder=LATE), Ledger()
    with (
        injecting(own, tmp_path / "trace", "fdatasync", problem, "3") as trace,
        opened(own) as peer,
    ):
        statuses = [ledger.store(peer) for _ in range(4)]
        assert statuses == [0, A700, 0, 0]
        own.wait_for("envelope_recovered")
    never_synced_again(trace)
    assert own.stop() == 0
    ledger.check(own.envelopes("outbox"))


EARLY = [
    ("pwritev2", "ENOSPC", 1),  # the recipe
    ("pwritev2", "EIO", 2),  # the first instance of an envelope
    ("pwritev2", "ENOSPC", 3),  # an instance behind one that is promised
    ("fsync", "EIO", 1),  # building/<id>
    ("fsync", "ENOSPC", 2),  # building/
]
ALL_EARLY = [
    (call, what, nth)
    for call, most in (("pwritev2", 12), ("fsync", 8))
    for what in ("EIO", "ENOSPC")
    for nth in range(1, most + 1)
]


@pytest.mark.fault("F19")
@pytest.mark.parametrize(("call", "what", "nth"), by_form(EARLY, ALL_EARLY))
def test_an_error_before_the_first_promise_or_the_next(
    start: Gateways, tmp_path: Path, call: str, what: str, nth: int
) -> None:
    """From a write, or from the sync of a name that leads to a new envelope: its instance is
    refused, and what was promised is untouched.

    strace counts the calls of each thread: one that reads promises back after EIO meets another.
    """
    own, ledger = start(builder=SOON), Ledger()
    with injecting(own, tmp_path / "trace", call, what, str(nth)) as trace:
        with opened(own) as peer:
            statuses = [ledger.store(peer, f"1.2.3.{n // 2}") for n in range(nth + 2)]
        assert set(statuses) == {0, A700}
        assert statuses.count(A700) == 1 or what == "EIO"
        archives = settled(own)
    left_alone(trace, what)
    ledger.check(archives)
    assert {len(ids) for uid, ids in where(archives).items() if uid in ledger.promised} == {1}
    assert not own.envelopes("rejected")


def left_alone(trace: Strace, what: str) -> None:
    """A file is never synced again after EIO from a write into it, or from the sync of its name."""
    synced = suspect = ""
    for line in trace.lines():
        if "(INJECTED)" in line:
            if failed := re.search(r"(pwritev2|fsync)\(\d+<([^>]*/building\b[^>]*)>", line):
                suspect = failed[2] if failed[1] == "pwritev2" else synced
        elif found := SYNC.search(line):
            synced = found[1]
            assert synced != suspect or what != "EIO", line
    assert suspect, "nothing failed"


@pytest.mark.fault("F21")
def test_eio_at_close(start: Gateways, tmp_path: Path) -> None:
    """The last call that may tell of a write that failed: the envelope is made anew."""
    own, ledger = start(builder=LATE), Ledger()
    with opened(own) as peer:
        assert ledger.store(peer) == 0
    with injecting(own, tmp_path / "trace", "close", "EIO", "1+") as trace:
        own.child.terminate()
        until(lambda: any("INJECTED" in line for line in trace.lines()), "a close that fails")
    assert own.child.wait(30) == 0
    again = start(builder=SOON)
    ledger.check(settled(again))


@pytest.mark.fault("F19")
def test_a_second_failure_stops_the_intake_until_the_disk_is_well(
    start: Gateways, tmp_path: Path
) -> None:
    own, ledger = start(builder=LATE), Ledger()
    own.wait_for("http_listening")
    with opened(own) as peer:
        assert ledger.store(peer, "1.2.3.1") == 0
        with injecting(own, tmp_path / "trace", "fdatasync", "EIO", "1+") as trace:
            assert ledger.store(peer, "1.2.3.1") == A700
            own.wait_for("intake_stopped")
            assert ledger.store(peer, "1.2.3.2") == A700
            assert rejection(own) == RJ_CONGESTION
            status, _, body = get(f"{own.http}/readyz")
            assert status == 503
            assert b"the storage has failed" in body
        own.wait_for("intake_resumed")
        assert ledger.store(peer, "1.2.3.1") == 0
    never_synced_again(trace)
    assert rejection(own) is None
    assert get(f"{own.http}/readyz")[0] == 200
    own.wait_for("envelope_recovered")  # what was promised before the disk failed
    assert own.stop() == 0
    ledger.check(own.envelopes("outbox"))


# -- a kill, or an error, at every step ------------------------------------------------------------


@pytest.mark.fault("F19")
@pytest.mark.parametrize("call", ["pwritev2", "fdatasync", "renameat2"])
@pytest.mark.parametrize("nth", by_form([1, 2, 3], list(range(1, 16))))
def test_the_packer_is_killed_at_its_nth_call(
    start: Gateways, tmp_path: Path, call: str, nth: int
) -> None:
    own, ledger = start(builder=f"{SOON}\nmax_envelope_instances = 3"), Ledger()
    with injecting(own, tmp_path / "trace", call, "SIGKILL", str(nth)):
        with opened(own) as peer:
            for _ in range(4 + nth):
                uid, data = ledger.make("1.2.3.1", 1000)
                until(partial(is_taken, peer, uid, data), "an instance is taken")
                ledger.promised[uid] = data
        own.wait_for("child_died child=packer-0 how=SIGKILL")
        own.wait_for("child_restarted child=packer-0")
    ledger.check(settled(own))


SEAL = [  # what a seal calls, in order, once the envelope's members are durable
    ("pwritev2", 1),  # documents and central directory
    ("ftruncate", 1),
    ("fdatasync", 1),
    ("pwritev2", 2),  # the ticket
    ("fdatasync", 2),
    ("renameat2", 1),  # the ticket to its name
    ("fsync", 1),  # outbox/
    ("renameat2", 2),  # the envelope to outbox/
    ("fsync", 2),
    ("unlink", 1),  # what is left of the draft
    ("rmdir", 1),
]
FAULTS = {"SIGKILL": SEAL, "EIO": SEAL, "ENOSPC": SEAL[:9]}
STEPS = [(what, *step) for what, steps in FAULTS.items() for step in steps]


@pytest.mark.fault("F19")
@pytest.mark.parametrize(
    ("what", "call", "nth"),
    by_form([s for n, s in enumerate(STEPS) if n < 11 or n % 3 == 0], STEPS),
)
def test_a_fault_at_every_step_of_the_seal(
    start: Gateways, tmp_path: Path, what: str, call: str, nth: int
) -> None:
    """Each instance ends in one envelope, once, whatever happens to the seal."""
    own, ledger = start(builder="release_grace_secs = 0.3"), Ledger()
    with opened(own) as peer:
        for _ in range(3):
            assert ledger.store(peer) == 0
        trace = injecting(own, tmp_path / "trace", call, what, str(nth))
    with trace:
        own.wait_for("child_died|seal_failed|envelope_sealed")
        until(lambda: own.envelopes("outbox"), "the envelope")
        assert own.stop(signal.SIGTERM) == 0
    assert any("INJECTED" in line or "killed by" in line for line in trace.lines()), trace.lines()
    again = start(builder=SOON)
    archives = settled(again)
    ledger.check(archives)
    assert {len(ids) for ids in where(archives).values()} == {1}


# -- group commit, and the order of sync and answer ------------------------------------------------


@pytest.mark.fault("F19")
def test_each_answer_follows_the_sync_that_covers_it(start: Gateways, tmp_path: Path) -> None:
    """strace sees both processes: written, synced, its names synced, and only then answered."""
    own, ledger = start(builder=LATE), Ledger()
    pids = [child(own, name) for name in ("receiver-0", "packer-0")]
    options = ["-e", "trace=pwritev2,fdatasync,fsync,renameat2,sendto", "-xx", "-s", "600"]
    with Strace(tmp_path / "trace", *options, pids=pids, apart=True):

        def send(number: int) -> None:
            with opened(own) as peer:
                for _ in range(5):
                    assert ledger.store(peer, f"1.2.3.{number % 2}") == 0

        together(send, 4)
    written: dict[bytes, tuple[float, Path]] = {}
    synced: list[tuple[float, float, Path]] = []
    named: dict[Path, float] = {}
    answered: dict[bytes, float] = {}
    for pid in pids:
        for line in Path(f"{tmp_path}/trace.{pid}").read_text().splitlines():
            begun, call, ended = timed(line)
            if call in ("fdatasync", "fsync"):
                synced.append((begun, ended, descriptor(line)))
            elif call == "renameat2":  # a draft gets its name when its files have theirs
                named[Path(os.fsdecode(strings(line)[1]))] = ended
            elif call in ("pwritev2", "sendto"):
                for uid in re.findall(rb"1\.2\.826\.\d+", b"".join(strings(line))):
                    if call == "pwritev2":
                        written.setdefault(uid, (ended, descriptor(line)))
                    else:
                        answered.setdefault(uid, begun)
    assert set(answered) == {uid.encode() for uid in ledger.promised} == set(written)
    for uid, answer in answered.items():
        when, file = written[uid]
        draft = file.parent
        for path, since in (file, when), (draft, named[draft]), (draft.parent, named[draft]):
            assert any(
                since <= begun and ended <= answer and path == one for begun, ended, one in synced
            ), (uid, path)


def timed(line: str) -> tuple[float, str, float]:
    """Begin, name and end of a system call in a trace."""
    found = re.match(r"(\d+\.\d+) (\w+)\(.*<(\d+\.\d+)>$", line)
    if found is None:
        return 0.0, "", 0.0
    begun = float(found[1])
    return begun, found[2], begun + float(found[3])


def descriptor(line: str) -> Path:
    """The file of the first argument, in a line of `strace -xx`."""
    return Path(os.fsdecode(unescaped(re.findall(r"\(\d+<(.*?)>", line)[0])))


def strings(line: str) -> list[bytes]:
    """Every string of such a line."""
    return [unescaped(text) for text in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', line)]


def unescaped(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


@pytest.mark.fault("F19")
def test_one_sync_covers_all_that_wait(start: Gateways, tmp_path: Path) -> None:
    """On a disk that takes 30 ms to sync, 64 associations share each sync."""
    own, ledger = start(builder=LATE, fastjmix="lane_bytes = 1048576"), Ledger()
    options = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=30000"]
    with Strace(tmp_path / "trace", *options, pids=[child(own, "packer-0")]) as trace:

        def send(_: int) -> None:
            with opened(own) as peer:
                for _ in range(4):
                    assert ledger.store(peer) == 0

        together(send, 64)
    assert len(ledger.promised) == 256
    assert sum("fdatasync(" in line for line in trace.lines()) < 256 / 4


# -- F20: a full disk ------------------------------------------------------------------------------


@pytest.mark.fault("F20")
def test_a_full_disk_refuses_and_keeps_its_promises(start: Gateways, disk_on: DiskOn) -> None:
    """No marks: pwrite(2) itself says ENOSPC. Nothing that was there is harmed."""
    disk = disk_on(size=32 << 20)
    own = start(builder=LATE, storage="soft_reserve_bytes = 0\nhard_reserve_bytes = 0")
    ledger = Ledger()
    with opened(own) as peer:
        assert ledger.store(peer) == 0
        filler = disk.fill(leave=300_000)
        statuses = [ledger.store(peer, pixels=200_000) for _ in range(4)]
        assert statuses[-1] == A700
        filler.unlink()
        until(lambda: ledger.store(peer, pixels=200_000) == 0, "instances are taken again")
        assert "intake_stopped" not in own.log()
    assert own.stop() == 0
    archives = own.envelopes("outbox")
    ledger.check(archives)
    assert len(archives) == 1  # the envelope that was open all the time


@pytest.mark.fault("F20")
def test_under_the_marks_nothing_new_and_all_is_sealed(start: Gateways, disk_on: DiskOn) -> None:
    disk = disk_on(size=48 << 20)
    soft, hard = 12 << 20, 4 << 20
    marks = f"soft_reserve_bytes = {soft}\nhard_reserve_bytes = {hard}"
    often = "from fastjmix.uploader import disk_watch; disk_watch.LOOK_SECS = 0.1"
    own = start(builder="release_grace_secs = 0.5", storage=marks, first=often)
    ledger = Ledger()
    with opened(own) as peer:
        assert ledger.store(peer) == 0
        filler = disk.fill(leave=soft - (1 << 20))
        until(lambda: rejection(own) == RJ_CONGESTION, "new associations are rejected")
        own.wait_for(f"warning uploader disk_below_mark mark=soft .*soft_mark_bytes={soft}")
        while (status := ledger.store(peer, pixels=500_000)) == 0:  # this one was there before
            assert free(disk.at) > hard - 600_000
        assert status == A700
        assert free(disk.at) < hard + (2 << 20)
        own.wait_for("error   packer-0 append_failed why=.* association=1 sop_instance=.* study=")
    ledger.check(settled(own))  # room for sealing was left
    os.truncate(filler, filler.stat().st_size - (2 << 20) - (soft - free(disk.at)) // 4096 * 4096)
    until(lambda: free(disk.at) >= soft, "above the soft mark")
    time.sleep(0.3)  # longer than an answer about free space is believed
    assert (soft <= free(disk.at) < soft * 1.1) == (rejection(own) == RJ_CONGESTION)
    filler.unlink()
    until(lambda: rejection(own) is None, "accepted again")
    own.wait_for("info    uploader disk_above_marks was_below=soft resource=space")


@pytest.mark.fault("F20")
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_marks_to_the_byte(tmp_path: Path, more: int) -> None:
    """On a real file system: at the mark is not under it."""
    disk = Memory(tmp_path / "small", 4 << 20)
    try:
        at_mark = free(disk.at) + more
        assert FreeSpace(disk.at, soft=at_mark, hard=0).low() == (more > 0)
        assert FreeSpace(disk.at, soft=0, hard=at_mark).exhausted() == (more > 0)
        # what is to come, and the ends of what is open, count as taken
        assert FreeSpace(disk.at, 0, at_mark - 1000).exhausted(1000) == (more > 0)
        spent = FreeSpace(disk.at, 0, at_mark - 1000)
        assert not spent.exhausted()
        spent.spend(1000)
        assert spent.exhausted() == (more > 0)
    finally:
        disk.close()


@pytest.mark.fault("F20")
def test_after_the_soft_mark_a_tenth_more_must_be_free(tmp_path: Path) -> None:
    disk = Memory(tmp_path / "small", 4 << 20)
    try:
        soft = 2 << 20
        room = FreeSpace(disk.at, soft=soft)

        def low() -> bool:
            time.sleep(0.26)  # as long as an answer is believed
            return room.low()

        assert not low()
        filler = disk.fill(leave=soft - 4096)
        assert low()
        os.truncate(filler, filler.stat().st_size - 4096)
        assert free(disk.at) == soft
        assert low()
        os.truncate(filler, filler.stat().st_size - soft // 10 - 4096)
        assert not low()
        filler.unlink()
    finally:
        disk.close()


# -- F22, F26: a file system that takes nothing ----------------------------------------------------


@pytest.mark.fault("F22")
def test_read_only_while_running(start: Gateways, disk_on: DiskOn) -> None:
    disk = disk_on()
    own, ledger = start(builder=SOON), Ledger()
    with opened(own) as peer:
        assert ledger.store(peer) == 0
    before = settled(own)
    until(lambda: remounted(disk, "ro"), "read-only")
    with opened(own) as peer:
        assert ledger.store(peer) == A700
        assert ledger.store(peer) == A700
        own.wait_for("intake_stopped")
    assert rejection(own) == RJ_CONGESTION
    assert settled(own) == before
    ledger.check(before)
    disk.remount("rw")
    own.wait_for("intake_resumed")
    with opened(own) as peer:
        assert ledger.store(peer) == 0
    ledger.check(settled(own))


def remounted(disk: Disk, options: str) -> bool:
    """False while a file is open for writing."""
    try:
        disk.remount(options)
    except AssertionError:
        return False
    return True


@pytest.mark.fault("F26")
def test_no_inodes(start: Gateways, disk_on: DiskOn) -> None:
    disk = disk_on("-N", "80", size=16 << 20)
    own = start(builder=LATE, storage="soft_reserve_bytes = 0\nhard_reserve_bytes = 0")
    ledger, files = Ledger(), []
    with opened(own) as peer:
        assert ledger.store(peer, "1.2.3.1") == 0
        with contextlib.suppress(OSError):
            for number in range(100):
                files.append(disk.at / f"inode-{number}")
                files[-1].touch()
        assert len(files) < 100
        assert ledger.store(peer, "1.2.3.2") == A700  # a new envelope needs files
        assert ledger.store(peer, "1.2.3.1") == 0  # one that is open does not
        for file in files:
            file.unlink(missing_ok=True)
        assert ledger.store(peer, "1.2.3.2") == 0
    assert own.stop() == 0
    ledger.check(own.envelopes("outbox"))


@pytest.mark.fault("F26")
def test_a_directory_that_cannot_be_written(start: Gateways, disk_on: DiskOn) -> None:
    disk_on()
    own, ledger = start(builder=SOON), Ledger()
    building = own.spool / "building"
    as_root("chattr", "+i", building)  # root may write where permissions say no: this holds
    try:
        with opened(own) as peer:
            assert ledger.store(peer) == A700
            assert ledger.store(peer) == A700
            own.wait_for("intake_stopped")
            assert rejection(own) == RJ_CONGESTION
    finally:
        as_root("chattr", "-i", building)
    own.wait_for("intake_resumed")
    with opened(own) as peer:
        assert ledger.store(peer) == 0
    ledger.check(settled(own))


def ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.fault("F26")
def test_no_descriptors(start: Gateways) -> None:
    """With 64 descriptors a packer has room for some envelopes, and says no to the others."""
    own, ledger = start(builder=LATE), Ledger()
    packer = child(own, "packer-0")
    most = resource.prlimit(packer, resource.RLIMIT_NOFILE)[1]
    for pid in own.children().values():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, most))
    with opened(own) as peer:
        statuses = [ledger.store(peer, f"1.2.3.{n}") for n in range(64)]
        assert statuses[0] == 0
        assert statuses[-1] == A700
        assert "intake_stopped" not in own.log()
        before = ticks(packer)
        time.sleep(0.5)  # what is measured is that nothing happens
        assert ticks(packer) - before < 0.2 * 0.5 * os.sysconf("SC_CLK_TCK")
        resource.prlimit(packer, resource.RLIMIT_NOFILE, (most, most))
        assert ledger.store(peer, "1.2.3.64") == 0
    peers = [Peer(own.dicom_port) for _ in range(80)]  # more than the receiver can hold
    own.wait_for("accept_failed")
    for one in peers:
        one.socket.close()
    began = time.monotonic()
    until(lambda: rejection(own) is None, "associations again")
    assert time.monotonic() - began < 5
    assert own.stop() == 0
    ledger.check(own.envelopes("outbox"))


# -- F23, F27: wrong from the start ----------------------------------------------------------------


def refused(directory: Path, *prefix: str, **parts: str) -> str:
    """Returns the message of a `fastjmix run` that does not start: exit code 2, and one line."""
    write_config(directory, 9, **parts)
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "fastjmix", "run", "-c", "config.toml"],
        cwd=directory, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode == 2, output
    assert "listening" not in output
    assert re.fullmatch(r"fastjmix: [^\n]+\n", done.stderr), output
    return output


@pytest.mark.fault("F23")
def test_a_spool_in_memory(tmp_path: Path, start: Gateways) -> None:
    disk = Memory(tmp_path / "own" / "spool", 64 << 20)
    try:
        assert "is on tmpfs, which is memory" in refused(tmp_path / "own")
        own = start(builder=f'{SOON}\ndurability = "page-cache"')  # who says so may
        ledger = Ledger()
        with opened(own) as peer:
            assert ledger.store(peer) == 0
        ledger.check(settled(own))
        assert own.stop() == 0
    finally:
        disk.close()


@pytest.mark.fault("F23")
def test_an_overlay_on_memory(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory", 16 << 20)
    at = tmp_path / "own" / "spool"
    at.mkdir(parents=True)
    for name in ("upper", "work"):
        (memory.at / name).mkdir()
    lower = tmp_path / "lower"
    lower.mkdir()
    options = f"lowerdir={lower},upperdir={memory.at}/upper,workdir={memory.at}/work"
    try:
        as_root("mount", "-t", "overlay", "-o", options, "overlay", at)
        try:
            assert "is on an overlay on tmpfs" in refused(tmp_path / "own")
        finally:
            as_root("umount", at)
    finally:
        memory.close()


@pytest.mark.fault("F23")
def test_missing_and_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "spool").write_text("a file")
    assert "is not a directory ([storage.options] path)" in refused(tmp_path / "own")
    (tmp_path / "own" / "spool").unlink()
    (tmp_path / "own" / "spool").symlink_to(tmp_path / "gone" / "away")
    assert "is a symbolic link" in refused(tmp_path / "own")


@pytest.mark.fault("F23")
def test_the_wrong_owner(tmp_path: Path) -> None:
    spool = tmp_path / "own" / "spool"
    (spool / "outbox").mkdir(parents=True)
    as_root("chown", "12345", spool / "outbox")
    try:
        assert "belongs to user 12345" in refused(tmp_path / "own")
    finally:
        as_root("chown", str(os.geteuid()), spool / "outbox")


@pytest.mark.fault("F23")
def test_two_file_systems(tmp_path: Path) -> None:
    other = Memory(tmp_path / "own" / "spool" / "outbox", 1 << 20)
    try:
        assert "are on several file systems" in refused(tmp_path / "own")
    finally:
        other.close()


@pytest.mark.fault("F23")
def test_read_only_from_the_start(tmp_path: Path, disk_on: DiskOn) -> None:
    disk = disk_on()
    spool = Spool(disk.at)
    spool.prepare()
    spool.release()
    disk.remount("ro")
    assert "Read-only file system" in refused(tmp_path / "own")


@pytest.mark.fault("F27")
def test_too_little_memory_for_lanes(tmp_path: Path) -> None:
    """A limit on the size of files holds for memory without a name too."""
    reported = refused(
        tmp_path / "own", "prlimit", "--fsize=8388608",
        endpoint="max_associations = 400", fastjmix="lane_bytes = 1048576",
    )  # fmt: skip
    assert re.search(r"\d{9} bytes of shared memory for 400 lanes cannot be had", reported)


@pytest.mark.fault("F27")
def test_no_memory_for_a_lane_while_running(start: Gateways, tmp_path: Path) -> None:
    """One lane has its memory; for a second there is none, then there is some again."""
    own = start(fastjmix="lane_bytes = 1048576", builder="release_grace_secs = 30")
    receiver = own.children()["receiver-0"]
    with Peer(own.dicom_port) as first:
        assert first.associate()[0] == 2
        with injecting(own, tmp_path / "calls", "fallocate", "ENOSPC", "1+", "receiver-0"):
            for _ in range(3):
                with Peer(own.dicom_port) as second:
                    assert second.associate() == (3, bytes([0, 2, 3, 2]))
            data = wire.data_set(pixels=os.urandom(3 << 20))
            assert first.store(data) == 0  # through the lane that there is
        with Peer(own.dicom_port) as second:
            assert second.associate()[0] == 2
            assert second.store(wire.data_set("1.2.3.8"), "1.2.3.8") == 0
        first.release()
    assert own.children()["receiver-0"] == receiver


# -- F24, F25: what the disk says later is not what was written ------------------------------------


def killed_with_a_draft(start: Gateways, count: int) -> tuple[Ledger, Path]:
    """Kills a gateway; returns what it acknowledged, and the one draft that it left."""
    own, ledger = start(builder=LATE), Ledger()
    with opened(own) as peer:
        for _ in range(count):
            assert ledger.store(peer) == 0
    own.child.kill()
    own.child.wait(30)
    (draft,) = (own.spool / "building").iterdir()
    return ledger, draft


class Damaged:
    """Copies of one draft that a crash left, each damaged in its own way."""

    def __init__(self, own: Gateway, ledger: Ledger) -> None:
        own.child.kill()
        own.child.wait(30)
        self._building = own.spool / "building"
        (self._original,) = self._building.iterdir()
        self.promises = journal.read(self._original).members
        self.starts = sorted(self.promises)
        self.whole = set(ledger.promised)
        self.order = list(ledger.promised)
        self._expected: dict[str, tuple[set[str], int | None]] = {}

    def copy(self, *, lost: Set[int] = frozenset(), rejected: int | None = None) -> Path:
        """A copy to be damaged. `lost`: numbers of instances that will not be in an envelope;
        `rejected`: how many bytes will be kept for a person."""
        path = self._building / str(uuid.uuid4())
        shutil.copytree(self._original, path)
        self._expected[path.name] = ({self.order[n] for n in lost}, rejected)
        return path

    def remove_original(self) -> None:
        shutil.rmtree(self._original)

    def verify(self, own: Gateway) -> None:
        archives = settled(own)
        held = {archive.stem: set(contents(archive)) for archive in archives}
        moved = dict(re.findall(r"envelope_moved envelope=(\S+) to=(\S+)", own.log()))
        for name, (lost, rejected) in self._expected.items():
            assert held.pop(moved.get(name, name)) == self.whole - lost, name
            kept = own.spool / "rejected" / f"{name}.zip"
            assert (kept.stat().st_size if kept.exists() else None) == rejected, name
            alarms = re.findall(rf"error .*member_damaged envelope={name}.*offset=(\d+)", own.log())
            assert len(alarms) == (rejected is not None), name
            if rejected is not None:
                assert f"offset {alarms[0]}" in why_kept(own, name)
        assert not held


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


@pytest.mark.fault("F25")
def test_damage_is_loud_and_a_torn_tail_is_not(start: Gateways) -> None:
    own, ledger = start(builder=LATE), Ledger()
    with opened(own) as peer:
        for _ in range(5):
            assert ledger.store(peer) == 0
    left = Damaged(own, ledger)
    ends = [left.promises[at] for at in left.starts]
    assert len(ends) == 5
    sizes = [end - at for at, end in zip(left.starts, ends, strict=True)]
    record = journal.RECORD.size

    # the journal: torn, flipped, zeroed, gone. The archive is whole, so nothing is amiss
    os.truncate(left.copy() / journal.NAME, 5 * record - 7)
    flip(left.copy() / journal.NAME, 2 * record + 3)
    (left.copy() / journal.NAME).write_bytes(bytes(5 * record))
    (left.copy() / journal.NAME).write_bytes(random.randbytes(777))
    (left.copy() / journal.NAME).unlink()

    # an instance's bytes, and a header that can no longer be stepped over by its own size
    flip(left.copy(lost={2}, rejected=sizes[2]) / "envelope.zip", ends[2] - 9)
    flip(left.copy(lost={2}, rejected=sizes[2]) / "envelope.zip", left.starts[2] + 1)
    flip(left.copy(lost={2}, rejected=sizes[2]) / "envelope.zip", left.starts[2] + 20)
    flip(left.copy(lost={0}, rejected=sizes[0]) / "envelope.zip", 0)
    flip(left.copy(lost={4}, rejected=sizes[4]) / "envelope.zip", ends[4] - 1)

    # the same where the journal cannot help: what is whole behind it says that it is damage
    one = left.copy(lost={2}, rejected=sizes[2])
    flip(one / "envelope.zip", ends[2] - 9)
    (one / journal.NAME).unlink()

    # and where one record is flipped too: its neighbours say where the member ends
    one = left.copy(lost={2}, rejected=sizes[2])
    flip(one / "envelope.zip", left.starts[2] + 1)
    flip(one / journal.NAME, 2 * record + 3)

    # a file that is shorter than what was promised
    os.truncate(left.copy(lost={4}, rejected=sizes[4] - 50) / "envelope.zip", ends[4] - 50)

    # torn tails: behind the last promise, half an instance or one that the journal does not know
    with (left.copy() / "envelope.zip").open("ab") as file:
        file.write(left._original.joinpath("envelope.zip").read_bytes()[: sizes[0] - 100])
    with (left.copy() / "envelope.zip").open("ab") as file:
        file.write(bytes(5000))
    one = left.copy(lost={4})
    flip(one / "envelope.zip", ends[4] - 1)
    os.truncate(one / journal.NAME, 4 * record)

    left.remove_original()
    again = start(builder=LATE)
    left.verify(again)
    again.wait_for("started")
    totals = get(f"http://127.0.0.1:{again.http_port}/metrics")[2].decode()
    assert "fastjmix_members_damaged_total 8.0" in totals


@pytest.mark.fault("F25")
def test_a_draft_that_is_all_damage_is_kept(start: Gateways) -> None:
    _, draft = killed_with_a_draft(start, 1)
    size = draft.joinpath("envelope.zip").stat().st_size
    flip(draft / "envelope.zip", size - 1)
    again = start(builder=LATE)
    again.wait_for("member_damaged")
    assert settled(again) == []
    assert again.envelopes("rejected")[0].stat().st_size == size


@pytest.mark.fault("F25")
def test_a_copy_that_was_not_finished_is_made_again(start: Gateways) -> None:
    """The process died between the fresh draft and the farewell to the old one."""
    ledger, draft = killed_with_a_draft(start, 3)
    copy = draft.with_name(str(uuid.uuid4()))
    shutil.copytree(draft, copy)
    recipe = (copy / "draft.json").read_text()
    (copy / "draft.json").write_text(f'{{"replaces":"{draft.name}",{recipe[1:]}')
    again = start(builder=LATE)
    archives = settled(again)
    assert [archive.stem for archive in archives] == [draft.name]
    ledger.check(archives)


@pytest.mark.fault("F19")
def test_a_suspect_draft_is_copied_by_the_next_start_too(start: Gateways) -> None:
    ledger, draft = killed_with_a_draft(start, 3)
    (draft / "suspect").touch()
    again = start(builder=LATE)
    again.wait_for(f"envelope_moved envelope={draft.name}")
    archives = settled(again)
    ledger.check(archives)
    assert draft.name not in {archive.stem for archive in archives}
    assert again.envelopes("rejected") == []


@pytest.mark.fault("F25")
def test_what_cannot_be_read_back_for_its_digest_goes_to_another_envelope(start: Gateways) -> None:
    """Acknowledged already: the rest of its study is not to be lost for it either."""
    own, ledger = start(env={VARIABLE: "packer.digesting:eio:3"}, builder=LATE), Ledger()
    with opened(own) as peer:
        for _ in range(3):
            assert ledger.store(peer) == 0
        own.wait_for("digest_failed")
        own.wait_for("envelope_recovered envelope=.* instances=3")
        assert ledger.store(peer) == 0
    assert own.stop() == 0
    ledger.check(own.envelopes("outbox"))


@pytest.mark.fault("F25")
def test_damage_between_the_write_and_its_digest_is_loud(start: Gateways) -> None:
    """The digest is of what the file holds, and only if that is what arrived."""
    own, ledger = start(env={VARIABLE: "packer.digesting:stop:3"}, builder=LATE), Ledger()
    with opened(own) as peer:
        for _ in range(3):
            assert ledger.store(peer) == 0
        packer = own.children()["packer-0"]
        own.wait_for("failpoint_reached point=packer.digesting")
        status = Path(f"/proc/{packer}/stat")
        until(lambda: status.read_text().rsplit(")", 1)[1].split()[0] == "T", "it stands still")
        (archive,) = (own.spool / "building").glob("*/envelope.zip")
        flip(archive, archive.stat().st_size - 1)
        os.kill(packer, signal.SIGCONT)
        own.wait_for("digest_failed")
        own.wait_for("envelope_recovered envelope=.* instances=2")
    assert own.stop() == 0
    lost = list(ledger.promised)[-1]
    (rejected,) = own.envelopes("rejected")
    assert lost not in {uid for a in own.envelopes("outbox") for uid in contents(a)}
    ledger.promised.pop(lost)
    ledger.check(own.envelopes("outbox"))
    assert "CRC-32" in why_kept(own, rejected.stem)


@pytest.mark.fault("F24")
def test_a_flipped_bit_in_a_sealed_envelope_is_found(start: Gateways) -> None:
    """In its structure by the structure, in an instance by its CRC-32: no bit is left out."""
    own, ledger = start(builder=SOON), Ledger()
    with opened(own) as peer:
        assert ledger.store(peer, pixels=100) == 0
    settled(own)
    assert own.stop() == 0  # its uploader would find the flipped bit, too
    (archive,) = own.envelopes("outbox")
    whole = archive.read_bytes()
    assert len(whole) < 6000
    for offset in range(0, len(whole), by_form(7, 1)):
        flip(archive, offset)
        with pytest.raises(Exception, match=r"sealed|CRC"):
            contents(archive)
        flip(archive, offset)
    assert set(contents(archive)) == set(ledger.promised)


def members_of(archive: Path) -> Iterator[tuple[int, int]]:
    data = archive.read_bytes()
    offset = 0
    while member := member_at(lambda at, n: data[at : at + n], offset, len(data)):
        yield offset, data_offset(member) + member.size
        offset = data_offset(member) + member.size


@pytest.mark.fault("F25")
def test_the_journal_is_exact_after_a_kill(start: Gateways) -> None:
    """Each member that was acknowledged stands in it, in both kinds of durability."""
    for durability in ("fsync", "page-cache"):
        own, ledger = start(builder=f'{LATE}\ndurability = "{durability}"'), Ledger()
        with opened(own) as peer:
            for _ in range(6):
                assert ledger.store(peer) == 0
        own.child.kill()
        own.child.wait(30)
        (draft,) = (own.spool / "building").iterdir()
        assert journal.read(draft).members == dict(members_of(draft / "envelope.zip"))
        assert len(journal.read(draft).members) == 6
        again = start(builder=LATE)
        ledger.check(settled(again))
        assert again.stop() == 0
        shutil.rmtree(again.spool)
