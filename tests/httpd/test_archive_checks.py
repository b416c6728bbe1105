"""httpd/archive_checks.py: so many archives are checked at once."""

from __future__ import annotations

import asyncio
import io
import threading
from typing import BinaryIO

import pytest

from fastjmix.httpd import archive_checks


@pytest.mark.fault("S31")
def test_a_check_keeps_its_turn_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request may end first: the thread that checks cannot be stopped."""
    began, go_on = threading.Semaphore(0), threading.Event()

    def waits(_: BinaryIO) -> None:
        began.release()
        go_on.wait(20)

    async def test() -> None:
        turns = archive_checks.Checks()
        tasks = [
            asyncio.create_task(turns.check(io.BytesIO()))
            for _ in range(archive_checks.CHECKS_AT_ONCE)
        ]
        for _ in tasks:
            await asyncio.to_thread(began.acquire)
        for task in tasks:
            task.cancel()
        other = asyncio.create_task(turns.check(io.BytesIO()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not began.acquire(blocking=False)
        go_on.set()
        await other
        assert all(
            isinstance(each, asyncio.CancelledError)
            for each in await asyncio.gather(*tasks, return_exceptions=True)
        )

    monkeypatch.setattr(archive_checks, "check_envelope", waits)
    asyncio.run(test())
