"""tools/envelope/output.py: a file that came meanwhile is not replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastjmix.tools.envelope.output import OutputError, new_file
from tests.tools.test_envelope import tree


def overtaken(target: Path) -> None:
    with new_file(target) as descriptor:
        os.write(descriptor, b"ours")
        target.write_text("theirs")


def test_what_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists already"):
        overtaken(tmp_path / "f")
    assert (tmp_path / "f").read_text() == "theirs"
    with new_file(tmp_path / "f", force=True) as descriptor:
        os.write(descriptor, b"ours")
    assert tree(tmp_path) == {"f": b"ours"}
