"""Row F98: a start on storage that has run out of something, or fails for now."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastjmix.errors import SpoolError
from fastjmix.spool import Spool
from tests.support.disks import Disk, Ledger, as_root, free, opened, rejection, settled
from tests.support.gateway import Gateway, Store, get, running, until

SOON = "release_grace_secs = 0.05"
NO_MARKS = "soft_reserve_bytes = 0\nhard_reserve_bytes = 0"
NOBODY = 9
"""A port on which no upstream listens."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Makes 64 inodes and 16 MB, where the gateway under test has its spool."""
    one = Disk(tmp_path / "own" / "spool", "ext4", "-N", "64", size=16 << 20)
    yield one
    one.close()


def take_inodes(disk: Disk) -> None:
    hogs = disk.at / "hogs"
    hogs.mkdir()
    with contextlib.suppress(OSError):
        for number in range(100):
            (hogs / str(number)).touch()


def take_bytes(disk: Disk) -> None:
    hogs = disk.at / "hogs"
    hogs.mkdir()
    disk.fill(32 << 10).rename(hogs / "filler")
    with contextlib.suppress(OSError):
        for number in range(100):
            (hogs / str(number)).write_bytes(bytes(4096))
    assert free(disk.at) < 4096


def left_behind(disk: Disk, ledger: Ledger) -> None:
    """Leaves three envelopes that no upstream has taken."""
    with running(Gateway(disk.at.parent, NOBODY, builder=SOON)) as own:
        with opened(own) as peer:
            for number in range(3):
                assert ledger.store(peer, f"1.2.3.{number}", 200_000) == 0
        assert len(settled(own)) == 3
        assert own.stop() == 0


@pytest.mark.fault("F98")
@pytest.mark.parametrize(
    ("without", "take"),
    [
        ("", take_bytes),
        ("", take_inodes),
        ("sent", take_inodes),
        (".lock", take_inodes),
        ("everything", take_bytes),
        ("everything", take_inodes),
    ],
)
def test_a_start_without_space_delivers_and_resumes(
    disk: Disk, tmp_path: Path, without: str, take: Callable[[Disk], None]
) -> None:
    """Envelopes that are there leave, though some things cannot be made again for now; then there
    is room.
    """
    ledger = Ledger()
    if without == "everything":
        shutil.rmtree(disk.at / "lost+found")
    else:
        left_behind(disk, ledger)
        if (disk.at / without).is_dir() and without:
            (disk.at / without).rmdir()
        elif without:
            (disk.at / without).unlink()
    take(disk)
    with (
        running(Store(tmp_path / "upstream")) as store,
        running(Gateway(disk.at.parent, store.port, builder=SOON, storage=NO_MARKS)) as own,
    ):
        if take is take_inodes:
            own.wait_for('storage_unready why="No space left')
            own.wait_for('intake_stopped why="No space left')
            assert get(f"{own.http}/readyz")[0] == 503
        store.wait_held(len(ledger.promised))
        shutil.rmtree(disk.at / "hogs")
        until(lambda: rejection(own) is None, "reception begins")
        with opened(own) as peer:
            assert ledger.store(peer, "1.2.9") == 0
        store.wait_held(len(ledger.promised))
        until(lambda: not own.envelopes("outbox"), "everything is delivered")
        ledger.check(list(store.directory.rglob("*.zip")))
        assert own.stop() == 0


@pytest.mark.fault("F98")
def test_without_space_for_a_receipt_the_delivered_envelope_is_deleted(
    disk: Disk, tmp_path: Path
) -> None:
    """Nobody else gives anything back."""
    ledger = Ledger()
    left_behind(disk, ledger)
    take_inodes(disk)
    with (
        running(Store(tmp_path / "upstream")) as store,
        running(Gateway(disk.at.parent, store.port, builder=SOON)) as own,
    ):
        until(lambda: not own.envelopes("outbox"), "everything is delivered")
        own.wait_for("copy_not_kept .*status=201")
        own.wait_for("intake_resumed")
        ledger.check(list(store.directory.rglob("*.zip")))
        assert own.stop() == 0


STRACED = """
import os, sys
os.execvp("strace", ["strace", "-f", "-qq", "-o", sys.argv[1], "-e", f"inject={sys.argv[2]}",
                     sys.executable, "-c", sys.argv[3], sys.argv[4]])
"""
PREPARES = """
import sys
from pathlib import Path
from fastjmix import log
from fastjmix.spool import Spool
log.setup("info", None, "test")
one = Spool(Path(sys.argv[1]))
one.prepare()
print("unproved" if one.unproved else "proved")
"""


@pytest.mark.fault("F98")
@pytest.mark.parametrize("problem", ["ENOSPC", "EDQUOT", "EIO", "EMFILE"])
@pytest.mark.parametrize("call", ["fdatasync", "mkdir", "renameat2"])
def test_a_first_write_that_fails_is_no_end(tmp_path: Path, call: str, problem: str) -> None:
    """Whatever passes; another one that starts meanwhile is refused as ever."""
    root = tmp_path / "spool"
    reported = prepared(tmp_path, root, f"{call}:error={problem}")
    assert "\nunproved" in f"\n{reported}", reported
    assert "storage_unready" in reported
    first = Spool(root)
    if call == "mkdir":
        root.mkdir(mode=0o700)
    first.prepare()
    assert not first.unproved
    with pytest.raises(SpoolError, match="another fastjmix"):
        Spool(root).prepare()
    first.release()


@pytest.mark.fault("F98")
@pytest.mark.parametrize("problem", ["EROFS", "EACCES", "EPERM"])
def test_what_a_person_has_to_change_ends_the_start(tmp_path: Path, problem: str) -> None:
    reported = prepared(tmp_path, tmp_path / "spool", f"fdatasync,renameat2:error={problem}")
    assert "cannot be used" in reported


def prepared(tmp_path: Path, root: Path, fault: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", STRACED, str(tmp_path / "trace"), fault, PREPARES, str(root)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.fault("F98")
def test_the_wrong_owner_is_refused_on_a_full_disk_too(disk: Disk) -> None:
    (disk.at / "outbox").mkdir()
    as_root("chown", "12345", disk.at / "outbox")
    take_inodes(disk)
    with pytest.raises(SpoolError, match="belongs to user 12345"):
        Spool(disk.at).prepare()
