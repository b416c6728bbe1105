"""Passage api → uploader and back: what a person asks for, and what came of it.

Guaranteed: this module alone encodes and decodes both datagrams. A request names IDS_MAX envelopes
at most; its answer has one result for each of them.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import orjson

IDS_MAX: Final = 200
"""Envelopes of one request: with their results, an answer of some 30 KB."""

DATAGRAM_BYTES_MAX: Final = 1 << 16


class Kind(StrEnum):
    """The actions on envelopes. The values are those of the datagram, the commands and the API."""

    RETRY = "retry"
    """Try it now, and its upstream, whatever pause or hold there is."""

    HOLD = "hold"
    """Do not send it until it is released."""

    RELEASE = "release"
    """End a hold."""

    REQUEUE = "requeue"
    """Move it from rejected/ back to outbox/."""

    NOTE_SPLIT = "note-split"
    """Look at the parts that `fastjmix outbox split` has made of it, which notes the split itself:
    send them, and let the ledger read them."""


@dataclass(frozen=True, slots=True)
class ActionRequest:
    """A request. `by` says who asks, `why` is the reason for a hold; both are for people.
    `upstream` names the one of several that it is about, "" for all of an envelope's."""

    number: int
    kind: Kind
    ids: tuple[str, ...]
    by: str
    why: str = ""
    upstream: str = ""

    def encode(self) -> bytes:
        """Returns the datagram."""
        return orjson.dumps(
            {
                "number": self.number,
                "action": self.kind.value,
                "ids": self.ids,
                "by": self.by,
                "why": self.why,
                "upstream": self.upstream,
            }
        )

    @classmethod
    def decode(cls, datagram: bytes) -> ActionRequest:
        """Returns the request that `encode` made a datagram of. Raises ValueError, KeyError."""
        found = orjson.loads(datagram)
        ids = tuple(found["ids"])
        kind, about = Kind(found["action"]), (found["by"], found["why"], found["upstream"])
        return cls(found["number"], kind, ids, *about)


@dataclass(frozen=True, slots=True)
class ActionAnswer:
    """The answer: for each id "done", or the reason why not."""

    number: int
    results: Mapping[str, str]

    def encode(self) -> bytes:
        """Returns the datagram."""
        return orjson.dumps({"number": self.number, "results": dict(self.results)})

    @classmethod
    def decode(cls, datagram: bytes) -> ActionAnswer:
        """Returns the answer that `encode` made a datagram of. Raises ValueError, KeyError."""
        found = orjson.loads(datagram)
        return cls(found["number"], found["results"])


DONE: Final = "done"


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Returns the two ends, non-blocking: the api's, the uploader's. Raises OSError."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in pair:
        end.setblocking(False)
    return pair
