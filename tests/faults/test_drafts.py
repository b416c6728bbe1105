"""Row F86: a draft that cannot be recovered, or has foreign files in it, stops no other draft."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastjmix.errors import StorageGone
from fastjmix.packer.recovery import recover
from fastjmix.spool import Leftover, Spool, drop, files
from tests.support.disks import Disk, Ledger, as_root, opened, settled
from tests.support.gateway import Gateway, Peer, running
from tests.support.reception import Reception

NOBODY = 9
"""A port on which no upstream listens."""

SOON = "release_grace_secs = 0.05"
LATE = "release_grace_secs = 60\nquiet_secs = 60"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    one = Disk(tmp_path / "own" / "spool", "ext4")
    yield one
    one.close()


@pytest.mark.fault("F86")
def test_drafts_that_cannot_be_recovered_stop_nobody(disk: Disk) -> None:
    """Two drafts may not be opened for writing and a third one may: it is sealed, and new instances
    are accepted. The two are sealed when they may be opened."""
    ledger = Ledger()
    with (
        running(Gateway(disk.at.parent, NOBODY, builder=LATE)) as own,
        Peer(own.dicom_port) as peer,
    ):
        assert peer.associate()[0] == 2
        for number in range(3):
            assert ledger.store(peer, f"1.2.3.{number}") == 0
        own.child.kill()
        own.child.wait()
    held = sorted(disk.at.glob("building/*/envelope.zip"))[:2]
    for archive in held:
        as_root("chattr", "+i", archive)
    try:
        with running(Gateway(disk.at.parent, NOBODY, builder=SOON, fastjmix="packers = 1")) as own:
            own.wait_for("recovery_failed", 3)
            own.wait_for("envelope_recovered")
            with opened(own) as peer:
                assert ledger.store(peer) == 0
            assert "intake_stopped" not in own.log()
            for archive in held:
                as_root("chattr", "-i", archive)
            ledger.check(settled(own))
            assert own.stop() == 0
    finally:
        for archive in held:
            with contextlib.suppress(AssertionError):
                as_root("chattr", "-i", archive)


def no_ticket(_: Path) -> None:
    pass


def empty_ticket(path: Path) -> None:
    path.touch()


def foreign_ticket(path: Path) -> None:
    path.write_text('{"id": "somebody\'s"}')


def left_by_a_kill(tmp_path: Path, ledger: Ledger) -> tuple[Spool, Leftover]:
    """Makes a spool with one draft, whose instance was acknowledged."""
    reception = Reception(tmp_path / "reception")
    uid, data = ledger.make("1.2.3.1", 1000)
    assert reception.store(data, uid) == 0
    ledger.promised[uid] = data
    spool: Spool = reception.as_a_kill_leaves_it(tmp_path / "left")
    reception.close()
    (leftover,) = spool.drafts.leftovers()
    return spool, leftover


@pytest.mark.fault("F87")
def test_a_draft_that_is_away_for_now_is_not_forgotten(tmp_path: Path) -> None:
    """building/ is moved away, made again, and moved back, while a draft waits for its recovery."""
    ledger = Ledger()
    spool, leftover = left_by_a_kill(tmp_path, ledger)
    away = spool.building.rename(tmp_path / "away")
    for is_made in (False, True):
        if is_made:
            spool.building.mkdir()
        with pytest.raises(StorageGone):
            recover(spool, leftover, "test")
    spool.building.rmdir()
    away.rename(spool.building)
    assert recover(spool, leftover, "test").ticket is not None
    assert recover(spool, leftover, "test").ticket is None  # it is in outbox/
    ledger.check(list(spool.outbox.glob("*.zip")))
    spool.release()


@pytest.mark.fault("F87")
def test_an_original_that_cannot_leave_durably_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either a draft or its copy is there, whichever call fails for want of descriptors."""
    ledger = Ledger()
    spool, leftover = left_by_a_kill(tmp_path, ledger)
    spool.durable = True
    leftover.suspect = True
    failed: list[Path] = []

    def fails_once(path: Path) -> None:
        if path == spool.building and not (spool.building / leftover.id).exists() and not failed:
            failed.append(path)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        files.sync_directory(path)

    monkeypatch.setattr(drop, "sync_directory", fails_once)
    with pytest.raises(OSError, match="Too many open files"):
        recover(spool, leftover, "test")
    assert failed
    assert [one.id for one in spool.drafts.leftovers()] == [leftover.id]  # a kill now loses nothing
    fresh = recover(spool, leftover, "test").fresh
    assert fresh is not None
    assert recover(spool, fresh, "test").ticket is not None
    ledger.check(list(spool.outbox.glob("*.zip")))
    spool.release()


@pytest.mark.fault("F86")
@pytest.mark.parametrize("ticket", [no_ticket, empty_ticket, foreign_ticket])
def test_another_form_without_its_ticket_is_made_anew(
    tmp_path: Path, ticket: Callable[[Path], None]
) -> None:
    """The archive beside it holds the acknowledged instances."""
    ledger = Ledger()
    spool, leftover = left_by_a_kill(tmp_path, ledger)
    leftover.sealed.write_bytes(b"half of something")
    ticket(leftover.directory / "ticket.json")
    assert recover(spool, leftover, "test").ticket is not None
    ledger.check(list(spool.outbox.glob("*.zip")))
    assert not list(spool.building.iterdir())
    assert not list(spool.rejected.iterdir())
    spool.release()
