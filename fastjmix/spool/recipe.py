"""Defines draft.json: how any process can finish a draft.

Guaranteed: `dump` writes what `load` reads, with its format. `load` takes a value only if fastjmix
writes such a value, for an id becomes a path. The files of earlier versions lack some keys; a later
version of the same format may have added some, which are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import orjson

from fastjmix.config.tree import Digest, PayloadHash, Priority
from fastjmix.jmix.ids import is_id
from fastjmix.routing import at_seal
from fastjmix.routing.rules import Rule
from fastjmix.spool.lock import FORMAT
from fastjmix.spool.reading import read_small
from fastjmix.spool.ticket import (
    Ticket,
    are_upstreams,
    is_priority,
    is_texts,
    with_lists,
    without_lists,
)

NAME: Final = "draft.json"

BYTES_MAX: Final = 1 << 20
"""Bytes read of a recipe: it is a few KB, with the parties' keys."""

PACKERS_MAX: Final = 1 << 16
"""A packer's number is below this."""


def _text(value: object) -> bool:
    return isinstance(value, str)


def _switch(value: object) -> bool:
    return isinstance(value, bool)


CHECKS: Final[Mapping[str, Callable[[object], bool]]] = {
    "format": lambda value: type(value) is int and value == FORMAT,
    "packer": lambda value: type(value) is int and 0 <= value < PACKERS_MAX,
    "pipeline": _text,
    "upstreams": are_upstreams,
    "ack": lambda value: value in ("stored", "uploaded"),
    "profile": _text,
    "digest": _text,
    "skip_hashing": _switch,
    "skip_listing": _switch,
    "calling_ae": _text,
    "replaces": lambda value: value is None or (isinstance(value, str) and is_id(value)),
    "published": lambda value: value is None or isinstance(value, dict),
    "priority": is_priority,
    "tags": is_texts,
    "rule": _text,
}
"""Checks of the keys that recovery needs: True for a value that fastjmix writes."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to finish one draft: by which rules, and for whom.

    `packer` counts packers from 0. `profile` and `digest` may be names that only another version
    knows: then the seal fails, and not the start. `study` is the Study Instance UID, "" in a file
    of an earlier version. `created` is Unix seconds. `published` is
    Published.dump() for profile jmix-1.0. `replaces` is the id of the draft of which this one is a
    copy. `upstreams`, `priority`, `tags` and `rule` are the ticket's, unless one of `at_seal`
    matches the envelope when it is sealed: then the first such rule has them. `unknown` has the
    keys of draft.json that this version does not know.
    """

    packer: int
    pipeline: str
    upstreams: tuple[str, ...]
    ack: str
    profile: str
    digest: Digest
    payload_hash: PayloadHash
    skip_hashing: bool
    skip_listing: bool
    calling_ae: str
    study: str = ""
    created: float | None = None
    published: Mapping[str, Any] | None = None
    replaces: str | None = None
    priority: Priority = "normal"
    tags: tuple[str, ...] = ()
    rule: str = ""
    at_seal: tuple[Rule, ...] = ()
    unknown: Mapping[str, Any] = field(default_factory=dict)

    @property
    def upstream_names(self) -> str:
        """The names of its upstreams, for people."""
        return ", ".join(self.upstreams)

    @property
    def encrypts(self) -> bool:
        """True when the payload is to be encrypted."""
        return self.published is not None and bool(self.published.get("encryption"))

    def dump(self) -> bytes:
        """Returns the content of draft.json."""
        known = {name: getattr(self, name) for name in _NAMES}
        for name in ("created", "replaces"):
            if known[name] is None:
                del known[name]
        known["at_seal"] = at_seal.dump(self.at_seal)
        if not self.at_seal:
            del known["at_seal"]
        shown = without_lists({**known, "tags": list(self.tags)})
        return orjson.dumps({"format": FORMAT, **shown, **self.unknown})

    @classmethod
    def load(cls, text: bytes) -> Recipe | None:
        """Returns the recipe of a draft.json; None for a file that fastjmix did not write."""
        try:
            found = orjson.loads(text)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(found, dict):
            return None
        found.setdefault("format", FORMAT)
        with_lists(found)
        if not all(check(found.get(key)) for key, check in CHECKS.items()):
            return None
        checked: dict[str, Any] = {key: found.get(key) for key in CHECKS if key != "format"}
        checked |= {name: tuple(found[name]) for name in ("upstreams", "tags")}
        try:
            rules = at_seal.load(found.get("at_seal", []))
        except ValueError:
            return None
        created = found.get("created")
        return cls(
            **checked,
            at_seal=rules,
            # Every other value has always been sealed as "stream".
            payload_hash="tree" if found.get("payload_hash", "tree") == "tree" else "stream",
            study=str(found.get("study", "")),
            created=created if isinstance(created, int | float) else None,
            unknown={key: found[key] for key in found.keys() - {*_NAMES, "format"}},
        )

    @classmethod
    def read(cls, directory: Path) -> Recipe | None:
        """Returns the recipe of a draft; None where `load` does. Raises OSError."""
        return cls.load(read_small(directory / NAME, BYTES_MAX))

    def ticket(
        self,
        envelope_id: str,
        *,
        size_bytes: int,
        sealed_at: float,
        origin: str,
        studies: tuple[str, ...] = (),
        instances: int = 0,
        refusal: Mapping[str, Any] | None = None,
    ) -> Ticket:
        """Returns the ticket of the draft's envelope."""
        return Ticket(
            id=envelope_id,
            pipeline=self.pipeline,
            upstreams=self.upstreams,
            priority=self.priority,
            tags=self.tags,
            rule=self.rule,
            ack=self.ack,
            studies=studies,
            calling_ae=self.calling_ae,
            instances=instances,
            size_bytes=size_bytes,
            sealed_at=sealed_at,
            origin=origin,
            refusal=refusal,
        )


_NAMES: Final = tuple(one.name for one in fields(Recipe) if one.name != "unknown")

UNKNOWN: Final = Recipe(
    packer=0,
    pipeline="",
    upstreams=("",),
    ack="stored",
    profile="",
    digest="sha256",
    payload_hash="tree",
    skip_hashing=False,
    skip_listing=False,
    calling_ae="",
)
"""Stands for the recipe of a draft whose draft.json cannot be read. Such a draft cannot be sealed:
it is kept in rejected/, with a ticket that names no pipeline, upstream or calling AE title."""
