"""Renames a file or directory without replacing another one.

rename(2) destroys the file that had the new name. An archive in the spool may be the only copy of
acknowledged instances, so each rename here is renameat2(2) with RENAME_NOREPLACE. A file system
that does not support it (NFS, 9p, some FUSE) answers EINVAL. There a file gets its new name by
link(2), which never replaces either, and then loses the old one. A kill in between leaves one file
with both names; the next attempt finds that and ends the step.
Still wrong: without RENAME_NOREPLACE a directory is renamed after a check of the new name; so is a
file on a file system without hard links. Another process may take the name between check and
rename. Others can choose only the names of archives of a POST.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from pathlib import Path
from typing import Final

AT_FDCWD: Final = -100
RENAME_NOREPLACE: Final = 1

UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS})
"""renameat2(2): the file system or the kernel does not support the flag."""

UNLINKABLE: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""link(2): the file system has no hard links, or no more of this file."""

_libc: Final = ctypes.CDLL(None, use_errno=True)


def rename_new(source: Path, target: Path) -> None:
    """Gives a file or directory a name that no other has. Raises FileExistsError, OSError.

    When both names are those of one file, it removes `source`: an earlier attempt had begun.
    """
    try:
        try:
            _rename_by_renameat2(source, target)
        except OSError as problem:
            if problem.errno not in UNSUPPORTED:
                raise
            _rename_by_link(source, target)
    except FileExistsError:
        if not same_file(source, target):
            raise
        source.unlink()


def same_file(one: Path, other: Path) -> bool:
    """Returns True when two names are those of one regular file. Raises OSError."""
    first, second = one.lstat(), other.lstat()
    return stat.S_ISREG(first.st_mode) and os.path.samestat(first, second)


def _rename_by_renameat2(source: Path, target: Path) -> None:
    function = getattr(_libc, "renameat2", None)
    if function is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    paths = os.fsencode(source), os.fsencode(target)
    if function(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_NOREPLACE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(source), None, str(target))


def _rename_by_link(source: Path, target: Path) -> None:
    if not stat.S_ISDIR(source.lstat().st_mode):
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError as problem:
            if problem.errno not in UNLINKABLE:
                raise
        else:
            source.unlink()
            return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)
