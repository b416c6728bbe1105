"""The tables of a published envelope: parties, consent, keys. They are values of the jmix_builder.

One model a table, one line of meaning a key: see tables.py.
"""

import re
from datetime import date, datetime
from typing import Annotated, Any, Final

from pydantic import AfterValidator

from fastjmix.config.declare import REQUIRED, Part, Table, added
from fastjmix.jmix.write import parties

FIELDS_MAX: Final = 64
"""Fields that an assertion signs, at most."""

_TIME: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:\d{2})", re.ASCII
)  # RFC 3339 §5.6
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)

TIME_ALLOWED: Final = 'a time with its zone, such as "2026-01-31T12:00:00Z"'
DAY_ALLOWED: Final = 'a day, such as "2026-01-31"'
KEY_ALLOWED: Final = "the path of a key of that kind that we can read, relative to this file"
PUBLIC_ALLOWED: Final = "an X25519 public key: base64 of 32 bytes"


def _text(value: str) -> str:
    """Returns a text for documents: not empty, without control characters. Raises ValueError."""
    if not value.strip() or not value.isprintable():
        raise ValueError("no text")
    return value


def _time(value: Any) -> str:
    """Returns an RFC 3339 time as it was written, or from TOML's type. Raises ValueError."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.isoformat().replace("+00:00", "Z")
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError("no time")
    datetime.fromisoformat(value)
    return value


def _day(value: Any) -> str:
    if type(value) is date:
        return value.isoformat()
    if not isinstance(value, str) or not _DAY.fullmatch(value):
        raise ValueError("no day")
    return date.fromisoformat(value).isoformat()


def _contact(value: Any) -> str | parties.ContactPoint:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict) and set(value) == {"system", "value"}:
        held = [one for one in value.values() if isinstance(one, str)]
        if len(held) == 2 and all(_text(one) for one in held):
            return parties.ContactPoint(value["system"], value["value"])
    raise ValueError("no contact")


Text = Annotated[str, AfterValidator(_text)]
Time = Annotated[Any, AfterValidator(_time)]
Day = Annotated[Any, AfterValidator(_day)]
Contact = Annotated[Any, AfterValidator(_contact)]

_TEXT_ALLOWED: Final = "a text"
_TEXTS_ALLOWED: Final = "an array of texts"


def overridden(**more: Any) -> Any:
    """Declares a table of the builder's in an entry of aet_table, which replaces the builder's."""
    allowed = "as in the builder's options"
    return added(None, "Override", unset="the builder's", allowed=allowed, row=True, **more)


class Attestation(Table):
    provider: Text = added(REQUIRED, "The directory that attests the key", allowed=_TEXT_ALLOWED)
    attestation_signature: Text = added(REQUIRED, "Passed on", allowed=_TEXT_ALLOWED)
    attestation_timestamp: Time = added(REQUIRED, "Passed on", allowed=TIME_ALLOWED)
    attestation_public_key: Text = added(REQUIRED, "Passed on", allowed=_TEXT_ALLOWED)


class Assertion(Table):
    key_file: str = added(
        REQUIRED,
        "The Ed25519 private key: PEM (PKCS#8), 32 raw bytes, or base64",
        allowed=KEY_ALLOWED,
    )
    key_reference: Text | None = added(
        None, "Where a reader finds the public key", unset="none", allowed=_TEXT_ALLOWED
    )
    expires_secs: float | None = added(
        None, "It is valid so long, from the seal on", unset="for ever", ge=1, allow_inf_nan=False
    )
    expires_at: Time | None = added(
        None, "It is valid until then", unset="`expires_secs`", allowed=TIME_ALLOWED
    )
    fields: list[Text] | None = added(
        None,
        "The fields that are signed, as paths in the manifest; the assertion's own are always",
        unset="the entity's id and name, the envelope's id, the time, the payload's hash",
        allowed=_TEXTS_ALLOWED,
        min_length=1,
        max_length=FIELDS_MAX,
    )
    directory_attestation: Part[Attestation] | None = added(
        None, "A directory's attestation of the key; passed on", unset="none"
    )


class Entity(Table):
    id: Text = added(REQUIRED, 'The entity, such as "org:example.radiology"', allowed=_TEXT_ALLOWED)
    name: Text | None = added(None, "Its name", unset="none", allowed=_TEXT_ALLOWED)
    contact: Contact | None = added(
        None,
        "How to reach it; jmix-rs reads no envelope without",
        unset="none",
        allowed="a text, or a table { system, value }",
    )
    assertion: Part[Assertion] | None = added(None, "Its signature over the manifest", unset="none")


class Consent(Table):
    status: parties.ConsentStatus = added(REQUIRED, "The patient's consent")
    scope: list[parties.ConsentScope] = added(
        [],
        "The purposes that the patient consents to",
        allowed='an array of "treatment", "research", "emergency", "operations", "patient"',
    )
    method: Text | None = added(None, "How it was given", unset="none", allowed=_TEXT_ALLOWED)
    signed_on: Day | None = added(None, "When it was signed", unset="none", allowed=DAY_ALLOWED)


class Deid(Table):
    keys: list[Text] = added(
        REQUIRED,
        "The attributes that were removed or replaced, before they came here",
        allowed=_TEXTS_ALLOWED,
        min_length=1,
    )


class Encryption(Table):
    recipient_public_key: str | None = added(
        None,
        "The receiver's public key",
        unset="`recipient_key_file`",
        allowed=PUBLIC_ALLOWED,
    )
    recipient_key_file: str | None = added(
        None,
        "A file with that key: PEM, 32 raw bytes, or base64",
        unset="`recipient_public_key`",
        allowed=KEY_ALLOWED,
    )
    dialect: parties.Dialect = added(
        "php", "Which library reads it; php is nearest the published text"
    )


class Signing(Table):
    key_file: str = added(
        REQUIRED,
        "The Ed25519 private key that signs manifest.jws: PEM (PKCS#8), 32 raw bytes, or base64",
        allowed=KEY_ALLOWED,
    )
    audit: bool = added(False, "It also signs the entry in audit.json")


class Parties(Table):
    """The parties of a published envelope, their consent, and its keys."""

    sender: Part[Entity] | None = added(
        None, "The sender: required by profile jmix-1.0", unset="required by jmix-1.0"
    )
    requester: Part[Entity] | None = added(
        None, "The requester of the images; a table like `sender`", unset="none"
    )
    receivers: list[Part[Entity]] | None = added(
        None,
        "The receivers: one or more, required by profile jmix-1.0",
        unset="required by jmix-1.0",
        allowed="an array of one or more tables like `sender`",
        min_length=1,
    )
    classification: parties.Classification | None = added(
        None, "How sensitive the envelope is", unset="none"
    )
    custom_tags: list[Text] | None = added(
        None, "Words for the reader", unset="none", allowed=_TEXTS_ALLOWED
    )
    consent: Part[Consent] | None = added(None, "The patient's consent", unset="none")
    deid: Part[Deid] | None = added(None, "The attributes that were removed", unset="none")
    encryption: Part[Encryption] | None = added(None, "The payload is encrypted", unset="no")
    signing: Part[Signing] | None = added(None, "The manifest is signed", unset="no")
