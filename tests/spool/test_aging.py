"""spool/aging.py: retentions that upstreams have of their own, on files in sent/."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping

import pytest

from fastjmix.spool import Retention, Spool, Ticket
from fastjmix.spool.recipe import UNKNOWN

DAY = 86400.0
NODE = 30 * DAY
OWN = {("p", "short"): 7 * DAY, ("p", "long"): 365 * DAY}


def delivered(spool: Spool, days: float, *upstreams: str, pipeline: str = "p") -> str:
    """Puts an envelope into sent/, as if delivered so many days ago; returns its id."""
    draft = spool.drafts.new(UNKNOWN)
    draft.append([b"member"])
    draft.commit()
    ticket = Ticket(
        id=draft.id,
        pipeline=pipeline,
        upstreams=upstreams,
        ack="stored",
        studies=("1.2.3",),
        calling_ae="CT",
        instances=1,
        size_bytes=0,
        sealed_at=1.5,
        origin="packer-0",
    )
    draft.seal([b"tail"], ticket)
    spool.deliver(draft.id, {})
    _age(spool, draft.id, days)
    return draft.id


def _age(spool: Spool, envelope_id: str, days: float) -> None:
    os.utime(spool.sent / f"{envelope_id}.json", (time.time() - days * DAY,) * 2)


def _left(spool: Spool) -> set[str]:
    return {path.stem for path in spool.sent.glob("*.zip")}


@pytest.mark.parametrize(
    ("upstreams", "kept_days"),
    [
        (("short",), 7),
        (("long",), 365),
        (("other",), 30),
        (("short", "long"), 365),
        (("short", "other"), 30),
        (("other", "long"), 365),
    ],
)
def test_the_longest_retention_of_its_upstreams_counts(
    spool: Spool, upstreams: tuple[str, ...], kept_days: int
) -> None:
    gone = delivered(spool, kept_days + 0.5, *upstreams)
    kept = delivered(spool, kept_days - 0.5, *upstreams)
    assert Retention(spool, NODE, own=OWN).run() == [gone]
    assert _left(spool) == {kept}


def test_a_name_in_another_pipeline_is_another_upstream(spool: Spool) -> None:
    gone = delivered(spool, 31, "long", pipeline="q")
    delivered(spool, 29, "short", pipeline="q")
    assert Retention(spool, NODE, own=OWN).run() == [gone]


@pytest.mark.parametrize(
    ("node", "own", "gone"),
    [
        (None, {("p", "u"): DAY}, True),
        (DAY, {("p", "u"): math.inf}, False),
        (None, {("p", "v"): DAY}, False),
    ],
)
def test_no_limit(
    spool: Spool, node: float | None, own: Mapping[tuple[str, str], float], gone: bool
) -> None:
    one = delivered(spool, 2, "u")
    assert Retention(spool, node, own=own).run() == [one] * gone


def test_an_unreadable_ticket_counts_as_the_nodes(spool: Spool) -> None:
    """It is not deleted then either, since its record holds no receipt: that is tried and logged,
    and not before the node's time is over."""
    young, old = delivered(spool, 8, "short"), delivered(spool, 31, "long")
    for one in (young, old):
        (spool.sent / f"{one}.json").write_text("{}")
    _age(spool, young, 8)
    _age(spool, old, 31)
    retention = Retention(spool, NODE, own=OWN)
    assert retention.run() == []
    assert retention.due_secs == pytest.approx(22 * DAY, abs=60)
    assert _left(spool) == {young, old}


def test_no_ticket_is_read_before_it_matters(spool: Spool) -> None:
    """A ticket that nobody may need is not opened (audit event "open")."""
    paths = [str(spool.sent / f"{delivered(spool, days, 'long')}.json") for days in (6, 8)]
    opened: list[str] = []
    sys.addaudithook(lambda event, of: opened.append(str(of[0])) if event == "open" else None)
    Retention(spool, NODE).run()
    assert not set(paths) & set(opened)
    Retention(spool, NODE, own=OWN).run()
    assert set(paths) & set(opened) == {paths[1]}


def test_bytes_and_room_bound_all_of_them_oldest_first(spool: Spool) -> None:
    ids = [delivered(spool, 100 - number, "long") for number in range(4)]
    size = spool.path("sent", ids[0]).stat().st_size
    assert Retention(spool, NODE, 3 * size, own=OWN).run() == ids[:1]
    assert Retention(spool, NODE, own=OWN).run(wanted=1) == ids[1:2]
    gone = delivered(spool, 8, "short")
    one = Retention(spool, NODE, 2 * size, own=OWN)
    assert one.run() == [gone], "with it, two are left"
    assert _left(spool) == set(ids[2:])
    assert one.run(wanted=1 << 40) == ids[2:]


def test_another_retention_counts_from_the_next_step_on(spool: Spool) -> None:
    one = delivered(spool, 8, "long")
    retention = Retention(spool, NODE, own=OWN)
    assert retention.run() == []
    assert retention.due_secs == pytest.approx(357 * DAY, abs=60)
    retention.set_bounds(NODE, None, {})
    assert retention.run() == []
    assert retention.due_secs == pytest.approx(22 * DAY, abs=60)
    retention.set_bounds(NODE, None, {("p", "long"): DAY})
    assert retention.run() == [one]


def test_one_that_arrives_is_due_in_its_time(spool: Spool) -> None:
    retention = Retention(spool, NODE, own=OWN)
    retention.run()
    kept, gone = delivered(spool, 8, "long"), delivered(spool, 8, "short")
    for one in (kept, gone):
        retention.delivered(one)
    assert retention.trim().ids == [gone]
    assert _left(spool) == {kept}


def test_many_that_are_kept_long_delay_no_other(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastjmix.spool.retention.OLDEST_MAX", 5)
    monkeypatch.setattr("fastjmix.spool.aging.SOON_MAX", 5)
    monkeypatch.setattr("fastjmix.spool.aging.READ_MAX", 10)
    kept = {delivered(spool, 100, "long") for _ in range(20)}
    gone = {delivered(spool, 8, "short") for _ in range(20)}
    assert set(Retention(spool, NODE, own=OWN).run()) == gone
    assert _left(spool) == kept
