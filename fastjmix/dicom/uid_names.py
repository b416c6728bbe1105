"""Names of UIDs (PS3.6 Annex A): SOP classes in log lines, and the UIDs that a rule names.

Guaranteed: a name is pydicom's table's and never a peer's words. The table is loaded with
pynetdicom, which the receiver needs anyway.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from typing import Final, Literal

from pydicom._uid_dict import UID_dictionary

UNNAMED: Final = "(unknown)"
"""Stands for the name of a private UID, or of one that pydicom does not know."""


def name_of(uid: str) -> str | None:
    """Returns the name of a UID; None where the table has none."""
    found = UID_dictionary.get(uid)
    return found[0] if found is not None else None


def names_of(uids: Iterable[str]) -> str:
    """Returns the names of UIDs in their order, with ", " between them."""
    return ", ".join(name_of(uid) or UNNAMED for uid in uids)


Kind = Literal["SOP Class", "Transfer Syntax"]


def uids_named(kind: Kind, name: str) -> tuple[str, ...]:
    """Returns the UIDs of a kind that have this name or keyword; () for none.

    Case, blanks and punctuation do not count; * stands for any characters.
    """
    wanted = _plain(name, keep="*")
    return tuple(
        uid
        for uid, names in _of_kind(kind)
        if any(fnmatch.fnmatchcase(_plain(one), wanted) for one in names)
    )


def known_names(kind: Kind) -> list[str]:
    """Returns the names of all UIDs of a kind."""
    return [names[0] for _, names in _of_kind(kind)]


def _of_kind(kind: Kind) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yields each UID of a kind with its name and its keyword."""
    for uid, (name, of, _, _, keyword) in UID_dictionary.items():
        if of == kind:
            yield uid, (name, keyword)


def _plain(name: str, keep: str = "") -> str:
    return "".join(c for c in name.casefold() if c.isalnum() or c in keep)
