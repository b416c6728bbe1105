"""Passage api → supervisor and back: what a person asks of the node itself, and what came of it.

Guaranteed: this module alone encodes and decodes both datagrams. Every text in them is for people,
and bounded, so that an answer fits in a datagram.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import orjson

DATAGRAM_BYTES_MAX: Final = 1 << 17
"""Linux takes datagrams up to net.core.wmem_default, 212992 bytes as a rule."""

TEXT_BYTES_MAX: Final = 40_000
"""UTF-8 bytes of the faults of an answer, or of its warnings or keys: a hundred faults, mostly."""


NOBODY: Final = 0
"""The id of a request that nobody waits for. Others have a later one."""


class Do(StrEnum):
    """The requests that a person can make. The values are those of the datagram, the commands and
    the API."""

    RELOAD = "reload"
    """Read the configuration again and go by it."""

    DRAIN = "drain"
    """Take no new association, end those that run, deliver, and exit."""

    UNDRAIN = "undrain"
    """End a drain: take associations again."""


@dataclass(frozen=True, slots=True)
class NodeRequest:
    """A request. `id` is for its answer, `by` says who asks."""

    id: int
    do: Do
    by: str

    def encode(self) -> bytes:
        """Returns the datagram."""
        return orjson.dumps({"id": self.id, "do": self.do.value, "by": self.by})

    @classmethod
    def decode(cls, datagram: bytes) -> NodeRequest:
        """Returns the request that `encode` made a datagram of. Raises ValueError, KeyError."""
        found = orjson.loads(datagram)
        return cls(found["id"], Do(found["do"]), found["by"])


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """The answer. `ok` False: nothing was done, and `faults` say why. `generation` is that of the
    configuration by which the node goes now. `needs_restart` names keys that were changed and have
    no effect before the next start."""

    id: int
    ok: bool
    generation: int
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()

    def to(self, request: NodeRequest) -> NodeAnswer:
        """Returns the answer with the id of this request."""
        return replace(self, id=request.id)

    def as_json(self) -> dict[str, Any]:
        """Returns the answer for a program, without its id. Texts past the bounds are cut."""
        return {
            "ok": self.ok,
            "generation": self.generation,
            "faults": bounded(self.faults),
            "warnings": bounded(self.warnings),
            "needs_restart": bounded(self.needs_restart),
        }

    def encode(self) -> bytes:
        """Returns the datagram."""
        return orjson.dumps({"id": self.id, **self.as_json()})

    @classmethod
    def decode(cls, datagram: bytes) -> NodeAnswer:
        """Returns the answer that `encode` made a datagram of. Raises ValueError, KeyError."""
        found = orjson.loads(datagram)
        texts = (tuple(found[name]) for name in ("faults", "warnings", "needs_restart"))
        return cls(found["id"], found["ok"], found["generation"], *texts)


def bounded(texts: Sequence[str]) -> list[str]:
    """Returns as many of these texts as have TEXT_BYTES_MAX together, the first cut to them, and
    how many more there are."""
    left = TEXT_BYTES_MAX
    found: list[str] = []
    for text in texts:
        data = text.encode(errors="replace")
        if found and len(data) > left:
            return [*found, f"and {len(texts) - len(found)} more"]
        found.append(data[:left].decode(errors="ignore"))
        left -= len(data)
    return found
