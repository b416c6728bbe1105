"""One event as one line of JSON, for programs that collect logs: an object with the same keys.

    {"time": …, "level": …, "process": …, "event": …, key: value, …}

Truth values, finite floats and integers of 64 bits stay what they are. Any other value is the
string that the text form shows.

Guaranteed: ASCII only, without control characters. A line that would be too long is still an
object: the first value that does not fit is cut, further pairs are left out, and `"cut": true` is
the last pair.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from json import dumps
from typing import Final

from fastjmix.log.lines import LINE_BYTES_MAX, Line, with_values, words

INTEGER_BITS_MAX: Final = 63
"""Bits of an integer that is written as a number: many readers take no more."""

_CUT: Final = '"cut": true'

# The start of an encoded string: characters, whole escapes, both halves of a surrogate pair.
_START: Final = re.compile(
    r'"(?:[^"\\]|\\[^u]|\\ud[89ab]..\\ud[c-f]..|\\u(?!d[89ab])[0-9a-f]{4})*', re.ASCII
)


def as_json(line: Line) -> bytes:
    """Returns the object and a newline."""
    values: dict[str, object] = {"time": line.time, "level": line.level, "process": line.process}
    values |= {"event": words(line.event), **with_values(line.pairs)}
    pairs = [(f"{_string(words(key))}: ", _value(value)) for key, value in values.items()]
    joined = "{" + ", ".join(name + value for name, value in pairs) + "}\n"
    if len(joined) > LINE_BYTES_MAX:
        joined = "{" + ", ".join(_fitting(pairs)) + "}\n"
    return joined.encode("ascii")


def _value(value: object) -> str:
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is int and value.bit_length() <= INTEGER_BITS_MAX:
        return str(value)
    if type(value) is float and math.isfinite(value):
        return repr(value)
    return _string(words(value))


def _string(shown: str) -> str:
    """Returns a JSON string. A surrogate without its other half is written as the text form does,
    because strict readers take none."""
    whole = shown.encode("utf-8", "backslashreplace").decode()
    return dumps(whole).replace("\x7f", "\\u007f")  # DEL, which JSON allows


def _fitting(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Returns the pairs that fit into a line, the last of them cut, and the mark that says so."""
    kept: list[str] = []
    room = LINE_BYTES_MAX - len("{" + _CUT + "}\n")
    for name, value in pairs:
        room -= len(name) + len(", ")
        if len(value) > room:
            start = _START.match(value, 0, max(room - 1, 0))
            if start is not None:
                kept.append(f'{name}{start[0]}"')
            break
        kept.append(name + value)
        room -= len(value)
    return [*kept, _CUT]
