"""jmix/write/assertions.py: made as jmix-rs makes them; what is forged is found."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastjmix.errors import ConfigError
from fastjmix.jmix.write.assertions import AssertionResult, assertion, verify_assertions
from tests.jmix.test_signing import ED, KEY, b64

NOW = 1_700_000_000.0


@dataclass
class Wanted:
    key_reference: str | None = "aurabox://org/a#key-1"
    expires_secs: float | None = 3600
    expires_at: str | None = None
    fields: tuple[str, ...] = ()
    directory_attestation: dict[str, str] | None = field(
        default_factory=lambda: {
            "provider": "directory",
            "attestation_signature": "c2ln",
            "attestation_timestamp": "2025-01-01T00:00:00Z",
            "attestation_public_key": "a2V5",
        }
    )


def manifest(**changes: Any) -> dict[str, Any]:
    return {
        "version": "1.0",
        "id": "550e8400-e29b-41d4-a716-446655440000",
        "timestamp": "2026-01-01T00:00:00Z",
        "sender": {"id": "org:a", "name": "Praxis Dr. Ä", "contact": "a@example.org"},
        "requester": {"id": "org:q", "contact": "q@example.org"},
        "receiver": [{"id": "org:b", "contact": "b"}, {"id": "org:c", "name": "C"}],
        "security": {"payload_hash": "sha256:00"},
        **changes,
    }


def asserted(role: str = "sender", **settings: Any) -> dict[str, Any]:
    found = manifest()
    at: Any = found
    for part in role.split("."):
        at = at[int(part) if part.isdigit() else part]
    at["assertion"] = assertion(found, role, Wanted(**settings), KEY, NOW)
    return found


def judged(found: dict[str, Any], now: float = NOW) -> AssertionResult:
    (result,) = verify_assertions(json.loads(json.dumps(found)), now)
    return result


@pytest.mark.parametrize("role", ["sender", "requester", "receiver.0", "receiver.1"])
def test_an_assertion_is_made_and_verified(role: str) -> None:
    found = judged(asserted(role))
    assert found == (role, True, "", KEY.fingerprint, "2023-11-14T23:13:20Z", ())
    assert judged(asserted(role), NOW + 3601).why == "it expired at 2023-11-14T23:13:20Z"


def test_the_signed_text_is_the_flat_object_of_jmix_rs() -> None:
    """The twin: dot paths sorted, values from the manifest, compact, nothing escaped."""
    made = asserted(key_reference=None, expires_secs=None, directory_attestation=None)
    said = made["sender"]["assertion"]
    assert said.keys() == {"signing_key", "signed_fields", "signature"}
    assert set(said["signed_fields"]) >= {"sender.id", "sender.name", "manifest.id", "timestamp"}
    text = (
        '{"manifest.id":"550e8400-e29b-41d4-a716-446655440000","security.payload_hash":"sha256:00",'
        f'"sender.assertion.signing_key.fingerprint":"{KEY.fingerprint}","sender.id":"org:a",'
        '"sender.name":"Praxis Dr. Ä","timestamp":"2026-01-01T00:00:00Z"}'
    )
    ED.public_key().verify(base64.b64decode(said["signature"]), text.encode())


def test_an_assertion_of_jmix_rs_is_accepted_and_its_gaps_are_reported() -> None:
    fields = ["sender.id", "sender.name", "manifest.id", "timestamp"]
    found = manifest()
    values = [found["sender"]["id"], found["sender"]["name"], found["id"], found["timestamp"]]
    text = json.dumps(
        dict(sorted(zip(fields, values, strict=True))), separators=(",", ":"), ensure_ascii=False
    )
    found["sender"]["assertion"] = {
        "signing_key": {
            "alg": "Ed25519",
            "public_key": b64(KEY.public).decode(),
            "fingerprint": KEY.fingerprint,
        },
        "key_reference": None,
        "signed_fields": fields,
        "signature": b64(KEY.sign(text.encode())).decode(),
        "expires_at": "2999-01-01T00:00:00+01:00",
    }
    result = judged(found)
    assert result.ok
    assert "sender.assertion.expires_at" in result.unsigned
    assert "security.payload_hash" in result.unsigned


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]
    if isinstance(value, list):
        return [leaf for key, item in enumerate(value) for leaf in leaves(item, (*path, key))]
    return [path]


MADE = asserted()


LEAVES = [
    *leaves(MADE["sender"]["assertion"], ("sender", "assertion")),
    ("sender", "id"),
    ("sender", "name"),
    ("id",),
    ("timestamp",),
    ("security", "payload_hash"),
]


@given(st.data())
def test_a_changed_character_of_an_assertion_or_of_what_it_signs_is_found(data: Any) -> None:
    found = json.loads(json.dumps(MADE))
    *path, last = data.draw(st.sampled_from(LEAVES))
    at = found
    for part in path:
        at = at[part]
    text = at[last]
    where = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(min_codepoint=32, max_codepoint=126))
    at[last] = text[:where] + other + text[where + 1 :]
    if at[last] != text:
        assert not judged(found).ok


@pytest.mark.parametrize("path", LEAVES)
def test_a_missing_part_or_a_null_is_found(path: tuple[Any, ...]) -> None:
    values: tuple[Any, ...] = ("gone", None, 1, [], {})
    for value in values:
        found = json.loads(json.dumps(MADE))
        at = found
        for part in path[:-1]:
            at = at[part]
        if value == "gone":
            del at[path[-1]]
        else:
            at[path[-1]] = value
        assert not judged(found).ok


def test_one_entity_s_assertion_is_not_another_s() -> None:
    found = manifest(receiver=[])
    said = asserted("sender")["sender"]["assertion"]
    found["requester"]["assertion"] = said
    assert not judged(found).ok


@pytest.mark.parametrize(
    "change",
    [
        {"signed_fields": []},
        {"signed_fields": ["id"] * 2},
        {"signed_fields": ["id"] * 65},
        {"signed_fields": "id"},
        {"signed_fields": [["id"]]},
        {"signed_fields": ["x" * 257]},
        {"signed_fields": ["receiver.-1.id"]},
        {"signed_fields": ["receiver.99999999999.id"]},
        {"directory_attestation": "x"},
        {"signing_key": []},
        {"expires_at": "2999-01-01"},
    ],
)
def test_bad_assertions_are_judged_not_raised(change: dict[str, Any]) -> None:
    found = json.loads(json.dumps(MADE))
    found["sender"]["assertion"] |= change
    assert not judged(found).ok


def test_strange_manifests_are_judged_not_raised() -> None:
    manifests: tuple[dict[str, Any], ...] = (
        {},
        {"sender": 1},
        {"receiver": {}},
        {"receiver": [1, None]},
        {"sender": {}},
    )
    for strange in manifests:
        assert verify_assertions(strange, NOW) == []
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    found = json.loads(json.dumps(MADE))
    found["sender"]["assertion"]["signed_fields"] = ["deep"]
    assert not verify_assertions({**found, "deep": deep}, NOW)[0].ok
    assert not verify_assertions({"sender": {"assertion": [1]}}, NOW)[0].ok


def test_configured_fields_are_signed_and_a_missing_one_is_the_operator_s() -> None:
    made = asserted(fields=("sender.contact", "entity.id", "version"))
    assert made["sender"]["assertion"]["signed_fields"][:3] == [
        "sender.contact",
        "entity.id",
        "version",
    ]
    assert judged(made).ok
    made["sender"]["contact"] = "other"
    assert not judged(made).ok
    with pytest.raises(ConfigError, match=r"the manifest has no 'sender\.fax'"):
        asserted(fields=("sender.fax",))


def test_an_absolute_expiry_wins() -> None:
    made = asserted(expires_at="2030-06-01T00:00:00+02:00")
    assert judged(made).expires_at == "2030-06-01T00:00:00+02:00"
    assert not judged(made, 1_999_999_999).ok
