"""tools/store/paging.py: so many envelopes are in one answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastjmix.tools.store import paging
from tests.support.envelopes import envelope
from tests.support.stores import JSON, Client, with_store
from tests.tools.test_store_callers import ids


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_envelopes_of_one_answer(tmp_path: Path, monkeypatch: Any, off: int) -> None:
    monkeypatch.setattr(paging, "PAGE_MAX", 3)

    async def test(client: Client) -> None:
        for one in ids(3 + off):
            assert (await client.post(envelope(one)))[0] == 201
        _, listed, _ = await client.ask("GET", headers=JSON)
        assert len(listed["jmixEnvelopes"]) == min(3, 3 + off)
        assert ("nextCursor" in listed) == (off == 1)
        assert (await client.ask("GET", f"?limit={3 + off}", headers=JSON))[0] == (
            400 if off == 1 else 200
        )

    with_store(tmp_path, test)
