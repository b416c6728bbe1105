"""Patterns: * stands for any characters, ? for one. Nothing else is special.

Guaranteed: a match takes time in proportion to the text times the pattern, however many * it has:
a peer chooses the text.
"""

from __future__ import annotations

import re
from functools import lru_cache


def matches(pattern: str, text: str) -> bool:
    """Returns whether the whole text fits the pattern, with regard to case."""
    return _compiled(pattern, ".").fullmatch(text) is not None


def covers(wide: str, narrow: str) -> bool:
    """Returns True when every text that fits `narrow` fits `wide`. False where that is unknown.

    `narrow` is read as a text in which * is a character that only a * of `wide` can stand for.
    """
    return _compiled(wide, "[^*]").fullmatch(narrow) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str, one: str) -> re.Pattern[str]:
    """Returns the pattern as a regular expression; `one` is the expression for ?.

    A part between two * is taken where it is found first, and not looked for again behind that
    (an atomic group): another place could only leave less for the parts behind it.
    """
    first, *rest = (
        "".join(one if c == "?" else re.escape(c) for c in part) for part in pattern.split("*")
    )
    if rest:
        first += "".join(f"(?>.*?{part})" for part in rest[:-1]) + f".*{rest[-1]}"
    return re.compile(first, re.DOTALL)
