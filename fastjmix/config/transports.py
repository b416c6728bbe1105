"""How connections to a target are made: its proxy, our certificate, its pinned keys, its addresses.

Each key is the backend's, else its target's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fastjmix.config.credentials import credentials
from fastjmix.config.references import References
from fastjmix.config.table_checks import Entry
from fastjmix.config.tables_net import Connection, S3Connection
from fastjmix.config.tree import Method, Transport

Place = tuple[Entry, Connection | S3Connection]
"""A connection table, and the table that it stands in."""

_BASIC: Final[tuple[Method, ...]] = ("basic",)


def transport(references: References, own: Place, of_target: Place | None) -> Transport:
    """Returns the transport of a target."""

    def given(key: str) -> tuple[Entry, Any]:
        """Returns the value of a key, and the table that has it."""
        for entry, connection in (own, *([of_target] if of_target is not None else [])):
            value = getattr(connection, key, None)
            if value is not None:
                return entry, value
        return own[0], None

    _, proxy = given("proxy")
    by_environment, environment = given("use_environment_proxy")
    if proxy is not None and environment:
        allowed = "one of use_environment_proxy and proxy"
        references.fault(by_environment, "connection.use_environment_proxy", "true", allowed)
    entry, name = given("proxy_authentication")
    presented = None
    if name is not None:
        key = "connection.proxy_authentication"
        presented = credentials(references, entry, key, name, _BASIC)
        if proxy is None:
            references.fault(entry, key, "credentials, and no proxy", "`proxy` beside it")
    certificate, private = _pair(references, given)
    return Transport(
        proxy,
        presented,
        use_environment_proxy=bool(environment),
        cert_file=certificate,
        key_file=private,
        pins=tuple(given("pin_sha256")[1] or ()),
        ip=given("ip")[1] or "any",
    )


def _pair(
    references: References, given: Callable[[str], tuple[Entry, Any]]
) -> tuple[Path | None, Path | None]:
    """Returns our certificate and its key. A fault: one alone, or not a pair."""
    entry, named = given("client_cert_path")
    by_key, key = given("client_key_path")
    if (named is None) != (key is None):
        missing = "client_cert_path" if named is None else "client_key_path"
        allowed = "a path: client_cert_path and client_key_path belong together"
        references.fault(
            entry if named is not None else by_key, f"connection.{missing}", "nothing", allowed
        )
        return None, None
    certificate = references.file(entry, "connection.client_cert_path", named)
    private = references.file(by_key, "connection.client_key_path", key)
    if certificate is None or private is None:
        return None, None
    from fastjmix.config import certificates  # ssl: only for TLS

    wrong, found = certificates.pair_fault(certificate, private)
    if found:
        allowed = "a certificate and its key in PEM, without a password"
        path = certificate if wrong == "cert_path" else private
        references.fault(entry, f"connection.client_{wrong}", f"{path}: {found}", allowed)
    elif warning := certificates.chain_warning(certificate):
        references.findings.warn(f"{entry.path}.connection.client_cert_path: {warning}")
    return certificate, private
