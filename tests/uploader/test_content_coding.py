"""Row F82: a 2xx although the body was not read. Real servers that read Content-Length only."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastjmix.uploader.retry import Backoff
from fastjmix.uploader.upstream_facts import UNCLEAR_MAX
from tests.support.nightly import by_form
from tests.support.nodes import FAST, Node, node, run, to, until
from tests.support.upstreams import (
    Manner,
    Reply,
    Small,
    names_it,
    names_its_own,
    names_the_last,
    refuses_the_empty,
    says_created,
    says_ok,
)

ONE = replace(FAST, at_once=1)


async def deliver(one: Node, count: int, before: int = 0) -> list[str]:
    """Delivers one after the other, so that each one's result is known before the next."""
    made = []
    for n in range(count):
        made.append(one.seal())
        await one.left(before + n + 1)
    return made


def read_whole(server: Small, one: Node, envelope_id: str) -> bool:
    """Returns whether the server has read all of an envelope in sent/ at least once."""
    digest = hashlib.sha256(one.spool.path("sent", envelope_id).read_bytes()).hexdigest()
    return digest in {seen.sha256 for seen in server.seen}


UNREAD: dict[str, Manner] = {
    "its own id": names_its_own,
    "created": says_created,
    "ok": says_ok,
    "an id from nowhere": names_it,
    "the last id": names_the_last,
    **{f"refuses with {n}": refuses_the_empty(n) for n in (400, 403, 404, 409, 411, 415, 422, 500)},
    "refuses with 501": refuses_the_empty(501),
    "asks to sign in": refuses_the_empty(401),
    "is busy": refuses_the_empty(503),
}


@pytest.mark.fault("F82")
@pytest.mark.parametrize("manner", UNREAD.values(), ids=UNREAD)
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_a_body_that_was_not_read_is_no_delivery(
    tmp_path: Path, manner: Manner, version: str
) -> None:
    server = Small(manner, version=version)

    async def test() -> None:
        with server.open() as url:
            async with node(tmp_path, to(url), ONE) as one:
                made = await deliver(one, 6)
                assert [where for where, _ in one.spool.moves] == ["sent"] * 6
                assert all(read_whole(server, one, each) for each in made)
                assert server.codings()[0] == "length"
                # The trial, and no more: each costs the upstream an entry that it cannot read.
                assert server.codings().count("chunked") <= 1
                sent = sum(one.receipt(each)["attempts"] for each in made)
                assert sent == len(server.seen)

    run(test)


@pytest.mark.fault("F82")
def test_an_upstream_that_reads_chunked_bodies_proves_it_and_gets_them(tmp_path: Path) -> None:
    server = Small(names_it, chunked=True)

    async def test() -> None:
        with server.open() as url:
            async with node(tmp_path, to(url), ONE) as one:
                await deliver(one, 4)
                assert server.codings() == ["length", "chunked", "chunked", "chunked"]
                assert {one.receipt(i)["attempts"] for _, i in one.spool.moves} == {1}

    run(test)


@pytest.mark.fault("F82")
def test_a_manifest_that_is_equal_proves_a_trial(tmp_path: Path) -> None:
    """The answer to a chunked body names nothing, and the upstream's copy is fetched."""
    server = Small(names_it, chunked=True)

    async def test() -> None:
        with server.open() as url:
            async with node(tmp_path, to(url), ONE) as one:
                await deliver(one, 1)
                server.manner = says_created
                made = await deliver(one, 2, 1)
                assert server.codings() == ["length", "chunked", "chunked"]
                assert all(one.receipt(each)["verified"] for each in made)

    run(test)


@pytest.mark.fault("F82")
def test_a_proof_is_lost_when_the_upstream_reads_bodies_otherwise(tmp_path: Path) -> None:
    server = Small(names_it, chunked=True)

    async def test() -> None:
        with server.open() as url:
            async with node(tmp_path, to(url), ONE) as one:
                made = await deliver(one, 3)
                server.chunked = False  # another server behind the same address
                made += await deliver(one, 3, 3)
                chunked = ["length", "chunked", "chunked", "chunked"]
                assert server.codings() == [*chunked, "length", "length", "length"]
                assert all(read_whole(server, one, each) for each in made)

    run(test)


@pytest.mark.fault("F82")
def test_what_was_learned_survives_a_restart(tmp_path: Path) -> None:
    """A WSGI upstream gets no empty body at each start, and a proof stays one."""
    for name, chunked in (("small", False), ("full", True)):
        server = Small(names_it, chunked=chunked)
        root = tmp_path / name

        async def test(server: Small = server, root: Path = root) -> None:
            with server.open() as url:
                for _ in range(3):
                    async with node(root, to(url), ONE) as one:
                        await deliver(one, 3)

        run(test)
        first = ["length", "chunked", "chunked"] if chunked else ["length", "chunked", "length"]
        later = ["length", "chunked", "chunked"] if chunked else ["length"] * 3
        more = [] if chunked else ["length"]
        assert server.codings() == [*first, *more, *later, *later]


@pytest.mark.fault("F82")
def test_what_cannot_be_remembered_delivers_all_the_same(tmp_path: Path) -> None:
    server = Small(names_it, chunked=True)
    (tmp_path / "upstreams.json").mkdir()

    async def test() -> None:
        with server.open() as url:
            async with node(tmp_path, to(url), ONE) as one:
                await deliver(one, 3)
                assert one.lines("upstream_facts_not_kept")

    run(test)
    assert not list((tmp_path / "upstreams.json").iterdir())


@pytest.mark.fault("F82")
def test_a_coding_by_name_is_kept_to(tmp_path: Path) -> None:
    """With "chunked" in the configuration, nothing is sent again by its length."""
    server = Small(refuses_the_empty(400))

    async def test() -> None:
        with server.open() as url:
            async with node(tmp_path, to(url, transfer_encoding="chunked"), ONE) as one:
                envelope_id = one.seal()
                assert await one.left() == [("rejected", envelope_id)]
                assert set(server.codings()) == {"chunked"}

    run(test)


class Erratic(Small):
    """A server that treats each POST in another way, from a seed.

    It reads the body by its length or in chunks, or breaks off within it; names its id, another,
    none; refuses it; answers as HTTP/1.0.

    A body with Content-Length is read whole before a 2xx. `whole` holds digests of what it read.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(self.any)
        self.chance = random.Random(seed)

    def any(self, body: bytes, envelope_id: str | None) -> Reply:
        honest: list[Callable[[bytes, str | None], Reply]] = [names_it] * 4
        honest += [names_its_own, says_created, says_ok, names_the_last]
        if self.chance.random() < 0.7:
            return self.chance.choice(honest)(body, envelope_id)
        statuses = (301, 400, 401, 403, 404, 409, 411, 415, 422, 423, 500, 501, 503)
        return self.chance.choice(statuses), self.chance.choice((b"", b"{}", b"<html>"))

    def take(self, request: Any) -> Reply:
        self.chunked = self.chance.random() < 0.5
        request.protocol_version = self.chance.choice(("HTTP/1.1", "HTTP/1.1", "HTTP/1.0"))
        if self.chance.random() < 0.1:
            request.rfile.read(self.chance.randrange(200))
            reset = struct.pack("ii", 1, 0)
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            request.connection.close()
            raise ConnectionResetError
        return super().take(request)


@pytest.mark.fault("F82")
@pytest.mark.parametrize("coding", ["auto", "content-length"])
@pytest.mark.parametrize("seed", range(by_form(12, 200)))
def test_whatever_an_upstream_does_what_counts_as_delivered_it_has_read(
    tmp_path: Path, seed: int, coding: str
) -> None:
    """Property: sent/ holds no envelope that the upstream has not read to its last byte."""
    server = Erratic(seed)
    count = 16

    async def test() -> None:
        pace = replace(FAST, hold_secs=0.01, backoff=Backoff(base=0.001, cap=0.01))
        with server.open() as url:
            async with node(tmp_path, to(url, transfer_encoding=coding), pace) as one:
                for _ in range(count):
                    one.seal()
                await one.left(count)
                sent = [each for where, each in one.spool.moves if where == "sent"]
                assert sent
                assert all(read_whole(server, one, each) for each in sent)
                for where, each in one.spool.moves:
                    assert where in ("sent", "rejected")
                    if where == "rejected":
                        assert one.refusal(each)["status"] >= 400

    run(test)


@pytest.mark.fault("F82")
@pytest.mark.parametrize("breaks", [1, UNCLEAR_MAX])
def test_chunked_bodies_that_break_off_again_and_again_lose_the_proof(
    tmp_path: Path, breaks: int
) -> None:
    server = Small(names_it, chunked=True)
    usual: Callable[[Any], Reply] = server.take

    def breaks_off(request: Any) -> Reply:
        if "chunked" in request.headers.get("Transfer-Encoding", ""):
            server.take = usual  # type: ignore[method-assign, assignment]
            request.connection.shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError
        return usual(request)

    async def test() -> None:
        with server.open() as url:
            async with node(tmp_path, to(url), ONE) as one:
                await deliver(one, 2)
                for n in range(breaks):
                    server.take = breaks_off  # type: ignore[method-assign]
                    await deliver(one, 1, 2 + n)
                await until(lambda: len(one.spool.moves) == 2 + breaks)
                await deliver(one, 1, 2 + breaks)
                assert server.codings()[-1] == ("length" if breaks == UNCLEAR_MAX else "chunked")

    run(test)
