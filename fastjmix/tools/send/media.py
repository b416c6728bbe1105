"""DICOMDIR: the index of a CD or an export (PS3.3 Annex F, PS3.10 §8.6).

Guaranteed: a file that the index names and that is not there is reported; no file outside the
index's folder is named, whatever the index says. Names are found in upper and lower case.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pydicom
from pydicom.multival import MultiValue

from fastjmix.tools.send.walk import Skipped

MEDIA_DIRECTORY: Final = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR (PS3.6 Annex A)."""


def referenced(index: Path) -> Iterator[Path | Skipped]:
    """Yields the files that a DICOMDIR names, each once, and a Skipped for each that is absent."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that are not used
            records = pydicom.dcmread(index).get("DirectoryRecordSequence") or ()
            names = [one.get("ReferencedFileID") for one in records]
    except Exception as problem:  # pydicom names no common base for what a damaged file can raise
        yield Skipped(index, f"cannot be read as a DICOMDIR: {problem}")
        return
    for name in dict.fromkeys(_components(one) for one in names if one):
        yield _found(index, name)


def _components(name: object) -> tuple[str, ...]:
    """Returns the values of a Referenced File ID: folders, and the file as the last one."""
    values = name if isinstance(name, MultiValue) else [name]
    return tuple(str(value).strip(" \0") for value in values)


def _found(index: Path, name: tuple[str, ...]) -> Path | Skipped:
    shown = "/".join(name)
    if any(part in ("", ".", "..") or "/" in part or "\0" in part for part in name):
        return Skipped(index, f"names a file that no folder can hold: {shown!r}")
    at = index.parent
    for part in name:
        at = _child(at, part)
    return at if at.is_file() else Skipped(at, f"is named by {index.name} and is not there")


def _child(folder: Path, name: str) -> Path:
    """Returns the path of a name in a folder, in letters of another case if it has only that."""
    exact = folder / name
    if exact.exists():
        return exact
    try:
        same = [one for one in folder.iterdir() if one.name.casefold() == name.casefold()]
    except OSError:
        return exact
    return same[0] if same else exact
