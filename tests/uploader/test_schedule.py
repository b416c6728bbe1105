"""uploader/schedule.py: windows of the week, by a clock that the test turns."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from fastjmix.config.allowances import window
from fastjmix.config.tree import Allowance
from fastjmix.uploader.schedule import is_open, open_to, secs_to_look_again
from tests.support.nodes import Node, node, run, to, until
from tests.support.upstreams import Upstream

MONDAY = datetime(2026, 11, 30)


@pytest.mark.parametrize(
    ("text", "opened", "closed"),
    [
        ("Mon-Fri 19:00-06:00", ["30 19:00", "30 23:59", "01 05:59", "05 03:00"],
         ["30 18:59", "30 05:00", "01 06:00", "05 19:00", "06 03:00"]),
        ("Sat,Sun", ["05 00:00", "06 23:59"], ["04 23:59", "30 00:00"]),
        ("22:00-05:00", ["30 22:00", "30 04:59", "06 23:00"], ["30 05:00", "30 21:59"]),
        ("08:00-24:00", ["30 08:00", "30 23:59"], ["30 07:59", "01 00:00"]),
        ("Sun-Mon 12:00-13:00", ["30 12:00", "06 12:59"], ["01 12:00", "30 13:00"]),
    ],
)  # fmt: skip
def test_a_window_is_open_from_its_start_to_its_end(
    text: str, opened: list[str], closed: list[str]
) -> None:
    def at(words: str) -> datetime:
        day, time = words.split()
        month = 11 if day == "30" else 12
        return datetime.fromisoformat(f"2026-{month}-{day}T{time}")

    assert [one for one in opened if not is_open([window(text)], at(one))] == []
    assert [one for one in closed if is_open([window(text)], at(one))] == []


@pytest.mark.parametrize("bulk", [True, False])
@pytest.mark.parametrize("windows_for", ["bulk", "all"])
def test_a_schedule_for_bulk_leaves_the_others_alone(windows_for: str, bulk: bool) -> None:
    allowance = Allowance(windows=(window("10:00-11:00"),), zone="UTC")
    allowance = Allowance(
        windows=allowance.windows,
        windows_for="bulk" if windows_for == "bulk" else "all",
        zone="UTC",
    )
    at_noon = MONDAY.replace(hour=12, tzinfo=UTC).timestamp()
    assert open_to(allowance, bulk=bulk, now=at_noon) is (windows_for == "bulk" and not bulk)
    assert open_to(allowance, bulk=bulk, now=at_noon - 2 * 3600 + 1)
    assert open_to(Allowance(), bulk=bulk, now=at_noon)


def test_a_zone_has_its_own_night() -> None:
    allowance = Allowance(windows=(window("00:00-06:00"),), windows_for="all", zone="Asia/Tokyo")
    in_utc = MONDAY.replace(hour=16, tzinfo=UTC).timestamp()  # 01:00 in Tokyo
    assert open_to(allowance, bulk=True, now=in_utc)
    assert not open_to(allowance, bulk=True, now=in_utc - 2 * 3600)


def test_it_is_looked_at_again_with_the_next_minute() -> None:
    assert secs_to_look_again(MONDAY.replace(second=59, tzinfo=UTC).timestamp()) == 1
    assert secs_to_look_again(MONDAY.replace(tzinfo=UTC).timestamp()) == 60


@pytest.mark.parametrize(
    "text", ["", "Mon Tue", "10:00-10:00", "25:00-26:00", "Mon 24:00-05:00", "Mon-", "Mon 10:00",
             "10:00-11:00 Mon", "Mo-Fr 10:00-11:00", "10:00-24:30"],
)  # fmt: skip
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(ValueError):
        window(text)


def test_an_envelope_waits_for_its_window(tmp_path: Path) -> None:
    noon = MONDAY.replace(hour=12, tzinfo=UTC).timestamp()
    now = noon
    looked = 0

    def clock() -> float:
        nonlocal looked
        looked += 1
        return now

    def why(one: Node) -> str:
        rows = one.channels.board.read("uploader")["upstreams"]
        return str(rows[0]["reason"])

    async def test() -> None:
        nonlocal now
        nightly = Allowance(windows=(window("20:00-06:00"),), windows_for="all", zone="UTC")
        async with (
            Upstream().open() as store,
            node(tmp_path, to(store.url, allowance=nightly), clock=clock) as one,
        ):
            envelope_id = one.seal()
            await until(lambda: looked > 2)
            await until(lambda: why(one) == "outside its schedule: envelopes wait")
            awaited = one.seal(ack="uploaded")  # its sender waits: it does not keep to a schedule
            assert await one.left() == [("sent", awaited)]
            now = noon + 8 * 3600
            one.channels.wake_uploader()
            assert (await one.left(2))[1:] == [("sent", envelope_id)]
            assert len(store.posts) == 2
            await until(lambda: why(one) == "")

    run(test)


def test_only_bulk_waits_for_a_schedule_of_bulk(tmp_path: Path) -> None:
    noon = MONDAY.replace(hour=12, tzinfo=UTC).timestamp()
    now = noon

    def clock() -> float:
        return now

    async def test() -> None:
        nonlocal now
        nightly = Allowance(windows=(window("20:00-06:00"),), zone="UTC")
        async with (
            Upstream().open() as store,
            node(tmp_path, to(store.url, allowance=nightly), clock=clock) as one,
        ):
            bulk = one.seal(priority="bulk")
            others = {one.seal(priority=each) for each in ("stat", "normal")}
            assert {envelope_id for _, envelope_id in await one.left(2)} == others
            now = noon + 8 * 3600
            one.channels.wake_uploader()
            assert (await one.left(3))[2:] == [("sent", bulk)]

    run(test)
