"""Tries out one upstream, step by step: its name, a connection, TLS, and a harmless request.

Guaranteed: a step that fails is the last one. Each has a time limit: STEP_SECS, or for the request
`timeout_secs` if that is less than ANSWER_SECS. TLS has the uploader's settings, and the request is
the uploader's own. No envelope is sent. A certificate is shown, too, when it is not trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit

from fastjmix.config import Upstream
from fastjmix.config.certificates import NOT_PINNED, client_context
from fastjmix.tools.check.answers import judged
from fastjmix.tools.check.certificate import certificate_in, shown
from fastjmix.tools.check.finding import Finding
from fastjmix.tools.check.limited import start
from fastjmix.tools.check.places import tried_out
from fastjmix.uploader.client import UpstreamClient, tls_problem
from fastjmix.uploader.connections import FAMILIES, context_of
from fastjmix.uploader.pace import TimeLimits
from fastjmix.uploader.proxies import proxy_of

STEP_SECS: Final = 5.0
"""Seconds for a name, a connection, or a handshake: a network that needs more delivers nothing."""

ANSWER_SECS: Final = 15.0
"""Seconds for an answer at most, whatever timeout_secs allows for a large envelope."""

ADDRESSES_MAX: Final = 16
"""Addresses of a name that are tried."""

MANIFEST_BYTES_MAX: Final = 64 * 1024

Address = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Reached:
    """An address that took a connection."""

    host: str
    port: int
    address: Address


async def upstream(one: Upstream, where: str) -> AsyncIterator[Finding]:
    """Yields what was found of an upstream, up to the first step that fails."""
    if one.place is not None:
        yield await tried_out(one, one.place, where)
        return
    parts = urlsplit(one.url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    proxy = proxy_of(one, one.url)
    if proxy is not None:
        host, port = urlsplit(proxy.url).hostname or "", urlsplit(proxy.url).port or 80
        yield Finding("ok", "proxy", where, f"is reached through {proxy.url}")
    family = FAMILIES[one.transport.ip]
    found, addresses = await _names(host, port, where, family)
    yield found
    if not addresses:
        return
    found, reached = await _connections(host, port, where, addresses)
    yield found
    if reached is None:
        return
    if parts.scheme == "https" and proxy is None:
        found = await _handshake(one, reached, where)
        yield found
        if found.state == "fault":
            return
    yield await _request(one, where)


async def _names(
    host: str, port: int, where: str, family: socket.AddressFamily
) -> tuple[Finding, list[Address]]:
    looked = start(lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM))
    try:
        entries = await asyncio.wait_for(asyncio.wrap_future(looked), STEP_SECS)
    except TimeoutError:
        hint = "Does the name server answer? See /etc/resolv.conf."
        return Finding("fault", "DNS", where, f"{host}: no answer in {STEP_SECS:g} s", hint), []
    except (OSError, UnicodeError) as problem:
        words = getattr(problem, "strerror", None) or str(problem)
        hint = "Is the host spelled right, and does this machine's name server know it?"
        return Finding("fault", "DNS", where, f"{host}: {words.lower()}", hint), []
    addresses = list(dict.fromkeys((*entry[:1], *entry[4]) for entry in entries))[:ADDRESSES_MAX]
    text = ", ".join(str(one[1]) for one in addresses)
    return Finding("ok", "DNS", where, f"{host} is {text}"), addresses


async def _connections(
    host: str, port: int, where: str, addresses: Sequence[Address]
) -> tuple[Finding, Reached | None]:
    """Connects to each address, all at once."""
    started = time.monotonic()
    problems = await asyncio.gather(*(_connect(*one[:3]) for one in addresses))
    millis = 1000 * (time.monotonic() - started)
    failed = [f"{one[1]}: {why}" for one, why in zip(addresses, problems, strict=True) if why]
    good = [one for one, why in zip(addresses, problems, strict=True) if not why]
    text = "; ".join(failed)
    if not good:
        hint = "Is the upstream running, the port right, and does a firewall let this node through?"
        return Finding("fault", "TCP", where, f"port {port}: {text}", hint), None
    found = f"port {port} takes connections ({millis:.0f} ms)"
    reached = Reached(host, port, good[0])
    if failed:
        hint = "An upload may wait for that address first: take it out of the name server."
        return Finding("warning", "TCP", where, f"{found}, but not at {text}", hint), reached
    return Finding("ok", "TCP", where, found), reached


async def _connect(family: int, host: str, port: int) -> str:
    """Connects and closes. Returns why that failed; "" if it did not."""
    try:
        async with asyncio.timeout(STEP_SECS):
            _, writer = await asyncio.open_connection(host, port, family=family)
    except TimeoutError:
        return f"no answer in {STEP_SECS:g} s"
    except OSError as problem:
        return (os.strerror(problem.errno) if problem.errno else str(problem)).lower()
    writer.transport.abort()
    return ""


# -- TLS -------------------------------------------------------------------------------------------


async def _handshake(one: Upstream, reached: Reached, where: str) -> Finding:
    """Shakes hands as an upload would."""
    try:
        spoken = await _spoken(reached, context_of(one))
    except TimeoutError:
        hint = "Is it an HTTPS server? Something took the connection, and says nothing."
        return Finding("fault", "TLS", where, f"no handshake in {STEP_SECS:g} s", hint)
    except ssl.SSLCertVerificationError as problem:
        return await _untrusted(one, reached, where, problem)
    except ssl.SSLError as problem:
        words = tls_problem(problem)
        hint = 'Set protocol = "http", or the port of HTTPS.' if "not TLS" in words else ""
        return Finding("fault", "TLS", where, words, hint)
    except OSError as problem:
        words = (problem.strerror or "the connection was closed in the handshake").lower()
        hint = "Is it an HTTPS server, and does it speak TLS 1.2 or later?"
        return Finding("fault", "TLS", where, words, hint)
    return shown(where, spoken.version() or "TLS", certificate_in(spoken))


async def _spoken(reached: Reached, context: ssl.SSLContext) -> ssl.SSLObject:
    """Returns the TLS object of a handshake that succeeded; its connection is closed.

    Raises TimeoutError, OSError (ssl.SSLError is one).
    """
    family, host, port, *_ = reached.address
    async with asyncio.timeout(STEP_SECS):
        _, writer = await asyncio.open_connection(
            host, port, family=family, ssl=context, server_hostname=reached.host
        )
    spoken: ssl.SSLObject = writer.get_extra_info("ssl_object")
    writer.transport.abort()
    return spoken


async def _untrusted(
    one: Upstream, reached: Reached, where: str, problem: ssl.SSLCertVerificationError
) -> Finding:
    """Returns why a certificate is not trusted, with what it says; nothing else is sent there."""
    context = client_context(one.ca_file)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    said = ""
    with contextlib.suppress(OSError):
        said = f" ({certificate_in(await _spoken(reached, context))})"
    found = f"not trusted: {problem.verify_message}{said}"
    return Finding("fault", "TLS", where, found, _distrust(problem.verify_code, one))


def _distrust(code: int, one: Upstream) -> str:
    """Returns what to do about a verification error (OpenSSL's x509_vfy.h)."""
    if code == NOT_PINNED:
        return "Is it the upstream's new key? Its operator knows; then put it into pin_sha256."
    if code == 9:
        return "Is this machine's clock right?"
    if code == 10:
        return "The upstream's operator must renew it. Is this machine's clock right?"
    if code in (62, 64):
        return "connection.host must be a name that the certificate has."
    if one.ca_file is not None:
        return f"The authority that signed it must be in {one.ca_file}."
    return "Name the file of the authority that signed it in connection.ca_cert_path."


# -- the request -----------------------------------------------------------------------------------


async def _request(one: Upstream, where: str) -> Finding:
    """Asks for the manifest of an envelope that nobody has."""
    secs = min(one.timeout_secs, ANSWER_SECS)
    limits = TimeLimits(connect=STEP_SECS, answer=STEP_SECS)
    client = UpstreamClient(replace(one, timeout_secs=secs), limits, connections=1)
    try:
        return judged(one, where, await client.manifest(str(uuid.uuid4()), MANIFEST_BYTES_MAX))
    finally:
        await client.close()
