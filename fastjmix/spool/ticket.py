"""Defines the ticket: the JSON beside an archive, with the facts of a sealed envelope.

Guaranteed: `load` reads what `dump` writes, and no other file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, TypeGuard, get_args

import orjson

from fastjmix.config.tree import Priority
from fastjmix.errors import DamagedTicket
from fastjmix.jmix.ids import is_id
from fastjmix.spool.lock import FORMAT
from fastjmix.spool.reading import read_small

TICKET_BYTES_MAX: Final = 1 << 20
"""A ticket is about 1 KB; a larger file is not ours."""

NUMBER_MAX: Final = 1 << 62
"""The largest number of instances or of bytes: no file system holds more."""

SECONDS_MAX: Final = 253_402_300_799
"""The end of the year 9999, in Unix seconds: the last moment for which a date can be written."""


UPSTREAMS_MAX: Final = 100
"""Upstreams of an envelope: their numbers in the names of files have two digits."""

End = Mapping[str, Mapping[str, Any]]
"""How an envelope ended at one upstream: {"receipt": …} or {"refusal": …}."""

REQUEUED: Final = "requeued-"
"""How the origin of an envelope begins that was moved back from rejected/."""


def _text(value: object) -> bool:
    return isinstance(value, str)


def _count(value: object) -> bool:
    return type(value) is int and 0 <= value < NUMBER_MAX


def is_moment(value: object) -> TypeGuard[float]:
    """Returns True for a time in Unix seconds that fastjmix may write."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) and 0 <= value <= SECONDS_MAX


def moment(value: object) -> float | None:
    """Returns a time of a file, in Unix seconds; None for a value that is none."""
    return float(value) if is_moment(value) else None


def _answer(value: object) -> bool:
    return value is None or isinstance(value, dict)


def is_texts(value: object) -> bool:
    """Returns True for a list of texts."""
    return isinstance(value, list) and all(map(_text, value))


def are_upstreams(value: object) -> bool:
    """Returns True for the names of upstreams: 1 to UPSTREAMS_MAX, and none twice."""
    if not isinstance(value, list) or not is_texts(value):
        return False
    return 0 < len(set(value)) == len(value) <= UPSTREAMS_MAX


def is_end(value: object) -> bool:
    """Returns True for an End."""
    if not isinstance(value, dict) or len(value) != 1:
        return False
    ((kind, answer),) = value.items()
    return kind in ("receipt", "refusal") and isinstance(answer, dict)


def _are_ends(value: object) -> bool:
    return isinstance(value, dict) and all(map(is_end, value.values()))


def is_priority(value: object) -> bool:
    """Returns True for a priority's name."""
    return value in get_args(Priority)


def with_lists(found: dict[str, Any]) -> dict[str, Any]:
    """Returns the keys of a ticket or of a recipe as this version names them, in place.

    An envelope for one upstream has "upstream", as in the files of earlier versions, which can read
    it therefore; one for several has "upstreams". A usual route is left out.
    """
    if "upstream" in found:
        found["upstreams"] = [found.pop("upstream")]
    for name, usual in USUAL_ROUTE.items():
        found.setdefault(name, usual)
    return found


def without_lists(held: dict[str, Any]) -> dict[str, Any]:
    """Returns the same as it is written: the reverse of `with_lists`."""
    written = {}
    for name, value in held.items():
        if name == "upstreams" and len(value) == 1:
            written["upstream"] = value[0]
        elif name not in USUAL_ROUTE or value != USUAL_ROUTE[name]:
            written[name] = value
    return written


USUAL_ROUTE: Final[Mapping[str, Any]] = {"priority": "normal", "tags": [], "rule": ""}
"""Keys of an envelope that no rule has routed."""


CHECKS: Final[Mapping[str, Callable[[object], bool]]] = {
    "id": lambda value: isinstance(value, str) and is_id(value),
    "pipeline": _text,
    "upstreams": are_upstreams,
    "ack": lambda value: value in ("stored", "uploaded"),
    "studies": is_texts,
    "calling_ae": _text,
    "instances": _count,
    "size_bytes": _count,
    "sealed_at": is_moment,
    "origin": _text,
    "crc32": lambda value: value is None or (type(value) is int and 0 <= value < 1 << 32),
    "receipt": _answer,
    "refusal": _answer,
    "priority": is_priority,
    "tags": is_texts,
    "rule": _text,
    "ends": _are_ends,
}
"""Checks of the fields: True for a value that fastjmix writes. Readers rely on them."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """The facts of a sealed envelope that are known without opening it.

    `size_bytes` is the archive's; `sealed_at` is Unix seconds; `origin` names the process that
    waits for the outcome when `ack` is "uploaded"; `crc32` is that of the whole archive, for one
    that was received and not sealed here. The envelope goes to each of `upstreams`, of which there
    is one at the least. `priority`, `tags` and `rule` come from the rule that routed it, if one
    did. `ends` has the End at each of several upstreams, by its name: in sent/ and rejected/ all of
    them, in outbox/ those of an earlier stay. Then `receipt` or `refusal` is the first of its kind.
    """

    id: str
    pipeline: str
    upstreams: tuple[str, ...]
    ack: str
    studies: tuple[str, ...]
    calling_ae: str
    instances: int
    size_bytes: int
    sealed_at: float
    origin: str
    crc32: int | None = None
    receipt: Mapping[str, Any] | None = None
    refusal: Mapping[str, Any] | None = None
    priority: Priority = "normal"
    tags: tuple[str, ...] = ()
    rule: str = ""
    ends: Mapping[str, End] = field(default_factory=dict)

    @property
    def upstream_names(self) -> str:
        """The names of its upstreams, for people."""
        return ", ".join(self.upstreams)

    @property
    def awaited(self) -> bool:
        """True when `origin` waits for the outcome, and nothing has been promised.

        False for an envelope that a person moved back from rejected/: no process waits for it.
        """
        return self.ack == "uploaded" and self.refusal is None

    def dump(self) -> bytes:
        """Returns the ticket as JSON text."""
        known = {key: value for key, value in asdict(self).items() if value is not None}
        if not self.ends:
            del known["ends"]
        shown = without_lists({**known, "tags": list(self.tags)})
        return orjson.dumps({"format": FORMAT, **shown}, option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def load(cls, text: bytes, where: str) -> Ticket:
        """Returns the ticket that `dump` wrote. Raises DamagedTicket, with `where`, for any other
        text."""
        try:
            found = with_lists(orjson.loads(text))
            found.setdefault("ends", {})
            if (number := found.pop("format")) != FORMAT:
                raise TypeError(f"its format is {number}, this version knows {FORMAT}")
            for field in fields(cls):
                if not CHECKS[field.name](found.get(field.name)):
                    raise TypeError(f"its {field.name!r} is not what fastjmix writes")
            for name in ("studies", "upstreams", "tags"):
                found[name] = tuple(found[name])
            ticket = cls(**found)
            if ticket.receipt or ticket.refusal or ticket.ends:
                ticket.dump()  # fails for nesting that can be read and not be written
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as problem:
            raise DamagedTicket(
                f"{where}: not a ticket of fastjmix ({problem})",
                "Mend it, or move it and its archive away by hand, and look at the disk.",
            ) from problem
        return ticket

    @classmethod
    def read(cls, path: Path, envelope_id: str) -> Ticket:
        """Returns the ticket of an envelope from a file. Raises OSError, DamagedTicket."""
        ticket = cls.load(read_small(path, TICKET_BYTES_MAX), str(path))
        if ticket.id != envelope_id:
            raise DamagedTicket(
                f"{path}: is about another envelope, {ticket.id}",
                "A record and its archive have the id in it as their name.",
            )
        return ticket

    def requeued(self, only: str | None = None) -> Ticket:
        """Returns the ticket with which a rejected envelope goes back to outbox/.

        It goes to the upstreams that have not taken it, or to the `only` one of several; that one
        must have refused it, else this raises KeyError. A process that waited for the outcome has
        had it. `origin` is made unique, so that the
        refusal which this ticket replaces can be distinguished from a later one.
        """
        origin = f"{REQUEUED}{time.time_ns()}"
        kept = {name: end for name, end in self.ends.items() if "receipt" in end}
        if len(kept) == len(self.upstreams):
            kept = {}  # it was delivered, and goes to all of them once more
        if only is not None and self.upstreams != (only,):
            if "refusal" not in self.ends.get(only, {}):
                raise KeyError(only)
            kept = {name: end for name, end in self.ends.items() if name != only}
        return replace(self.unended(), ack="stored", origin=origin, ends=kept)

    def requeued_after(self, record: Ticket) -> bool:
        """Returns True when the envelope was moved back after this record of its refusal."""
        return self.origin.startswith(REQUEUED) and self.origin != record.origin

    def about(self, other: Ticket) -> bool:
        """Returns True when both describe the same archive, and both have the same kind of end."""
        return self._kind_of_end() == other._kind_of_end() and self.unended() == other.unended()

    def _kind_of_end(self) -> tuple[object, ...]:
        ends = {name: tuple(end) for name, end in self.ends.items()}
        return self.receipt is None, self.refusal is None, ends

    def unended(self) -> Ticket:
        """Returns the ticket without its receipts and refusals."""
        return replace(self, receipt=None, refusal=None, ends={})
