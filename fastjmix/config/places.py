"""Targets that are no JMIX server: a directory, or a bucket of an S3 service.

A backend adds how much goes there, and when; where that is stands in its target alone.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from fastjmix.config.allowances import allowance, retention_secs
from fastjmix.config.binding import is_loopback
from fastjmix.config.credentials import credentials
from fastjmix.config.faults import shown
from fastjmix.config.references import References
from fastjmix.config.table_checks import Entry
from fastjmix.config.tables_backend import Backend
from fastjmix.config.tables_net import DirectoryTarget, S3Target
from fastjmix.config.transports import transport
from fastjmix.config.tree import BucketPlace, DirectoryPlace, Method, Upstream

OPTIONS: Final = frozenset(
    {
        "max_concurrent",
        "max_bytes_per_sec",
        "schedule",
        "schedule_for",
        "schedule_zone",
        "retention_max_age_days",
    }
)
"""The options of a backend that have a meaning for each kind of target."""

_S3: Final[tuple[Method, ...]] = ("s3",)


def stored(
    references: References,
    entry: Entry,
    backend: Backend,
    of_target: Entry,
    target: DirectoryTarget | S3Target,
    limits: tuple[float, int],
) -> Upstream:
    """Returns the target of a backend. `limits` are its timeout_secs and max_retries."""
    _check_options(references, entry, backend, target)
    if isinstance(target, DirectoryTarget):
        path = Path(target.path)
        return Upstream(
            name=entry.name,
            url=path.as_uri(),
            timeout_secs=limits[0],
            max_retries=limits[1],
            ca_file=None,
            transfer_encoding="auto",
            require_matching_id=False,
            credentials=None,
            allowance=allowance(references, entry, backend.options),
            retention_secs=retention_secs(backend.options),
            place=DirectoryPlace(path, target.require_mount, int(target.file_mode, 8)),
        )
    return _bucket(references, entry, backend, of_target, target, limits)


def _check_options(
    references: References, entry: Entry, backend: Backend, target: DirectoryTarget | S3Target
) -> None:
    """Notes a fault for each key that only a JMIX server has, but for a default."""
    options, connection = backend.options, backend.connection
    plain, bare = type(options).empty(), type(connection).empty()
    names = type(options).model_fields.keys() - OPTIONS
    meant_nothing = [
        *(f"options.{one}" for one in names if getattr(options, one) != getattr(plain, one)),
        *(
            f"connection.{one}"
            for one in type(connection).model_fields
            if getattr(connection, one) != getattr(bare, one)
        ),
        *(["authentication"] if backend.authentication is not None else []),
    ]
    for key in sorted(meant_nothing):
        allowed = f'nothing: the target has type = "{target.type}", and says where and how'
        references.fault(entry, key, "a value", allowed)


def _bucket(
    references: References,
    entry: Entry,
    backend: Backend,
    of_target: Entry,
    target: S3Target,
    limits: tuple[float, int],
) -> Upstream:
    if importlib.util.find_spec("obstore") is None:
        allowed = "a target of another type, or the package obstore: pip install 'fastjmix[s3]'"
        references.fault(of_target, "type", '"s3", and obstore is not installed', allowed)
    presented = None
    if target.authentication is not None:
        presented = credentials(references, of_target, "authentication", target.authentication, _S3)
    clear = target.endpoint is not None and target.endpoint.startswith("http:")
    if clear and not target.path_style:
        allowed = "true, or an endpoint with https"
        references.fault(of_target, "path_style", shown(target.path_style), allowed)
    if clear and not is_loopback(urlsplit(target.endpoint or "").hostname or ""):
        warning = f"patients' data go unencrypted to {target.endpoint}"
        references.findings.warn(f"{of_target.path}: {warning}")
    return Upstream(
        name=entry.name,
        url=f"s3://{target.bucket}/{target.prefix}",
        timeout_secs=limits[0],
        max_retries=limits[1],
        ca_file=references.file(
            of_target, "connection.ca_cert_path", target.connection.ca_cert_path
        ),
        transfer_encoding="auto",
        require_matching_id=False,
        credentials=presented,
        transport=transport(references, (of_target, target.connection), None),
        allowance=allowance(references, entry, backend.options),
        retention_secs=retention_secs(backend.options),
        place=BucketPlace(
            target.bucket,
            target.prefix,
            target.region,
            target.endpoint,
            target.path_style,
            target.conditional,
        ),
    )
