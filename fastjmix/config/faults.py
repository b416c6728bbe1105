"""A fault of a configuration file as a value, and the error that names all of them at once.

Guaranteed: a fault has its place (file, table, key), what was found, what is allowed, and the
nearest valid word when one is similar. Every fault and warning is noted in `Findings`, which takes
secrets out of its text (secrets.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from fastjmix import errors
from fastjmix.config.bounds import FAULTS_MAX, WORD_CHARS_MAX
from fastjmix.config.secrets import Hidden

_SHOWN_CHARS_MAX: Final = 72  # characters of a value: enough to find it again in the file
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_SIMILARITY: Final = 0.6  # difflib's ratio above which a word is a likely misspelling


@dataclass(frozen=True, slots=True)
class Fault:
    """`table` is a dotted path, "" for the top level; `nearest` is "" when no word is similar."""

    file: str
    table: str
    key: str
    found: str
    allowed: str
    nearest: str = ""

    def __str__(self) -> str:
        place = " ".join(part for part in (f"[{self.table}]" * bool(self.table), self.key) if part)
        lines = [f"{self.file}: {place}" if place else self.file]
        lines += [f"    found:    {self.found}", f"    allowed:  {self.allowed}"]
        if self.nearest:
            lines.append(f"    nearest:  {self.nearest}")
        return "\n".join(lines)


class ConfigError(errors.ConfigError):
    """The configuration cannot be used. The message counts the faults, then shows each."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults: tuple[Fault, ...] = tuple(faults)
        number = len(self.faults)
        counted = f"{number} fault{'s' * (number != 1)}{' or more' * (number >= FAULTS_MAX)}"
        head = f"{counted} in the configuration; nothing was started"
        super().__init__("\n\n".join((head, *map(str, self.faults))))

    def __reduce__(self) -> tuple[Any, ...]:
        return ConfigError, (self.faults,)


@dataclass(slots=True)
class Findings:
    """The faults and warnings of a configuration, gathered until the end."""

    faults: dict[tuple[str, str, str], Fault] = field(default_factory=dict)  # by place, in order
    warnings: dict[str, None] = field(default_factory=dict)
    secrets: Hidden = field(default_factory=Hidden)
    foreign: Hidden = field(default_factory=Hidden)  # from the environment: in no fault

    def fault(
        self, file: str, table: str, key: str, found: str, allowed: str, nearest: str = ""
    ) -> None:
        """Notes a fault, unless this place has one already: a second would follow from it."""
        if len(self.faults) < FAULTS_MAX:
            found = self.secrets(self.foreign(found))
            fault = Fault(file, table, key, found, allowed, nearest)
            self.faults.setdefault((file, table, key), fault)

    def warn(self, text: str) -> None:
        """Notes something that works and may not be meant."""
        self.warnings[self.secrets(text)] = None


def shown(value: object) -> str:
    """Returns a value as TOML would write it, cut short; control characters escaped."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = quoted(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN_CHARS_MAX else text[: _SHOWN_CHARS_MAX - 1] + "…"


def described(value: object) -> str:
    """Returns the type of a value in words, for values that may be secret."""
    if isinstance(value, str):
        return "a string (not shown)" if value else "an empty string"
    if isinstance(value, dict | list):
        return shown(value)
    return "a value that is no string (not shown)"


def quoted(text: str) -> str:
    """Returns a TOML basic string. Control characters are escaped: a terminal might obey them."""
    out = []
    for c in text:
        if c in '"\\':
            out.append("\\" + c)
        elif c.isprintable():
            out.append(c)
        else:
            out.append(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}")
    return '"' + "".join(out) + '"'


def dotted(*parts: object) -> str:
    """Returns a path as its TOML header: endpoints.dicom_receiver.options. An index is [2]."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
            continue
        text = str(part)
        path += ("." if path else "") + (text if _BARE.fullmatch(text) else quoted(text))
    return path


def nearest(word: str, words: Iterable[str]) -> str:
    """Returns the valid word that is most similar to this one; "" when none is."""
    if len(word) > WORD_CHARS_MAX:
        return ""
    import difflib  # only for a fault

    folded = {valid.casefold(): valid for valid in words}
    close = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=_SIMILARITY)
    return folded[close[0]] if close else ""
