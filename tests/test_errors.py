"""errors.py: the type of a storage error follows from errno, and an error is always an OSError."""

from __future__ import annotations

import errno
import os

import pytest

from fastjmix.errors import (
    FastjmixError,
    KeyMissing,
    LimitReached,
    MemberDamaged,
    NameTaken,
    StorageError,
    StorageFailed,
    StorageFull,
    StorageGone,
    printable,
    raise_typed,
    reason,
    storage_error,
)

TYPES = {
    errno.ENOSPC: StorageFull,
    errno.EDQUOT: StorageFull,
    errno.EFBIG: StorageFull,
    errno.EMFILE: LimitReached,
    errno.ENFILE: LimitReached,
    errno.ENOMEM: LimitReached,
    errno.EEXIST: NameTaken,
    errno.ENOKEY: KeyMissing,
    errno.ENOENT: StorageGone,
    errno.ENOTDIR: StorageGone,
    errno.ESTALE: StorageGone,
    errno.EXDEV: StorageGone,
}


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_the_type_follows_from_errno(number: int) -> None:
    found = storage_error(OSError(number, os.strerror(number)))
    assert type(found) is TYPES.get(number, StorageFailed)
    assert (found.errno, found.strerror) == (number, os.strerror(number))
    assert reason(found) == str(found) == os.strerror(number)


def test_an_error_without_errno_has_no_particular_type() -> None:
    found = storage_error(OSError("closed"))
    assert type(found) is StorageError
    assert (found.errno, found.message) == (None, "closed")


@pytest.mark.parametrize("kind", [StorageFull, MemberDamaged, StorageGone, KeyMissing, NameTaken])
def test_a_typed_error_is_an_oserror_with_its_errno(kind: type[StorageError]) -> None:
    found = kind("no")
    assert isinstance(found, OSError)
    assert isinstance(found, FastjmixError)
    assert found.errno in kind.numbers
    assert storage_error(found) is found


def test_raise_typed_keeps_the_error_of_the_system_as_the_cause() -> None:
    system = OSError(errno.EIO, "Input/output error")
    with pytest.raises(StorageFailed) as caught:
        raise_typed(system)
    assert caught.value.__cause__ is system
    with pytest.raises(MemberDamaged) as again:
        raise_typed(MemberDamaged("differs"))
    assert again.value.__cause__ is None


def test_only_failures_and_what_they_include_are_the_storages_fault() -> None:
    assert issubclass(StorageGone, StorageFailed)
    assert issubclass(MemberDamaged, StorageFailed)
    for passing in (StorageFull, LimitReached, NameTaken, KeyMissing):
        assert not issubclass(passing, StorageFailed)


def test_a_taken_name_is_the_systems_error_too() -> None:
    """A step that publishes raises either of them: who expects the one gets both."""
    with pytest.raises(FileExistsError) as caught:
        raise_typed(FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)))
    assert type(caught.value) is NameTaken
    assert str(caught.value) == os.strerror(errno.EEXIST)


def test_printable_escapes_control_characters() -> None:
    assert printable("a\nb\x1b[2J") == "a\\nb\\x1b[2J"
