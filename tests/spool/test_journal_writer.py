"""spool/journal.py: the writer of a draft's journal."""

from __future__ import annotations

import os
from pathlib import Path

from fastjmix.spool import journal
from fastjmix.spool.journal import JournalWriter


def writer(directory: Path, name: str = journal.NAME) -> JournalWriter:
    return JournalWriter(os.open(directory / name, os.O_RDWR | os.O_CREAT, 0o600))


def test_records_are_in_the_file_when_they_were_written(tmp_path: Path) -> None:
    one = writer(tmp_path)
    one.add(0, 10)
    assert journal.read(tmp_path).members == {}
    one.write()
    one.add(10, 30, b"1.2.3\\7")
    one.write()
    one.write()
    one.close()
    found = journal.read(tmp_path)
    assert (found.members, found.notes, found.end) == ({0: 10, 10: 30}, {10: b"1.2.3\\7"}, 30)


def test_a_copy_has_the_records_of_the_other(tmp_path: Path) -> None:
    first, second = writer(tmp_path, "first"), writer(tmp_path)
    first.add(0, 10, b"note")
    first.write()
    descriptor = first.detach()
    second.add_copy(descriptor)
    second.add(10, 20)
    second.write()
    os.close(descriptor)
    second.close()
    found = journal.read(tmp_path)
    assert (found.members, found.notes) == ({0: 10, 10: 20}, {0: b"note"})


def test_without_a_file_nothing_is_written_and_nothing_fails(tmp_path: Path) -> None:
    none = JournalWriter()
    none.add(0, 10)
    none.write()
    none.close()
    assert none.detach() == -1


def test_a_failure_to_write_is_ignored(tmp_path: Path) -> None:
    (tmp_path / journal.NAME).touch()
    read_only = JournalWriter(os.open(tmp_path / journal.NAME, os.O_RDONLY))
    read_only.add(0, 10)
    read_only.write()
    read_only.close()
    assert journal.read(tmp_path).members == {}
