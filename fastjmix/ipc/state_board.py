"""Shares the latest state of each process with the others, as JSON in shared memory.

Guaranteed: a reader gets a whole state, or none. A row has two slots that are written in turn, each
with a number, a length and a CRC-32: while one is written, the other holds the state before it. A
row has one writer. Nothing here waits, and nothing outlives the supervisor.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Any, Final

import orjson
from isal.isal_zlib import crc32

STATE_MAX: Final = 60_000
"""Bytes of a state: some hundred upstreams, or the counts of a thousand calling AE titles."""

_HEAD: Final = Struct("<QII")
"""The number of the state, its length, and the CRC-32 of both and of its text."""

_ABOUT: Final = Struct("<QI")
_SLOT: Final = 1 << 16
_ROW: Final = 2 * _SLOT
assert _HEAD.size + STATE_MAX <= _SLOT


class StateBoard:
    """The rows, by the names of their writers. Made by the supervisor before it forks."""

    def __init__(self, names: Sequence[str]) -> None:
        self._rows = {name: index for index, name in enumerate(names)}
        self._memory = mmap.mmap(-1, max(len(names), 1) * _ROW)

    def publish(self, name: str, state: Mapping[str, object]) -> None:
        """Replaces the state of a row; only its writer calls this.

        Raises ValueError for a state of more than STATE_MAX bytes, KeyError for an unknown row.
        """
        text = orjson.dumps(state)
        if len(text) > STATE_MAX:
            raise ValueError(f"a state of {len(text)} bytes; at most {STATE_MAX}")
        row = self._rows[name] * _ROW
        number = max(self._number(row), self._number(row + _SLOT)) + 1
        at = row + number % 2 * _SLOT
        check = crc32(text, crc32(_ABOUT.pack(number, len(text))))
        self._memory[at : at + _HEAD.size] = _HEAD.pack(0, 0, 0)
        self._memory[at + _HEAD.size : at + _HEAD.size + len(text)] = text
        self._memory[at : at + _HEAD.size] = _HEAD.pack(number, len(text), check)

    def read(self, name: str) -> dict[str, Any]:
        """Returns the latest state of a row; {} while there is none. Raises KeyError."""
        row = self._rows[name] * _ROW
        slots = [self._slot(row), self._slot(row + _SLOT)]
        _, text = max(slots)
        return orjson.loads(text) if text else {}

    def _number(self, at: int) -> int:
        number: int = _HEAD.unpack_from(self._memory, at)[0]
        return number

    def _slot(self, at: int) -> tuple[int, bytes]:
        """Returns the number and the text of a slot; (0, b"") for one that is being written."""
        number, length, check = _HEAD.unpack_from(self._memory, at)
        text = self._memory[at + _HEAD.size : at + _HEAD.size + min(length, STATE_MAX)]
        whole = crc32(text, crc32(_ABOUT.pack(number, length))) == check
        return (number, text) if number and whole else (0, b"")
