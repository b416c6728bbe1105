"""The rules of the published JMIX 1.0 (beta 3) for its four documents, written a second time.

`check(name, document)` raises AssertionError with the path of what is wrong. The published schemas
themselves are not part of this repository: where FASTJMIX_JMIX_SCHEMAS names a directory with them
(`manifest.schema.json` and its three kin), they are asked too.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

SCHEMAS = os.environ.get("FASTJMIX_JMIX_SCHEMAS")

Rule = Callable[[Any, str], None]


@dataclass(frozen=True)
class Object:
    """Keys that must be there, keys that may; others only where it is open."""

    must: Mapping[str, Rule] = field(default_factory=dict)
    may: Mapping[str, Rule] = field(default_factory=dict)
    open: bool = False

    def __call__(self, value: Any, path: str) -> None:
        assert isinstance(value, dict), f"{path}: no object"
        assert self.must.keys() <= value.keys(), f"{path}: lacks {self.must.keys() - value.keys()}"
        known = {**self.must, **self.may}
        for key, held in value.items():
            assert self.open or key in known, f"{path}: has {key}"
            if key in known:
                known[key](held, f"{path}.{key}")


@dataclass(frozen=True)
class Array:
    of: Rule
    least: int = 0

    def __call__(self, value: Any, path: str) -> None:
        assert isinstance(value, list), f"{path}: no array"
        assert len(value) >= self.least, f"{path}: has {len(value)} items"
        for index, item in enumerate(value):
            self.of(item, f"{path}[{index}]")


def text(value: Any, path: str) -> None:
    assert isinstance(value, str), f"{path}: no text"


def matching(pattern: str) -> Rule:
    def rule(value: Any, path: str) -> None:
        text(value, path)
        assert re.fullmatch(pattern, value, re.ASCII), f"{path}: {value!r}"

    return rule


def among(*words: str) -> Rule:
    return matching("|".join(map(re.escape, words)))


def count(value: Any, path: str) -> None:
    assert type(value) is int, f"{path}: no integer"
    assert value >= 0, f"{path}: negative"


def identifier(value: Any, path: str) -> None:
    assert str(uuid.UUID(value)) == value, f"{path}: no UUID"


def time(value: Any, path: str) -> None:
    text(value, path)
    assert datetime.fromisoformat(value).tzinfo is not None, f"{path}: without its zone"


def day(value: Any, path: str) -> None:
    text(value, path)
    date.fromisoformat(value)


def either(*rules: Rule) -> Rule:
    def rule(value: Any, path: str) -> None:
        fits = 0
        for one in rules:
            try:
                one(value, path)
            except AssertionError:
                continue
            fits += 1
        assert fits == 1, f"{path}: fits {fits} of {len(rules)} forms"

    return rule


KEY = Object(
    {
        "alg": among("Ed25519"),
        "public_key": text,
        "fingerprint": matching(r"SHA256:[A-Fa-f0-9]+"),
    }
)
SIGNED: dict[str, Rule] = {"signing_key": KEY, "signed_fields": Array(text, 1), "signature": text}
ATTESTATION = Object(
    {
        "provider": text,
        "attestation_signature": text,
        "attestation_timestamp": time,
        "attestation_public_key": text,
    }
)
ASSERTION = Object(
    SIGNED, {"key_reference": text, "expires_at": time, "directory_attestation": ATTESTATION}
)
CONTACT = either(text, Object({"system": text, "value": text}))
ENTITY = Object({"id": text}, {"name": text, "contact": CONTACT, "assertion": ASSERTION})
CONSENT = Object(
    {"status": among("granted", "denied", "unknown")},
    {
        "scope": Array(among("treatment", "research", "emergency", "operations", "patient")),
        "method": text,
        "signed_on": day,
    },
)
EXTENSIONS = Object(
    may={
        "custom_tags": Array(text),
        "consent": CONSENT,
        "deid": Object(may={"keys": Array(text)}, open=True),
    },
    open=True,
)
SECURITY = Object(
    may={
        "classification": among("confidential", "sensitive", "de-identified"),
        "payload_hash": matching(r"sha256:[A-Fa-f0-9]+"),
        "jws": Object({"jws_file": text}),
        "signature": Object({"alg": text, "sig": text}, {"hash": text}),
        "encryption": Object(
            {
                "algorithm": among("AES-256-GCM"),
                "ephemeral_public_key": text,
                "iv": text,
                "auth_tag": text,
            }
        ),
    }
)
PATIENT = Object(
    {"id": text},
    {
        "name": Object(
            may={
                "family": text,
                "given": Array(text),
                "prefix": text,
                "suffix": text,
                "text": text,
            }
        ),
        "dob": matching(r"\d{4}-\d{2}-\d{2}"),
        "sex": among("M", "F", "O"),
        "identifiers": Array(Object({"system": text, "value": text})),
        "verification": Object(may={"verified_by": text, "verified_on": day}),
    },
)
SERIES = Object(
    {"series_uid": text, "modality": text}, {"body_part": text, "instance_count": count}, open=True
)
NAMED = Object({"id": text}, {"name": text})

RULES: dict[str, Rule] = {
    "manifest": Object(
        {
            "version": text,
            "id": identifier,
            "timestamp": time,
            "sender": ENTITY,
            "receiver": Array(ENTITY, 1),
        },
        {"requester": ENTITY, "security": SECURITY, "extensions": EXTENSIONS},
    ),
    "metadata": Object(
        {"version": text, "id": identifier, "timestamp": time, "patient": PATIENT},
        {
            "report": Object(may={"file": text}),
            "studies": Object(
                may={"study_description": text, "study_uid": text, "series": Array(SERIES)}
            ),
            "extensions": EXTENSIONS,
        },
    ),
    "files": Array(Object({"file": text}, {"hash": text, "size_bytes": count})),
    "audit": Object(
        {
            "audit": Array(
                Object(
                    {"event": text, "by": NAMED, "timestamp": time},
                    {"to": NAMED, "assertion": Object(SIGNED)},
                )
            )
        }
    ),
}


def check(name: str, document: Any) -> None:
    """`name` is "manifest", "metadata", "files" or "audit"."""
    for asked in judges():
        asked(name, document)


def judges() -> list[Callable[[str, Any], None]]:
    """Returns the validators: these rules, and the published schemas where they are to be had."""
    return [_by_rules, _by_schemas] if SCHEMAS else [_by_rules]


def _by_rules(name: str, document: Any) -> None:
    RULES[name](document, name)


def _by_schemas(name: str, document: Any) -> None:
    problems = [f"{e.json_path}: {e.message}" for e in _schema(name).iter_errors(document)]
    assert not problems, problems


@lru_cache
def _schema(name: str) -> Any:
    from jsonschema import Draft202012Validator

    schema = json.loads((Path(SCHEMAS or "") / f"{name}.schema.json").read_text())
    assert schema["$id"]
    checker = Draft202012Validator.FORMAT_CHECKER
    assert {"date-time", "date", "uuid"} <= set(checker.checkers), "rfc3339-validator is missing"
    return Draft202012Validator(schema, format_checker=checker)
