"""The effective configuration: one frozen tree, with units in names. Every other package reads it.

Guaranteed: defaults and overrides are resolved. It is immutable and can be pickled. A secret is in
no repr, str or format; only reveal() returns it.
Still wrong: a Secret is an ordinary string in memory, and in the pickle of a tree with secrets.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast

from fastjmix.jmix.write.parties import Published
from fastjmix.routing import rules
from fastjmix.transport.proxy_header import Network

_T = TypeVar("_T")

Ack = Literal["stored", "uploaded"]
Digest = Literal["sha256", "blake3"]
Durability = Literal["fsync", "page-cache"]
LogFormat = Literal["text", "json"]
LogLevel = Literal["trace", "debug", "info", "warn", "error"]
LogStudyUids = Literal["plain", "hashed", "off"]
IpVersion = Literal["any", "4", "6"]
Method = Literal["bearer", "basic", "api_key", "s3"]
PayloadHash = Literal["tree", "stream"]
Priority = rules.Priority
ProfileName = Literal["harmony", "jmix-1.0"]
ScheduleFor = Literal["bulk", "all"]
TargetKind = Literal["jmix", "directory", "s3"]
TransferEncoding = Literal["auto", "chunked", "content-length"]

REDACTED: Final = "(redacted)"

UPLOAD_RATE_MIN: Final = 16 * 1024
"""Bytes a second that an upload must reach over all: a line below 128 kbit/s carries no images."""


class Secret:
    """A string that does not show itself. Equal to a Secret of the same value."""

    __slots__ = ("_value",)

    def __init__(self, value: str = "") -> None:
        self._value = value

    def reveal(self) -> str:
        """Returns the value, for code that sends or compares it."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __repr__(self) -> str:
        return f"Secret({REDACTED if self._value else ''!r})"

    def __str__(self) -> str:
        return REDACTED if self._value else ""


NO_SECRET: Final = Secret()


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials that an upstream gets, or a caller must present, in one header field.

    Method "s3" has no header field of its own: `username` is the access key's id, `password` the
    secret access key that signs each request, `token` the session token.
    """

    method: Method
    token: Secret = NO_SECRET
    username: Secret = NO_SECRET
    password: Secret = NO_SECRET
    api_key: Secret = NO_SECRET
    header_name: str = "Authorization"

    def header(self) -> tuple[str, str]:
        """Returns name and value: Bearer (RFC 6750 §2.1), Basic (RFC 7617 §2, UTF-8), or a key."""
        if self.method == "bearer":
            return self.header_name, f"Bearer {self.token.reveal()}"
        if self.method == "basic":
            pair = f"{self.username.reveal()}:{self.password.reveal()}".encode()
            return self.header_name, f"Basic {base64.b64encode(pair).decode()}"
        return self.header_name, self.api_key.reveal()

    def repeatable(self) -> tuple[str, ...]:
        """Returns the strings of them that a server may repeat in an answer, longest first, for
        code that takes them out of it. One of fewer than four characters is no secret."""
        held = (self.token, self.username, self.password, self.api_key)
        value = self.header()[1]
        strings = {secret.reveal() for secret in held} | {value, value.rpartition(" ")[2]}
        return tuple(sorted((one for one in strings if len(one) >= 4), key=len, reverse=True))


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
class Transport:
    """How connections to a target are made.

    Attributes:
        proxy: "http://host:port" of an HTTP proxy; None: none.
        proxy_credentials: for that proxy (method "basic").
        use_environment_proxy: the proxy is that of HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
        cert_file: our certificate for TLS, with key_file.
        pins: SHA-256 of public keys (SubjectPublicKeyInfo) in base64; the server's certificate
            has one of these, beside being trusted. (): any.
        ip: the addresses of a name that are used.
    """

    proxy: str | None = None
    proxy_credentials: Credentials | None = None
    use_environment_proxy: bool = False
    cert_file: Path | None = None
    key_file: Path | None = None
    pins: tuple[str, ...] = ()
    ip: IpVersion = "any"


@dataclass(frozen=True, slots=True)
class Window:
    """A part of the week. `days` are those on which it begins (0: Monday); `start` and `end` are
    minutes since midnight. It goes on into the next day where `end` is not after `start`."""

    days: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much a target gets, and when. None: the uploader's own bound, or none.

    `windows` are the times at which envelopes of `windows_for` may go, in the time zone `zone`
    (None: this machine's); (): at any time.
    """

    max_concurrent: int | None = None
    max_bytes_per_sec: int | None = None
    windows: tuple[Window, ...] = ()
    windows_for: ScheduleFor = "bulk"
    zone: str | None = None


@dataclass(frozen=True, slots=True)
class DirectoryPlace:
    """A directory, or a share that is mounted there, into which envelopes are written.

    `require_mount`: only while a file system is mounted at `path` or its parent; / does not count.
    `file_mode` are the permissions of an envelope's file.
    """

    path: Path
    require_mount: bool
    file_mode: int


@dataclass(frozen=True, slots=True)
class BucketPlace:
    """A bucket of an S3 service. `endpoint` None: that of AWS in `region`. `prefix` is "", or ends
    with a slash."""

    bucket: str
    prefix: str
    region: str
    endpoint: str | None
    path_style: bool
    conditional: bool


@dataclass(frozen=True, slots=True)
class Upstream:
    """A target: where envelopes go. `url` is the full URL; a response may take `timeout_secs`.

    `place` is None for a JMIX server, to which envelopes are posted.
    """

    name: str
    url: str
    timeout_secs: float
    max_retries: int
    ca_file: Path | None
    transfer_encoding: TransferEncoding
    require_matching_id: bool
    credentials: Credentials | None
    transport: Transport = Transport()
    allowance: Allowance = Allowance()
    place: DirectoryPlace | BucketPlace | None = None

    @property
    def kind(self) -> TargetKind:
        """Returns what kind of target it is."""
        if self.place is None:
            return "jmix"
        return "directory" if isinstance(self.place, DirectoryPlace) else "s3"

    def attempt_secs(self, size: int) -> float:
        """Returns about how long an attempt with `size` bytes may take: the body, its response,
        and a query whether the upstream has it."""
        own = self.allowance.max_bytes_per_sec
        return 2 * self.timeout_secs + size / min(UPLOAD_RATE_MIN, own or UPLOAD_RATE_MIN)


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
    route: rules.Route | None = None
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
