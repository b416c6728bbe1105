"""What the configuration says of a published envelope: parties, permissions, keys by their files.

Wanted: all of it in one value, which rides in draft.json, so that whoever seals the envelope, now
or after a crash, writes the same documents.
Guaranteed: frozen and hashable; `load` of what `dump` gave is equal to it; a private key is named
by its file and never held here; a recipient's key is the public half.
Still wrong: nothing known.
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
    """How to reach somebody: "phone" and a number."""

    system: str
    value: str


@dataclass(frozen=True, slots=True)
class Attestation:
    """What a directory says of a key; passed on as it was given. The names are the published."""

    provider: str
    attestation_signature: str
    attestation_timestamp: str
    attestation_public_key: str


@dataclass(frozen=True, slots=True)
class AssertionSettings:
    """How an entity signs for itself. `fields` () leaves the choice to the writer.

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
    """The patient's consent, as somebody noted it. `signed_on` is YYYY-MM-DD."""

    status: ConsentStatus
    scope: tuple[ConsentScope, ...] = ()
    method: str | None = None
    signed_on: str | None = None


@dataclass(frozen=True, slots=True)
class Signing:
    """manifest.jws, and with `audit` the audit's entry too, by the key in `key_file`."""

    key_file: str
    audit: bool = False


@dataclass(frozen=True, slots=True)
class Encryption:
    """For whom the payload is encrypted: base64 of the raw X25519 public key."""

    recipient_public_key: str
    dialect: Dialect = "php"


@dataclass(frozen=True, slots=True)
class Published:
    """Everything that profile jmix-1.0 has from the configuration. `deid`: attributes' keys."""

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
        """The files of every private key that a seal needs, each once."""
        entities = [self.sender, self.requester, *self.receivers]
        files = [e.assertion.key_file for e in entities if e is not None and e.assertion]
        files += [self.signing.key_file] if self.signing is not None else []
        return tuple(dict.fromkeys(files))

    def dump(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


def load(dumped: Mapping[str, Any]) -> Published:
    """What `dump` gave, also after a round trip through JSON. Raises KeyError, TypeError."""
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
