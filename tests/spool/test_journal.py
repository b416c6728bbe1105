"""spool/journal.py: notes are read back up to the first that is damaged."""

from __future__ import annotations

import os
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


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1 << 40), st.integers(0, 1 << 42), st.integers(-1, 5), st.booleans()
        ),
        unique_by=lambda one: one[0],
    ),
    st.lists(st.integers(0, 1 << 30), max_size=3),
)
def test_a_journal_with_origins(
    tmp_path_factory: pytest.TempPathFactory,
    members: list[tuple[int, int, int, bool]],
    flips: list[int],
) -> None:
    """Each origin belongs to its member, or is lost with its note; an older reader skips it."""
    directory = tmp_path_factory.getbasetemp() / "origins"
    directory.mkdir(exist_ok=True)
    facts = {place: b'{"id":"1-%d"}' % place for place in range(6)}
    with (directory / journal.NAME).open("wb") as file:
        writer = journal.JournalWriter(os.dup(file.fileno()))
        noted: set[int] = set()
        for start, arrived_ms, place, again in members:
            new = place >= 0 and place not in noted
            origin = journal.Origin(place, arrived_ms, facts[place] if new else b"")
            noted.add(place)
            writer.add(start, start + 9, b"", origin)
            if again:
                writer.add_repetition(start, origin._replace(facts=b""))
            writer.write()
        writer.close()
    found = journal.read(directory)
    assert found.origins == {s: journal.Origin(place, ms) for s, ms, place, _ in members}
    assert found.repetitions == [(s, journal.Origin(p, ms)) for s, ms, p, again in members if again]
    assert found.associations == {place: facts[place] for place in noted - {-1}}
    text = bytearray((directory / journal.NAME).read_bytes())
    for one in flips if text else ():
        text[one % len(text)] ^= 0x10
    (directory / journal.NAME).write_bytes(text)
    damaged = journal.read(directory)
    assert damaged.origins.items() <= found.origins.items()
    assert damaged.members.items() <= found.members.items()
    assert damaged.associations.items() <= found.associations.items()


def test_a_peer_s_text_is_no_record(tmp_path: Path) -> None:
    """Eight bytes of text are an offset that no disk has."""
    forged = journal.record(0x2020202020202020, 0x7F7F7F7F7F7F7F7F)
    (tmp_path / journal.NAME).write_bytes(forged + journal.record(1, 2))
    assert journal.read(tmp_path).members == {1: 2}
