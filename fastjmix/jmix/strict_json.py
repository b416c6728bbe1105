"""Parses the JSON of an envelope, and refuses documents that another reader could read differently.

Wanted: every receiver of an envelope reads the same values, in a bounded amount of memory.
Guaranteed: no key twice in an object, however it is escaped (RFC 8259 §4 lets each reader choose
which value counts); no whole number beyond 64 bits; no nesting that another library refuses; no
NaN, Infinity, byte order mark, lone surrogate, or bytes that are not UTF-8. The error names the key
and the path of its object.
Still wrong: keys that differ only in their letters' case are two keys here, and one to readers that
ignore case. Each document is parsed twice: orjson is strict about the text and keeps the last of
equal keys; json gives all of them and accepts texts that are no JSON. 16 MB take 0.3 s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from fastjmix.jmix.faults import escaped, refuse

VALUES_MAX: Final = 1_000_000
"""Values of a document, ten for each of `Limits.max_members`: a Python object may take a hundred
times the bytes that it has in the text."""

CONTAINERS_MAX: Final = 300_000
"""Objects and arrays of a document, three for each of `Limits.max_members`: of all values they take
the most memory."""

DEPTH_MAX: Final = 128
"""Objects and arrays within each other; serde_json, which jmix-rs reads with, takes no more."""

DIGITS_MAX: Final = 18
"""Digits of a whole number: so many always fit 64 bits."""

_dumps_depth: Final = 254
"""orjson writes no deeper value."""

JsonObject: TypeAlias = Mapping[str, Any]
"""An object of another program's document: its values may have any type."""


def parse(data: bytes, name: str, at: int | None = None) -> object:
    """Returns a document's value. Raises EnvelopeError that names it, and the byte `at`."""
    containers = data.count(b"{") + data.count(b"[")
    values = data.count(b",") + containers + 1
    if containers > CONTAINERS_MAX:
        what = f"has more than CONTAINERS_MAX, {CONTAINERS_MAX}, objects and arrays"
        refuse(name, what, at=at)
    if values > VALUES_MAX:
        refuse(name, f"has more than VALUES_MAX, {VALUES_MAX}, values", at=at)
    _check_text(data, name, at)
    try:
        found: object = json.loads(data, object_pairs_hook=_object, parse_int=_whole)
    except _TooLong as problem:
        what = f"has a whole number of more than DIGITS_MAX, {DIGITS_MAX}, digits: {problem}"
        refuse(name, what, at=at)
    except _Twice:
        _refuse_twice(data, name, at)
    return found


def _check_text(data: bytes, name: str, at: int | None) -> None:
    """Raises EnvelopeError for data that is no JSON text, or is nested too deep."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as problem:
        refuse(name, f"is not JSON: {problem}", at=at)
    for _ in range(_dumps_depth - DEPTH_MAX):
        found = [found]
    try:
        orjson.dumps(found)
    except orjson.JSONEncodeError:
        refuse(name, f"is nested deeper than DEPTH_MAX, {DEPTH_MAX}", at=at)


class _TooLong(ValueError):
    """A whole number has more than DIGITS_MAX digits."""


class _Twice(Exception):
    """An object has a key twice."""


class _Marked(NamedTuple):
    """Replaces an object that has a key twice."""

    key: str


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > DIGITS_MAX:
        raise _TooLong(escaped(digits))
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Twice
    return found


def _refuse_twice(data: bytes, name: str, at: int | None) -> None:
    """Parses a document once more, to find which key comes twice, and where."""
    for path, key in _marked(json.loads(data, object_pairs_hook=_marking), ""):
        where = f'in "{escaped(path)}"' if path else "at its top level"
        refuse(name, f'has the key "{escaped(key)}" twice {where}: readers differ', at=at)


def _marking(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Marked:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            return _Marked(key)
        found[key] = value
    return found


def _marked(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yields (path of the object, key that comes twice); `value` is no deeper than DEPTH_MAX."""
    if isinstance(value, _Marked):
        yield path, value.key
    elif isinstance(value, dict):
        for key, one in value.items():
            if isinstance(one, (dict, list, _Marked)):
                yield from _marked(one, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for number, one in enumerate(value):
            if isinstance(one, (dict, list, _Marked)):
                yield from _marked(one, f"{path}[{number}]")
