"""The credentials that a table refers to by name."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from fastjmix.config.references import References
from fastjmix.config.table_checks import Entry
from fastjmix.config.tables_net import Authentication, AuthenticationOptions
from fastjmix.config.tree import Credentials, Method, Secret

IN_A_HEADER: Final[tuple[Method, ...]] = ("bearer", "basic", "api_key")
"""Methods whose credentials are one field of an HTTP request."""

_REQUIRED: Final[dict[Method, tuple[str, ...]]] = {
    "bearer": ("token",),
    "basic": ("username", "password"),
    "api_key": ("api_key",),
    "s3": ("access_key_id", "secret_access_key"),
}


def credentials(
    references: References,
    by: Entry,
    key: str,
    name: str,
    methods: Collection[Method] = IN_A_HEADER,
) -> Credentials | None:
    """Returns the credentials of the [authentications.*] that `key` of `by` names; None for method
    "none", and (with a fault) for one that cannot be used there: `methods` can."""
    entry = references.find(by, key, "authentications", name)
    if entry is None or not isinstance(entry.value, Authentication):
        return None
    method = entry.value.method
    if method == "none":
        return None
    if method == "jwt" or method == "mutual_tls" or method == "custom" or method not in methods:
        words = ", ".join(f'"{one}"' for one in methods)
        allowed = f'one whose method is {words} or "none"'
        references.fault(by, key, f'"{name}", whose method is "{method}"', allowed)
        return None
    options = entry.value.options
    for needed in _REQUIRED[method]:
        if getattr(options, needed) is None:
            needs = " and ".join(_REQUIRED[method])
            allowed = f'a string: method "{method}" needs {needs}, here or in files: {needed}_file'
            references.fault(entry, f"options.{needed}", "nothing", allowed)
    return _credentials(method, options)


def _credentials(method: Method, options: AuthenticationOptions) -> Credentials:
    if method == "bearer":
        return Credentials(method, token=Secret(options.token or ""))
    if method == "basic":
        return Credentials(
            method,
            username=Secret(options.username or ""),
            password=Secret(options.password or ""),
        )
    if method == "s3":
        return Credentials(
            method,
            username=Secret(options.access_key_id or ""),
            password=Secret(options.secret_access_key or ""),
            token=Secret(options.session_token or ""),
        )
    return Credentials(
        method,
        api_key=Secret(options.api_key or ""),
        header_name=options.header_name or "X-API-Key",
    )
