"""Decides which values must not be shown, and takes them out of texts.

Guaranteed: a value under [authentications.*], at a key with a name like "token" or "password", or
out of the environment, is replaced wherever a text shows it; also where the text shows only its
beginning, or shows it escaped.
Still wrong: a value of fewer than EXACT_CHARS characters is not searched for: it would be found in
every other word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Path = tuple[str | int, ...]
"""Names of tables and keys, and indexes of arrays."""

HIDDEN: Final = "(not shown)"

EXACT_CHARS: Final = 4
"""A whole value of at least so many characters is searched for."""

START_CHARS: Final = 8
"""A value is also taken out where only its first so many characters are in a text: texts are cut
short."""

_LIKE_A_SECRET: Final = re.compile(
    r"token|secret|passw|passphrase|api_?key|credential|webhook", re.I
)
_FAMILY: Final = "authentications"
_NO_SECRETS: Final = frozenset(("id", "method", "name", "description"))


def is_secret(path: Path) -> bool:
    """Returns whether the value at this path may be a secret."""
    names = [step for step in path if isinstance(step, str)]
    if names[:1] == [_FAMILY]:
        return names[-1] not in _NO_SECRETS or len(names) != 3
    return any(_LIKE_A_SECRET.search(name) for name in names[2:] or names[-1:])


def walk(tables: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    """Yields every value in these tables with its path; tables and arrays, too."""
    left: list[tuple[Path, Any]] = [((name,), held) for name, held in tables.items()]
    while left:
        path, value = left.pop()
        yield path, value
        if isinstance(value, dict):
            left += [((*path, name), held) for name, held in value.items()]
        elif isinstance(value, list):
            left += [((*path, index), held) for index, held in enumerate(value)]


@dataclass(slots=True)
class Hidden:
    """Values that no text may show."""

    _whole: set[str] = field(default_factory=set)
    _by_start: dict[str, set[str]] = field(default_factory=dict)

    def add(self, *forms: str) -> None:
        """Hides these values from now on."""
        for form in forms:
            if len(form) >= START_CHARS:
                self._by_start.setdefault(form[:START_CHARS], set()).add(form)
            elif len(form) >= EXACT_CHARS:
                self._whole.add(form)

    def __call__(self, text: str) -> str:
        """Returns the text without the hidden values."""
        out, at = [], 0
        while at < len(text):
            length = self._length(text, at)
            out.append(HIDDEN if length else text[at])
            at += length or 1
        return "".join(out)

    def _length(self, text: str, at: int) -> int:
        """Returns how many characters at this place must not be shown."""
        for size in range(START_CHARS - 1, EXACT_CHARS - 1, -1):
            if text[at : at + size] in self._whole:
                return size
        begun = self._by_start.get(text[at : at + START_CHARS], ())
        return max((_agreeing(text, at, form) for form in begun), default=0)


def _agreeing(text: str, at: int, form: str) -> int:
    """Returns how many characters a text has in common with a value that begins at `at`."""
    length = START_CHARS
    while length < len(form) and text[at + length : at + length + 1] == form[length]:
        length += 1
    return length
