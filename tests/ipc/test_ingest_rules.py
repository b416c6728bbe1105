"""A number means the same rules for as long as the node runs, whatever configurations follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fastjmix.config import CallingAe, Config, DicomListener
from fastjmix.ipc import ingest_rules
from fastjmix.ipc.ingest_rules import TooManyRules, tabulate
from tests.support import configs


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return configs.loaded(tmp_path)


def with_titles(listener: DicomListener, *titles: str, most: int = 1) -> DicomListener:
    """The listener with these calling AE titles in its aet_table."""
    table = {t: CallingAe(t, None, None, most, listener.builder) for t in titles}
    return replace(listener, calling=table)


def listening(config: Config, *listeners: DicomListener) -> Config:
    return replace(config, dicom=listeners)


def test_rows_are_added_and_none_changes(config: Config) -> None:
    own = config.dicom[0]
    first = tabulate(listening(config, with_titles(own, "CT1", "MR1")))
    second = first.extended(listening(config, with_titles(own, "CT1", "US1", most=2)))
    assert second.rows[: len(first.rows)] == first.rows
    assert len(first.rows) == 3
    assert len(second.rows) == 6
    rules = second.listeners[0]
    assert second.rows[rules.of("US1")].max_associations == 2
    assert second.rows[rules.of("MR1")].max_associations is None  # any other title
    assert rules.number == first.listeners[0].number


def test_equal_listeners_keep_their_rows(config: Config) -> None:
    own = config.dicom[0]
    other = replace(own, port=own.port + 1, max_associations=2)
    first = tabulate(listening(config, own, other))
    assert first.extended(listening(config, own, other)) == first
    turned = first.extended(listening(config, other, own))
    assert turned.rows == first.rows
    assert turned.listeners == first.listeners[::-1]
    changed = first.extended(listening(config, replace(own, max_associations=3)))
    back = changed.extended(listening(config, own, other))
    assert back.rows == changed.rows
    assert back.listeners == first.listeners


def test_a_listener_at_another_address_has_another_number(config: Config) -> None:
    own = config.dicom[0]
    first = tabulate(listening(config, own))
    moved = first.extended(listening(config, replace(own, port=own.port + 1)))
    assert moved.listeners[0].number != first.listeners[0].number
    both = moved.extended(listening(config, own, replace(own, port=own.port + 1)))
    assert [one.number for one in both.listeners] == [0, 1]


def test_rows_have_a_bound(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_rules, "ROWS_MAX", 10)
    own = config.dicom[0]
    table = tabulate(listening(config, own))
    for number in range(9):
        table = table.extended(listening(config, replace(own, max_associations=100 + number)))
    assert len(table.rows) == 10
    with pytest.raises(TooManyRules, match="11 rules"):
        table.extended(listening(config, replace(own, max_associations=200)))
    assert len(table.extended(listening(config, own)).rows) == 10
    # The first configuration may have as many as it likes.
    titles = [f"AE{number}" for number in range(20)]
    assert len(tabulate(listening(config, with_titles(own, *titles))).rows) == 21
