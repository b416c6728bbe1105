"""Bounds on a configuration: its bytes, its keys, its nesting.

Guaranteed: a configuration within the bounds is parsed and checked in about a second. tomllib alone
needs time that grows with the square of a key's parts, and recurses with each bracket.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

CONFIG_BYTES_MAX: Final = 512 * 1024
"""Bytes of all files together. A thousand calling AE titles with overrides are 150 KB, and tomllib
reads a megabyte a second."""

FILES_MAX: Final = 256
"""Files in pipelines_path. Each is opened."""

KEY_PARTS_MAX: Final = 16
"""Parts of a dotted key or a table's header; the deepest key that there is has eight."""

NESTING_MAX: Final = 16
"""Arrays and inline tables inside each other. No valid file has more than four."""

VALUES_MAX: Final = 20_000
"""Keys and array items in all files. Each is read several times."""

FAULTS_MAX: Final = 100
"""Faults that are listed. Nobody reads more, and for each a similar word is searched for."""

WORD_CHARS_MAX: Final = 64
"""A longer word is no misspelling of a valid one."""

INTEGER_BITS_MAX: Final = 63
"""TOML 1.0 knows integers of 64 bits with a sign."""

# Whole strings and comments, and the characters that have a meaning outside of them. Each
# alternative is atomic, and a string that does not end goes to the end of its line or the text, so
# that the search never goes back.
_TOKEN: Final = re.compile(
    r"""
    \"\"\" (?> (?: [^"\\] | \\. | "(?!"") )* ) (?: "{3,5} | \\?\Z )
    | ''' (?> (?: [^'] | '(?!'') )* ) (?: '{3,5} | \Z )
    | " (?> (?: [^"\\\n] | \\[^\n] )* ) "?
    | ' [^'\n]* '?
    | \# [^\n]*
    | [\[\]{}.=,\n]
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Excess:
    """An excess: its line, what was found, and how much is allowed."""

    line: int
    found: str
    allowed: str


def excess(text: str) -> Excess | None:
    """Returns the first excess of a TOML text; None where there is none."""
    dots = depth = 0
    for match in _TOKEN.finditer(text):
        first = match[0][0]
        if first == ".":
            dots += 1
        elif first not in "\"'":
            dots = 0
            depth += (first in "[{") - (first in "]}")
        if dots >= KEY_PARTS_MAX:
            return _excess(text, match, "a dotted key", "parts", KEY_PARTS_MAX)
        if depth > NESTING_MAX:
            return _excess(text, match, "brackets inside brackets", "levels", NESTING_MAX)
    return None


def _excess(text: str, match: re.Match[str], noun: str, of: str, most: int) -> Excess:
    line = text.count("\n", 0, match.start()) + 1
    return Excess(line, f"{noun} of more than {most} {of}", f"{most} {of} or fewer")
