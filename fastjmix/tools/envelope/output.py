"""Writes a file or a folder completely or not at all.

Wanted: an interrupted or refused command changes nothing.
Guaranteed: everything is written under a temporary name beside the target and gets its own by one
rename. An existing target is left alone unless `force` is given. A file of an extracted
envelope is opened below the folder by descriptors, component by component, without following a
link: nothing is written outside it, whatever its name and whatever exists there.
Still wrong: a folder that exists is filled file by file (`force`): a crash between two of them
leaves some of each. A killed process (SIGKILL) leaves its temporary, `.<name>.<digits>.part`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NoReturn

from fastjmix.errors import FastjmixError
from fastjmix.tools.envelope.arguments import path_of

_folder_flags: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_new_flags: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class OutputError(FastjmixError):
    """The target exists, or cannot be written."""


def _exists(target: Path) -> NoReturn:
    raise OutputError(f"{target}: exists already", "Name another, or give force=True.")


def _beside(target: Path) -> Path:
    return target.parent / f".{target.name}.{secrets.token_hex(6)}.part"


@contextlib.contextmanager
def new_file(target: Path, *, force: bool = False, mode: int = 0o666) -> Iterator[int]:
    """Yields a descriptor to write to; it becomes `target` when the block ends without an error.

    Raises OutputError, OSError.
    """
    if os.path.lexists(target) and (not force or target.is_dir()):
        _exists(target)
    temporary = _beside(target)
    try:
        descriptor = os.open(temporary, _new_flags, mode)
    except OSError as problem:
        raise OutputError(f"{target}: cannot be written: {problem.strerror}") from None
    try:
        try:
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _name(temporary, target, force=force)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def _name(temporary: Path, target: Path, *, force: bool) -> None:
    if force:
        temporary.replace(target)
        return
    try:
        os.link(temporary, target)  # unlike rename(2), it never replaces a file created meanwhile
    except FileExistsError:
        _exists(target)
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            _exists(target)
        temporary.rename(target)
        return
    temporary.unlink()


@contextlib.contextmanager
def target_of(out: str | Path) -> Iterator[Path]:
    """Yields the path of a file to write, or of a folder for several: an existing one, or one that
    is made now, because its name ends with a slash. It is removed when the block fails.

    Raises UsageError, OutputError.
    """
    target = path_of(out)
    if not str(out).endswith(os.sep) or target.is_dir():
        yield target
        return
    try:
        target.mkdir()
    except FileExistsError:
        raise OutputError(f"{target}: is a file, and no folder") from None
    except OSError as problem:
        raise OutputError(f"{target}: cannot be made: {problem.strerror}") from None
    try:
        yield target
    except BaseException:
        with contextlib.suppress(OSError):  # a file was put there meanwhile
            target.rmdir()
        raise


class NewFolder:
    """A folder that is being filled. `files`: the names of the files written, in order."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.files: list[str] = []

    def write(self, name: str, pieces: Iterable[bytes]) -> None:
        """Writes a new file with these bytes. `name` has "/" between its components.

        Raises OSError when a component is a link, or the file exists.
        """
        with _parent(self._descriptor, name, make=True) as (folder, last):
            descriptor = os.open(last, _new_flags, 0o666, dir_fd=folder)
        with open(descriptor, "wb", buffering=0) as file:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[file.write(view) :]
        self.files.append(name)

    def folder(self, name: str) -> None:
        """Makes a folder, and those above it, unless they exist. Raises OSError."""
        with _parent(self._descriptor, f"{name}/_", make=True):
            pass


@contextlib.contextmanager
def _parent(descriptor: int, name: str, *, make: bool) -> Iterator[tuple[int, str]]:
    """Yields the folder of a file as a descriptor, and the file's last component. Raises
    OSError."""
    *folders, last = name.split("/")
    if not last or last in (".", "..") or any(part in ("", ".", "..") for part in folders):
        raise OutputError(f"{name!r} is no name for a file")
    folder = os.dup(descriptor)
    try:
        for part in folders:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
            below = os.open(part, _folder_flags, dir_fd=folder)
            os.close(folder)
            folder = below
        yield folder, last
    finally:
        os.close(folder)


@contextlib.contextmanager
def new_folder(target: Path, *, force: bool = False) -> Iterator[NewFolder]:
    """Yields a folder to fill; it becomes `target` when the block ends without an error.

    An existing folder may be filled when it is empty. With `force` a folder that is not empty keeps
    its other files. Raises OutputError, OSError.
    """
    if os.path.lexists(target):
        usable = target.is_dir() and (force or not any(target.iterdir()))
        if not usable:
            _exists(target)
    temporary = _beside(target)
    try:
        temporary.mkdir()
    except OSError as problem:
        raise OutputError(f"{target}: cannot be written: {problem.strerror}") from None
    descriptor = os.open(temporary, _folder_flags)
    try:
        made = NewFolder(descriptor)
        yield made
        if target.is_dir():
            _merge(descriptor, made.files, target)
        else:
            temporary.rename(target)
    finally:
        os.close(descriptor)
        shutil.rmtree(temporary, ignore_errors=True)


def _merge(source: int, files: Iterable[str], target: Path) -> None:
    """Moves files into an existing folder: all of them, or none when one cannot be moved."""
    names = list(files)
    into = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        obstacles = dict.fromkeys(what for name in names if (what := _clash(into, name, target)))
        if obstacles:
            raise OutputError("\n    ".join(_counted(list(obstacles))))
        for name in names:
            with (
                _parent(source, name, make=False) as (here, last),
                _parent(into, name, make=True) as (there, _),
            ):
                os.replace(last, last, src_dir_fd=here, dst_dir_fd=there)
    finally:
        os.close(into)


def _counted(lines: list[str]) -> list[str]:
    return lines if len(lines) == 1 else [f"{len(lines)} things are in the way", *lines]


def _clash(into: int, name: str, target: Path) -> str:
    """Returns why a file cannot be put there without following a link or replacing a folder; ""
    when it can."""
    try:
        with _parent(into, name, make=False) as (folder, last):
            found = os.stat(last, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return ""
    except OSError as problem:
        at = _obstacle(target, name)
        return f"{at}: {problem.strerror}: a link or a file where a folder should be"
    if stat.S_ISDIR(found.st_mode):
        return f"{target / name}: a folder where a file should be"
    return ""


def _obstacle(target: Path, name: str) -> Path:
    """Returns the first part of a path that is no folder: a person has to remove it."""
    at = target
    for part in name.split("/")[:-1]:
        at /= part
        if at.is_symlink() or not at.is_dir():
            return at
    return target / name
