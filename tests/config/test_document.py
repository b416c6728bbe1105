"""config/document.py: docs/configuration.md and the commented file are what it writes."""

from __future__ import annotations

from fastjmix.config import document
from tests.support.configs import ROOT


def test_documentation_is_in_step() -> None:
    hint = "run: python -m fastjmix.config.document"
    assert (ROOT / "docs" / "configuration.md").read_text() == document.text(), hint
    rows = document.text().split("### ", 1)[1].splitlines()
    keys = {line.split("`")[1] for line in rows if line.startswith("| `")}
    assert len(keys) > 80


def test_every_key_of_our_own_is_in_the_commented_file() -> None:
    text = (ROOT / "config.toml").read_text()
    page = document.text().splitlines()
    own = [line.split("`")[1] for line in page if line.startswith("| `") and "**+**" in line]
    assert len(own) > 25
    for key in own:
        assert key in text, key
