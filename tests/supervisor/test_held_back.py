"""Changes that need a start are held back and named; all the rest is applied."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fastjmix.config import Config
from fastjmix.supervisor import memory
from fastjmix.supervisor.held_back import held_back
from tests.support import configs


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return configs.loaded(tmp_path)


def test_the_processes_and_the_storage_stay(config: Config) -> None:
    runtime = replace(
        config.runtime,
        receivers=7,
        packers=9,
        lane_bytes=1 << 25,
        grace_secs=config.runtime.grace_secs + 1,
    )
    new = replace(
        config, name="other", runtime=runtime, storage_dir=Path("/other"), require_mount=True
    )
    applied, keys = held_back(config, new, memory.plan(config))
    kept = replace(config.runtime, grace_secs=config.runtime.grace_secs + 1)
    assert applied == replace(config, name="other", runtime=kept)
    assert keys == (
        "fastjmix.receivers", "fastjmix.packers", "fastjmix.lane_bytes", "storage.options.path",
        "storage.options.require_mount",
    )  # fmt: skip


def test_a_listener_fits_the_lanes(config: Config) -> None:
    plan = memory.plan(config)
    most = plan.lane_bytes // memory.LANE_PDUS
    own = config.dicom[0]
    new = replace(config, dicom=(replace(own, max_pdu=2 * most, max_associations=plan.wanted + 1),))
    applied, keys = held_back(config, new, plan)
    assert applied.dicom[0].max_pdu == most
    assert applied.dicom[0].max_associations == plan.wanted + 1  # the lanes bound them
    assert keys == (
        f"endpoints.*.options.max_pdu (above {most})",
        f"endpoints.*.options.max_associations (above {plan.wanted} together)",
    )


def test_nothing_that_stayed_is_named(config: Config) -> None:
    assert held_back(config, config, memory.plan(config)) == (config, ())
