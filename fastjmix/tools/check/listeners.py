"""Tries whether each listener's address is free and permitted, as the gateway will take it.

Guaranteed: a socket is bound with the gateway's own function and closed; it never listens, so that
nobody connects to it. A port that a running fastjmix with the same storage has is no fault.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Final

from fastjmix.config import Config
from fastjmix.errors import PlatformError
from fastjmix.spool import lock
from fastjmix.supervisor.sockets import bound
from fastjmix.tools.check import holders
from fastjmix.tools.check.finding import Finding, of_error

WHAT: Final = "port"


def listeners(config: Config) -> Iterator[Finding]:
    """Yields what was found of each listener's address."""
    running = lock.holder(config.storage_dir)
    for dicom in config.dicom:
        yield _address(dicom.host, dicom.port, f"DICOM endpoint {dicom.endpoint}", running)
    for http in config.http:
        yield _address(http.host, http.port, f"HTTP endpoint {http.endpoint}", running)


def _address(host: str, port: int, what: str, running: int | None) -> Finding:
    where = f"{host}:{port}, {what}"
    try:
        bound(host, port, what).close()
    except PlatformError as problem:
        number = getattr(problem.__cause__, "errno", None)
        if number == errno.EADDRINUSE:
            return _taken(port, where, running)
        if number == errno.EADDRNOTAVAIL:
            hint = "Set bind_address to one of this machine's addresses, or to 0.0.0.0."
            return Finding("fault", WHAT, where, "no address of this machine", hint)
        found = getattr(problem.__cause__, "strerror", None) or problem.message
        return Finding("fault", WHAT, where, found.lower(), problem.hint)
    except OSError as problem:  # no IPv6, no descriptor left
        failed = PlatformError(problem.strerror or str(problem), "Check the address.")
        return of_error(WHAT, where, failed)
    found = "free and permitted" if port else "the system will choose a port"
    return Finding("ok", WHAT, where, found)


def _taken(port: int, where: str, running: int | None) -> Finding:
    sockets = holders.listening(port)
    if running is not None and holders.has(running, sockets):
        found = f"held by the running fastjmix of this configuration (process {running})"
        return Finding("ok", WHAT, where, found)
    by = holders.named(sockets) or "another program"
    return Finding("fault", WHAT, where, f"held by {by}", "Stop that, or choose another port.")
