"""The size that an upstream takes: learnt from 413, kept over a restart, shown to a person."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastjmix.spool import Remembered
from fastjmix.uploader.size_limit import SizeLimit
from fastjmix.uploader.upstream_memory import FACTS_FILE
from tests.support.nodes import node, run, to
from tests.support.upstreams import Upstream, script


def test_the_smallest_that_was_too_large_is_the_limit() -> None:
    limit = SizeLimit({})
    assert limit.max_envelope_bytes is None
    assert limit.record_refused(1000)
    assert not limit.record_refused(1000)
    assert not limit.record_refused(2000)
    assert limit.record_refused(900)
    assert limit.max_envelope_bytes == 899
    assert SizeLimit(limit.dump()).max_envelope_bytes == 899


def test_one_that_is_taken_all_the_same_lifts_it() -> None:
    limit = SizeLimit({"refused_bytes": 900})
    assert not limit.record_taken(899)
    assert limit.record_taken(900)
    assert limit.max_envelope_bytes is None
    assert limit.dump() == {}


@pytest.mark.parametrize("value", ["900", -1, 0, True, None, 1.5, [900]])
def test_a_file_of_another_form_costs_the_limit(value: object) -> None:
    assert SizeLimit({"refused_bytes": value}).max_envelope_bytes is None


def test_a_limit_that_413_has_taught_is_kept_over_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        async with Upstream(script(413)).open() as store:
            async with node(tmp_path, to(store.url)) as one:
                refused = one.seal()
                assert await one.left() == [("rejected", refused)]
                size = one.ticket("rejected", refused).size_bytes
                (line,) = one.lines("upstream_limit_learnt")
                assert f"max_envelope_bytes={size - 1}" in line
            assert Remembered(tmp_path / FACTS_FILE).load()[store.url] == {"refused_bytes": size}
            async with node(tmp_path, to(store.url)) as one:
                one.seal()  # of the same size: it is sent all the same, and the upstream decides
                await one.left()
                assert len(one.lines("upstream_limit_lifted")) == 1
            assert store.url not in Remembered(tmp_path / FACTS_FILE).load()

    run(test)
