"""uploader/throttle.py: bytes a second, as a server of its own measures them."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastjmix.config.tree import Allowance
from fastjmix.uploader.throttle import PIECE_BYTES_MAX, PIECE_BYTES_MIN, Throttle
from tests.support.nodes import FAST, MEGABYTE, node, run, to
from tests.support.places import to_directory
from tests.support.sealed import sealed_envelope
from tests.support.upstreams import Raw, Wire, http_head


@given(st.integers(1024, 1 << 30), st.lists(st.integers(1, MEGABYTE), min_size=1, max_size=20))
def test_what_is_booked_never_goes_faster(rate: int, sizes: list[int]) -> None:
    """At any moment no more has begun than the rate allows, but for the piece that begins."""
    throttle = Throttle(rate)
    begun = [(throttle.book(size, 10.0), size) for size in sizes]
    before = 0
    for delay, size in begun:
        assert delay >= before / rate - 1e-6
        before += size
    assert throttle.book(1, 10.0 + before / rate + 1) == 0  # idle time is not saved up
    assert throttle.book(1, 10.0 + before / rate + 1) == pytest.approx(1 / rate)


@pytest.mark.parametrize(
    ("rate", "piece"),
    [
        (None, PIECE_BYTES_MAX),
        (1 << 30, PIECE_BYTES_MAX),
        (80_000, 10_000),
        (1024, PIECE_BYTES_MIN),
    ],
)
def test_a_slow_target_gets_small_pieces(rate: int | None, piece: int) -> None:
    assert Throttle(rate).piece_bytes == piece


def test_a_server_measures_the_limit_of_all_deliveries_together(tmp_path: Path) -> None:
    """Four envelopes at once, and a limit below the rate at which a delivery counts as stalled."""
    size, count, rate = 40_000, 4, 320_000
    arrived: list[tuple[float, int]] = []

    async def serve(wire: Wire) -> None:
        head = await wire.head()
        left = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
        while left:
            piece = await wire.reader.read(left)
            left -= len(piece)
            arrived.append((time.monotonic(), len(piece)))
        await wire.say(http_head("201 Created", Content_Length=0))

    async def test() -> None:
        async with Raw(serve).open() as store:
            upstream = to(store.url, allowance=Allowance(max_bytes_per_sec=rate))
            async with node(tmp_path, upstream, start=False) as one:
                for _ in range(count):
                    one.seal(sealed_envelope(image=os.urandom(size)), crc32=None)
                one.start()
                await one.left(count)
                assert not one.lines("upload_retry")

    run(test)
    begin, total = arrived[0][0], sum(size for _, size in arrived)
    assert total > count * size
    secs = arrived[-1][0] - begin
    last = arrived[-1][1]
    assert (total - last) / secs <= 1.05 * rate
    for at in (0.25, 0.5, 0.75):  # and so at any time: in small pieces
        by_then = sum(size for when, size in arrived if when - begin <= at * secs)
        assert by_then <= 1.05 * at * secs * rate + count * 2 * Throttle(rate).piece_bytes


def test_a_limit_is_no_stall(tmp_path: Path) -> None:
    """Each pause is longer than the time without progress that is allowed."""
    pace = replace(FAST, time_limits=replace(FAST.time_limits, stall=0.1))
    share = tmp_path / "share"
    share.mkdir()

    async def test() -> None:
        async with asyncio.timeout(30):
            upstream = to_directory(share, allowance=Allowance(max_bytes_per_sec=4096))
            async with node(tmp_path / "spool", upstream, pace) as one:
                one.seal(sealed_envelope(image=os.urandom(3000)), crc32=None)
                assert [where for where, _ in await one.left()] == ["sent"]

    run(test)


@pytest.mark.parametrize("most", [1, 6])
def test_so_many_deliveries_run_at_once(tmp_path: Path, most: int) -> None:
    running, seen, all_there = 0, 0, asyncio.Event()

    async def serve(wire: Wire) -> None:
        nonlocal running, seen
        while True:
            await wire.body(await wire.head())
            running += 1
            seen = max(seen, running)
            if running == most:
                all_there.set()
            await all_there.wait()
            await asyncio.sleep(0)
            running -= 1
            await wire.say(http_head("201 Created", Content_Length=0))

    async def test() -> None:
        async with Raw(serve).open() as store:
            upstream = to(store.url, allowance=Allowance(max_concurrent=most))
            async with node(tmp_path, upstream) as one:
                for _ in range(8):
                    one.seal()
                await one.left(8)
        assert seen == most

    run(test)
