"""Makes and verifies assertions: statements about a party, signed with its own key.

Wanted: an assertion that jmix-rs verifies, over the fields that matter.
Guaranteed: the signed text is one flat JSON object: dot paths sorted by code point, with the values
that the manifest has there, compact, UTF-8 without escapes. An assertion made here also
signs its own statements (fingerprint, key reference, expiry, attestation) and the payload's hash: a
change of any of them is found.
Still wrong: an assertion of jmix-rs leaves its own expiry and the payload's hash unsigned; that is
not refused, and `unsigned` names them. jmix-php signs null for most of its fields: such assertions
fail here. The attestation of a directory is copied, not verified.

A path is looked up from the manifest's root; "manifest.id" is its "id", "entity.…" begins at the
entity itself, a number counts in an array from 0: "receiver.0.id".
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol

from fastjmix.errors import ConfigError, EnvelopeError
from fastjmix.jmix.keys import KEY_BYTES, SigningKey, canonical_base64, fingerprint
from fastjmix.jmix.strict_json import JsonObject
from fastjmix.jmix.write.signing import SIGNATURE_BYTES, is_signed

ALGORITHM: Final = "Ed25519"
FIELDS_MAX: Final = 64
"""Fields that one assertion signs."""
FIELD_MAX: Final = 256
"""Characters of a field's path."""
SIGNED_BYTES_MAX: Final = 1 << 20
"""Bytes of the text that one assertion signs: a field may be a whole listing."""
ASSERTIONS_MAX: Final = 256
"""Assertions of a document that are verified; each costs what it signs once more."""


class AssertionSettings(Protocol):
    """The configuration of an assertion; absent is None or empty.

    `fields` replaces the default ones; the assertion's own statements are signed in any case.
    `expires_at` is RFC 3339 and wins over `expires_secs`, which counts from the seal.
    """

    @property
    def key_reference(self) -> str | None: ...
    @property
    def expires_secs(self) -> float | None: ...
    @property
    def expires_at(self) -> str | None: ...
    @property
    def fields(self) -> Sequence[str]: ...
    @property
    def directory_attestation(self) -> Mapping[str, str] | None: ...


class AssertionResult(NamedTuple):
    """The result of one assertion. `role` is "sender", "requester" or "receiver.<n>".

    `why` is empty when it is ok. `unsigned` are the paths of its own statements, and
    "security.payload_hash", where they exist and are not signed. None: not stated.
    """

    role: str
    ok: bool
    why: str
    fingerprint: str | None
    expires_at: str | None
    unsigned: tuple[str, ...]


# -- signing -------------------------------------------------------------------------------------


def assertion(
    manifest: JsonObject, role: str, settings: AssertionSettings, key: SigningKey, now: float
) -> dict[str, Any]:
    """Returns the assertion of an entity of a manifest that lacks only its assertions.

    `role` as in AssertionResult; `now` in Unix seconds. Raises ConfigError when a configured field
    is not in the manifest.
    """
    made: dict[str, Any] = {
        "signing_key": {
            "alg": ALGORITHM,
            "public_key": base64.b64encode(key.public).decode(),
            "fingerprint": key.fingerprint,
        }
    }
    if settings.key_reference:
        made["key_reference"] = settings.key_reference
    made["signed_fields"] = []
    made["signature"] = ""
    if settings.expires_at is not None:
        made["expires_at"] = settings.expires_at
    elif settings.expires_secs is not None:
        expiry = datetime.fromtimestamp(now + settings.expires_secs, UTC)
        made["expires_at"] = expiry.strftime("%Y-%m-%dT%H:%M:%SZ")
    if settings.directory_attestation:
        made["directory_attestation"] = dict(settings.directory_attestation)
    fields = list(settings.fields) or _usual(manifest, role)
    wanted = dict.fromkeys([*fields, *_of_itself(manifest, role, made)])
    made["signed_fields"] = list(wanted)
    try:
        text = _canonical(manifest, role, made)
    except EnvelopeError as problem:
        raise ConfigError(
            f"the assertion of {role}: {problem.message}",
            "Take the field out of `fields`, or let the manifest have it.",
        ) from None
    made["signature"] = base64.b64encode(key.sign(text)).decode()
    return made


def _usual(manifest: JsonObject, role: str) -> list[str]:
    """Returns the default fields, as in jmix-rs: a name only where there is one."""
    named = "name" in (_at(manifest, role.split(".")) or {})
    name = [f"{role}.name"] if named else []
    return [f"{role}.id", *name, "manifest.id", "timestamp"]


def _of_itself(manifest: JsonObject, role: str, made: JsonObject) -> list[str]:
    """Returns the paths of an assertion's own statements, and of the payload's hash."""
    security = manifest.get("security")
    hashed = isinstance(security, Mapping) and "payload_hash" in security
    attested = made.get("directory_attestation")
    leaves = [f"directory_attestation.{name}" for name in attested] if attested else []
    mine = [name for name in ("key_reference", "expires_at") if name in made]
    own = [f"{_own(role)}{name}" for name in ("signing_key.fingerprint", *mine, *leaves)]
    return [*(["security.payload_hash"] if hashed else []), *own]


def _own(role: str) -> str:
    """Returns the path of an assertion's own fields; an audit's entry is its own root."""
    return f"{role}.assertion." if role else "assertion."


def _canonical(manifest: JsonObject, role: str, made: JsonObject) -> bytes:
    """Returns the bytes that are signed: the fields of the manifest with `made` in it.

    Raises EnvelopeError for a field that is not there.
    """
    own = _own(role)
    values = {}
    for field in made["signed_fields"]:
        if field.startswith(own):
            found = _at(made, field.removeprefix(own).split("."))
        elif field.startswith("entity."):
            found = _at(manifest, [*role.split("."), *field.split(".")[1:]])
        else:
            found = _at(manifest, ["id"] if field == "manifest.id" else field.split("."))
        if found is None:
            raise EnvelopeError(f"the manifest has no {field!r} to be signed")
        values[field] = found
    parts, size = [], 0
    for field in sorted(values):  # one by one: the text may be long, and no field's is known
        parts.append(f"{_compact(field)}:{_compact(values[field])}")
        size += len(parts[-1])
        if size > SIGNED_BYTES_MAX:
            raise EnvelopeError(f"signs more than SIGNED_BYTES_MAX, {SIGNED_BYTES_MAX}, bytes")
    try:
        return f"{{{','.join(parts)}}}".encode()
    except UnicodeEncodeError:
        raise EnvelopeError("a signed field cannot be written as JSON") from None


def _compact(value: object) -> str:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except RecursionError:
        raise EnvelopeError("a signed field cannot be written as JSON") from None


def _at(value: Any, path: Sequence[str]) -> Any:
    """Returns the value at a path; None when there is none."""
    for part in path:
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            known = part.isascii() and part.isdigit() and len(part) < 9
            value = value[int(part)] if known and int(part) < len(value) else None
        else:
            return None
    return value


def audit_assertion(
    entry: JsonObject, envelope_id: str, settings: AssertionSettings, key: SigningKey
) -> dict[str, Any]:
    """Returns the assertion of an entry of audit.json: paths begin at the entry; "manifest.id"
    binds it to its envelope.
    """
    return assertion({**entry, "id": envelope_id}, "", settings, key, 0.0)


# -- verifying -----------------------------------------------------------------------------------


def verify_assertions(manifest: JsonObject, now: float) -> list[AssertionResult]:
    """Verifies every assertion of a manifest; `now` in Unix seconds. Raises nothing."""
    found = [(role, manifest.get(role)) for role in ("sender", "requester")]
    receivers = manifest.get("receiver")
    if isinstance(receivers, list):
        found += [(f"receiver.{number}", entity) for number, entity in enumerate(receivers)]
    made = [
        (role, entity["assertion"])
        for role, entity in found
        if isinstance(entity, Mapping) and entity.get("assertion") is not None
    ]
    results = [_result(manifest, role, one, now) for role, one in made[:ASSERTIONS_MAX]]
    return results + [_one_too_many(role) for role, _ in made[ASSERTIONS_MAX:][:1]]


def _one_too_many(role: str) -> AssertionResult:
    """Returns the result of the first assertion that is not verified."""
    what = f"is one more than ASSERTIONS_MAX, {ASSERTIONS_MAX}: neither it nor those behind it were"
    return AssertionResult(role, False, f"{what} verified", None, None, ())


def verify_audit(audit: JsonObject, envelope_id: str) -> list[AssertionResult]:
    """Verifies every assertion of an audit.json's entries; the roles are "audit.<n>"."""
    entries = audit.get("audit")
    signed = [
        (f"audit.{number}", entry)
        for number, entry in enumerate(entries if isinstance(entries, list) else [])
        if isinstance(entry, Mapping) and entry.get("assertion") is not None
    ]
    results = [
        _result({**entry, "id": envelope_id}, "", entry["assertion"], 0.0)._replace(role=role)
        for role, entry in signed[:ASSERTIONS_MAX]
    ]
    return results + [_one_too_many(role) for role, _ in signed[ASSERTIONS_MAX:][:1]]


def _result(manifest: JsonObject, role: str, made: object, now: float) -> AssertionResult:
    try:
        if not isinstance(made, Mapping):
            raise EnvelopeError("is not an object")
        _check(manifest, role, made, now)
    except EnvelopeError as problem:
        return AssertionResult(role, False, problem.message, *_stated(made), ())
    unsigned = set(_of_itself(manifest, role, made)) - set(made["signed_fields"])
    return AssertionResult(role, True, "", *_stated(made), tuple(sorted(unsigned)))


def _stated(made: object) -> tuple[str | None, str | None]:
    """Returns (fingerprint, expiry) of an assertion, each None unless it is a text."""
    stated = (_at(made, ["signing_key", "fingerprint"]), _at(made, ["expires_at"]))
    first, second = (text if isinstance(text, str) else None for text in stated)
    return first, second


def _check(manifest: JsonObject, role: str, made: JsonObject, now: float) -> None:
    """Raises EnvelopeError with the reason why an assertion is wrong."""
    public = _key(made.get("signing_key"))
    fields = made.get("signed_fields")
    if not isinstance(fields, list) or not 0 < len(fields) <= FIELDS_MAX:
        raise EnvelopeError(f'"signed_fields" must name 1 to {FIELDS_MAX} fields')
    if not all(isinstance(field, str) and 0 < len(field) <= FIELD_MAX for field in fields):
        raise EnvelopeError(f'"signed_fields" must be texts of at most {FIELD_MAX} characters')
    if len(set(fields)) != len(fields):
        raise EnvelopeError('"signed_fields" names a field twice')
    if not isinstance(made.get("directory_attestation", {}), Mapping):
        raise EnvelopeError('"directory_attestation" must be an object')
    signature = _base64(made.get("signature"), SIGNATURE_BYTES, "signature")
    if not is_signed(_canonical(manifest, role, made), signature, public):
        raise EnvelopeError("its signature is not right: a signed field or the key was changed")
    if made.get("expires_at") is not None and _seconds(made["expires_at"]) < now:
        raise EnvelopeError(f"it expired at {made['expires_at']}")


def _key(found: object) -> bytes:
    """Returns the public key, 32 bytes. Raises EnvelopeError when its fingerprint is wrong."""
    if not isinstance(found, Mapping):
        raise EnvelopeError('"signing_key" must be an object')
    if found.get("alg") != ALGORITHM:
        raise EnvelopeError(f'"signing_key.alg" must be {ALGORITHM}')
    public = _base64(found.get("public_key"), KEY_BYTES, "signing_key.public_key")
    right = fingerprint(public)
    # jmix-php writes the digits in upper case; half of each would hide a change
    if found.get("fingerprint") not in (right, right.upper()):
        raise EnvelopeError('"signing_key.fingerprint" is not that of its public key')
    return public


def _base64(text: object, size: int, name: str) -> bytes:
    found = canonical_base64(text, size)
    if found is None:
        raise EnvelopeError(f'"{name}" must be {size} bytes in base64')
    return found


def _seconds(text: object) -> float:
    """Returns the Unix seconds of a date-time with its offset (RFC 3339)."""
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise EnvelopeError('"expires_at" must be a date and time with its offset from UTC')
    return found.timestamp()
