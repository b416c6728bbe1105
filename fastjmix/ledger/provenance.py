"""Reads the file beside an envelope that says where each of its instances came from.

provenance/<id>.json is written at the seal, before the archive is in outbox/, and deleted with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from fastjmix.spool.reading import read_small

FORMAT: Final = 1
DIRECTORY: Final = "provenance"

BYTES_MAX: Final = 1 << 28
"""Bytes of the file: some 130 for each instance, of which an envelope has a million at most."""

InstanceFacts = tuple[str, int, int, int, int, float, int, str, int]
"""SOP Instance UID; numbers of series, SOP class, transfer syntax and association (-1: unknown);
arrival in Unix seconds (0: unknown), bytes, status of the response, and 0 for a repetition that was
not kept."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """The origin of an envelope's instances. `study` has texts by name, and `modalities`."""

    id: str
    origin: str
    associations: tuple[Mapping[str, Any], ...]
    study: Mapping[str, Any]
    series: tuple[str, ...]
    sop_classes: tuple[str, ...]
    transfer_syntaxes: tuple[str, ...]
    instances: tuple[InstanceFacts, ...]

    def dump(self) -> bytes:
        """Returns the content of the file."""
        return orjson.dumps({"format": FORMAT, **{name: getattr(self, name) for name in _NAMES}})

    @classmethod
    def load(cls, text: bytes) -> Provenance | None:
        """Returns what `dump` wrote; None for another text."""
        try:
            found = orjson.loads(text)
            if found["format"] != FORMAT or not isinstance(found["study"], dict):
                return None
            lists = {
                name: tuple(found[name])
                for name in ("associations", "series", "sop_classes", "transfer_syntaxes")
            }
            instances = tuple(tuple(one) for one in found["instances"])
            made = cls(found["id"], found["origin"], study=found["study"], **lists,
                       instances=instances)  # fmt: skip
            return made if made._is_sound() else None
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return None

    def _is_sound(self) -> bool:
        """Returns whether each number of an instance leads to something. Raises TypeError and
        ValueError for parts of other types."""
        lengths = [len(self.series), len(self.sop_classes), len(self.transfer_syntaxes)]
        for uid, series, kind, syntax, which, arrived, size, status, _ in self.instances:
            numbers = zip((series, kind, syntax), lengths, strict=True)
            if not all(0 <= number < length for number, length in numbers):
                return False
            if not (-1 <= which < len(self.associations) and 0 <= size < 1 << 62):
                return False
            if not isinstance(uid, str) or not isinstance(status, str):
                return False
            if not 0 <= arrived < 1 << 40:
                return False
        return all(isinstance(one, dict) for one in self.associations)


_NAMES: Final = (
    "id", "origin", "associations", "study", "series", "sop_classes", "transfer_syntaxes",
    "instances",
)  # fmt: skip


def read(storage: Path, envelope_id: str) -> Provenance | None:
    """Returns the provenance of an envelope; None where its file cannot be read."""
    try:
        found = Provenance.load(read_small(storage / DIRECTORY / f"{envelope_id}.json", BYTES_MAX))
    except OSError:
        return None
    return found if found is not None and found.id == envelope_id else None
