"""Row F86: a draft that cannot be recovered, or has odd things beside it, concerns itself only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disks import Disk, Ledger, as_root, opened, settled
from gateway import Gateway, Peer, running
from reception import Reception

from fastjmix.recovery import recover
from fastjmix.spool import Spool

NOBODY = 9
"""A port on which no upstream listens."""

SOON = "release_grace_secs = 0.05"
LATE = "release_grace_secs = 60\nquiet_secs = 60"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    one = Disk(tmp_path / "own" / "spool", "ext4")
    yield one
    one.close()


def test_f86_drafts_that_cannot_be_recovered_stop_nobody(disk: Disk) -> None:
    """Two that nobody may open for writing, one that can be: it is sealed, new instances are taken,
    and the two are sealed when they can be."""
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


@pytest.mark.parametrize("ticket", [no_ticket, empty_ticket, foreign_ticket])
def test_f86_another_form_without_its_ticket_is_made_anew(
    tmp_path: Path, ticket: Callable[[Path], None]
) -> None:
    """What was acknowledged is in the form beside it."""
    ledger = Ledger()
    reception = Reception(tmp_path / "reception")
    uid, data = ledger.make("1.2.3.1", 1000)
    assert reception.store(data, uid) == 0
    ledger.promised[uid] = data
    spool: Spool = reception.as_a_kill_leaves_it(tmp_path / "left")
    reception.close()
    (leftover,) = spool.leftovers()
    leftover.sealed.write_bytes(b"half of something")
    ticket(leftover.directory / "ticket.json")
    assert recover(spool, leftover, "test").ticket is not None
    ledger.check(list(spool.outbox.glob("*.zip")))
    assert not list(spool.building.iterdir())
    assert not list(spool.rejected.iterdir())
    spool.release()
