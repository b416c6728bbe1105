"""Middleware of type "command": the hooks of a pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastjmix import config
from fastjmix.config.tree import Hook
from tests.support.configs import loaded, only, written

GUARD = """
pipelines.dicom_to_jmix.middleware = ["first", "jmix_builder", "second"]
middleware.first = { type = "command", options = { argv = ["/bin/test", "-s"] } }
middleware.second = { type = "command", options = { argv = ["/bin/true"], timeout_secs = 5 } }
"""


def test_the_hooks_of_a_pipeline_are_in_its_order(tmp_path: Path) -> None:
    first = Hook("first", ("/bin/test", "-s"), 60.0, 512 << 20, 1)
    second = Hook("second", ("/bin/true",), 5.0, 512 << 20, 1)
    assert loaded(tmp_path, GUARD).hooks == {"dicom_to_jmix": (first, second)}
    assert loaded(tmp_path).hooks == {}


def test_the_effective_configuration_has_them(tmp_path: Path) -> None:
    before, text = config.effective(written(tmp_path / "set", GUARD))
    (tmp_path / "again.toml").write_text(text)
    assert config.load(tmp_path / "again.toml").hooks == before.hooks


@pytest.mark.parametrize(
    ("argv", "key"),
    [
        ('["test"]', "options.argv[0]"),
        ('["/nowhere/at-all"]', "options.argv[0]"),
        ('["/etc/passwd"]', "options.argv[0]"),
        ('["/usr"]', "options.argv[0]"),
        ("[]", "argv"),
        ('"/bin/true"', "argv"),
    ],
)
def test_what_cannot_be_run_is_a_fault(tmp_path: Path, argv: str, key: str) -> None:
    fault = only(tmp_path, GUARD.replace('["/bin/true"]', argv))
    assert f"{fault.table}.{fault.key}".endswith(key)
    assert "second" in fault.table
