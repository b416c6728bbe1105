"""Names of SOP classes beside their UIDs, for log lines (PS3.6 Annex A).

Guaranteed: a name is pydicom's table's and never a peer's words. The table is loaded with
pynetdicom, which the receiver needs anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

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
