"""fastjmix check --live: directories, buckets, and upstreams behind proxies and pinned keys."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastjmix.config import Upstream
from fastjmix.config.tree import Transport
from fastjmix.tools.check import places
from fastjmix.tools.check import upstream as there
from fastjmix.tools.check.finding import Finding
from tests.support.disks import Disk, Memory, as_root
from tests.support.forward_proxies import ForwardProxy
from tests.support.nodes import MEGABYTE, to
from tests.support.places import S3Service, names, to_bucket, to_directory
from tests.support.upstreams import Upstream as Server
from tests.support.upstreams import authority


async def of(one: Upstream) -> list[Finding]:
    return [finding async for finding in there.upstream(one, "u")]


def only(one: Upstream) -> Finding:
    (found,) = asyncio.run(of(one))
    return found


# -- directories -----------------------------------------------------------------------------------


def test_a_directory_that_can_be_written(tmp_path: Path) -> None:
    found = only(to_directory(tmp_path))
    assert (found.state, found.what) == ("ok", "directory")
    assert "GiB are free" in found.found
    assert names(tmp_path) == set()


def test_directories_that_cannot_be_written(tmp_path: Path) -> None:
    missing = only(to_directory(tmp_path / "none"))
    assert missing.state == "fault"
    assert "is it mounted?" in missing.found
    bare = only(to_directory(tmp_path, require_mount=True))
    assert bare.state == "fault"
    assert "nothing is mounted there" in bare.found
    disk = Memory(tmp_path / "small", MEGABYTE)
    try:
        assert only(to_directory(disk.at, require_mount=True)).state == "ok"
        disk.remount("ro")
        found = only(to_directory(disk.at))
        assert found.state == "fault"
        assert "may not be written" in found.found
    finally:
        disk.close()


def test_a_share_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "ANSWER_SECS", 0.2)
    disk = Disk(tmp_path / "share", "ext4")
    try:
        as_root("fsfreeze", "-f", disk.at)
        try:
            found = only(to_directory(disk.at))
        finally:
            as_root("fsfreeze", "-u", disk.at)
        assert found.state == "fault"
        assert "no answer" in found.found
    finally:
        disk.close()


# -- buckets ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service() -> Iterator[S3Service]:
    made = S3Service()
    yield made
    made.close()


def test_buckets(service: S3Service) -> None:
    bucket = service.make_bucket()
    assert only(to_bucket(service.url, bucket)).state == "ok"
    assert service.names(bucket) == []
    missing = only(to_bucket(service.url, "not-there"))
    assert (missing.state, missing.what) == ("fault", "bucket")
    assert missing.found == "404: the service has no such bucket"
    down = only(to_bucket("http://127.0.0.1:9", "b"))
    assert down.state == "fault"
    assert "no connection" in down.found


# -- transports ------------------------------------------------------------------------------------


def test_an_upstream_behind_a_proxy(tmp_path: Path) -> None:
    ca_file, context = authority(tmp_path)
    proxy = ForwardProxy(tmp_path / "proxy")
    try:

        async def test(url: str) -> list[Finding]:
            transport = Transport(proxy=proxy.url)
            async with Server().open(context) as store:
                return await of(to(url or store.url, ca_file=ca_file, transport=transport))

        found = asyncio.run(test(""))
        assert [(one.what, one.state) for one in found] == [
            ("proxy", "ok"),
            ("DNS", "ok"),
            ("TCP", "ok"),
            ("upstream", "ok"),
        ]
        assert proxy.url in found[0].found
        beyond = asyncio.run(test("https://127.0.0.1:9/api/jmix"))[-1]
        assert beyond.state == "fault"
        assert "the proxy answers 5" in beyond.found
    finally:
        proxy.close()


def test_a_key_that_is_not_pinned(tmp_path: Path) -> None:
    ca_file, context = authority(tmp_path)
    pins = ("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",)

    async def test() -> list[Finding]:
        async with Server().open(context) as store:
            found = await of(to(store.url, ca_file=ca_file, transport=Transport(pins=pins)))
            await asyncio.sleep(0.2)  # the server's end of what was broken off: aiohttp shows none
            return found

    found = asyncio.run(test())[-1]
    assert (found.what, found.state) == ("TLS", "fault")
    assert "and not pinned" in found.found
    assert "pin_sha256" in found.what_to_do


def test_no_address_of_that_kind() -> None:
    found = asyncio.run(of(to("http://127.0.0.1:9/x", transport=Transport(ip="6"))))[-1]
    assert (found.what, found.state) == ("DNS", "fault")
