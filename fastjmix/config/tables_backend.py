"""The tables of the backends: where the envelopes of a pipeline go.

One model a table, one line of meaning a key: see tables.py.
"""

from typing import Final

from fastjmix.config import tree
from fastjmix.config.declare import REQUIRED, Part, Table, added, key, label
from fastjmix.config.strings import PATH_ALLOWED, BaseUrl, Limit, PathPrefix
from fastjmix.config.tables_net import Connection, retries, timeout

SCHEDULE_ALLOWED: Final = (
    'an array of windows: "Mon-Fri 19:00-06:00", "Sat,Sun" or "22:00-05:00"; one that ends earlier'
    " than it starts goes on into the next day"
)


class BackendOptions(Table):
    path_prefix: PathPrefix = key(
        "",
        'The URL is base + `path_prefix` + /jmix; "" means /api; one that ends in /jmix is'
        " used as it is",
        allowed=PATH_ALLOWED,
    )
    authentication_ref: str | None = key(
        None, "The [authentications.*] to present", unset="the backend's `authentication`"
    )
    base_url: BaseUrl | None = key(
        None,
        "The upstream's base URL, instead of a target's address",
        unset="the target's",
        allowed="http://host:port/path or https://…, without user, query or fragment",
    )
    url: BaseUrl | None = key(
        None,
        "The same by its other name",
        unset="`base_url`",
        allowed="http://host:port/path or https://…, without user, query or fragment",
    )
    transfer_encoding: tree.TransferEncoding = added(
        "auto",
        "How the body is framed; auto: by its length until the upstream proves to read chunks",
    )
    require_matching_id: bool = added(
        False, "A 2xx that names another envelope id counts as not delivered"
    )
    max_concurrent: int | None = added(
        None, "Deliveries to it at the same time", unset="4", ge=1, le=64
    )
    max_bytes_per_sec: int | None = added(
        None,
        "Bytes a second to it, of all deliveries together",
        unset="any",
        ge=1024,
        le=1 << 40,
    )
    schedule: list[str] | None = added(
        None,
        "When envelopes of `schedule_for` may go to it",
        unset="at any time",
        min_length=1,
        max_length=32,
        allowed=SCHEDULE_ALLOWED,
    )
    schedule_for: tree.ScheduleFor = added(
        "bulk", "The envelopes that keep to the schedule: those of priority bulk, or all"
    )
    schedule_zone: str | None = added(
        None,
        "The schedule's time zone, such as Europe/Berlin",
        unset="the system's",
        min_length=1,
    )
    retention_max_age_days: Limit | None = added(
        None,
        "How long an envelope is kept for queries after its delivery to it; of several upstreams"
        " the longest counts",
        unset="`fastjmix.retention`",
        ge=0,
        allowed='a number of days, 0 or more, or "unlimited"',
    )


class Backend(Table):
    id: str | None = label("A label")
    description: str | None = label("A label")
    service: str = key(REQUIRED, "The service that is sent to", allowed='"jmix_backend"')
    target_ref: str | None = key(
        None,
        "The [targets.*] that is the upstream, of whatever type",
        unset="`connection` or `base_url`",
    )
    IGNORED = ("targets",)  # `target_ref` names the one that is used
    connection: Part[Connection] = key(Connection, "Overrides the target's, key by key")
    timeout_secs: float | None = timeout("the target's")
    max_retries: int | None = retries("the target's")
    authentication: str | None = key(
        None, "The [authentications.*] to present", unset="the target's"
    )
    options: Part[BackendOptions] = key(BackendOptions, "The upstream")
