"""spool/journal.py: notes are read back up to the first that is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastjmix.spool import journal


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(1, 1 << 30), st.binary(max_size=90))),
    st.lists(st.integers(0, 1 << 30), max_size=3),
    st.integers(0, 1 << 30),
)
def test_a_journal_with_notes(
    tmp_path_factory: pytest.TempPathFactory,
    members: list[tuple[int, int, bytes]],
    flips: list[int],
    cut: int,
) -> None:
    """It is read as it was written, also by a reader without notes. A torn or flipped record is
    left out, and no other."""
    directory = tmp_path_factory.getbasetemp() / "journal"
    directory.mkdir(exist_ok=True)
    places: dict[int, int] = {}
    notes: dict[int, bytes] = {}
    written = b""
    for start, size, text in members:
        places[start] = start + size
        written += journal.record(start, start + size)
        if text:
            notes[start] = text
            written += journal.note(start, text)
    (directory / journal.NAME).write_bytes(written)
    found = journal.read(directory)
    assert (found.members, found.notes) == (places, notes)
    plain = {}
    for at in range(0, len(written), journal.RECORD.size):
        start, end, _ = journal.RECORD.unpack_from(written, at)
        if journal.record(start, end) == written[at : at + journal.RECORD.size]:
            plain[start] = end
    assert plain == places
    damaged = bytearray(written[: cut % (len(written) + 1)])
    for one in flips if damaged else ():
        damaged[one % len(damaged)] ^= 0x10
    (directory / journal.NAME).write_bytes(damaged)
    found = journal.read(directory)
    assert found.members.items() <= {(s, s + size) for s, size, _ in members}
    assert found.notes.items() <= {(s, text) for s, _, text in members}


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_bytes_of_a_note(tmp_path: Path, off: int) -> None:
    text = b"x" * (journal.NOTE_BYTES_MAX + off)
    written = journal.note(7, text) + journal.record(1, 2)
    (tmp_path / journal.NAME).write_bytes(written)
    found = journal.read(tmp_path)
    assert found.notes == ({7: text} if off <= 0 else {})
    assert found.members == {1: 2}
