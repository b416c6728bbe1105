"""The tables of the node: proxy, logging, storage, fastjmix; and tables that mean nothing here.

One model a table, one line of meaning a key: see tables.py.
"""

from typing import Final, Literal

from fastjmix.config import tree
from fastjmix.config.declare import Part, Table, added, key, label, secret_file
from fastjmix.config.strings import FILE_ALLOWED, Limit, WebUrl

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB


# -- the node --------------------------------------------------------------------------------------


class Proxy(Table):
    name: str | None = key(None, "This instance's name", unset="`id`", min_length=1)
    id: str | None = key(None, "The same; one of the two must be given", unset="`name`")
    log_level: tree.LogLevel | None = key(
        None, "The same by its older name; `logging.log_level` wins", unset="info"
    )
    pipelines_path: str = key(
        "pipelines",
        "The directory whose `*.toml` are read too, relative to the main file",
        min_length=1,
        allowed=FILE_ALLOWED,
    )
    IGNORED = (
        "primary_provider",  # cloud polling
        "transforms_path",  # there are no transforms
        "jwks_cache_duration_hours",  # JSON Web Keys are not used
        "required_env_vars",  # a `${VAR}` that is not set is a fault anyway
        "sensitive_field_patterns",  # secrets are never logged
        "content_limits",  # limits of the bodies that Harmony takes
    )


class Logging(Table):
    log_level: tree.LogLevel | None = key(
        None, "The least that is logged", unset="`proxy.log_level`, else info"
    )
    log_to_file: bool = key(False, "Also to `log_file_path`; to stderr always")
    log_file_path: str | None = key(
        None,
        "The log file, relative to the working directory",
        unset="required with `log_to_file`",
        min_length=1,
        allowed=FILE_ALLOWED,
    )
    format: tree.LogFormat = added(
        "text", "How a line is written: `event key=value …`, or one JSON object a line"
    )
    study_uids: tree.LogStudyUids = added(
        "plain",
        "How a line names a study: its Study Instance UID, the first 16 characters of that UID's"
        " SHA-256 (`printf %s UID | sha256sum`), or not at all. SOP Instance UIDs of refused"
        " instances stay",
    )


DEFAULT_STORAGE: Final = "./tmp"


class StorageOptions(Table):
    path: str = key(
        DEFAULT_STORAGE,
        "Holds building/, outbox/, sent/ and rejected/; relative to the working directory",
        min_length=1,
        allowed=FILE_ALLOWED,
    )
    create: bool | None = added(
        None,
        "Whether `path` is created where it is missing: it may be a disk that is not mounted",
        unset="true for ./tmp; else only directly beside the main file, or directly at the top of a"
        " mounted file system other than /",
    )
    require_mount: bool = added(
        False,
        "Whether a start is refused unless `path`, or the directory that holds it, is where a file"
        " system other than / is mounted: a disk that is not mounted is then never filled below"
        " its mount point",
    )
    soft_reserve_bytes: int | None = added(
        None,
        "With less free space than this, new associations are rejected for now",
        unset="5 GiB, or 5 % of the file system if that is less",
        ge=0,
    )
    hard_reserve_bytes: int | None = added(
        None,
        "With less free space than this, instances are answered with A700: the rest is for"
        " sealing. At most `soft_reserve_bytes`",
        unset="1 GiB, or 1 % of the file system if that is less",
        ge=0,
    )


class Storage(Table):
    backend: Literal["filesystem"] = key(
        "filesystem",
        "Where envelopes are kept",
        allowed='"filesystem": envelopes are kept in a directory; s3 and memory are not offered',
    )
    options: Part[StorageOptions] = key(StorageOptions, "Where in the file system")


class Retention(Table):
    """How long delivered envelopes are kept for queries."""

    max_age_days: Limit = added(
        30,
        "How long a delivered envelope is kept for queries; 0: not at all",
        ge=0,
        allowed='a number of days, 0 or more, or "unlimited"',
    )
    max_bytes: Limit = added(
        50 * GIB,
        "How much delivered envelopes may take; the oldest go first",
        ge=0,
        allowed='a number of bytes, 0 or more, or "unlimited"',
    )


class Alerts(Table):
    """Where it is reported that something needs a person."""

    webhook_url: WebUrl | None = added(
        None,
        "The URL to which is posted what makes the node unready, and each warning of /readyz: once"
        " when it begins, once when it ends",
        unset="nothing is posted",
        allowed="a URL of http or https",
        secret=True,
    )
    webhook_url_file: str | None = secret_file("webhook_url")
    format: tree.AlertFormat = added(
        "json",
        "The form of a post: our own object, Slack's message, or the list of Alertmanager's"
        " `/api/v2/alerts`",
    )
    every_secs: float = added(
        5.0, "How often the node is looked at", ge=0.1, le=3600, allow_inf_nan=False
    )
    timeout_secs: float = added(
        10.0, "How long a post may take", ge=0.1, le=300, allow_inf_nan=False
    )


class Ledger(Table):
    """The ledger: associations, envelopes and attempts that the node remembers."""

    max_age_days: Limit = added(
        3650,
        "How long the ledger remembers envelopes that are no longer on the disk, and what else"
        " happened",
        ge=0,
        allowed='a number of days, 0 or more, or "unlimited"',
    )
    max_bytes: Limit = added(
        10 * GIB,
        "How large the ledger may become: about 60 bytes an instance; the oldest goes first",
        ge=0,
        allowed='a number of bytes, 0 or more, or "unlimited"',
    )
    patient_data: bool = added(
        True, "Whether it and provenance/ keep what names the patient; false clears it"
    )


class Fastjmix(Table):
    receivers: int = added(
        1, "Receiver processes: one serves all associations of most nodes", ge=1, le=64
    )
    packers: int | None = added(
        None,
        "Packer processes, which compute digests and write",
        unset="half of the processors, at least 1",
        ge=1,
        le=64,
    )
    lane_bytes: int = added(
        8 * MIB,
        "Shared memory of one association; while it is full, TCP makes the sender wait",
        ge=MIB,
        le=GIB,
        multiple_of=4 * KIB,
    )
    grace_secs: float = added(
        10.0,
        "After SIGINT, or at the end of a drain: how long instances in flight may take to arrive",
        ge=0,
        le=3600,
        allow_inf_nan=False,
    )
    drain_secs: float = added(
        900.0,
        "After SIGTERM or `fastjmix drain`: how long open associations may go on, and what they"
        " brought may take to be delivered; 0: no drain",
        ge=0,
        le=86_400,
        allow_inf_nan=False,
    )
    queue_alarm_secs: float = added(
        3600.0,
        "An envelope that waits longer for its upstream is an error in the log and a warning of"
        " /readyz",
        ge=1,
        le=31_536_000,
        allow_inf_nan=False,
    )
    retention: Part[Retention] = added(Retention, "The envelopes that are kept in sent/")
    ledger: Part[Ledger] = added(Ledger, "The records of envelopes, in ledger/")


class Provider(Table):
    # Nothing is configured from a cloud.
    IGNORED = ("api", "poll_interval_secs")


class Runbeam(Table):
    # Nothing is configured from a cloud.
    IGNORED = ("enabled", "cloud_api_base_url", "poll_interval_secs")


class Management(Table):
    # Harmony's administration API is not offered.
    IGNORED = ("enabled", "base_path", "network", "cloud_api_base_url", "poll_interval_secs")


class Registration(Table):
    """[services.*] and [middleware_types.*]. All are built in and need no registration."""

    id: str | None = label("A label")
    type: str | None = label("A label")
    module: Literal[""] = key(
        "",
        "Only the built-in ones exist",
        allowed='"": fastjmix loads no modules; what it does not have built in it does not do',
    )
