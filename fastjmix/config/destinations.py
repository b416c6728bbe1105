"""Where envelopes go, as part of the tree: an upstream, how it is reached, and what it gets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from fastjmix.config.secret import Credentials

IpVersion = Literal["any", "4", "6"]
ScheduleFor = Literal["bulk", "all"]
TargetKind = Literal["jmix", "directory", "s3"]
TransferEncoding = Literal["auto", "chunked", "content-length"]

UPLOADS_AT_ONCE: Final = 4
"""Per upstream. One hides neither the round trip nor the upstream's own fsync; more than a few only
share the same line, and each holds a connection and a few chunks."""

UPLOAD_RATE_MIN: Final = 16 * 1024
"""Bytes a second that an upload must reach over all: a line below 128 kbit/s carries no images."""


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

    `place` is None for a JMIX server, to which envelopes are posted. `retention_secs` is how long
    delivered envelopes are kept; None: as the node says, infinity: without that limit.
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
    retention_secs: float | None = None

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
