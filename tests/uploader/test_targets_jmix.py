"""uploader/targets/jmix.py: how much of a manifest is compared after a 409."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web

from fastjmix.uploader.targets.jmix import MANIFEST_SLACK
from tests.support.nodes import node, run, to
from tests.support.sealed import sealed_envelope
from tests.support.upstreams import Seen, Upstream, answer


@pytest.mark.fault("F31")
@pytest.mark.parametrize("size", [-1, 0, 1])
def test_a_manifest_is_compared_up_to_its_limit(tmp_path: Path, size: int) -> None:
    """A manifest that is equal up to the limit and goes on behind it is another one."""

    async def test() -> None:
        data = sealed_envelope()
        start = data.index(b"{")
        ours = data[start : data.index(b"PK", start)]
        theirs = ours.ljust(2 * len(ours) + MANIFEST_SLACK + size)

        def manifest(_: web.BaseRequest, __: Seen) -> web.Response:
            return web.Response(body=theirs)

        async with (
            Upstream(lambda *_: answer(409), manifest).open() as store,
            node(tmp_path, to(store.url)) as one,
        ):
            envelope_id = one.seal(data, crc32=None)
            expected = "rejected" if size > 0 else "sent"
            assert await one.left() == [(expected, envelope_id)]

    run(test)
