"""Defines a route as frozen data, and the facts that its rules are matched with.

Guaranteed: a rule with conditions on the envelope neither rejects nor discards, and changes no
profile; nor does any rule behind it (fastjmix.config sees to that). For an instance has its answer,
and its member its name, before the envelope is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import NamedTuple

from fastjmix.routing.choices import Action, Priority


@dataclass(frozen=True, slots=True)
class InstanceConditions:
    """Conditions on an instance; an empty one always holds. Where one has several values, one must
    fit. AE titles are patterns (glob.py), `peer` has networks as text, `sop_class` and
    `transfer_syntax` have UIDs."""

    calling_ae: tuple[str, ...] = ()
    called_ae: tuple[str, ...] = ()
    peer: tuple[str, ...] = ()
    sop_class: tuple[str, ...] = ()
    modality: tuple[str, ...] = ()
    transfer_syntax: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EnvelopeConditions:
    """Conditions on a sealed envelope; an empty one, or None, always holds. `study_description` has
    patterns. Bounds are inclusive."""

    study_description: tuple[str, ...] = ()
    accession_prefix: tuple[str, ...] = ()
    min_study_age_days: int | None = None
    max_study_age_days: int | None = None
    min_bytes: int | None = None
    max_bytes: int | None = None
    min_instances: int | None = None
    max_instances: int | None = None


EVERY_INSTANCE = InstanceConditions()
EVERY_ENVELOPE = EnvelopeConditions()


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: it matches where all of its conditions hold.

    `status` and `comment` answer what it rejects. `upstreams` are names; there is one at the least
    where it accepts. `profile` "": the pipeline's own.
    """

    name: str
    action: Action = "accept"
    instance: InstanceConditions = EVERY_INSTANCE
    envelope: EnvelopeConditions = EVERY_ENVELOPE
    status: int = 0
    comment: str = ""
    upstreams: tuple[str, ...] = ()
    priority: Priority = "normal"
    tags: tuple[str, ...] = ()
    profile: str = ""

    @property
    def at_seal(self) -> bool:
        """True when only the envelope shows whether it matches."""
        return self.envelope != EVERY_ENVELOPE


@dataclass(frozen=True, slots=True)
class Route:
    """The rules of a pipeline, in their order. The first that matches applies."""

    name: str
    rules: tuple[Rule, ...]


# -- facts -----------------------------------------------------------------------------------------


class InstanceFacts(NamedTuple):
    """The facts of an instance; "" where unknown. `peer` is an address without a port."""

    calling_ae: str
    called_ae: str
    peer: str
    sop_class: str
    modality: str
    transfer_syntax: str


class EnvelopeFacts(NamedTuple):
    """The facts of an envelope; "" or None where unknown. `bytes` are those of its members."""

    study_description: str
    accession_number: str
    study_age_days: int | None
    bytes: int | None
    instances: int | None


def study_age_days(study_date: str, at: float) -> int | None:
    """Returns the days from a Study Date (DA, PS3.5 §6.2, also in its older form 1993.08.22) to a
    time in Unix seconds, by this machine's calendar. None: the date cannot be read."""
    digits = study_date.replace(".", "")
    if len(digits) != 8 or not (digits.isascii() and digits.isdigit()):
        return None
    try:
        taken = date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return None
    return (datetime.fromtimestamp(at).date() - taken).days
