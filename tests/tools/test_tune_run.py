"""tools/tune/run.py: nothing of an earlier run stays."""

from __future__ import annotations

from pathlib import Path

from fastjmix.tools.tune.workplace import workplace


def test_what_an_earlier_run_left_is_removed(tmp_path: Path) -> None:
    stale = tmp_path / "tune-old"
    stale.mkdir()
    (stale / "lock").touch()
    with workplace(tmp_path, 0) as mine, workplace(tmp_path, 0) as another:
        assert not stale.exists()
        assert mine.exists()
        assert another.exists()
    assert list(tmp_path.iterdir()) == []
