"""spool/shown.py: an archive that a command has removed or replaced has its path again."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from fastjmix.spool import Spool, Ticket
from fastjmix.spool.shown import ShownArchive

ARCHIVE = os.urandom(3_000_017)


def sealed(spool: Spool) -> str:
    archive = spool.new_upload()
    archive.write_bytes(ARCHIVE)
    envelope_id = str(uuid.uuid4())
    spool.admit(archive, Ticket(envelope_id, "p", ("a",), "stored", ("1.2",), "CT", 1, 10, 5.0, ""))
    return envelope_id


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"other")
    other.replace(path)


@pytest.mark.parametrize("remove", [Path.unlink, replace])
def test_an_archive_that_is_gone_is_put_back(spool: Spool, remove: Callable[[Path], None]) -> None:
    with ShownArchive(spool, sealed(spool)) as shown:
        remove(shown.path)
        assert not shown.is_in_place
        shown.put_back()
    assert shown.path.read_bytes() == ARCHIVE
    assert shown.path.stat().st_mode & 0o777 == 0o600
    assert sorted(path.suffix for path in spool.outbox.iterdir()) == [".json", ".zip"]


def test_an_archive_that_is_written_to_is_changed(spool: Spool) -> None:
    with ShownArchive(spool, sealed(spool)) as shown:
        assert shown.is_in_place
        assert not shown.is_changed
        with shown.path.open("ab") as file:
            file.write(b"x")
        assert shown.is_in_place
        assert shown.is_changed


def test_a_copy_that_fails_leaves_nothing(spool: Spool) -> None:
    with ShownArchive(spool, sealed(spool)) as shown:
        shown.path.unlink()
        shown.path.mkdir()
        with pytest.raises(IsADirectoryError):
            shown.put_back()
    assert sorted(path.suffix for path in spool.outbox.iterdir()) == [".json", ".zip"]
