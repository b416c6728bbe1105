"""uploader/targets/s3.py, s3_errors.py and etag.py, with a real S3 service, and with bad ones."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastjmix.uploader.outcome import Disposition
from fastjmix.uploader.targets.etag import PartDigests
from fastjmix.uploader.targets.s3 import PART_BYTES_MIN, PARTS_MAX, part_bytes
from fastjmix.uploader.targets.s3_errors import answer_in, assess_error
from tests.support.nodes import MEGABYTE, node, run, until
from tests.support.places import KEYS, S3Service, to_bucket
from tests.support.sealed import sealed_envelope
from tests.support.upstreams import Raw, Wire, http_head

SMALL = 2 * MEGABYTE
LARGE = 2 * PART_BYTES_MIN + MEGABYTE + 17
"""Goes in three parts."""


@pytest.fixture(scope="module")
def service() -> Iterator[S3Service]:
    made = S3Service()
    yield made
    made.close()


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("conditional", [True, False])
def test_an_envelope_is_an_object(
    tmp_path: Path, service: S3Service, size: int, conditional: bool
) -> None:
    bucket = service.make_bucket()

    async def test() -> None:
        upstream = to_bucket(service.url, bucket, conditional=conditional)
        async with node(tmp_path, upstream) as one:
            envelope_id = one.seal(sealed_envelope(image=os.urandom(size)), crc32=None)
            assert await one.left() == [("sent", envelope_id)]
            name = f"radiology/{envelope_id}.zip"
            assert service.names(bucket) == [name]
            sent = one.spool.path("sent", envelope_id).read_bytes()
            assert service.get(bucket, name) == sent
            receipt = one.receipt(envelope_id)
            assert receipt["url"] == f"s3://{bucket}/radiology/"
            assert (receipt["status"], receipt["attempts"]) == (200, 1)
            assert KEYS.password.reveal() not in one.log.read_text()

    run(test)


@pytest.mark.fault("F173")
@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("same", [True, False])
def test_no_object_is_replaced(tmp_path: Path, service: S3Service, size: int, same: bool) -> None:
    """An object that came in one request has another ETag than ours in parts: it is read back."""
    bucket = service.make_bucket()

    async def test() -> None:
        async with node(tmp_path, to_bucket(service.url, bucket), start=False) as one:
            envelope_id = one.seal(sealed_envelope(image=os.urandom(size)), crc32=None)
            data = one.spool.path("outbox", envelope_id).read_bytes()
            there = data if same else data[:-1] + bytes([data[-1] ^ 1])
            name = f"radiology/{envelope_id}.zip"
            service.put(bucket, name, there)
            one.start()
            assert await one.left() == [("sent" if same else "rejected", envelope_id)]
            assert service.get(bucket, name) == there
            if same:
                assert one.receipt(envelope_id)["verified"] is True
            else:
                assert "another object" in one.refusal(envelope_id)["reason"]

    run(test)


@pytest.mark.fault("F173")
def test_a_bucket_that_is_missing_is_held(tmp_path: Path, service: S3Service) -> None:
    async def test() -> None:
        async with node(tmp_path, to_bucket(service.url, "not-there")) as one:
            envelope_id = one.seal()
            (line, *_) = await one.logged("upstream_held")
            assert "no such bucket" in line
            service.ask("PUT", "not-there")
            assert await one.left() == [("sent", envelope_id)]

    run(test)


@pytest.mark.fault("F173")
def test_damage_on_our_disk_leaves_no_object(tmp_path: Path, service: S3Service) -> None:
    """The parts that went before it are taken back."""
    bucket = service.make_bucket()

    async def test() -> None:
        async with node(tmp_path, to_bucket(service.url, bucket), start=False) as one:
            envelope_id = one.seal(sealed_envelope(image=os.urandom(LARGE)), crc32=None)
            path = one.spool.path("outbox", envelope_id)
            with path.open("r+b") as file:
                file.seek(LARGE - 1000)
                byte = file.read(1)
                file.seek(LARGE - 1000)
                file.write(bytes([byte[0] ^ 1]))
            one.start()
            assert await one.left() == [("rejected", envelope_id)]
            assert service.names(bucket) == []
            await until(lambda: service.unfinished(bucket) == [])

    run(test)


@pytest.mark.fault("F173")
def test_a_service_that_is_down_is_waited_for(tmp_path: Path) -> None:
    async def test() -> None:
        upstream = to_bucket("http://127.0.0.1:9", "envelopes")
        async with node(tmp_path, upstream) as one:
            one.seal()
            (line, *_) = await one.logged("upstream_paused")
            assert "127.0.0.1:9/envelopes: no connection" in line

    run(test)


@pytest.mark.fault("F173")
def test_a_service_that_says_nothing_ends_in_its_time(tmp_path: Path) -> None:
    async def silent(_: Wire) -> None:
        await asyncio.get_running_loop().create_future()

    async def test() -> None:
        async with Raw(silent).open() as store:
            upstream = to_bucket(store.url.removesuffix("/api/jmix"), "b", conditional=False,
                                 timeout_secs=0.3)  # fmt: skip
            async with node(tmp_path, upstream) as one:
                one.seal()
                (line, *_) = await one.logged("upload_retry")
                assert "does not answer" in line

    run(test)


@pytest.mark.fault("F173")
@pytest.mark.parametrize(
    ("status", "code", "event"),
    [
        (403, "SignatureDoesNotMatch", "upstream_held"),
        (401, "Unauthorized", "upstream_held"),
        (400, "AuthorizationHeaderMalformed", "upstream_held"),
        (400, "EntityTooLarge", "envelope_rejected"),
        (501, "NotImplemented", "upstream_held"),
        (301, "PermanentRedirect", "upstream_held"),
        (500, "InternalError", "upstream_paused"),
        (503, "SlowDown", "upstream_paused"),
    ],
)
def test_a_refusal_is_of_the_target_or_of_the_envelope(
    tmp_path: Path, status: int, code: str, event: str
) -> None:
    body = f"<Error><Code>{code}</Code><Key>the-id-of-a-key</Key></Error>".encode()

    async def refuse(wire: Wire) -> None:
        head = await wire.head()
        await wire.body(head.replace(b"content-length", b"Content-Length"))
        await wire.say(http_head(f"{status} X", Content_Length=len(body)) + body)

    async def test() -> None:
        async with Raw(refuse).open() as store:
            endpoint = store.url.removesuffix("/api/jmix")
            async with node(tmp_path, to_bucket(endpoint, "envelopes")) as one:
                one.seal()
                (line, *_) = await one.logged(event)
                assert "the-id-of-a-key" not in one.log.read_text()
                if status != 301:
                    assert f"status={status}" in line
                    assert code in line

    run(test)


# -- parts -----------------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.integers(1, 60), st.lists(st.integers(1, 50)))
def test_the_etag_is_that_of_the_bytes_however_they_come(
    data: bytes, part: int, cuts: list[int]
) -> None:
    digests, at = PartDigests(part), 0
    for cut in cuts:
        digests.update(data[at : at + cut])
        at += len(data[at : at + cut])
    digests.update(data[at:])
    parts = [hashlib.md5(data[n : n + part]).digest() for n in range(0, len(data), part)]
    joined = f"{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}"
    assert digests.etags() == {hashlib.md5(data).hexdigest(), joined}
    assert digests.size == len(data)


@pytest.mark.parametrize("size", [0, 1, *(PART_BYTES_MIN * PARTS_MAX + off for off in (-1, 0, 1))])
def test_so_many_parts_are_enough(size: int) -> None:
    assert -(-size // part_bytes(size)) <= PARTS_MAX
    assert part_bytes(size) == PART_BYTES_MIN + (size > PART_BYTES_MIN * PARTS_MAX)


def test_an_answer_is_found_in_the_text_of_an_error() -> None:
    text = "Error performing PUT … status code: 400 Bad Request: <a>\nb</a>\n\nDebug source: x"
    answer = answer_in(text)
    assert answer is not None
    assert (answer.status, answer.body) == (400, b"<a>\nb</a>")
    assert answer_in("HTTP error: error sending request") is None
    assert assess_error(Exception("anything"), "host").disposition is Disposition.RETRY
