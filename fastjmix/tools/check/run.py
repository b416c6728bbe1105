"""Tries everything out, side by side: each upstream, the storage, and this machine.

Guaranteed: all of it ends within the limits of its steps, whatever hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Final
from urllib.parse import urlsplit

from fastjmix.config import Config, Upstream
from fastjmix.errors import PlatformError
from fastjmix.spool import Remembered
from fastjmix.supervisor import memory
from fastjmix.tools.check import chunked
from fastjmix.tools.check.finding import Finding, of_error
from fastjmix.tools.check.keys import keys
from fastjmix.tools.check.limited import start
from fastjmix.tools.check.listeners import listeners
from fastjmix.tools.check.storage import storage
from fastjmix.tools.check.upstream import upstream
from fastjmix.uploader.upstream_memory import FACTS_FILE

STORAGE_SECS: Final = 15.0
"""Seconds for all that is tried of the storage: a disk that takes longer takes no images."""

Facts = dict[str, dict[str, Any]]


def run(config: Config, *, probe_chunked: bool = False) -> list[Finding]:
    """Tries out a configuration, with its secrets. Returns what was found, in a fixed order.

    `probe_chunked`: each upstream is sent three bodies that are no envelope (chunked.py).
    """
    tried: list[Finding] = []
    stored = start(lambda: _gathered(tried, storage(config)))
    held = [*listeners(config), *keys(config)]
    known = start(lambda: Remembered(config.storage_dir / FACTS_FILE).load())
    there = asyncio.run(_upstreams(config, known, probe_chunked=probe_chunked))
    try:
        stored.result(STORAGE_SECS)
    except TimeoutError:
        hint = "Does the disk, or the server that it is on, answer? See the kernel's log."
        found = f"no answer in {STORAGE_SECS:g} s"
        tried = [*tried, Finding("fault", "storage", str(config.storage_dir), found, hint)]
    others = [*held, *tried, *there]
    return [*_settings(config, others), *others]


def _gathered(into: list[Finding], found: Iterable[Finding]) -> None:
    """Keeps what was found before a step hangs."""
    for one in found:
        into.append(one)


def _settings(config: Config, others: Iterable[Finding]) -> Iterator[Finding]:
    """Yields the warnings of the configuration itself, those left out that another finding has, and
    how much memory there is."""
    where = str(config.source)
    yield Finding("ok", "configuration", where, "can be used")
    for warning in config.warnings:
        if any(one.found in warning for one in others if one.state != "ok"):
            continue
        yield Finding("warning", "configuration", where, warning)
    try:
        yield Finding("ok", "memory", "", str(memory.plan(config)))
    except PlatformError as problem:  # of this shell: the service may be under another limit
        yield of_error("memory", "", problem)


async def _upstreams(config: Config, known: Future[Facts], *, probe_chunked: bool) -> list[Finding]:
    try:
        facts: Facts = await asyncio.wait_for(asyncio.wrap_future(known), STORAGE_SECS)
    except TimeoutError:
        facts = {}
    found = await asyncio.gather(
        *(
            _upstream(one, ways, facts, probe_chunked=probe_chunked)
            for one, ways in _ways(config).items()
        )
    )
    return [finding for group in found for finding in group]


async def _upstream(
    one: Upstream, ways: Iterable[str], facts: Facts, *, probe_chunked: bool
) -> list[Finding]:
    where = f"{one.name} ({_address(one)})"
    found = [Finding("ok", "upstream", where, f"is that of {', '.join(ways)}")]
    found += [finding async for finding in upstream(one, where)]
    if found[-1].state == "fault" or one.place is not None:
        return found
    if probe_chunked:
        return [*found, await chunked.probed(one, where)]
    return [*found, chunked.remembered(one, where, facts.get(one.url))]


def _ways(config: Config) -> dict[Upstream, list[str]]:
    """Returns each upstream once, with the pipelines that lead to it."""
    found: dict[Upstream, list[str]] = {}
    for listener in config.listeners:
        for one in listener.every_upstream:
            if listener.pipeline not in found.setdefault(one, []):
                found[one].append(listener.pipeline)
    return found


def _address(one: Upstream) -> str:
    """Returns the URL without user and password."""
    if one.place is not None:
        return one.url
    parts = urlsplit(one.url)
    port = f":{parts.port}" if parts.port is not None else ""
    host = parts.hostname or ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{parts.path}"
