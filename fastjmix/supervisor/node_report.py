"""Says how the node is: in the log at the start, to the program that started it, and to the service
manager."""

from __future__ import annotations

import os
from typing import Any

from fastjmix import failpoints
from fastjmix._version import __version__
from fastjmix.config import Config
from fastjmix.ipc.metrics import Metrics
from fastjmix.log import Logger
from fastjmix.spool.conditions import storage_warnings
from fastjmix.supervisor.drain import Phase
from fastjmix.supervisor.generations import Generation
from fastjmix.supervisor.memory import Plan
from fastjmix.supervisor.sockets import listening_json, log_listening
from fastjmix.supervisor.systemd import InheritedSockets


def log_start(log: Logger, first: Generation, inherited: InheritedSockets, plan: Plan) -> None:
    """Logs how fastjmix starts."""
    config = first.config
    if config.ignored:
        log.info("configuration_ignored", keys=", ".join(config.ignored))
    for warning in (*config.warnings, *storage_warnings(config)):
        log.warning("configuration_warning", what=warning)
    if failpoints.ARMED:
        log.warning("failpoints_armed", points=failpoints.ARMED)
    log_listening(log, config, first.sockets)
    if unwanted := inherited.unwanted:
        hint = "no listener has this address: ListenStream= must name bind_address and port"
        log.warning("inherited_socket_unused", sockets=", ".join(unwanted), hint=hint)
    plan.announce(log)
    log.info("started", version=__version__, name=config.name, storage=str(config.storage_dir))


def whereabouts(first: Generation) -> dict[str, Any]:
    """Returns what `run --json` prints: as the log says it."""
    config = first.config
    return {
        "name": config.name,
        "version": __version__,
        "pid": os.getpid(),
        "storage": str(config.storage_dir),
        "listening": listening_json(config, first.sockets),
    }


def status_line(config: Config, phase: Phase | None, own: Metrics) -> str:
    """Returns the line that the service manager shows. `phase` is that of a drain; None for none.
    `own` is the supervisor's row."""
    match phase:
        case Phase.CLOSING:
            return f"Drains: {own.total('associations_open')} associations are open"
        case Phase.SEALING:
            return f"Drains: {own.total('envelopes_building')} envelopes to seal"
        case Phase.DELIVERING:
            return f"Drains: {own.total('outbox_envelopes')} envelopes to deliver"
    return f"Serves {len(config.dicom)} DICOM and {len(config.http)} HTTP listeners"
