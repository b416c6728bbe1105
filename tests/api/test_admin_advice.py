"""Every error that fastjmix logs has an advice of its own."""

from __future__ import annotations

import re
from pathlib import Path

import fastjmix
from fastjmix.api.admin.advice import ADVICE, OTHERWISE, advice

SOURCES = Path(fastjmix.__file__).parent


def errors() -> set[str]:
    text = "\n".join(path.read_text("utf-8") for path in SOURCES.rglob("*.py"))
    return set(re.findall(r'\.(?:error|exception)\(\s*"([a-z_]+)"', text))


def test_every_error_has_an_advice() -> None:
    assert errors() - ADVICE.keys() == set()


def test_every_advice_is_about_an_event() -> None:
    text = "\n".join(path.read_text("utf-8") for path in SOURCES.rglob("*.py"))
    assert [name for name in ADVICE if text.count(f'"{name}"') < 2] == []


def test_another_event_has_one_too() -> None:
    assert advice("nobody_knows") == OTHERWISE
