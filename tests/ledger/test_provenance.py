"""ledger/provenance.py: a file is taken whole, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from fastjmix.ledger import provenance
from fastjmix.ledger.provenance import Provenance
from tests.support.storages import Storage


@pytest.fixture
def text(tmp_path: Path) -> bytes:
    storage = Storage(tmp_path)
    return (tmp_path / "provenance" / f"{storage.envelope()}.json").read_bytes()


def test_what_was_written_is_read(tmp_path: Path, text: bytes) -> None:
    found = Provenance.load(text)
    assert found is not None
    assert found.dump() == text
    assert provenance.read(tmp_path, found.id) == found
    assert provenance.read(tmp_path, "0" * 8) is None


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"instances": [["1.2", 1, 0, 0, 0, 1.0, 1, "0000", 1]]},
        {"instances": [["1.2", -1, 0, 0, 0, 1.0, 1, "0000", 1]]},
        {"instances": [["1.2", 0, 0, 0, 5, 1.0, 1, "0000", 1]]},
        {"instances": [["1.2", 0, 0, 0, 0, 1.0, 1]]},
        {"instances": [[7, 0, 0, 0, 0, 1.0, 1, "0000", 1]]},
        {"instances": [["1.2", "0", 0, 0, 0, 1.0, 1, "0000", 1]]},
        {"instances": 7},
        {"study": []},
        {"associations": [1]},
    ],
)
def test_any_other_text_is_none(text: bytes, change: dict[str, Any]) -> None:
    assert Provenance.load(orjson.dumps({**orjson.loads(text), **change})) is None


@pytest.mark.parametrize("other", [b"", b"{}", b"[]", b"\xff", b'{"format": 1'])
def test_no_json_is_none(other: bytes) -> None:
    assert Provenance.load(other) is None
