"""Bounds on a configuration: its bytes, its keys, its nesting.

Guaranteed: what passes is parsed and checked within about a second; tomllib alone needs time that
grows with the square of a key's parts, and recurses with each bracket.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

CONFIG_BYTES_MAX: Final = 512 * 1024
"""Bytes of all files together. A thousand calling AE titles with overrides are 150 KB, and tomllib
reads a megabyte a second."""

FILES_MAX: Final = 256
"""Files in pipelines_path: each is opened, whatever it holds."""

KEY_PARTS_MAX: Final = 16
"""Parts of a dotted key or a table's header; the deepest key that there is has eight."""

NESTING_MAX: Final = 16
"""Arrays and inline tables inside each other; the deepest that mean something are four."""

VALUES_MAX: Final = 20_000
"""Keys and array items in all files: each is looked at several times."""

FAULTS_MAX: Final = 100
"""More faults are not listed: nobody reads them, and each has words that are searched for."""

WORD_CHARS_MAX: Final = 64
"""A longer word is no misspelling of a valid one."""

INTEGER_BITS_MAX: Final = 63
"""TOML 1.0 knows integers of 64 bits with a sign."""

# Strings and comments whole, and the characters that have a meaning outside of them. Each
# alternative is atomic, and a string that does not end goes to the end of its line or the text: so
# the search never turns back.
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
    """An excess: its kind, its line, and how much there may be."""

    line: int
    found: str
    allowed: str


def excess(text: str) -> Excess | None:
    """Returns the first thing in a TOML text that would be costly to parse; None where there is
    none.
    """
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


def _excess(text: str, match: re.Match[str], what: str, of: str, most: int) -> Excess:
    line = text.count("\n", 0, match.start()) + 1
    return Excess(line, f"{what} of more than {most} {of}", f"{most} {of} or fewer")
