"""Rules for the documents of an envelope: the published ones, and the reference's.

Wanted: every departure of a document is named by its path, so that an author can correct them all
at once.
Guaranteed: a rule never raises and changes nothing; nesting is followed only as far as a rule goes.
Still wrong: a date must be a day of the calendar, and may be any.

A rule takes a value and yields (path, what is wrong) pairs: `Text`, `Number`, `Array`, `Table`,
`Either`. Source: the description of JMIX 1.0 (beta 3), its four documents; for `HARMONY_…` the
reference pipeline's.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final, Protocol

from fastjmix.jmix.faults import escaped, shortened
from fastjmix.jmix.ids import canonical_id

_time: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:[Zz]|[+-]\d{2}:\d{2})", re.ASCII
)
_day: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_sha256: Final = re.compile(r"sha256:[A-Fa-f0-9]+")
_fingerprint: Final = re.compile(r"SHA256:[A-Fa-f0-9]+")

BROKEN_MAX: Final = 10_000
"""Departures of one document that are reported; it can have one in each of its values."""

Found = Iterator[tuple[str, str]]


class Rule(Protocol):
    """A function that yields (path, what is wrong); the path begins with `at`."""

    def __call__(self, value: object, at: str = "") -> Found: ...


# -- forms of texts ------------------------------------------------------------------------------


def is_uuid(text: str) -> bool:
    """As the published schemas have it, in either case."""
    return canonical_id(text) is not None


def is_time(text: str) -> bool:
    """Returns whether a text is a time by RFC 3339 §5.6, with its offset from UTC."""
    return _time.fullmatch(text) is not None and _parses(datetime.fromisoformat, text.upper())


def is_day(text: str) -> bool:
    """Returns whether a text is a day of the calendar as YYYY-MM-DD."""
    return _day.fullmatch(text) is not None and _parses(date.fromisoformat, text)


def _parses(parse: Callable[[str], object], text: str) -> bool:
    try:
        # Python's datetime has no leap seconds
        parse(re.sub(r":60(?=\D)", ":59", text))
    except ValueError:
        return False
    return True


def _matches(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


# -- the kinds of rule ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """A text: any, or of a form (a test and its name), or one of a few."""

    form: Callable[[str], bool] | None = None
    called: str = "a text"
    one_of: tuple[str, ...] = ()

    def __call__(self, value: object, at: str = "") -> Found:
        wanted = f"one of {', '.join(self.one_of)}" if self.one_of else self.called
        good = isinstance(value, str)
        if isinstance(value, str):
            good = (self.form is None or self.form(value)) and (
                not self.one_of or value in self.one_of
            )
        if not good:
            yield at, f"must be {wanted}, not {excerpt(value)}"


@dataclass(frozen=True)
class Number:
    """A whole number from 0 on, or exactly `only`."""

    only: int | None = None

    def __call__(self, value: object, at: str = "") -> Found:
        whole = type(value) is int and value >= 0
        if not whole or self.only not in (None, value):
            wanted = "a whole number from 0 on" if self.only is None else str(self.only)
            yield at, f"must be {wanted}, not {excerpt(value)}"


@dataclass(frozen=True)
class Array:
    """An array of `each`, with at least `least`."""

    each: Rule
    least: int = 0

    def __call__(self, value: object, at: str = "") -> Found:
        if not isinstance(value, list):
            yield at, f"must be an array, not {type_name(value)}"
            return
        if len(value) < self.least:
            yield at, f"must have at least {self.least} element"
        for number, one in enumerate(value):
            yield from self.each(one, f"{at}[{number}]")


@dataclass(frozen=True)
class Table:
    """An object. Keys of `needs` must be there, those of `may` can be, others only if `open`."""

    needs: Mapping[str, Rule] = field(default_factory=dict)
    may: Mapping[str, Rule] = field(default_factory=dict)
    open: bool = False

    def __call__(self, value: object, at: str = "") -> Found:
        if not isinstance(value, dict):
            yield at, f"must be an object, not {type_name(value)}"
            return
        for key in self.needs.keys() - value.keys():
            yield _below(at, key), "is missing"
        known = {**self.needs, **self.may}
        for key, one in value.items():
            rule = known.get(key)
            if rule is not None:
                yield from rule(one, _below(at, key))
            elif not self.open:
                yield _below(at, key), "is a key that the published description does not have"


@dataclass(frozen=True)
class MapOf:
    """An object of any keys, whose values have one rule."""

    each: Rule

    def __call__(self, value: object, at: str = "") -> Found:
        if not isinstance(value, dict):
            yield at, f"must be an object, not {type_name(value)}"
            return
        for key, one in value.items():
            yield from self.each(one, _below(at, key))


@dataclass(frozen=True)
class Either:
    """A text, or else the table."""

    table: Table

    def __call__(self, value: object, at: str = "") -> Found:
        if not isinstance(value, str):
            yield from self.table(value, at)


def _below(at: str, key: str) -> str:
    return f"{at}.{escaped(key)}" if at else escaped(key)


# -- the published documents ---------------------------------------------------------------------

TEXT: Final = Text()
TIME: Final = Text(is_time, "a date and time with its offset from UTC")
DAY: Final = Text(is_day, "a day as YYYY-MM-DD")
ID: Final = Text(is_uuid, "a UUID")

_attestation: Final = Table(
    {
        "provider": TEXT,
        "attestation_signature": TEXT,
        "attestation_timestamp": TIME,
        "attestation_public_key": TEXT,
    }
)
_signing_key: Final = Table(
    {
        "alg": Text(one_of=("Ed25519",)),
        "public_key": TEXT,
        "fingerprint": Text(_matches(_fingerprint), "SHA256: and hexadecimal digits"),
    }
)
_signed: Final[Mapping[str, Rule]] = {
    "signing_key": _signing_key,
    "signed_fields": Array(TEXT, 1),
    "signature": TEXT,
}
_assertion: Final = Table(
    _signed, {"key_reference": TEXT, "expires_at": TIME, "directory_attestation": _attestation}
)
_entity: Final = Table(
    {"id": TEXT},
    {
        "name": TEXT,
        "contact": Either(Table({"system": TEXT, "value": TEXT})),
        "assertion": _assertion,
    },
)
_security: Final = Table(
    may={
        "classification": Text(one_of=("confidential", "sensitive", "de-identified")),
        "payload_hash": Text(_matches(_sha256), "sha256: and hexadecimal digits"),
        "jws": Table({"jws_file": TEXT}),
        "signature": Table({"alg": TEXT, "sig": TEXT}, {"hash": TEXT}),
        "encryption": Table(
            {
                "algorithm": Text(one_of=("AES-256-GCM",)),
                "ephemeral_public_key": TEXT,
                "iv": TEXT,
                "auth_tag": TEXT,
            }
        ),
    }
)
_consent: Final = Table(
    {"status": Text(one_of=("granted", "denied", "unknown"))},
    {
        "scope": Array(
            Text(one_of=("treatment", "research", "emergency", "operations", "patient"))
        ),
        "method": TEXT,
        "signed_on": DAY,
    },
)
_extensions: Final = Table(
    may={
        "custom_tags": Array(TEXT),
        "consent": _consent,
        "deid": Table(may={"keys": Array(TEXT)}),
    },
    open=True,
)
MANIFEST: Final = Table(
    {
        "version": TEXT,
        "id": ID,
        "timestamp": TIME,
        "sender": _entity,
        "receiver": Array(_entity, 1),
    },
    {"requester": _entity, "security": _security, "extensions": _extensions},
)

_patient: Final = Table(
    {"id": TEXT},
    {
        "name": Table(
            may={
                "family": TEXT,
                "given": Array(TEXT),
                "prefix": TEXT,
                "suffix": TEXT,
                "text": TEXT,
            }
        ),
        "dob": Text(_matches(_day), "a day as YYYY-MM-DD"),
        "sex": Text(one_of=("M", "F", "O")),
        "identifiers": Array(Table({"system": TEXT, "value": TEXT})),
        "verification": Table(may={"verified_by": TEXT, "verified_on": DAY}),
    },
)
_series: Final = Table(
    {"series_uid": TEXT, "modality": TEXT},
    {"body_part": TEXT, "instance_count": Number()},
    open=True,
)
METADATA: Final = Table(
    {"version": TEXT, "id": ID, "timestamp": TIME, "patient": _patient},
    {
        "report": Table(may={"file": TEXT}),
        "studies": Table(
            may={"study_description": TEXT, "study_uid": TEXT, "series": Array(_series)}
        ),
        "extensions": _extensions,
    },
)
FILES: Final = Array(Table({"file": TEXT}, {"hash": TEXT, "size_bytes": Number()}))

_who: Final = Table({"id": TEXT}, {"name": TEXT})
AUDIT: Final = Table(
    {
        "audit": Array(
            Table(
                {"event": TEXT, "by": _who, "timestamp": TIME},
                {"to": _who, "assertion": Table(_signed)},
            )
        )
    }
)

# -- the reference's documents -------------------------------------------------------------------

HARMONY_MANIFEST: Final = Table(
    {
        "id": ID,
        "type": Text(one_of=("envelope",)),
        "version": Number(1),
        "content": Table({"type": Text(one_of=("directory",)), "path": TEXT}, open=True),
    },
    {"timestamp": TIME},
    open=True,
)
HARMONY_METADATA: Final = Table(
    {
        "id": ID,
        "studies": MapOf(
            Table(
                {"study_uid": TEXT, "series": Array(Table(open=True))},
                {"patient_name": TEXT, "study_date": TEXT, "modality": TEXT},
                open=True,
            )
        ),
    },
    open=True,
)


# -- messages ------------------------------------------------------------------------------------


def type_name(value: object) -> str:
    """Returns the name of a JSON value's type, for a message."""
    names = {dict: "an object", list: "an array", str: "a text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def excerpt(value: object) -> str:
    """Returns a JSON value for a message, shortened; of objects and arrays only the type."""
    if isinstance(value, (dict, list)):
        return type_name(value)
    if isinstance(value, str):
        return shortened(f'"{escaped(value)}"')
    return "null" if value is None else str(value).lower()  # a number, true or false


def broken(rule: Rule, value: object, name: str) -> Sequence[tuple[str, str]]:
    """Returns the departures of a document from its rule, as ("path", what), BROKEN_MAX at most.
    The path of the document itself is `name`."""
    found = itertools.islice(rule(value), BROKEN_MAX)
    return [(f'"{at}"' if at else name, what) for at, what in found]
