"""config/allowances.py: how much a target gets, and when."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fastjmix.config.tree import Allowance, Window
from tests.support.configs import loaded, only

OPTIONS = "backends.jmix_upstream.options"


def test_an_allowance_as_a_file_says_it(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        f"{OPTIONS}.max_concurrent = 2\n{OPTIONS}.max_bytes_per_sec = 125000\n"
        f'{OPTIONS}.schedule = ["Mon-Fri 19:00-06:00", "Sat,Sun"]\n'
        f'{OPTIONS}.schedule_for = "all"\n{OPTIONS}.schedule_zone = "Europe/Berlin"\n',
    )
    assert config.dicom[0].upstreams[0].allowance == Allowance(
        2,
        125000,
        (Window((0, 1, 2, 3, 4), 19 * 60, 6 * 60), Window((5, 6), 0, 24 * 60)),
        "all",
        "Europe/Berlin",
    )


def test_without_one_there_is_no_limit(tmp_path: Path) -> None:
    assert loaded(tmp_path).dicom[0].upstreams[0].allowance == Allowance()


@pytest.mark.parametrize(
    ("value", "secs"), [("0", 0.0), ("0.5", 43200.0), ('"unlimited"', math.inf)]
)
def test_how_long_envelopes_are_kept(tmp_path: Path, value: str, secs: float) -> None:
    config = loaded(tmp_path, f"{OPTIONS}.retention_max_age_days = {value}")
    assert config.dicom[0].upstreams[0].retention_secs == secs


def test_a_backend_without_a_retention_has_none(tmp_path: Path) -> None:
    assert loaded(tmp_path).dicom[0].upstreams[0].retention_secs is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("retention_max_age_days", "-1"),
        ("retention_max_age_days", '"long"'),
        ("max_concurrent", "0"),
        ("max_concurrent", "65"),
        ("max_bytes_per_sec", "1023"),
        ("schedule", "[]"),
        ("schedule_for", '"stat"'),
        ("schedule_zone", '"Europe/Nowhere"'),
        ("schedule_zone", '"/etc/passwd"'),
    ],
)
def test_values_that_are_none(tmp_path: Path, key: str, value: str) -> None:
    assert only(tmp_path, f"{OPTIONS}.{key} = {value}").key == key


def test_a_window_that_is_none_is_named(tmp_path: Path) -> None:
    fault = only(tmp_path, f'{OPTIONS}.schedule = ["Sat", "soon"]')
    assert (fault.key, fault.found) == ("schedule[1]", '"soon"')


def test_a_zone_without_a_schedule_is_a_warning(tmp_path: Path) -> None:
    config = loaded(tmp_path, f'{OPTIONS}.schedule_zone = "UTC"')
    assert any("there is no schedule" in warning for warning in config.warnings)
