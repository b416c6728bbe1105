"""The forms in which words are kept and searched: UIDs, patients' names, peers' addresses.

Guaranteed: the writer and the readers use the same functions, so a word that was kept is found.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

import xxhash

NAME_CHARS_MAX: Final = 64
"""Characters of a folded name that are compared: a component group of PN has 64 (PS3.5 §6.2)."""

TOP: Final = "\U0010ffff"
"""Sorts behind every other character, in UTF-8 as well."""

_SEPARATORS: Final = re.compile(r"[\s,^=]+")
_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)+")


def is_uid(word: str) -> bool:
    """Returns whether a word has the form of a UID (PS3.5 §9.1); its length is not looked at."""
    return _UID.fullmatch(word) is not None


def uid_key(uid: str) -> int:
    """Returns the key of a UID in the table `uids`: 64 bits, signed as SQLite has integers.

    The upper half is made from all but the last component, the lower half from the whole. So the
    instances of a series, which share all but the last component, are neighbours in the table, and
    a new envelope writes a few of its pages instead of one for each instance.
    """
    stem = uid.rpartition(".")[0]
    upper = xxhash.xxh3_64_intdigest(stem.encode()) >> 32
    lower = xxhash.xxh3_64_intdigest(uid.encode()) & 0xFFFFFFFF
    key = upper << 32 | lower
    return key - (1 << 64) if key >> 63 else key


def fold(text: str) -> str:
    """Returns a text without case, accents and marks, its words separated by one space.

    Compatible forms become one (NFKD), such as half-width kana and full-width letters.
    """
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    letters = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return _SEPARATORS.sub(" ", letters).strip()[:NAME_CHARS_MAX]


def name_words(patient_name: str) -> set[str]:
    """Returns the forms under which a Patient's Name is found (PN, PS3.5 §6.2.1).

    Each component group (alphabetic, ideographic, phonetic) gives its components in their order,
    and once more beginning with each further one: a given name is found, too.
    """
    words = set()
    for group in patient_name.split("="):
        parts = [part for part in map(fold, group.split("^")) if part]
        for first in range(len(parts)):
            words.add(" ".join(parts[first:] + parts[:first])[:NAME_CHARS_MAX])
    return words


def host(peer: str) -> str:
    """Returns the address of `address:port` or `[address]:port`; a bare address as it is."""
    if peer.startswith("["):
        return peer[1:].partition("]")[0]
    return peer.partition(":")[0] if peer.count(":") == 1 else peer


def distinct(words: Iterable[str]) -> tuple[str, ...]:
    """Returns the words that are not empty, each once, in their order."""
    return tuple(dict.fromkeys(word for word in words if word))
