"""Notices when free space crosses a mark, in either direction: for one line of the log a crossing.

Guaranteed: a crossing is reported once, whatever number of processes write there, because one
process (the uploader) asks. Free space that lies at a mark reports nothing until it has really
changed: the way back ends RESUME times above the mark. Nothing here logs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from fastjmix.spool.free_space import RESUME, FreeSpace, Margin


class Level(IntEnum):
    """How full the storage is. Below the soft mark no associations are accepted, below the hard
    mark no instances."""

    FREE = 0
    SOFT = 1
    HARD = 2


@dataclass(frozen=True, slots=True)
class Crossing:
    """Free space of a `resource` ("space" in bytes, or "inodes") has come to another level."""

    resource: str
    before: Level
    now: Level
    margin: Margin


class DiskMarks:
    """The levels of bytes and of inodes, as they were at the last look."""

    def __init__(self, room: FreeSpace) -> None:
        self._room = room
        self._levels: dict[str, Level] = {}

    def look(self) -> list[Crossing]:
        """Returns the crossings since the last look; the first look compares with FREE. Raises
        OSError."""
        found = []
        for resource, margin in self._room.margins().items():
            before = self._levels.get(resource, Level.FREE)
            now = self._levels[resource] = level(margin, before)
            if now is not before:
                found.append(Crossing(resource, before, now, margin))
        return found


def level(margin: Margin, before: Level) -> Level:
    """Returns the level of this much free space, where it was `before`."""
    spare = margin.free - margin.reserved
    if spare < int(margin.hard * (RESUME if before is Level.HARD else 1)):
        return Level.HARD
    if margin.free < int(margin.soft * (RESUME if before is not Level.FREE else 1)):
        return Level.SOFT
    return Level.FREE
