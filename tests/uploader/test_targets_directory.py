"""uploader/targets/directory.py: envelopes on real file systems that fill up, fail and go away."""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fastjmix.failpoints import VARIABLE
from fastjmix.spool.elsewhere import NewFile
from fastjmix.uploader.outcome import Disposition
from fastjmix.uploader.steps import Steps, Stuck
from fastjmix.uploader.targets.directory import assess_error
from tests.support.disks import Disk, Memory, as_root
from tests.support.nodes import MEGABYTE, Node, node, run, until
from tests.support.places import names, to_directory
from tests.support.sealed import sealed_envelope
from tests.uploader.test_process import CHILD, whole_config


@pytest.fixture
def share(tmp_path: Path) -> Path:
    made = tmp_path / "share"
    made.mkdir()
    return made


def test_an_envelope_is_in_the_directory_under_its_id(tmp_path: Path, share: Path) -> None:
    async def test() -> None:
        async with node(tmp_path, to_directory(share)) as one:
            image = os.urandom(3 * MEGABYTE + 17)
            envelope_id = one.seal(sealed_envelope(image=image), crc32=None)
            assert await one.left() == [("sent", envelope_id)]
            written = share / f"{envelope_id}.zip"
            assert names(share) == {written.name}
            assert written.read_bytes() == one.spool.path("sent", envelope_id).read_bytes()
            assert written.stat().st_mode & 0o777 == 0o640
            receipt = one.receipt(envelope_id)
            assert receipt["url"] == share.as_uri()
            assert (receipt["attempts"], receipt["verified"]) == (1, False)

    run(test)


@pytest.mark.fault("F170")
def test_the_same_bytes_there_are_the_envelope(tmp_path: Path, share: Path) -> None:
    async def test() -> None:
        async with node(tmp_path, to_directory(share), start=False) as one:
            envelope_id = one.seal()
            data = one.spool.path("outbox", envelope_id).read_bytes()
            there = share / f"{envelope_id}.zip"
            there.write_bytes(data)
            before = there.stat()
            one.start()
            assert await one.left() == [("sent", envelope_id)]
            assert one.receipt(envelope_id)["verified"] is True
            assert there.stat().st_ino == before.st_ino
            assert there.stat().st_mtime_ns == before.st_mtime_ns

    run(test)


@pytest.mark.fault("F170")
@pytest.mark.parametrize("change", ["a byte", "a byte more", "a link", "a directory"])
def test_no_file_is_replaced(tmp_path: Path, share: Path, change: str) -> None:
    async def test() -> None:
        async with node(tmp_path, to_directory(share), start=False) as one:
            envelope_id = one.seal()
            data = one.spool.path("outbox", envelope_id).read_bytes()
            there = share / f"{envelope_id}.zip"
            if change == "a directory":
                there.mkdir()
            elif change == "a link":
                there.symlink_to(tmp_path / "elsewhere")
            else:
                more = b"\0" if change == "a byte more" else b""
                there.write_bytes(bytes([data[0] ^ 1]) + data[1:] + more)
            found = there.lstat()
            one.start()
            assert await one.left() == [("rejected", envelope_id)]
            assert "another file" in one.refusal(envelope_id)["reason"]
            assert there.lstat().st_ino == found.st_ino
            assert names(share) == {there.name}

    run(test)


def test_two_targets_in_one_directory_do_not_disturb_each_other(
    tmp_path: Path, share: Path
) -> None:
    """They once wrote to the same unfinished file: one held its target, and gave the other's file
    its name before it was whole."""

    async def test() -> None:
        both = (to_directory(share, name="one"), to_directory(share, name="two"))
        async with node(tmp_path, both) as own:
            image = os.urandom(20 * MEGABYTE)
            envelope_id = own.seal(sealed_envelope(image=image), crc32=None)
            assert await own.left() == [("sent", envelope_id)]
            ends = own.ticket("sent", envelope_id).ends
            assert sorted(end["receipt"]["verified"] for end in ends.values()) == [False, True]
            assert [end["receipt"]["attempts"] for end in ends.values()] == [1, 1]
            assert names(share) == {f"{envelope_id}.zip"}

    run(test)


# -- disks -----------------------------------------------------------------------------------------


@pytest.mark.fault("F170")
def test_a_full_disk_holds_the_target_until_there_is_room(tmp_path: Path) -> None:
    disk = Memory(tmp_path / "small", 4 * MEGABYTE)
    try:

        async def test() -> None:
            async with node(tmp_path / "spool", to_directory(disk.at)) as one:
                filler = disk.fill(leave=MEGABYTE)
                envelope_id = one.seal(sealed_envelope(image=os.urandom(2 * MEGABYTE)), crc32=None)
                (line, *_) = await one.logged("upload_retry")
                assert "disk is full" in line
                await one.logged("upstream_paused")
                await until(lambda: names(disk.at) == {filler.name})  # nothing half is left
                filler.unlink()
                assert await one.left() == [("sent", envelope_id)]

        run(test)
    finally:
        disk.close()


@pytest.mark.fault("F170")
def test_a_directory_that_may_not_be_written_is_held(tmp_path: Path) -> None:
    disk = Memory(tmp_path / "small", 4 * MEGABYTE)
    try:

        async def test() -> None:
            disk.remount("ro")
            async with node(tmp_path / "spool", to_directory(disk.at)) as one:
                envelope_id = one.seal()
                (line, *_) = await one.logged("upstream_held")
                assert "may not be written" in line
                disk.remount("rw")
                assert await one.left() == [("sent", envelope_id)]

        run(test)
    finally:
        disk.close()


@pytest.mark.fault("F170")
@pytest.mark.parametrize("require_mount", [False, True])
def test_a_share_that_is_not_mounted(tmp_path: Path, require_mount: bool) -> None:
    """Without require_mount its empty mount point takes the envelopes; the directory itself is
    never made."""
    disk = Disk(tmp_path / "share", "ext4")
    try:

        async def test() -> None:
            upstream = to_directory(disk.at, require_mount=require_mount)
            async with node(tmp_path / "spool", upstream) as one:
                first = one.seal()
                assert await one.left() == [("sent", first)]
                disk.unmount()
                second = one.seal()
                if require_mount:
                    (line, *_) = await one.logged("upstream_held")
                    assert "is it mounted?" in line
                    assert names(disk.at) == set()
                    disk.mount()
                assert (await one.left(2))[1:] == [("sent", second)]
                assert f"{second}.zip" in names(disk.at)

        run(test)
    finally:
        disk.close()


@pytest.mark.fault("F170")
def test_a_directory_that_is_missing_is_never_made(tmp_path: Path) -> None:
    async def test() -> None:
        missing = tmp_path / "share"
        async with node(tmp_path / "spool", to_directory(missing)) as one:
            envelope_id = one.seal()
            await one.logged("upstream_held")
            assert not missing.exists()
            missing.mkdir()
            assert await one.left() == [("sent", envelope_id)]

    run(test)


@pytest.mark.fault("F171")
def test_a_share_that_fails_and_comes_back(tmp_path: Path) -> None:
    """The power of its disk goes in the middle: each later call fails with EIO."""
    disk = Disk(tmp_path / "share", "ext4")
    try:

        async def test() -> None:
            async with node(tmp_path / "spool", to_directory(disk.at, require_mount=True)) as one:
                first = one.seal()
                await one.left()
                disk.cut()
                second = one.seal()
                await one.logged("upload_retry")
                disk.unmount()
                disk.mount()
                assert (await one.left(2))[1:] == [("sent", second)]
                for each in (first, second):  # what was called delivered has survived the cut
                    sent = one.spool.path("sent", each).read_bytes()
                    assert (disk.at / f"{each}.zip").read_bytes() == sent

        run(test)
    finally:
        disk.close()


@pytest.mark.fault("F171")
def test_a_share_that_does_not_answer_keeps_nobody_waiting(tmp_path: Path) -> None:
    """A frozen file system: each write to it waits, as to a share whose server is gone."""
    disk = Disk(tmp_path / "share", "ext4")
    try:

        async def test() -> None:
            upstream = to_directory(disk.at, timeout_secs=0.2)
            async with node(tmp_path / "spool", upstream) as one:
                as_root("fsfreeze", "-f", disk.at)
                try:
                    envelope_id = one.seal()
                    await one.logged("upload_retry", 3)
                    assert "does not answer" in one.lines("upload_retry")[0]
                    assert "has not come back" in one.lines("upload_retry")[-1]
                finally:
                    as_root("fsfreeze", "-u", disk.at)
                assert await one.left() == [("sent", envelope_id)]
                assert names(disk.at) == {f"{envelope_id}.zip", "lost+found"}

        run(test)
    finally:
        disk.close()


def test_a_call_that_comes_back_late_lets_the_next_begin() -> None:
    async def test() -> None:
        entered, released = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def wait() -> None:
            loop.call_soon_threadsafe(entered.set)
            released.wait()

        steps = Steps(0.05)
        with pytest.raises(Stuck, match="no answer"):
            await steps.call(wait)
        assert entered.is_set()
        with pytest.raises(Stuck, match="earlier"):
            await steps.call(os.getpid)
        released.set()

        async def is_free() -> None:
            while True:
                try:
                    assert await steps.call(os.getpid) == os.getpid()
                    return
                except Stuck:
                    await asyncio.sleep(0.005)

        async with asyncio.timeout(10):
            await is_free()

    run(test)


@pytest.mark.parametrize(
    ("number", "disposition"),
    [
        (errno.ENOSPC, Disposition.RETRY),
        (errno.EDQUOT, Disposition.RETRY),
        (errno.EIO, Disposition.RETRY),
        (errno.ESTALE, Disposition.RETRY),
        (errno.ENOTCONN, Disposition.RETRY),
        (errno.EACCES, Disposition.HELD),
        (errno.EROFS, Disposition.HELD),
        (errno.ENOENT, Disposition.HELD),
        (errno.ENODEV, Disposition.HELD),
        (errno.EFBIG, Disposition.REFUSED),
    ],
)
def test_an_error_has_its_outcome(number: int, disposition: Disposition) -> None:
    outcome = assess_error(OSError(number, os.strerror(number)))
    assert outcome.disposition is disposition
    assert os.strerror(number) in outcome.reason or number == errno.EFBIG


# -- kills -----------------------------------------------------------------------------------------


def uploaded_by_process(one: Node, share: Path, at: str) -> int:
    """Runs the uploader as a process until outbox/ is empty, or it is killed; its exit code."""
    whole = whole_config(one.spool.root, to_directory(share))
    given = pickle.dumps((whole, one.channels.stop, one.channels.outbox_wake))
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        pass_fds=(one.channels.stop, one.channels.outbox_wake),
        env={**os.environ, VARIABLE: at},
    )
    assert child.stdin is not None
    child.stdin.write(given)
    child.stdin.close()
    return child.wait(60)


@pytest.mark.fault("F172")
@pytest.mark.parametrize("point", ["uploader.body", "elsewhere.written", "spool.renamed"])
def test_a_kill_leaves_the_name_free_or_the_whole_envelope(
    tmp_path: Path, share: Path, point: str
) -> None:
    async def test() -> None:
        async with node(tmp_path, to_directory(share), start=False) as one:
            envelope_id = one.seal(sealed_envelope(image=os.urandom(MEGABYTE)), crc32=None)
            data = one.spool.path("outbox", envelope_id).read_bytes()
            one.spool.release()
            killed = await asyncio.to_thread(uploaded_by_process, one, share, f"{point}:kill:1")
            assert killed == -9
            there = share / f"{envelope_id}.zip"
            if point == "spool.renamed":
                assert there.read_bytes() == data
            else:
                (unfinished,) = names(share)
                assert re.fullmatch(rf"\.{envelope_id}\.[0-9a-f]{{8}}\.part", unfinished)
            one.start()
            assert await one.left() == [("sent", envelope_id)]
            assert names(share) == {there.name}
            assert there.read_bytes() == data
            assert one.receipt(envelope_id)["verified"] is (point == "spool.renamed")

    run(test)


def test_two_that_write_the_same_file_keep_apart(share: Path) -> None:
    """Two backends may name one directory."""
    one = NewFile(share / "a.zip", 0o640, "one")
    other = NewFile(share / "a.zip", 0o640, "other")
    other.write([b"a pa"])
    one.write([b"a part, and the rest"])
    one.place()
    other.write([b"rt, and the rest"])
    with pytest.raises(FileExistsError):
        other.place()
    other.discard()
    assert names(share) == {"a.zip"}
    assert (share / "a.zip").read_bytes() == b"a part, and the rest"


def test_a_file_that_was_given_up_takes_no_further_byte(share: Path) -> None:
    """A call that comes back late must not write to a descriptor that is another file's by then."""
    file = NewFile(share / "a.zip", 0o640, "a")
    file.write([b"one"])
    file.discard()
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.write([b"two"])
    assert names(share) == set()
