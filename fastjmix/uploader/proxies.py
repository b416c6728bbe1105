"""Finds the proxy that the connections to a target go through.

Guaranteed: the environment's variables count for a target with use_environment_proxy only. They
are read when this module is imported, so that s3.py can take them out of the environment: its
library would follow them by itself.
"""

from __future__ import annotations

import base64
import os
import urllib.request
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from fastjmix.config import Upstream

_ENVIRONMENT: Final = dict(urllib.request.getproxies_environment())

_NAMES: Final = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class Proxy(NamedTuple):
    """An HTTP proxy: "http://host:port", and the user and password that it asks for."""

    url: str
    user: str | None = None
    password: str = ""

    def headers(self) -> dict[str, str]:
        """Returns the header fields that only the proxy gets (RFC 9110 §11.7.2)."""
        if self.user is None:
            return {}
        pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Proxy-Authorization": f"Basic {pair}"}

    def with_user(self) -> str:
        """Returns the URL with user and password in it, for a library that takes no other."""
        if self.user is None:
            return self.url
        from urllib.parse import quote

        parts = urlsplit(self.url)
        return f"{parts.scheme}://{quote(self.user, '')}:{quote(self.password, '')}@{parts.netloc}"


def proxy_of(upstream: Upstream, url: str) -> Proxy | None:
    """Returns the proxy of a target whose requests go to `url`; None: they go there directly."""
    transport = upstream.transport
    if transport.proxy is not None:
        given = transport.proxy_credentials
        if given is None:
            return Proxy(transport.proxy)
        return Proxy(transport.proxy, given.username.reveal(), given.password.reveal())
    if not transport.use_environment_proxy:
        return None
    parts = urlsplit(url)
    found = _ENVIRONMENT.get(parts.scheme) or _ENVIRONMENT.get("all")
    if not found or urllib.request.proxy_bypass(parts.netloc, _ENVIRONMENT):
        return None
    return parsed(found)


def parsed(text: str) -> Proxy:
    """Returns the proxy that a variable names: "http://user:password@host:port", or "host:port"."""
    parts = urlsplit(text if "://" in text else f"http://{text}")
    place = parts.netloc.rpartition("@")[2]
    user = unquote(parts.username) if parts.username is not None else None
    return Proxy(f"{parts.scheme}://{place}", user, unquote(parts.password or ""))


def forget_environment() -> None:
    """Takes the variables of proxies out of this process's environment."""
    for name in _NAMES:
        os.environ.pop(name, None)
        os.environ.pop(name.upper(), None)
