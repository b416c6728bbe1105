"""The URL, limits and credentials of an upstream: the backend's, else its target's, else defaults.

URL          options.base_url, else connection (key by key over the target's), else target.url;
             then path_prefix, then /jmix
credentials  options.authentication_ref, else authentication, else the target's authentication
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from fastjmix.config.allowances import allowance, retention_secs
from fastjmix.config.binding import is_loopback
from fastjmix.config.credentials import credentials
from fastjmix.config.faults import shown
from fastjmix.config.references import References
from fastjmix.config.table_checks import Entry
from fastjmix.config.tables_backend import Backend
from fastjmix.config.tables_net import DirectoryTarget, S3Target, Target
from fastjmix.config.transports import transport
from fastjmix.config.tree import Credentials, Upstream

_T = TypeVar("_T")

_PORTS: Final = {"http": 80, "https": 443}
_DEFAULT_TIMEOUT_SECS: Final = 30.0
_DEFAULT_RETRIES: Final = 3


def upstream(references: References, entry: Entry) -> Upstream | None:
    """Returns the upstream of a [backends.*]; None where that, or a table it names, has faults."""
    backend = entry.value
    if not isinstance(backend, Backend):
        return None
    target_entry = None
    if backend.target_ref is not None:
        target_entry = references.find(entry, "target_ref", "targets", backend.target_ref)
        if target_entry is None:
            return None
    target = target_entry.value if target_entry is not None else Target()
    assert isinstance(target, Target | DirectoryTarget | S3Target)
    if not target.enabled:
        found = f'"{backend.target_ref}", which has enabled = false'
        references.fault(entry, "target_ref", found, "a target that is enabled")
    limits = (
        float(_either(backend.timeout_secs, target.timeout_secs, _DEFAULT_TIMEOUT_SECS)),
        _either(backend.max_retries, target.max_retries, _DEFAULT_RETRIES),
    )
    if not isinstance(target, Target):
        from fastjmix.config.places import stored  # only for such a target

        assert target_entry is not None
        return stored(references, entry, backend, target_entry, target, limits)
    return _server(references, entry, backend, target_entry, target, limits)


def _server(
    references: References,
    entry: Entry,
    backend: Backend,
    target_entry: Entry | None,
    target: Target,
    limits: tuple[float, int],
) -> Upstream | None:
    """Returns a JMIX server as the target of a backend; None where it has no URL (a fault)."""
    url = _url(references, entry, backend, target_entry, target)
    presented = _presented(references, entry, backend, target_entry, target)
    authority = _authority(references, entry, backend, target_entry, target)
    of_target = None if target_entry is None else (target_entry, target.connection)
    reached = transport(references, (entry, backend.connection), of_target)
    allowed = allowance(references, entry, backend.options)
    if url is None:
        return None
    _warn_of_clear_text(references, entry, url, presented is not None)
    return Upstream(
        name=entry.name,
        url=url,
        timeout_secs=limits[0],
        max_retries=limits[1],
        ca_file=authority,
        transfer_encoding=backend.options.transfer_encoding,
        require_matching_id=backend.options.require_matching_id,
        credentials=presented,
        transport=reached,
        allowance=allowed,
        retention_secs=retention_secs(backend.options),
    )


def _either(first: _T | None, second: _T | None, default: _T) -> _T:
    return first if first is not None else second if second is not None else default


# -- the URL ---------------------------------------------------------------------------------------


def post_path(base_path: str, path_prefix: str) -> str:
    """Returns the path that envelopes are posted to. Both parts are "", or begin with a slash and
    end with none.

    A path that already ends in /jmix is used as it is; no prefix means /api.
    """
    if (base_path + path_prefix).endswith("/jmix"):
        return base_path + path_prefix
    return f"{base_path}{path_prefix or '/api'}/jmix"


def _url(
    references: References,
    entry: Entry,
    backend: Backend,
    target_entry: Entry | None,
    target: Target,
) -> str | None:
    options = backend.options
    if options.base_url and options.url and options.base_url != options.url:
        references.fault(
            entry, "options.url", "another URL than base_url", "one of base_url and url"
        )
    if target_entry is not None and target.url and target.connection.host:
        references.fault(
            target_entry, "url", "an address beside connection.host", "one of url and connection"
        )
    base = options.base_url or options.url
    host = backend.connection.host or target.connection.host
    if base is None and host is None:
        base = target.url
    if base is not None:
        parts = urlsplit(base)
        path = "/".join(["", *(step for step in parts.path.split("/") if step)]).rstrip("/")
        return f"{parts.scheme}://{parts.netloc}{post_path(path, options.path_prefix)}"
    if host is None:
        hint = "; `targets` is not read" * ("targets" in backend.ignored)
        allowed = f"target_ref, connection.host or options.base_url: the upstream's address{hint}"
        references.fault(entry, "target_ref", "no address", allowed)
        return None
    return _composed(references, entry, backend, target_entry, target, host)


def _composed(
    references: References,
    entry: Entry,
    backend: Backend,
    target_entry: Entry | None,
    target: Target,
    host: str,
) -> str | None:
    own, of_target = backend.connection, target.connection
    given = [
        (entry, "connection.protocol", own.protocol),
        (target_entry, "connection.protocol", of_target.protocol),
        (target_entry, "protocol", target.protocol),
        (target_entry, "type", target.type),
    ]
    by, key, protocol = next((one for one in given if one[2]), (entry, "", "http"))
    if protocol not in _PORTS:
        references.fault(by or entry, key, f'"{protocol}"', 'for an upstream: "http" or "https"')
        return None
    port = _either(own.port, of_target.port, _PORTS[protocol])
    base_path = _either(own.base_path, of_target.base_path, "")
    named = f"[{host}]" if ":" in host else host
    return f"{protocol}://{named}:{port}{post_path(base_path, backend.options.path_prefix)}"


def _authority(
    references: References,
    entry: Entry,
    backend: Backend,
    target_entry: Entry | None,
    target: Target,
) -> Path | None:
    if backend.connection.ca_cert_path is None and target_entry is not None:
        entry, given = target_entry, target.connection.ca_cert_path
    else:
        given = backend.connection.ca_cert_path
    authority = references.file(entry, "connection.ca_cert_path", given)
    if authority is not None:
        from fastjmix.config import certificates  # ssl: only for TLS

        if not certificates.holds_certificates(authority):
            found = f"{shown(given)}: {certificates.NO_CERTIFICATE}"
            allowed = "a file of the authorities' certificates in PEM"
            references.fault(entry, "connection.ca_cert_path", found, allowed)
        elif warning := certificates.authorities_warning(authority):
            references.findings.warn(f"{entry.path}.connection.ca_cert_path: {warning}")
    return authority


def _warn_of_clear_text(
    references: References, entry: Entry, url: str, with_credentials: bool
) -> None:
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        sent = "patients' data and credentials" if with_credentials else "patients' data"
        references.findings.warn(f"{entry.path}: {sent} go unencrypted to {url}")


# -- credentials -----------------------------------------------------------------------------------


def _presented(
    references: References,
    entry: Entry,
    backend: Backend,
    target_entry: Entry | None,
    target: Target,
) -> Credentials | None:
    if backend.options.authentication_ref is not None:
        given = backend.options.authentication_ref
        return credentials(references, entry, "options.authentication_ref", given)
    if backend.authentication is not None:
        return credentials(references, entry, "authentication", backend.authentication)
    if target_entry is not None and target.authentication is not None:
        return credentials(references, target_entry, "authentication", target.authentication)
    return None
