"""uploader/state.py: the row fits, whatever upstreams answer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from fastjmix.ipc.events import Events
from fastjmix.ipc.state_board import StateBoard
from fastjmix.uploader.size_limit import SizeLimit
from fastjmix.uploader.state import TEXT_MAX, UPSTREAMS_MAX, UpstreamStates


@pytest.mark.fault("S35")
@pytest.mark.parametrize("letter", ["x", "\x01", "\\", "\xe9", "\u533b", "\U0001f4a5", "\ud800"])
def test_bytes_of_the_texts_of_an_upstream(letter: str) -> None:
    text = letter * 2 * TEXT_MAX
    answer = SimpleNamespace(at=1.0e9, status=500, reason=text, answer=text)
    held = SimpleNamespace(available=False, held="401", until=0.0)
    target: Any = SimpleNamespace(
        upstream=SimpleNamespace(name=text, url=text), availability=held, last_answer=answer,
        facts=SimpleNamespace(size_limit=SizeLimit({"refused_bytes": 1 << 42})),
        trouble=answer, since=1.0e9, queue=[], running=[],
    )  # fmt: skip
    board = StateBoard(["uploader"])
    backlog: Any = SimpleNamespace(held={})

    async def publish() -> None:
        UpstreamStates(board, Events(), [target] * (UPSTREAMS_MAX + 1), backlog).publish()

    asyncio.run(publish())
    rows = board.read("uploader")["upstreams"]
    assert len(rows) == UPSTREAMS_MAX
    texts = [rows[0][name] for name in ("name", "url", "reason")]
    texts += [rows[0]["last_answer"][name] for name in ("reason", "answer")]
    for shown in texts:
        assert TEXT_MAX - 12 <= len(orjson.dumps(shown)) - 2 <= TEXT_MAX
