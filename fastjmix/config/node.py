"""The settings of the whole node: its name, its log, its storage, its processes.

They are in tables that stand once: [proxy], [logging], [storage], [fastjmix], [alerts]. One that is
missing, or has faults, is taken as if it were empty.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TypeVar

from fastjmix.config import tree
from fastjmix.config.declare import Table
from fastjmix.config.references import References
from fastjmix.config.strings import SECS_A_DAY
from fastjmix.config.tables_node import (
    DEFAULT_STORAGE,
    Alerts,
    Fastjmix,
    Logging,
    Proxy,
    Storage,
    StorageOptions,
)

_T = TypeVar("_T", bound=Table)


def _single(references: References, family: str, model: type[_T]) -> _T:
    entry = references.tables.family(family).get("")
    value = entry.value if entry is not None else None
    return value if isinstance(value, model) else model.empty()


def name(references: References) -> str:
    """Returns this instance's name; "", and a fault, where it has none."""
    proxy = _single(references, "proxy", Proxy)
    found = proxy.name or proxy.id
    entry = references.tables.family("proxy").get("")
    if not found and (entry is None or entry.value is not None):
        allowed = "the name of this instance: name, or id"
        main = references.tables.main
        references.findings.fault(main, "proxy", "name", "nothing", allowed)
    return found or ""


def log_settings(references: References) -> tree.LogSettings:
    """Returns the settings of the log. A fault: log_to_file without a path."""
    logging = _single(references, "logging", Logging)
    level = logging.log_level or _single(references, "proxy", Proxy).log_level or "info"
    if logging.log_to_file and logging.log_file_path is None:
        allowed = "a path, because log_to_file is true"
        main = references.tables.main
        references.findings.fault(main, "logging", "log_file_path", "nothing", allowed)
    path = logging.log_file_path if logging.log_to_file else None
    file = Path(path).absolute() if path is not None else None
    return tree.LogSettings(level, file, logging.format, logging.study_uids)


def storage(references: References) -> StorageOptions:
    """Returns the storage's options. A fault: the hard reserve is larger than the soft one."""
    options = _single(references, "storage", Storage).options
    soft, hard = options.soft_reserve_bytes, options.hard_reserve_bytes
    if soft is not None and hard is not None and hard > soft:
        allowed = f"at most soft_reserve_bytes, {soft}"
        main, table = references.tables.main, "storage.options"
        references.findings.fault(main, table, "hard_reserve_bytes", str(hard), allowed)
    return options


def creates_storage(options: StorageOptions) -> bool | None:
    """Returns whether the storage directory is made; None: where that harms nothing."""
    is_default = Path(options.path) == Path(DEFAULT_STORAGE)
    return True if options.create is None and is_default else options.create


def runtime(references: References) -> tree.Runtime:
    """Returns the processes, memory and time limits of [fastjmix]."""
    given = _single(references, "fastjmix", Fastjmix)
    age, size = given.retention.max_age_days, given.retention.max_bytes
    return tree.Runtime(
        receivers=given.receivers,
        packers=given.packers or max(1, _processors() // 2),
        lane_bytes=given.lane_bytes,
        grace_secs=float(given.grace_secs),
        drain_secs=float(given.drain_secs),
        retention_secs=None if math.isinf(age) else float(age * SECS_A_DAY),
        retention_bytes=None if math.isinf(size) else int(size),
        queue_alarm_secs=given.queue_alarm_secs,
    )


def ledger(references: References) -> tree.LedgerSettings:
    """Returns the bounds of the ledger."""
    given = _single(references, "fastjmix", Fastjmix).ledger
    age, size = given.max_age_days, given.max_bytes
    return tree.LedgerSettings(
        max_age_secs=None if math.isinf(age) else float(age * SECS_A_DAY),
        max_bytes=None if math.isinf(size) else int(size),
        patient_data=given.patient_data,
    )


def alerts(references: References) -> tree.AlertSettings:
    """Returns where alerts are posted."""
    given = _single(references, "alerts", Alerts)
    url = tree.Secret(given.webhook_url or "")
    return tree.AlertSettings(url, given.format, given.every_secs, given.timeout_secs)


def _processors() -> int:
    """Returns how many processors this process may use: where the kernel limits a container by
    affinity, its share."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
