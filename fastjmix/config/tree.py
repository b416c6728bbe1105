"""The effective configuration: one frozen tree, with units in names. Every other package reads it.

Guaranteed: defaults and overrides are resolved. It is immutable and can be pickled. Its secrets are
in secret.py, its upstreams in destinations.py; other packages have both from here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from fastjmix.config.destinations import (
    UPLOAD_RATE_MIN,
    UPLOADS_AT_ONCE,
    Allowance,
    BucketPlace,
    DirectoryPlace,
    IpVersion,
    ScheduleFor,
    TargetKind,
    TransferEncoding,
    Transport,
    Upstream,
    Window,
)
from fastjmix.config.secret import NO_SECRET, REDACTED, Credentials, Method, Secret
from fastjmix.routing.choices import Priority

if TYPE_CHECKING:  # most configurations use none of these
    from fastjmix.jmix.write.parties import Published
    from fastjmix.routing.rules import Route
    from fastjmix.transport.proxy_header import Network

__all__ = [
    "NO_SECRET",
    "REDACTED",
    "UPLOADS_AT_ONCE",
    "UPLOAD_RATE_MIN",
    "Ack",
    "AlertFormat",
    "AlertSettings",
    "Allowance",
    "BucketPlace",
    "Builder",
    "CallingAe",
    "Config",
    "Credentials",
    "DicomListener",
    "Digest",
    "DirectoryPlace",
    "Durability",
    "Hook",
    "HttpListener",
    "IpVersion",
    "LedgerSettings",
    "LogFormat",
    "LogLevel",
    "LogSettings",
    "LogStudyUids",
    "Method",
    "PayloadHash",
    "PeerLimits",
    "Priority",
    "ProfileName",
    "Runtime",
    "ScheduleFor",
    "Secret",
    "TargetKind",
    "TransferEncoding",
    "Transport",
    "Upstream",
    "Window",
]

_T = TypeVar("_T")

Ack = Literal["stored", "uploaded"]
Digest = Literal["sha256", "blake3"]
Durability = Literal["fsync", "page-cache"]
LogFormat = Literal["text", "json"]
LogLevel = Literal["trace", "debug", "info", "warn", "error"]
LogStudyUids = Literal["plain", "hashed", "off"]
PayloadHash = Literal["tree", "stream"]
ProfileName = Literal["harmony", "jmix-1.0"]


@dataclass(frozen=True, slots=True)
class LogSettings:
    """`file` None: stderr only."""

    level: LogLevel
    file: Path | None
    format: LogFormat = "text"
    study_uids: LogStudyUids = "plain"


@dataclass(frozen=True, slots=True)
class Runtime:
    """Processes, memory and time of the whole node. Retention None: without that limit."""

    receivers: int
    packers: int
    lane_bytes: int
    grace_secs: float
    drain_secs: float
    retention_secs: float | None
    retention_bytes: int | None
    queue_alarm_secs: float


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """Bounds of the ledger; None: without that bound. `patient_data` False: nothing that names
    a patient is kept."""

    max_age_secs: float | None = None
    max_bytes: int | None = None
    patient_data: bool = True


AlertFormat = Literal["json", "slack", "alertmanager"]


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """Where alerts are posted, and in which form; `webhook_url` is empty where none are."""

    webhook_url: Secret = NO_SECRET
    format: AlertFormat = "json"
    every_secs: float = 5.0
    timeout_secs: float = 10.0


@dataclass(frozen=True, slots=True)
class Builder:
    """How instances become an envelope, and when it is sealed. `published` is None but for profile
    jmix-1.0."""

    profile: ProfileName
    digest: Digest
    skip_hashing: bool
    skip_listing: bool
    durability: Durability
    release_grace_secs: float
    quiet_secs: float
    max_envelope_bytes: int
    max_envelope_instances: int
    payload_hash: PayloadHash = "tree"
    published: Published | None = None


@dataclass(frozen=True, slots=True)
class CallingAe:
    """An entry of aet_table: a calling AE title that is accepted, and its settings.

    `builder` is complete: the listener's, with this entry's overrides in it; so is `other_profile`.
    `host` and `port` have no effect.
    """

    ae_title: str
    host: str | None
    port: int | None
    max_associations: int | None
    builder: Builder
    other_profile: Builder | None = None


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """How long a DICOM peer may take, and how many may connect at once: see docs/limits.md."""

    acse_timeout_secs: float
    dimse_timeout_secs: float
    network_timeout_secs: float
    min_bytes_per_sec: int
    max_half_open: int


@dataclass(frozen=True, slots=True)
class DicomListener:
    """A Storage SCP on one address. `port` 0: the system chooses. `calling` None: any calling AE
    title; else by AE title. Each envelope goes to all of `upstreams`, of which there is one at the
    least, unless a rule of `route` says otherwise: `routed` are those that only rules name.
    `other_profile` is `builder` with the other profile, where a rule asks for it. From `proxies`
    comes a PROXY protocol header first."""

    pipeline: str
    endpoint: str
    host: str
    port: int
    ae_title: str
    max_pdu: int
    enable_store: bool
    enable_echo: bool
    max_associations: int
    ack: Ack
    accept_any_called_aet: bool
    tolerate_uids: bool
    accept_malformed: bool
    limits: PeerLimits
    calling: Mapping[str, CallingAe] | None
    builder: Builder
    upstreams: tuple[Upstream, ...]
    proxies: tuple[Network, ...] = ()
    other_profile: Builder | None = None
    route: Route | None = None
    routed: tuple[Upstream, ...] = ()

    @property
    def every_upstream(self) -> tuple[Upstream, ...]:
        """All upstreams that envelopes of this listener may go to."""
        return self.upstreams + self.routed


@dataclass(frozen=True, slots=True)
class HttpListener:
    """The query API on one address. Callers must present `credentials`; without any, they must name
    one of `allowed_hosts`, or this machine, in Host. `path_prefix` is "" or begins with a slash and
    ends with none. Without `upstreams` nothing can be posted. `decryption_key_file` None: the
    payload of encrypted envelopes that are posted is not checked. From `proxies` comes a PROXY
    protocol header first."""

    pipeline: str
    endpoint: str
    host: str
    port: int
    path_prefix: str
    cert_file: Path | None
    key_file: Path | None
    credentials: Credentials | None
    allow_unauthenticated: bool
    allowed_hosts: tuple[str, ...]
    upstreams: tuple[Upstream, ...]
    decryption_key_file: Path | None = None
    proxies: tuple[Network, ...] = ()

    @property
    def every_upstream(self) -> tuple[Upstream, ...]:
        """All upstreams that envelopes of this listener may go to."""
        return self.upstreams


@dataclass(frozen=True, slots=True)
class Hook:
    """A command that each sealed envelope of a pipeline goes through before it is sent. `argv` has
    its program and arguments; the archive's path is added."""

    name: str
    argv: tuple[str, ...]
    timeout_secs: float
    memory_bytes: int
    at_once: int


@dataclass(frozen=True, slots=True)
class Config:
    """The whole tree. `ignored` has the paths of keys that were given and mean nothing here. The
    reserves are marks of free space; None: the defaults of spool/free_space.py. `create_storage`
    None: only where that harms nothing; `require_mount`: never but on a mounted file system
    (storage_path.py). `hooks` are those of each pipeline that has some, in their order."""

    name: str
    source: Path
    storage_dir: Path
    log: LogSettings
    runtime: Runtime
    dicom: tuple[DicomListener, ...]
    http: tuple[HttpListener, ...]
    ignored: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    soft_reserve_bytes: int | None = None
    hard_reserve_bytes: int | None = None
    create_storage: bool | None = None
    require_mount: bool = False
    ledger: LedgerSettings = LedgerSettings()
    alerts: AlertSettings = AlertSettings()
    hooks: Mapping[str, tuple[Hook, ...]] = dataclasses.field(default_factory=dict)

    @property
    def listeners(self) -> tuple[DicomListener | HttpListener, ...]:
        """All listeners, those of DICOM first."""
        return (*self.dicom, *self.http)

    @property
    def any_durable(self) -> bool:
        """True when a listener promises that instances are durable."""
        return any(listener.builder.durability == "fsync" for listener in self.dicom)

    def without_secrets(self) -> Config:
        """Returns the same tree with every Secret blanked, for processes that need none."""
        return _blank(self)

    def without_upstream_secrets(self) -> Config:
        """Returns the same tree with only those Secrets that the API needs: what its callers must
        present, and the webhook of alerts."""
        listeners = (
            dataclasses.replace(listener, upstreams=_blank(listener.upstreams))
            for listener in self.http
        )
        return dataclasses.replace(_blank(self), http=tuple(listeners), alerts=self.alerts)


def _blank(value: _T) -> _T:
    if isinstance(value, Secret):
        return cast("_T", NO_SECRET)
    if isinstance(value, tuple):
        return cast("_T", tuple(_blank(item) for item in value))
    if isinstance(value, dict):
        return cast("_T", {key: _blank(item) for key, item in value.items()})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        held: dict[str, Any] = {
            field.name: _blank(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
        return cast("_T", dataclasses.replace(value, **held))
    return value
