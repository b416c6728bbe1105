"""spool/tally.py: the counts of each state, beside files that are none of ours."""

from __future__ import annotations

import os
import time
import uuid

import pytest

from fastjmix.spool import Spool, Ticket, tally
from fastjmix.spool.recipe import UNKNOWN
from fastjmix.spool.tally import Count, Tally


def put(spool: Spool, since: float) -> str:
    archive = spool.new_upload()
    archive.write_bytes(b"archive")
    one = str(uuid.uuid4())
    spool.admit(archive, Ticket(one, "p", ("u",), "stored", ("1.2",), "CT", 1, 7, 1.5, "packer-0"))
    os.utime(spool.path("outbox", one), (since, since))
    return one


def test_each_state_is_counted(spool: Spool) -> None:
    assert Tally(spool).counts() == {
        "building": Count(),
        "outbox": Count(),
        "held": Count(),
        "rejected": Count(),
        "sent": Count(0, None, None),
    }
    draft = spool.drafts.new(UNKNOWN)
    draft.append([b"123"])
    put(spool, 3000)
    put(spool, 2000)
    hold = spool.outbox / f"{put(spool, 1000)}.hold"
    hold.write_bytes(b"{}")
    os.utime(hold, (5000, 5000))
    for since in (1, 2):
        rejected = put(spool, since)
        spool.reject(rejected, {"status": 400})
        os.utime(spool.rejected / f"{rejected}.json", (4000 + since, 4000 + since))
    spool.deliver(put(spool, 1), {"status": 201})
    for state in ("building", "outbox", "sent", "rejected"):  # files of others
        (spool.root / state / "readme.zip").write_bytes(b"")
        (spool.root / state / f"{uuid.uuid4()}.zip").symlink_to("/dev/null")
        (spool.root / state / f"{uuid.uuid4()}.json").write_bytes(b"")
        (spool.root / state / f"{uuid.uuid4()}.hold").write_bytes(b"")
    found = dict(Tally(spool).counts())
    building = found.pop("building")
    assert (building.count, building.size_bytes) == (1, 3)
    assert building.since is not None
    assert time.time() - 60 < building.since <= time.time() + 1
    assert found == {
        "outbox": Count(2, 2000, 14),
        "held": Count(1, 5000, 7),
        "rejected": Count(2, 4001, 14),
        "sent": Count(1, None, None),
    }
    draft.abandon()


def test_a_look_is_taken_once_in_a_while(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Tally(spool)
    assert one.counts()["outbox"].count == 0
    put(spool, 1)
    assert one.counts()["outbox"].count == 0
    monkeypatch.setattr(tally, "LOOK_SECS", 0.0)
    monkeypatch.setattr(tally, "REST", 0.0)
    two = Tally(spool)
    for count in (1, 2, 3):
        assert two.counts()["outbox"].count == count
        put(spool, 1)


def test_a_storage_that_is_gone_is_an_error(spool: Spool) -> None:
    spool.rejected.rmdir()
    assert Tally(spool).counts()["rejected"] == Count()
    spool.sent.rmdir()
    with pytest.raises(FileNotFoundError):
        Tally(spool).counts()
