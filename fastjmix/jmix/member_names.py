"""Checks the names of members, and finds the folders that they imply."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from fastjmix.jmix.faults import refuse
from fastjmix.jmix.limits import Limits

_surrogate: Final = re.compile("[\ud800-\udfff]")
_control: Final = re.compile(r"[\\\x00-\x1f\x7f]")
_drive: Final = re.compile("[A-Za-z]:")
_unfit: Final = frozenset(("", ".", ".."))


def name_fault(name: str, limits: Limits, *, at: int | None = None) -> None:
    """Raises EnvelopeError for a name that could leave its folder, or be read as another."""
    if len(name.encode("utf-8", "surrogateescape")) > limits.max_name_bytes:
        what = f"has a name longer than max_name_bytes, {limits.max_name_bytes}"
        refuse(name, what, at=at)
    if _surrogate.search(name):
        refuse(name, "has a name that is not UTF-8", at=at)
    if _control.search(name):
        refuse(name, "has a backslash, NUL or control character in its name", at=at)
    if name.startswith("/") or _drive.match(name):
        refuse(name, "has an absolute name", at=at)
    parts = name.split("/")
    if len(parts) > limits.max_depth:
        refuse(name, f"lies deeper than max_depth, {limits.max_depth}", at=at)
    if not _unfit.isdisjoint(parts):
        refuse(name, "has an empty part, '.' or '..' in its name", at=at)


def folders_of(names: Iterable[str], limits: Limits | None = None) -> set[str]:
    """Returns every folder, without its last slash: those named (with it), and those that names
    imply.

    Raises EnvelopeError when they are more than `limits` allow, as soon as they are.
    """
    found: set[str] = set()
    size = 0
    for name in names:
        path = name.rpartition("/")[0]
        while path and path not in found:
            found.add(path)
            size += len(path)
            path = path.rpartition("/")[0]
        if limits is None:
            continue
        if len(found) > limits.max_folders:
            refuse(name, f"is in one folder more than max_folders, {limits.max_folders}")
        if size > limits.max_folder_bytes:
            what = "is in a folder more than max_folder_bytes has room for"
            refuse(name, f"{what}, {limits.max_folder_bytes}")
    return found
