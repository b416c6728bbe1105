"""Rows F24 and F28 to F44 of the fault matrix: a real uploader, a real store, a bad line between.

Rows that need no proxy are in uploader/test_client.py, uploader/test_loop.py and
uploader/test_policy.py, under the same names.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import os
import random
import re
import time
import uuid
import zipfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fastjmix.config import Credentials, Secret
from fastjmix.spool import Ticket
from fastjmix.uploader import client
from fastjmix.uploader.content_coding import decoded
from fastjmix.uploader.integrity import BodyCheck, Damaged, examine
from fastjmix.uploader.pace import Pace, TimeLimits
from tests.support import wire
from tests.support.envelopes import envelope, envelope_members
from tests.support.gateway import Gateway, Peer, Store, running
from tests.support.gateway import until as gateway_until
from tests.support.nightly import by_form
from tests.support.nodes import FAST, MEGABYTE, TOKEN, Node, descriptors, node, run, to, until
from tests.support.proxy import (
    ALL_PLAIN,
    REFUSE,
    Bandwidth,
    Drip,
    Drop,
    Garbage,
    HalfClose,
    Latency,
    Plan,
    Proxy,
    Reset,
    Say,
    Stall,
    Truncate,
    in_turn,
)
from tests.support.sealed import big, sealed, sealed_envelope
from tests.support.stores import Client, left_behind, serving
from tests.support.upstreams import PATH, Raw, Seen, Upstream, Wire, answer, http_head, taken

BEARER = Credentials(method="bearer", token=Secret(TOKEN))
CODINGS = ("chunked", "content-length")


@dataclass
class Line:
    """An uploader, a proxy, a store."""

    node: Node
    proxy: Proxy
    store: Client
    root: Path

    def stored(self) -> dict[str, bytes]:
        """Returns the store's envelopes, by id."""
        return {path.stem: path.read_bytes() for path in (self.root / "store").glob("*.zip")}

    async def delivered(self, *envelope_ids: str) -> None:
        """Waits until these are in sent/; the store then has them, byte for byte, and nothing else.

        The store drops a body that it had begun to receive when the connection ends.
        """
        await until(lambda: all(self.node.spool.path("sent", i).exists() for i in envelope_ids))
        kept = {i: self.node.spool.path("sent", i).read_bytes() for i in envelope_ids}
        assert self.stored() == kept
        await until(lambda: not left_behind(self.root))


@contextlib.asynccontextmanager
async def line(
    root: Path,
    plan: Callable[[int], Plan] = ALL_PLAIN,
    pace: Pace = FAST,
    *,
    start: bool = True,
    **upstream: Any,
) -> AsyncIterator[Line]:
    upstream = {"transfer_encoding": "content-length", **upstream}
    async with serving(root / "store") as store, Proxy(store.port, plan).open() as proxy:
        url = f"http://127.0.0.1:{proxy.port}{PATH}"
        async with node(root / "spool", to(url, **upstream), pace, start=start) as one:
            yield Line(one, proxy, store, root)


# -- F24: a flipped bit ----------------------------------------------------------------------------


def flip(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


PLACES: dict[str, Callable[[bytes], int]] = {
    "the first local file header": lambda data: 5,
    "the manifest": lambda data: data.index(b'"envelope"'),
    "the image's first byte": lambda data: data.index(b"IMAGE"),
    "the image's middle": lambda data: data.index(b"IMAGE") + 700_000,
    "the image's last byte": lambda data: data.index(b"PK\x01\x02") - 1,
    "a name in the central directory": lambda data: data.index(b"PK\x01\x02") + 46,
    "a CRC-32 in the central directory": lambda data: data.index(b"PK\x01\x02") + 16,
    "the end record": lambda data: len(data) - 3,
}


@pytest.mark.fault("F24")
@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("place", PLACES)
def test_an_envelope_with_a_flipped_bit_is_rejected_and_not_delivered(
    tmp_path: Path, place: str, coding: str
) -> None:
    async def test() -> None:
        async with line(tmp_path, start=False, transfer_encoding=coding) as here:
            data = sealed_envelope(image=b"IMAGE" + random.Random(24).randbytes(1_400_000))
            bad = here.node.seal(data, crc32=None)
            good = here.node.seal()
            flip(here.node.spool.path("outbox", bad), PLACES[place](data))
            here.node.start()
            assert set(await here.node.left(2)) == {("rejected", bad), ("sent", good)}
            await here.delivered(good)
            assert "damaged on our disk" in here.node.refusal(bad)["reason"]
            assert here.node.spool.path("rejected", bad).stat().st_size == len(data)
            (alarm,) = here.node.lines("envelope_rejected")
            assert " error " in alarm
            assert here.node.page.totals()["envelopes_rejected_total"] == 1
            assert not here.node.lines("upstream_paused")

    run(test)


@pytest.mark.fault("F24")
@pytest.mark.parametrize("coding", CODINGS)
def test_the_end_of_a_damaged_body_is_never_sent(tmp_path: Path, coding: str) -> None:
    """Even an upstream that checks nothing sees that the body is not whole."""
    received: list[bytes] = []

    async def serve(wire: Wire) -> None:
        received.append(await wire.head())
        received.append(await wire.reader.read(-1))

    async def test() -> None:
        async with (
            Raw(serve).open() as store,
            node(tmp_path, to(store.url, transfer_encoding=coding), start=False) as one,
        ):
            data = sealed_envelope(image=os.urandom(MEGABYTE))
            bad = one.seal(data, crc32=None)
            flip(one.spool.path("outbox", bad), len(data) // 2)
            one.start()
            await one.left()
            await until(lambda: len(received) == 2)
            assert len(store.connections) == 1
            head, body = received
            assert b"POST" in head
            if coding == "chunked":
                assert not body.endswith(b"0\r\n\r\n")
            assert len(body) < len(data)

    run(test)


@pytest.mark.fault("F24")
@pytest.mark.parametrize("origin", ["sealed here", "received"])
def test_every_bit_of_an_archive_is_watched(tmp_path: Path, origin: str) -> None:
    """Damage is found before the last byte has gone, wherever it is and however the bytes are
    split.
    """
    data = sealed_envelope() if origin == "sealed here" else envelope()
    archive = tmp_path / "envelope.zip"
    archive.write_bytes(data)
    ticket = Ticket("", "", ("",), "stored", (), "", 1, len(data), 0.0, "")
    if origin == "received":
        ticket = replace(ticket, crc32=zlib.crc32(data))

    def passes(piece: int) -> bool:
        """Also holds when the structure was right and the bytes were damaged afterwards."""
        check = BodyCheck(examine(archive, ticket))
        read = archive.read_bytes()
        for start in range(0, len(read), piece):
            check.update(read[start : start + piece])
        return True

    assert all(passes(piece) for piece in (1, 7, 100, len(data), len(data) + 1))
    sealed_extents = examine(archive, ticket)
    for bit in range(0, len(data) * 8, by_form(3, 1)):
        spoiled = bytearray(data)
        spoiled[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged):
            BodyCheck(sealed_extents).update(spoiled)
        if bit % by_form(63, 1) == 0:
            archive.write_bytes(spoiled)
            with pytest.raises(Damaged):
                passes(100)


@pytest.mark.fault("F24")
def test_what_goes_on_behind_its_end_is_damaged(tmp_path: Path) -> None:
    data = sealed_envelope()
    archive = tmp_path / "envelope.zip"
    archive.write_bytes(data)
    ticket = Ticket("", "", ("",), "stored", (), "", 1, len(data), 0.0, "")
    check = BodyCheck(examine(archive, ticket))
    with pytest.raises(Damaged, match="goes on"):
        check.update(data + b"x")


# -- F29 to F35: answers, and none -----------------------------------------------------------------


@pytest.mark.fault("F32")
def test_an_envelope_too_large_for_its_upstream_is_kept_and_says_what_to_do(
    tmp_path: Path,
) -> None:
    """The store's own 413, at its limit - 1, limit and limit + 1."""

    async def test() -> None:
        sized = [sealed_envelope(image=bytes(5000 + more)) for more in (-1, 0, 1)]
        limit = len(sized[1])
        async with (
            serving(tmp_path / "store", max_body_bytes=limit) as store,
            node(tmp_path / "spool", to(store.url)) as one,
        ):
            ids = [one.seal(data, crc32=None) for data in sized]
            moves = {i: where for where, i in await one.left(3)}
            assert [moves[i] for i in ids] == ["sent", "sent", "rejected"]
            assert one.refusal(ids[2])["status"] == 413
            (alarm,) = one.lines("envelope_rejected")
            assert " error " in alarm
            assert "max_envelope_bytes" in alarm
            assert one.spool.path("rejected", ids[2]).read_bytes() == sized[2]

    run(test)


@pytest.mark.fault("F43")
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (201, b'{"id": "another"}'),
        (201, b'{"id": "another", "hash": "sha256:00"}'),
        (200, b'{"id": "another"}'),
        (201, b"stored"),
        (202, b'{"status": "queued"}'),
        (204, b""),
    ],
)
@pytest.mark.parametrize("matching", [False, True])
def test_a_2xx_with_another_id_or_none(
    tmp_path: Path, status: int, body: bytes, matching: bool
) -> None:
    """The envelope is delivered, as in the reference.

    Under require_matching_id it stays, and is tried again until the answer names its id.
    """
    answered = 0

    def respond(request: web.BaseRequest, seen: Seen) -> web.Response:
        nonlocal answered
        answered += 1
        if answered <= 2:
            return web.Response(status=status, body=body)
        return answer(201, {"id": sealed_id})

    sealed_id = str(uuid.uuid4())

    async def test() -> None:
        upstream = {"require_matching_id": matching}
        async with (
            Upstream(respond).open() as store,
            node(tmp_path, to(store.url, **upstream)) as one,
        ):
            one.seal(id=sealed_id)
            assert await one.left() == [("sent", sealed_id)]
            assert one.receipt(sealed_id)["attempts"] == (3 if matching else 1)
            assert len({post.sha256 for post in store.posts}) == 1

    run(test)


@pytest.mark.fault("F31")
def test_a_copy_that_is_not_ours_is_not_taken_for_a_delivery(tmp_path: Path) -> None:
    """The store's own 409, for an id under which it holds something else."""

    async def test() -> None:
        async with line(tmp_path) as here:
            taken_id = str(uuid.uuid4())
            status, _, _ = await here.store.post(envelope(taken_id))
            assert status == 201
            content = envelope_members(taken_id)
            listed = b', "files": [{"path": "payload/series_1/image_001.dcm"}]}'
            content["manifest.json"] = content["manifest.json"][:-1] + listed
            here.node.seal(sealed(content), id=taken_id, crc32=None)
            assert await here.node.left() == [("rejected", taken_id)]
            assert here.node.refusal(taken_id)["status"] == 409
            assert "is another" in here.node.refusal(taken_id)["reason"]

    run(test)


@pytest.mark.fault("F35")
def test_an_upstream_that_cannot_be_reached_costs_nothing(tmp_path: Path) -> None:
    """No such host, no route: tried again without end, and no descriptor is left behind."""

    async def test() -> None:
        for number, host in enumerate(("no-such-host.invalid", "[100::1]")):
            pace = replace(FAST, time_limits=replace(FAST.time_limits, connect=0.2))
            upstream = to(f"http://{host}:9{PATH}", max_retries=50)
            async with node(tmp_path / str(number), upstream, pace) as one:
                envelope_id = one.seal()
                (line, *_) = await one.logged("upload_retry", 2)
                assert "no connection" in line
                before = descriptors()
                await one.logged("upload_retry", 8)
                await until(
                    partial(lambda most: descriptors() <= most, before)
                )  # not while an attempt has descriptors of its own
                assert one.spool.outbox_listing.ids() == [envelope_id]

    run(test)


# -- F37 to F39: connections that break ------------------------------------------------------------


async def request_bytes(root: Path, data: bytes, coding: str) -> int:
    """Returns how many bytes one POST of an archive of that size takes."""
    async with line(root, transfer_encoding=coding) as here:
        envelope_id = here.node.seal(data, crc32=None)
        await here.node.left()
        assert here.node.receipt(envelope_id)["attempts"] == 1
        return here.proxy.up


@pytest.mark.fault("F37")
@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("place", ["0", "1", "64 KB", "half", "all but one", "all"])
def test_a_reset_is_followed_by_the_same_bytes_from_the_start(
    tmp_path: Path, place: str, coding: str
) -> None:
    async def test() -> None:
        ids = [str(uuid.uuid4()) for _ in range(2)]
        first, second = (sealed_envelope(i, image=os.urandom(MEGABYTE)) for i in ids)
        total = await request_bytes(tmp_path / "measured", first, coding)
        after = {
            "0": 0, "1": 1, "64 KB": 65536, "half": total // 2,
            "all but one": total - 1, "all": total,
        }[place]  # fmt: skip
        plan = in_turn(Plan(up=(Reset(after),)))
        async with line(tmp_path, plan, transfer_encoding=coding) as here:
            here.node.seal(second, id=ids[1], crc32=None)
            await here.node.left()
            await here.delivered(ids[1])
            receipt = here.node.receipt(ids[1])
            assert receipt["attempts"] >= 2
            # With all of it, the store may have it: that is verified, and not sent twice.
            assert place == "all" or not receipt["verified"]
            (first_line, *_) = here.node.lines("upload_retry")
            assert "connection broken" in first_line
            assert len(here.proxy.passages) >= 2

    run(test)


@pytest.mark.fault("F38")
@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize(
    "fault", [Stall(65536), Stall(0), HalfClose(65536), Truncate(65536)], ids=repr
)
def test_a_line_that_stands_still_is_given_up_and_tried_again(
    tmp_path: Path, fault: Any, coding: str
) -> None:
    async def test() -> None:
        plan = in_turn(Plan(up=(fault,)))
        async with line(tmp_path, plan, transfer_encoding=coding, timeout_secs=1.0) as here:
            envelope_id = here.node.seal(big(tmp_path / "big.zip", 24 * MEGABYTE))
            started = time.monotonic()
            (first, *_) = await here.node.logged("upload_retry")
            assert time.monotonic() - started < 5
            if isinstance(fault, Stall):
                assert "no progress: none for 0.8 s" in first
            await here.node.left()
            # Not a valid envelope, but whole: the store got every byte, and refuses it.
            assert here.node.refusal(envelope_id)["status"] == 400

    run(test)


@pytest.mark.fault("F38")
def test_progress_counts_and_not_the_whole_time(tmp_path: Path) -> None:
    """An upload that takes many times `timeout_secs` and `stall` arrives at the first attempt."""

    async def test() -> None:
        pace = replace(FAST, time_limits=TimeLimits(stall=0.6))
        plan = in_turn(Plan(up=(Bandwidth(4 * MEGABYTE), Latency(0.01))))
        async with line(tmp_path, plan, pace, timeout_secs=0.6) as here:
            started = time.monotonic()
            data = sealed_envelope(image=bytes(12 * MEGABYTE))
            envelope_id = here.node.seal(data, crc32=None)
            await here.node.left()
            assert time.monotonic() - started > 4 * 0.6
            assert here.node.receipt(envelope_id)["attempts"] == 1

    run(test)


@pytest.mark.fault("F38")
def test_a_drip_is_no_progress(tmp_path: Path) -> None:
    """Each pause is short enough; the whole is below the rate."""

    async def test() -> None:
        pace = replace(FAST, time_limits=TimeLimits(stall=1.2, rate=8 * MEGABYTE))
        plan = in_turn(Plan(up=(Bandwidth(MEGABYTE),)))
        async with line(tmp_path, plan, pace) as here:
            here.node.seal(sealed_envelope(image=bytes(8 * MEGABYTE)), crc32=None)
            (first, *_) = await here.node.logged("upload_retry")
            assert "no progress: slower than 8.38861e+06 bytes a second" in first
            await here.node.left()

    run(test)


@pytest.mark.fault("F39")
@pytest.mark.parametrize(
    "fault", [Drop(0), Drop(9), Truncate(1), Reset(1), Truncate(9), HalfClose(1)], ids=repr
)
def test_a_lost_answer_is_not_a_delivery_until_it_is_verified(tmp_path: Path, fault: Any) -> None:
    async def test() -> None:
        plan = in_turn(Plan(down=(fault,)))
        async with line(tmp_path, plan, timeout_secs=1.0) as here:
            envelope_id = here.node.seal()
            await here.node.left()
            await here.delivered(envelope_id)
            receipt = here.node.receipt(envelope_id)
            assert receipt["verified"]
            assert receipt["status"] == 409
            assert receipt["attempts"] == 2

    run(test)


# -- F40: hostile answers --------------------------------------------------------------------------


def resident() -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


async def drip_headers(wire: Wire) -> None:
    await wire.say(b"HTTP/1.1 201 Created\r\n")
    while True:
        await wire.say(b"x")
        await asyncio.sleep(0.1)


async def ten_megabytes_of_header(wire: Wire) -> None:
    await wire.say(b"HTTP/1.1 201 Created\r\nX-Long: ")
    for _ in range(160):
        await wire.say(b"x" * 65536)


async def a_million_headers(wire: Wire) -> None:
    await wire.say(b"HTTP/1.1 201 Created\r\n")
    for _ in range(1000):
        await wire.say(b"X-A: b\r\n" * 1000)


async def endless_interim_answers(wire: Wire) -> None:
    while True:
        await wire.say(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
        await asyncio.sleep(0.01)


async def nul_in_a_header(wire: Wire) -> None:
    await wire.say(b"HTTP/1.1 201 Created\r\nX-A: a\0b\r\nContent-Length: 0\r\n\r\n")


async def two_status_lines(wire: Wire) -> None:
    await wire.say(b"HTTP/1.1 201 Created\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")


async def no_status(wire: Wire) -> None:
    await wire.say(b"HTTP/1.1 \r\nContent-Length: 0\r\n\r\n")


async def a_status_in_words(wire: Wire) -> None:
    await wire.say(b"HTTP/1.1 two-hundred OK\r\nContent-Length: 0\r\n\r\n")


async def another_protocol(wire: Wire) -> None:
    await wire.say(b"HTTP/7.3 201 Created\r\nContent-Length: 0\r\n\r\n")


async def length_and_chunks(wire: Wire) -> None:
    head = b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    await wire.say(head + b"0\r\n\r\n")


async def binary(wire: Wire) -> None:
    await wire.say(os.urandom(100_000))


NOT_HTTP = [
    drip_headers,
    ten_megabytes_of_header,
    a_million_headers,
    endless_interim_answers,
    nul_in_a_header,
    two_status_lines,
    no_status,
    a_status_in_words,
    another_protocol,
    length_and_chunks,
    binary,
]


async def a_gigabyte_of_body(wire: Wire) -> None:
    await wire.say(http_head("201 Created", Content_Length=1 << 30))
    for _ in range(1 << 14):
        await wire.say(bytes(65536))


async def endless_chunks(wire: Wire) -> None:
    await wire.say(http_head("201 Created", Transfer_Encoding="chunked"))
    while True:
        await wire.say(b"1\r\nx\r\n" * 1000)


@cache
def bomb() -> bytes:
    """Returns 64 MB as gzip. Made once, before the time of an attempt runs."""
    squeeze = zlib.compressobj(9, wbits=31)
    return squeeze.compress(bytes(64 * MEGABYTE)) + squeeze.flush()


async def a_gzip_bomb(wire: Wire) -> None:
    head = http_head("201 Created", Content_Encoding="gzip", Content_Length=len(bomb()))
    await wire.say(head + bomb())


async def a_body_cut_short(wire: Wire) -> None:
    await wire.say(http_head("201 Created", Content_Length=1000) + b'{"id": "')


WELL_BEGUN = [a_gigabyte_of_body, endless_chunks, a_gzip_bomb, a_body_cut_short]


async def hostile(
    root: Path, behave: Callable[[Wire], Awaitable[None]], then: Callable[[Node], Awaitable[None]]
) -> None:
    """The first connection's answer is `behave`'s; the others' is 201. Memory stays what it was."""
    served = 0

    async def serve(wire: Wire) -> None:
        nonlocal served
        while True:
            await wire.body(await wire.head())
            served += 1
            if served == 2:
                await behave(wire)
                return
            await wire.say(http_head("201 Created", Content_Length=0))

    async with Raw(serve).open() as store:
        upstream = to(store.url, timeout_secs=1.0, transfer_encoding="content-length")
        async with node(root, upstream) as one:
            one.seal()
            await one.left(1)
            Path("/proc/self/clear_refs").write_text("5")
            before = resident()
            one.seal()
            started = time.monotonic()
            await then(one)
            assert time.monotonic() - started < 5
            # The peer is in this process, too: its writes of 64 KB and what the loop holds of them.
            assert resident() - before < 4 * MEGABYTE


@pytest.mark.fault("F40")
@pytest.mark.parametrize("behave", NOT_HTTP, ids=lambda each: each.__name__)
def test_what_is_no_answer_is_no_delivery(
    tmp_path: Path, behave: Callable[[Wire], Awaitable[None]]
) -> None:
    async def then(one: Node) -> None:
        await one.left(2)
        (line,) = one.lines("upload_retry")
        assert "connection broken" in line or "no answer in time" in line

    run(lambda: hostile(tmp_path, behave, then))


@pytest.mark.fault("F40")
@pytest.mark.parametrize("behave", WELL_BEGUN, ids=lambda each: each.__name__)
def test_an_answers_body_is_bounded_and_its_status_counts(
    tmp_path: Path, behave: Callable[[Wire], Awaitable[None]]
) -> None:
    async def then(one: Node) -> None:
        for _, envelope_id in await one.left(2):
            receipt = one.receipt(envelope_id)
            assert receipt["attempts"] == 1
            assert len(receipt["body"].encode()) <= 3 * 4096  # a byte may become U+FFFD
        assert not one.lines("upload_retry")

    bomb()
    run(lambda: hostile(tmp_path, behave, then))


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data)


def without_header(data: bytes) -> bytes:
    made = zlib.compressobj(wbits=-15)
    return made.compress(data) + made.flush()


@pytest.mark.fault("F40")
@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        ("gzip", gzipped),
        ("X-GZip", gzipped),
        ("deflate", zlib.compress),
        ("deflate", without_header),
        ("gzip", bytes),  # declared, and not true
        ("br", bytes),
        ("identity", bytes),
    ],
)
def test_an_answer_compressed_unasked_is_understood(
    tmp_path: Path, coding: str, encode: Callable[[bytes], bytes]
) -> None:
    """An id, a web page, and a manifest after a 409 count as if they were not compressed."""

    def say(status: int, text: bytes) -> web.Response:
        answered = web.Response(status=status, body=encode(text))
        answered.headers["Content-Encoding"] = coding
        return answered

    def post(_: web.BaseRequest, seen: Seen) -> web.Response:
        posts.append(seen)
        if len(posts) == 1:
            return say(201, b"<html>Sign in</html>")
        if len(posts) == 2:
            return say(500, b"")
        if len(posts) == 3:
            return say(409, b"")
        return say(200, b'{"id": "theirs-1"}')

    def copy(_: web.BaseRequest, __: Seen) -> web.Response:
        with zipfile.ZipFile(io.BytesIO(posts[0].body)) as archive:
            return say(200, archive.read("manifest.json"))

    posts: list[Seen] = []

    async def test() -> None:
        async with Upstream(post, copy).open() as store, node(tmp_path, to(store.url)) as one:
            first = one.seal()
            assert await one.left(1) == [("sent", first)]
            assert one.receipt(first)["verified"]
            assert [line.count("web page") for line in one.lines("upload_retry")] == [1, 0]
            second = one.seal()
            assert set(await one.left(2)) == {("sent", first), ("sent", second)}
            assert one.receipt(second)["remote_id"] == "theirs-1"
            assert one.receipt(second)["attempts"] == 1

    run(test)


@pytest.mark.fault("F40")
@pytest.mark.parametrize(("size", "over"), [(-1, False), (0, False), (1, True)])
def test_the_limit_of_what_an_answer_unpacks_to(size: int, over: bool) -> None:
    most = client.ANSWER_BYTES_MAX
    for encode, coding in ((gzipped, "gzip"), (zlib.compress, "deflate")):
        found = decoded(encode(bytes(most + size)), coding, most + 1)
        assert (len(found) > most) == over


@pytest.mark.fault("F40")
@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan(down=(Garbage(0, b"\0\xff"),)), "connection broken"),
        (Plan(down=(Garbage(4, b"\n"),)), "connection broken"),
        (Plan(down=(Drip(0, 0.2),)), "no answer in time"),
    ],
    ids=["garbage before", "garbage within", "one byte at a time"],
)
def test_an_answer_spoilt_on_the_way(tmp_path: Path, plan: Plan, words: str) -> None:
    async def test() -> None:
        async with line(tmp_path, in_turn(plan), timeout_secs=1.0) as here:
            envelope_id = here.node.seal()
            await here.node.left()
            await here.delivered(envelope_id)
            assert here.node.receipt(envelope_id)["verified"]
            (first, *_) = here.node.lines("upload_retry")
            assert words in first

    run(test)


# -- F41, S22: redirects ---------------------------------------------------------------------------


@pytest.mark.fault("F41")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_nowhere(tmp_path: Path, status: int) -> None:
    """Another host, plain HTTP, the cloud's metadata address, a file: no request, no token.

    Row S22 as well.
    """

    async def test() -> None:
        async with Upstream().open() as elsewhere, Proxy(1).open() as watched:
            places = [
                elsewhere.url,
                elsewhere.url.replace("127.0.0.1", "localhost"),
                f"//127.0.0.1:{watched.port}/",
                f"http://127.0.0.1:{watched.port}@127.0.0.1:{watched.port}/",
                "http://169.254.169.254/latest/meta-data/",
                "file:///etc/passwd",
                "gopher://127.0.0.1/",
                "",
                "\0",
            ]
            asked: list[str] = []

            def redirect(request: web.BaseRequest, seen: Seen) -> web.Response:
                asked.append(seen.headers["authorization"])
                if len(asked) > len(places):
                    return taken(request, seen)
                place = places[len(asked) - 1]
                with contextlib.suppress(ValueError):
                    return answer(status, None, Location=place)
                return answer(status)

            pace = replace(FAST, hold_secs=0.02)
            async with Upstream(redirect).open() as store:
                upstream = to(store.url, credentials=BEARER)
                async with node(tmp_path, upstream, pace) as one:
                    envelope_id = one.seal()
                    assert await one.left() == [("sent", envelope_id)]
                    (alarm,) = one.lines("upstream_held")
                    assert "redirects are not followed" in alarm
                    assert len(asked) == len(places) + 1
            assert not elsewhere.seen
            assert not watched.passages

    run(test)


@pytest.mark.fault("S22")
def test_the_manifest_of_a_conflict_is_not_fetched_elsewhere(tmp_path: Path) -> None:
    """GET after 409 is the second request that carries the token."""

    async def test() -> None:
        async with Upstream().open() as elsewhere:
            locked = True

            def manifest(_: web.BaseRequest, seen: Seen) -> web.Response:
                return answer(302, None, Location=f"{elsewhere.url}/x/manifest")

            def post(request: web.BaseRequest, seen: Seen) -> web.Response:
                return answer(409) if locked else taken(request, seen)

            async with Upstream(post, manifest).open() as store:
                upstream = to(store.url, credentials=BEARER)
                async with node(tmp_path, upstream) as one:
                    envelope_id = one.seal()
                    await one.logged("upstream_held")
                    assert one.spool.outbox_listing.ids() == [envelope_id]
                    locked = False
                    await one.left()
            assert not elsewhere.seen

    run(test)


# -- F42: an answer while the body flows -----------------------------------------------------------


@pytest.mark.fault("F42")
@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize(
    ("status", "event"),
    [
        (400, "envelope_rejected"),
        (413, "envelope_rejected"),
        (401, "upstream_held"),
        (500, "upload_retry"),
        (503, "upload_retry"),
        (201, "upload_retry"),
    ],
)
def test_an_early_answer_ends_the_body(
    tmp_path: Path, status: int, event: str, coding: str
) -> None:
    async def test() -> None:
        early = http_head(f"{status} Early", Content_Length=0)
        plan = in_turn(Plan(up=(Stall(65536), Say(65536, early))))
        pace = replace(FAST, time_limits=TimeLimits(stall=8))
        async with line(tmp_path, plan, pace, transfer_encoding=coding) as here:
            archive = big(tmp_path / "big.zip", 64 * MEGABYTE)
            started = time.monotonic()
            here.node.seal(archive)
            (logged, *_) = await here.node.logged(event)
            assert time.monotonic() - started < 4  # the stall is twice as long
            assert f"status={status}" in logged
            passage = here.proxy.passages[0]
            assert passage.up < 8 * MEGABYTE

    run(test)


@pytest.mark.fault("F42")
def test_nothing_waits_for_100_continue(tmp_path: Path) -> None:
    """No Expect is sent, so an upstream that never says 100 cannot stop anything; one that says it
    unasked is understood."""

    async def serve(wire: Wire) -> None:
        while True:
            head = await wire.head()
            assert b"expect" not in head.lower()
            await wire.say(b"HTTP/1.1 100 Continue\r\n\r\n")
            await wire.body(head)
            await wire.say(http_head("201 Created", Content_Length=0))

    async def test() -> None:
        async with (
            Raw(serve).open() as store,
            node(tmp_path, to(store.url, transfer_encoding="chunked")) as one,
        ):
            envelope_id = one.seal(big(tmp_path / "big.zip", 4 * MEGABYTE))
            await one.left()
            assert one.receipt(envelope_id)["attempts"] == 1

    run(test)


# -- F44: an outage --------------------------------------------------------------------------------


@pytest.mark.fault("F44")
def test_an_outage_at_full_intake_drops_nothing_and_drains_oldest_first(
    tmp_path: Path,
) -> None:
    """72 hours at a study a minute are 4320 envelopes; scaled, with the back-off, to a few seconds.

    New envelopes keep coming during the outage and while the backlog drains.
    """
    backlog = by_form(240, 4320)

    async def test() -> None:
        pace = replace(FAST, rescan_secs=0.2)
        async with line(tmp_path, lambda _: REFUSE, pace, max_retries=0) as here:
            sealed = [here.node.seal() for _ in range(backlog // 2)]
            await here.node.logged("upload_retry", 20)
            sealed += [here.node.seal() for _ in range(backlog - len(sealed))]
            await here.node.logged("upload_retry", 30)
            assert len(here.node.spool.outbox_listing.ids()) == backlog
            assert not here.stored()
            # One at a time probes an unavailable upstream, however much is waiting.
            assert len(here.proxy.passages) <= len(here.node.lines("upload_retry")) + 4

            here.proxy.plan = ALL_PLAIN
            late = []
            while len(here.node.spool.moves) < backlog:
                late.append(here.node.seal())
                await asyncio.sleep(0.02)
            # As many more may have come as a backlog took seconds to go.
            rest_secs = by_form(10, 120)
            await until(lambda: len(here.node.spool.moves) == backlog + len(late), rest_secs)
            assert {where for where, _ in here.node.spool.moves} == {"sent"}
            await here.delivered(*sealed, *late)
            assert here.node.page.totals()["outbox_envelopes"] == 0

            came = [envelope_id for _, envelope_id in here.node.spool.moves]
            order = [came.index(envelope_id) for envelope_id in sealed]
            # Four go at once, so neighbours may overtake each other, and no one else.
            assert all(abs(place - n) <= 8 for n, place in enumerate(order))
            assert all(came.index(one) > came.index(sealed[0]) for one in late)

    run(test)


@pytest.mark.fault("F44")
def test_the_backlog_goes_four_at_once_while_new_ones_come(tmp_path: Path) -> None:
    """No four are answered before all four have arrived: with fewer at once the test would
    not end.
    """
    backlog, at_once = 24, 4
    assert Pace().at_once == at_once
    wave = asyncio.Condition()
    arrived: list[str] = []
    away = [True]

    async def take(request: web.BaseRequest, seen: Seen) -> web.Response:
        if away[0]:
            return answer(503)
        async with wave:
            arrived.append(seen.sha256)
            wave.notify_all()
            number = len(arrived)
            if number > 1:  # the first alone probes the upstream
                last = 1 + at_once * ((number - 2) // at_once + 1)
                await wave.wait_for(lambda: len(arrived) >= last)
        return taken(request, seen)

    async def test() -> None:
        pace = replace(FAST, time_limits=replace(FAST.time_limits, stall=20.0))
        store = Upstream(take)
        async with store.open(), node(tmp_path, to(store.url, timeout_secs=20.0), pace) as one:
            sealed = [one.seal() for _ in range(backlog + 1)]
            await one.logged("upload_retry", 3)
            away[0] = False
            late = [one.seal() for _ in range(at_once)]
            moves = await one.left(backlog + 1 + at_once)
            came = [envelope_id for _, envelope_id in moves]
            assert set(came[: backlog + 1 - at_once]) <= set(sealed)
            assert set(came) == {*sealed, *late}
            assert {where for where, _ in moves} == {"sent"}

    run(test)


# -- with the whole gateway ------------------------------------------------------------------------

AUTHORIZED = """
[authentications.upstream]
method = "bearer"

[authentications.upstream.options]
token = "{token}"
"""


def send_one(gateway: Gateway, instance: str) -> None:
    with Peer(gateway.dicom_port) as peer:
        assert peer.associate()[0] == 2
        assert peer.store(wire.data_set(instance), instance) == 0
        peer.release()


@pytest.mark.fault("F30")
def test_a_restart_with_another_token_resumes(tmp_path: Path) -> None:
    """As a reload does (tests/e2e/test_adoption.py)."""
    token_file = tmp_path / "token"
    token_file.write_text("right")
    options: dict[str, Any] = {
        "backend": 'authentication_ref = "upstream"',
        "builder": "release_grace_secs = 0.1",
    }
    with running(Store(tmp_path, "--token-file", str(token_file))) as store:
        wrong = AUTHORIZED.format(token="wrong")
        with running(Gateway(tmp_path / "node", store.port, fastjmix=wrong, **options)) as gateway:
            send_one(gateway, "1.2.3.30")
            gateway.wait_for(r"error .* upstream_held .*status=401")
            (held,) = gateway.envelopes("outbox")
            assert gateway.stop() == 0
        asked = [line for line in store.lines if "method=POST" in line]
        assert len(asked) == 1  # the next would come after a minute
        right = AUTHORIZED.format(token="right")
        with running(Gateway(tmp_path / "node", store.port, fastjmix=right, **options)) as gateway:
            (sent,) = gateway.wait_sent()
            assert sent.name == held.name
            assert gateway.stop() == 0
        assert (tmp_path / "store" / sent.name).read_bytes() == sent.read_bytes()


@pytest.mark.fault("F38")
def test_a_sender_that_waits_for_a_slow_upload_is_not_timed_out(tmp_path: Path) -> None:
    """ack = "uploaded": the sender waits longer for a larger instance, as the uploader does.

    Beside the 60 s of two answers it has one second here, instead of two minutes.
    """
    slow = in_turn(Plan(up=(Bandwidth(MEGABYTE // 2),)))
    with running(Store(tmp_path)) as store, Proxy(store.port, slow).running() as proxy:
        options: dict[str, Any] = {
            "endpoint": 'ack = "uploaded"',
            "first": "from fastjmix.receiver import upper_layer as u; u.GRANT_SECS = 1.0 - 60.0",
        }
        with (
            running(Gateway(tmp_path / "node", proxy.port, **options)) as gateway,
            Peer(gateway.dicom_port) as peer,
        ):
            assert peer.associate()[0] == 2
            began = time.monotonic()
            assert peer.store(wire.data_set(pixels=bytes(2 * MEGABYTE))) == 0
            assert time.monotonic() - began > 2  # it was slow
            peer.release()


@pytest.mark.fault("F30")
def test_an_upstream_that_wants_other_credentials_is_asked_once_a_minute() -> None:
    assert Pace().hold_secs >= 60


@pytest.mark.fault("F24")
def test_a_bit_that_flips_in_the_outbox_of_a_gateway(tmp_path: Path) -> None:
    """Sealed by the real packer while the upstream is away; a bit of an image flips; it is back."""
    with running(Store(tmp_path)) as store, Proxy(store.port, lambda _: REFUSE).running() as proxy:
        quick: dict[str, Any] = {"builder": "release_grace_secs = 0.1"}
        with running(Gateway(tmp_path / "node", proxy.port, **quick)) as gateway:
            send_one(gateway, "1.2.3.24")
            gateway.wait_for("upload_retry")
            (archive,) = gateway.envelopes("outbox")
            data = archive.read_bytes()
            flip(archive, data.index(b"DICM") + 400)
            proxy.plan = ALL_PLAIN
            refused = gateway.wait_for(r"error .* envelope_rejected envelope=(\S+) ")
            assert refused[1] == archive.stem
            gateway_until(lambda: gateway.envelopes("rejected"), "the archive in rejected/")
            assert not gateway.envelopes("sent")
            send_one(gateway, "1.2.3.25")
            (sent,) = gateway.wait_sent()
            assert gateway.stop() == 0
        assert [one["id"] for one in store.held()] == [sent.stem]
