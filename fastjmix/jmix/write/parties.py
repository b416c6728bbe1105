"""The configuration of a published envelope: parties, permissions, keys by their files.

Wanted: all of it in one value, which is kept in draft.json, so that the seal writes the same
documents after a crash.
Guaranteed: frozen and hashable; `load` of the result of `dump` is equal to the original; a private
key is named by its file and never held here; a recipient's key is the public half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Classification = Literal["confidential", "sensitive", "de-identified"]
ConsentStatus = Literal["granted", "denied", "unknown"]
ConsentScope = Literal["treatment", "research", "emergency", "operations", "patient"]
Dialect = Literal["php", "js", "rs"]


@dataclass(frozen=True, slots=True)
class ContactPoint:
    """A way to reach a party: "phone" and a number."""

    system: str
    value: str


@dataclass(frozen=True, slots=True)
class Attestation:
    """A directory's statement about a key, copied as configured, under the published names."""

    provider: str
    attestation_signature: str
    attestation_timestamp: str
    attestation_public_key: str


@dataclass(frozen=True, slots=True)
class AssertionSettings:
    """Settings of an entity's assertion. With `fields` () the default fields are signed.

    `expires_at` is an RFC 3339 time; `expires_secs` counts from the seal; one of them at most.
    """

    key_file: str
    key_reference: str | None = None
    expires_secs: float | None = None
    expires_at: str | None = None
    fields: tuple[str, ...] = ()
    attestation: Attestation | None = None

    @property
    def directory_attestation(self) -> Mapping[str, str] | None:
        """The attestation under the published names."""
        return asdict(self.attestation) if self.attestation is not None else None


@dataclass(frozen=True, slots=True)
class Entity:
    """A sender, requester or receiver."""

    id: str
    name: str | None = None
    contact: str | ContactPoint | None = None
    assertion: AssertionSettings | None = None


@dataclass(frozen=True, slots=True)
class Consent:
    """The patient's consent, as configured. `signed_on` is YYYY-MM-DD."""

    status: ConsentStatus
    scope: tuple[ConsentScope, ...] = ()
    method: str | None = None
    signed_on: str | None = None


@dataclass(frozen=True, slots=True)
class Signing:
    """The key that signs manifest.jws, and with `audit` the entry of audit.json too."""

    key_file: str
    audit: bool = False


@dataclass(frozen=True, slots=True)
class Encryption:
    """The recipient of an encrypted payload: base64 of the raw X25519 public key."""

    recipient_public_key: str
    dialect: Dialect = "php"


@dataclass(frozen=True, slots=True)
class Published:
    """The configuration of profile jmix-1.0. `deid`: attributes' keys."""

    sender: Entity
    receivers: tuple[Entity, ...]
    requester: Entity | None = None
    classification: Classification | None = None
    custom_tags: tuple[str, ...] = ()
    consent: Consent | None = None
    deid: tuple[str, ...] = ()
    signing: Signing | None = None
    encryption: Encryption | None = None

    def key_files(self) -> tuple[str, ...]:
        """Returns the files of the private keys that a seal needs, each once."""
        entities = [self.sender, self.requester, *self.receivers]
        files = [e.assertion.key_file for e in entities if e is not None and e.assertion]
        files += [self.signing.key_file] if self.signing is not None else []
        return tuple(dict.fromkeys(files))

    def dump(self) -> dict[str, Any]:
        """Returns the value in a form that JSON can represent."""
        return asdict(self)


def load(dumped: Mapping[str, Any]) -> Published:
    """Returns the value that was dumped, also after a round trip through JSON. Raises KeyError,
    TypeError."""
    return Published(
        sender=_entity(dumped["sender"]),
        receivers=tuple(_entity(one) for one in dumped["receivers"]),
        requester=_entity(dumped["requester"]) if dumped["requester"] else None,
        classification=dumped["classification"],
        custom_tags=tuple(dumped["custom_tags"]),
        consent=_consent(dumped["consent"]) if dumped["consent"] else None,
        deid=tuple(dumped["deid"]),
        signing=Signing(**dumped["signing"]) if dumped["signing"] else None,
        encryption=Encryption(**dumped["encryption"]) if dumped["encryption"] else None,
    )


def _entity(dumped: Mapping[str, Any]) -> Entity:
    contact, assertion = dumped["contact"], dumped["assertion"]
    return Entity(
        dumped["id"],
        dumped["name"],
        ContactPoint(**contact) if isinstance(contact, Mapping) else contact,
        _assertion(assertion) if assertion else None,
    )


def _assertion(dumped: Mapping[str, Any]) -> AssertionSettings:
    attested = dumped["attestation"]
    return AssertionSettings(
        **{
            **dumped,
            "fields": tuple(dumped["fields"]),
            "attestation": Attestation(**attested) if attested else None,
        }
    )


def _consent(dumped: Mapping[str, Any]) -> Consent:
    return Consent(**{**dumped, "scope": tuple(dumped["scope"])})
