"""The store's doors and lists: what is broken is refused, deleting, pages, health."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests.support.apis import LISTENER, UPSTREAM, Gateway
from tests.support.apis import running as api_running
from tests.support.encrypted import RECIPIENT, encrypted_members
from tests.support.envelopes import ID, IMAGE, STUDY, envelope, envelope_members, zipped
from tests.support.gateway import Store, running
from tests.support.sealed import sealed
from tests.support.stores import JSON, Client, left_behind, with_store

TOKEN = {"Authorization": "Bearer secret"}


def ids(count: int) -> list[str]:
    return [f"550e8400-e29b-41d4-a716-{number:012x}" for number in range(count)]


# -- broken on its way -----------------------------------------------------------------------------


def broken(content: dict[str, bytes], name: str, method: int) -> bytes:
    """Returns an archive in which one member's CRC-32 is not that of its data, in both headers."""
    data = bytearray(zipped(content, method))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        info = archive.getinfo(name)
    crc = info.CRC.to_bytes(4, "little")
    assert data.count(crc) == 2
    return bytes(data.replace(crc, bytes([crc[0] ^ 1]) + crc[1:]))


OTHERS = {"audit.json": b"[]", "payload/preview/1.png": b"picture", "notes.txt": b"a text"}
BROKEN = {
    f"{name}, {'stored' if method == zipfile.ZIP_STORED else 'deflated'}": (
        broken(envelope_members(ID) | OTHERS, name, method),
        name,
    )
    for name in (IMAGE, *OTHERS)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
} | {
    f"{name}, encrypted": (
        broken(encrypted_members() | {"notes.txt": b"a text"}, name, zipfile.ZIP_STORED),
        name,
    )
    for name in ("payload.encrypted", "notes.txt")
}


@pytest.mark.fault("S47")
@pytest.mark.parametrize("case", BROKEN)
def test_a_store_refuses_a_member_that_contradicts_its_crc(tmp_path: Path, case: str) -> None:
    data, name = BROKEN[case]

    async def test(client: Client) -> None:
        status, answer, _ = await client.post(data)
        assert status == 400
        assert name in answer["error"]
        assert "damaged" in answer["error"]
        assert (await client.ask("GET", f"/{ID}"))[0] == 404

    with_store(tmp_path, test, key=RECIPIENT)
    assert left_behind(tmp_path) == []
    assert list((tmp_path / "store").glob("*.*d*")) == []


@pytest.fixture
def passing_on(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway whose listener has an upstream."""
    with api_running(tmp_path, replace(LISTENER, upstreams=(UPSTREAM,))) as found:
        yield found


@pytest.mark.fault("S47")
@pytest.mark.parametrize("case", BROKEN)
def test_a_gateway_refuses_a_member_that_contradicts_its_crc(
    passing_on: Gateway, case: str
) -> None:
    data, name = BROKEN[case]
    answer = passing_on.post(data)
    assert answer.status == 400, answer.body
    assert name in answer.json["error"]
    assert list(passing_on.spool.building.iterdir()) == []
    assert list(passing_on.spool.outbox.iterdir()) == []


@pytest.mark.fault("F115")
@pytest.mark.parametrize("restarted", [False, True])
def test_an_envelope_that_rotted_is_no_reason_for_409(tmp_path: Path, restarted: bool) -> None:
    """Whoever hears 409 deletes its own copy: the stored one is read to its end first."""
    data = sealed(envelope_members(ID, image=b"image" * 100_000))
    path = tmp_path / "store" / f"{ID}.zip"

    async def stored(client: Client) -> None:
        assert (await client.post(data))[0] == 201
        rotten = bytearray(data)
        rotten[len(data) // 2] ^= 1
        path.write_bytes(rotten)
        if not restarted:
            await again(client)

    async def again(client: Client) -> None:
        assert (await client.post(data))[0] == 201
        assert (await client.ask("GET", f"/{ID}"))[1] == data
        assert (await client.post(data))[0] == 409
        assert [one.name for one in path.parent.glob("*.damaged")] == [f"{ID}.damaged"]

    with_store(tmp_path, stored)
    if restarted:
        with_store(tmp_path, again)


# -- deleting --------------------------------------------------------------------------------------


@pytest.mark.fault("S48")
def test_delete(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        for one in (ID, other := ids(1)[0]):
            assert (await client.post(envelope(one), **TOKEN))[0] == 201
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            assert (await client.ask("DELETE", f"/{ID}", headers=headers))[0] == 401
        assert (tmp_path / "store" / f"{ID}.zip").exists()
        _, _, found = await client.ask("OPTIONS", f"/{ID}", headers=TOKEN)
        assert "DELETE" in found["Allow"]
        status, body, _ = await client.ask("DELETE", f"/{ID.upper()}", headers=TOKEN)
        assert (status, body) == (204, b"")
        assert [one.name for one in (tmp_path / "store").glob("*.zip")] == [f"{other}.zip"]
        for method, path in (("GET", f"/{ID}"), ("GET", f"/{ID}/manifest"), ("DELETE", f"/{ID}")):
            assert (await client.ask(method, path, headers=TOKEN))[0] == 404
        _, listed, _ = await client.ask("GET", headers={**TOKEN, **JSON})
        assert [one["id"] for one in listed["jmixEnvelopes"]] == [other]
        assert (await client.post(envelope(ID), **TOKEN))[0] == 201  # the id is free
        for path in ("/.lock", "/..%2fsecret", "/incoming", "/nonsense"):
            assert (await client.ask("DELETE", path, headers=TOKEN))[0] == 404

    with_store(tmp_path, test, token="secret")

    async def after(client: Client) -> None:
        _, listed, _ = await client.ask("GET", headers=JSON)
        assert {one["id"] for one in listed["jmixEnvelopes"]} == {ID, ids(1)[0]}

    with_store(tmp_path, after)


@pytest.mark.fault("S48")
def test_without_a_token_nothing_is_deleted(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        assert (await client.post(envelope(ID)))[0] == 201
        status, answer, _ = await client.ask("DELETE", f"/{ID}")
        assert status == 403
        assert "token" in answer["error"]
        assert "DELETE" not in (await client.ask("OPTIONS", f"/{ID}"))[2]["Allow"]
        assert (await client.ask("GET", f"/{ID}"))[0] == 200
        assert (await client.ask("DELETE"))[0] == 405

    with_store(tmp_path, test, allow_unauthenticated=True)


@pytest.mark.fault("S48")
def test_delete_is_kept_over_a_kill(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    with running(Store(tmp_path, "--token-file", str(tmp_path / "token"))) as own:

        async def test() -> None:
            import aiohttp

            async with aiohttp.ClientSession(headers=TOKEN) as session:
                headers = {"Content-Type": "application/zip"}
                async with session.post(own.url, data=envelope(ID), headers=headers) as answer:
                    assert answer.status == 201
                async with session.delete(f"{own.url}/{ID}") as answer:
                    assert answer.status == 204
                own.child.kill()

        asyncio.run(test())
    assert list(own.directory.glob("*.zip")) == []


def test_an_envelope_that_is_being_fetched_is_deleted_and_fetched_whole(tmp_path: Path) -> None:
    data = envelope(ID, image=b"image" * 4_000_000)

    async def test(client: Client) -> None:
        assert (await client.post(io.BytesIO(data), **TOKEN))[0] == 201
        async with client.session.get(f"{client.url}/{ID}", headers=TOKEN) as answer:
            assert (await client.ask("DELETE", f"/{ID}", headers=TOKEN))[0] == 204
            assert await answer.read() == data

    with_store(tmp_path, test, token="secret")


# -- pages -----------------------------------------------------------------------------------------


async def pages(client: Client, query: str) -> list[list[str]]:
    """Ids of every page, by the cursor in the body; the Link header must say the same."""
    found, more = [], ""
    while True:
        _, listed, headers = await client.ask("GET", f"?{query}{more}", headers=JSON)
        found.append([one["id"] for one in listed["jmixEnvelopes"]])
        if "nextCursor" not in listed:
            assert "Link" not in headers
            return found
        more = f"&cursor={listed['nextCursor']}"
        url, _, relation = headers["Link"].partition("; ")
        assert relation == 'rel="next"'
        async with client.session.get(
            f"http://127.0.0.1:{client.port}{url.strip('<>')}", headers=JSON
        ) as answer:
            by_link = (await answer.json())["jmixEnvelopes"]
        _, by_cursor, _ = await client.ask("GET", f"?{query}{more}", headers=JSON)
        assert by_link == by_cursor["jmixEnvelopes"]


@pytest.mark.parametrize(("limit", "sizes"), [(2, [2, 2, 1]), (4, [4, 1]), (5, [5]), (6, [5])])
def test_a_list_in_pages(tmp_path: Path, limit: int, sizes: list[int]) -> None:
    async def test(client: Client) -> None:
        for one in ids(5):
            assert (await client.post(envelope(one)))[0] == 201
        assert (await client.post(envelope(ID, "1.9")))[0] == 201
        found = await pages(client, f"studyInstanceUid={STUDY}&limit={limit}")
        assert [len(one) for one in found] == sizes
        assert list(chain(*found)) == ids(5)[::-1]  # the newest first
        everything = await pages(client, f"limit={limit}")
        assert list(chain(*everything)) == [ID, *ids(5)[::-1]]

    with_store(tmp_path, test)


def test_pages_while_envelopes_come_and_go(tmp_path: Path) -> None:
    """Whatever is there from the first page to the last is listed once."""

    async def test(client: Client) -> None:
        old, new = ids(6), ids(8)[6:]
        for one in old:
            assert (await client.post(envelope(one), **TOKEN))[0] == 201
        headers = {**TOKEN, **JSON}
        _, first, _ = await client.ask("GET", "?limit=2", headers=headers)
        assert [one["id"] for one in first["jmixEnvelopes"]] == [old[5], old[4]]
        assert (await client.post(envelope(new[0]), **TOKEN))[0] == 201
        for gone in (old[4], old[3]):  # the cursor's own, and the next
            assert (await client.ask("DELETE", f"/{gone}", headers=TOKEN))[0] == 204
        _, second, _ = await client.ask(
            "GET", f"?limit=9&cursor={first['nextCursor']}", headers=headers
        )
        assert [one["id"] for one in second["jmixEnvelopes"]] == [old[2], old[1], old[0]]

    with_store(tmp_path, test, token="secret")


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=x",
        "limit=",
        "limit=1001",
        "limit=1&limit=2",
        "limit=%D9%A1",
        "cursor=",
        "cursor=x",
        f"cursor=1.{ID}x",
        f"cursor={'9' * 20}.{ID}",
        f"cursor=1.{ID}&cursor=2.{ID}",
    ],
)
def test_a_page_that_is_none(tmp_path: Path, query: str) -> None:
    async def test(client: Client) -> None:
        status, answer, _ = await client.ask("GET", f"?{query}", headers=JSON)
        assert status == 400
        assert query.partition("=")[0] in answer["error"]

    with_store(tmp_path, test)


def test_a_limit_asks_for_a_list_whatever_is_accepted(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        assert (await client.post(envelope(ID)))[0] == 201
        status, listed, _ = await client.ask("GET", "?limit=1")
        assert (status, [one["id"] for one in listed["jmixEnvelopes"]]) == (200, [ID])

    with_store(tmp_path, test)


# -- the page for a person -------------------------------------------------------------------------


async def html(client: Client, path: str = "/") -> tuple[int, str, Any]:
    url = f"http://127.0.0.1:{client.port}{path}"
    async with client.session.get(url, headers={"Accept": "text/html,*/*;q=0.8"}) as answer:
        return answer.status, await answer.text(), answer.headers


def test_the_list_page(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        assert "none" in (await html(client))[1]
        for one in ids(3):
            assert (await client.post(envelope(one)))[0] == 201
        status, text, headers = await html(client, "/?limit=2")
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        newest, second, oldest = ids(3)[::-1]
        assert f'href="/api/jmix/{newest}"' in text
        assert STUDY in text
        assert second in text
        assert oldest not in text
        later = text.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
        status, text, _ = await html(client, later)
        assert oldest in text
        assert 'rel="next"' not in text
        assert (await html(client, "/?studyInstanceUid=1.9"))[1].count("/api/jmix/") == 0

    with_store(tmp_path, test)


def test_the_list_page_asks_for_the_token(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        assert (await html(client))[0] == 401

    with_store(tmp_path, test, token="secret")


# -- health ----------------------------------------------------------------------------------------


def test_the_store_says_that_it_lives_without_a_token(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        url = f"http://127.0.0.1:{client.port}/healthz"
        async with client.session.get(url) as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "live"})
        async with client.session.head(url) as answer:
            assert answer.status == 200

    with_store(tmp_path, test, token="secret")
