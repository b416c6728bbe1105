"""uploader/maintenance.py: how long what was delivered is kept; an old queue is an alarm."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from fastjmix.spool.recipe import UNKNOWN
from fastjmix.uploader.maintenance import StorageLimits
from tests.support.nodes import FAST, node, run, to, until
from tests.support.sealed import sealed_envelope
from tests.support.upstreams import Seen, Upstream, answer, script, taken


@pytest.mark.fault("F28")
def test_delivered_envelopes_are_kept_as_long_as_configured(tmp_path: Path) -> None:
    async def test() -> None:
        pace = replace(FAST, upkeep_secs=0.01)
        async with (
            Upstream().open() as store,
            node(tmp_path, to(store.url), pace, limits=StorageLimits(size=0)) as one,
        ):
            one.seal()
            await one.left()
            await one.logged("envelopes_expired")
            assert not list(one.spool.sent.iterdir())

    run(test)


@pytest.mark.fault("F34")
def test_an_old_queue_is_an_alarm_once(tmp_path: Path) -> None:
    async def test() -> None:
        away = script(answer(503), answer(503), answer(503))
        pace = replace(FAST, upkeep_secs=0.01)
        async with (
            Upstream(away).open() as store,
            node(
                tmp_path, to(store.url), pace, start=False, limits=StorageLimits(alarm_secs=900)
            ) as one,
        ):
            young, old = one.seal(), one.seal()
            os.utime(one.spool.path("outbox", old), (time.time() - 1000,) * 2)
            assert time.time() - (one.spool.outbox_listing.oldest() or 0) >= 1000
            one.start()
            await one.left(2)
            await one.logged("queue_is_young_again")
            (line,) = one.lines("queue_is_old")
            assert "oldest_secs=100" in line
            assert one.spool.path("sent", young).exists()

    run(test)


@pytest.mark.fault("F44")
def test_retention_takes_what_was_sent_and_nothing_else(tmp_path: Path) -> None:
    """Age and size bound sent/; older envelopes that wait, are being built or were rejected
    stay.
    """

    async def test() -> None:
        def refuse_some(request: web.BaseRequest, seen: Seen) -> web.Response:
            return answer(400) if seen.size > 2000 else taken(request, seen)

        pace = replace(FAST, upkeep_secs=0.02)
        async with Upstream(refuse_some).open() as store:
            options = {"limits": StorageLimits(1000.0, 0)}
            async with node(tmp_path, to(store.url), pace, start=False, **options) as one:
                draft = one.spool.drafts.new(UNKNOWN)
                waiting = one.seal(upstreams=("nobody configured it",))
                rejected = one.seal(sealed_envelope(image=bytes(4000)), crc32=None)
                for path in (one.spool.path("outbox", waiting), one.spool.path("outbox", rejected)):
                    os.utime(path, (1, 1))
                gone = [one.seal() for _ in range(3)]
                one.start()
                await one.left(4)
                await until(lambda: not list(one.spool.sent.iterdir()))
                assert one.spool.outbox_listing.ids() == [waiting]
                assert one.spool.path("rejected", rejected).exists()
                assert draft.archive.exists()
                assert not any(one.spool.find(envelope_id) for envelope_id in gone)
                draft.abandon()

    run(test)


@pytest.mark.fault("F95")
@pytest.mark.parametrize("limits", [StorageLimits(secs=0), StorageLimits(size=0)])
def test_retention_acts_when_an_envelope_was_delivered(
    tmp_path: Path, limits: StorageLimits
) -> None:
    """It does not wait for the next survey of the minute: the delivery wakes it."""

    async def test() -> None:
        async with (
            Upstream().open() as store,
            node(tmp_path, to(store.url), FAST, limits=limits) as one,
        ):
            for count in (1, 2):
                one.seal()
                await one.left(count)
                await one.logged("envelopes_expired", count)
            assert not list(one.spool.sent.iterdir())

    run(test)
