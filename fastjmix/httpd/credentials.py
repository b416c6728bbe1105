"""Checks the credentials of a request (RFC 9110 §11.4), or its Host where none are configured.

A browser can be led to a name that resolves to this machine (DNS rebinding). It then sends requests
here on behalf of another site's page, but it names that site's host in Host.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Collection
from typing import Protocol

from aiohttp import web

from fastjmix.httpd.responses import HttpError


class Access(Protocol):
    """The access rule of a server."""

    def check(self, request: web.Request) -> None:
        """Raises HttpError for a request that may not be answered."""


class AccessCheck:
    """The access rule of a server: one header, or one of a few hosts.

    `header` is a name and its value, e.g. ("Authorization", "Bearer …"). With None, a request must
    name one of `hosts` or a loopback address in Host (None: any).
    """

    def __init__(
        self, header: tuple[str, str] | None, hosts: Collection[str] | None = None
    ) -> None:
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self._name, self._value = header or ("", "")
        self._scheme = self._value.partition(" ")[0] if self._is_authorization else "ApiKey"

    @property
    def _is_authorization(self) -> bool:
        return self._name.lower() == "authorization"

    def check(self, request: web.Request) -> None:
        """Compares in constant time. Raises HttpError 401 (§15.5.2), 421 (§15.5.20)."""
        if not self._name:
            self._check_host(request.headers.get("Host", ""))
            return
        given = request.headers.getall(self._name, [])
        if len(given) != 1 or not hmac.compare_digest(self._key(given[0]), self._key(self._value)):
            reason = f"credentials are missing or wrong: send the {self._name} header"
            challenge = f'{self._scheme} realm="fastjmix"'
            raise HttpError(401, reason, {"WWW-Authenticate": challenge})  # §11.6.1

    def _check_host(self, given: str) -> None:
        """Rejects a request for another authority, which is misdirected (§7.4).

        A request without Host is HTTP/1.0, and comes from no browser.
        """
        host = re.sub(r":\d*$", "", given.strip()).rstrip(".").lower()
        if self._hosts is None or not host or is_loopback(host) or host in self._hosts:
            return
        reason = "this host is not served here: see allowed_hosts, or configure credentials"
        raise HttpError(421, reason)

    def _key(self, value: str) -> bytes:
        """Returns what is compared: the scheme's name is case-insensitive (§11.1), the rest not."""
        if self._is_authorization:
            scheme, _, rest = value.partition(" ")
            value = f"{scheme.lower()} {rest.strip()}"
        return value.encode("utf-8", "surrogateescape")


def is_loopback(host: str) -> bool:
    """Returns whether a bind address stays within the machine.

    Only localhost does, of all names.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
