"""Keeps the facts of an association that its lane, the journal and the provenance keep.

Guaranteed: `dump` gives at most FACTS_BYTES_MAX bytes of JSON, whatever a peer calls itself; the
peer's texts are shortened for that. `load` reads what `dump` writes, and no other text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Final

import orjson

from fastjmix.spool.ticket import is_moment

FACTS_BYTES_MAX: Final = 512
"""Bytes of the facts: a lane's control block has this much space for them."""

TEXT_MAX: Final = 128
"""Characters of a text that `load` takes."""

SHORT: Final = (64, 32, 16, 8, 4)
"""Characters that are kept of each of the peer's texts where the facts would be too long. JSON
writes a control character with six bytes, so that four times four characters always fit."""


def _text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= TEXT_MAX


CHECKS: Final[Mapping[str, Callable[[object], bool]]] = {
    "id": _text,
    "calling_ae": _text,
    "called_ae": _text,
    "peer": _text,
    "implementation_uid": _text,
    "implementation_version": _text,
    "began": is_moment,
}
"""Checks of the fields: True for a value that fastjmix writes."""


@dataclass(frozen=True, slots=True)
class AssociationFacts:
    """One association. `id` is `<run>-<number>` (ipc/channels.py), `peer` is "address:port",
    `began` is Unix seconds."""

    id: str
    calling_ae: str = ""
    called_ae: str = ""
    peer: str = ""
    implementation_uid: str = ""
    implementation_version: str = ""
    began: float = 0.0

    def dump(self) -> bytes:
        """Returns the facts as JSON text."""
        text = orjson.dumps(asdict(self))
        for most in SHORT:
            if len(text) <= FACTS_BYTES_MAX:
                break
            shorter = replace(
                self,
                calling_ae=self.calling_ae[:most],
                called_ae=self.called_ae[:most],
                implementation_uid=self.implementation_uid[:most],
                implementation_version=self.implementation_version[:most],
            )
            text = orjson.dumps(asdict(shorter))
        return text

    def as_json(self) -> dict[str, object]:
        """Returns the facts as an object for JSON."""
        return asdict(self)

    @classmethod
    def load(cls, text: bytes) -> AssociationFacts | None:
        """Returns the facts that `dump` wrote; None for any other text."""
        try:
            return cls.of(orjson.loads(text))
        except orjson.JSONDecodeError:
            return None

    @classmethod
    def of(cls, found: object) -> AssociationFacts | None:
        """Returns the facts that `as_json` gave; None for any other object."""
        if not isinstance(found, dict) or found.keys() != CHECKS.keys():
            return None
        if not all(check(found[key]) for key, check in CHECKS.items()):
            return None
        return cls(**found)
