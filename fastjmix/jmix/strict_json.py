"""A stranger's JSON, read so that no other reader can see another document in it.

Wanted: whatever an envelope says is one thing for everybody who receives it, and costs a bounded
amount of memory.
Guaranteed: no key twice in an object, however it is escaped (RFC 8259 §4 lets each reader choose
which value counts); no whole number that a reader of 64 bits rounds; no nesting that another
library refuses; no NaN, Infinity, byte order mark, lone surrogate, or bytes that are not UTF-8.
The refusal names the key and where its object stands.
Still wrong: keys that differ only in their letters' case are two keys here, and one to readers that
do not look at case. Each document is parsed twice: orjson, which is strict about the text, keeps
the last of equal keys, and json, which shows all of them, takes texts that are no JSON. 16 MB take
0.3 s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

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


def parse(data: bytes, name: str, at: int | None = None) -> Any:
    """Returns a document's value. Raises EnvelopeError that names it, and the byte `at`."""
    containers = data.count(b"{") + data.count(b"[")
    values = data.count(b",") + containers + 1
    if containers > CONTAINERS_MAX:
        told = f"has more than CONTAINERS_MAX, {CONTAINERS_MAX}, objects and arrays"
        refuse(name, told, at=at)
    if values > VALUES_MAX:
        refuse(name, f"has more than VALUES_MAX, {VALUES_MAX}, values", at=at)
    _check_text(data, name, at)
    try:
        found = json.loads(data, object_pairs_hook=_object, parse_int=_whole)
    except _TooLong as problem:
        told = f"has a whole number of more than DIGITS_MAX, {DIGITS_MAX}, digits: {problem}"
        refuse(name, told, at=at)
    except _Twice:
        _refuse_twice(data, name, at)
    return found


def _check_text(data: bytes, name: str, at: int | None) -> None:
    """Raises EnvelopeError for what is no JSON text, and for one that is nested too deep."""
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
    """Stands for an object that has a key twice."""

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
    """Reads a document once more, to say which key comes twice, and where."""
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
    """Yields (path of the object, key); `value` is no deeper than DEPTH_MAX."""
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
