"""A body's way to its file: in order, whole, and nothing touches the file afterwards."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastjmix.bodyfile import AHEAD_BYTES, PIECE_BYTES, BodyFile


async def write(path: Path, pieces: list[bytes]) -> BodyFile:
    with path.open("wb") as file:
        body = BodyFile(file)
        for piece in pieces:
            await body.put(piece)
        await body.flush()
        assert path.stat().st_size == body.size
        await body.close()
        return body


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, PIECE_BYTES + 3), max_size=6), st.integers(0, 1 << 30))
def test_pieces_of_any_size_arrive_in_their_order(tmp_path_factory, sizes, seed) -> None:
    pieces = [random.Random(seed + n).randbytes(size) for n, size in enumerate(sizes)]
    path = tmp_path_factory.mktemp("body") / "file"
    body = asyncio.run(write(path, pieces))
    data = b"".join(pieces)
    assert path.read_bytes() == data
    assert (body.size, body.crc32) == (len(data), zlib.crc32(data))


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("size", [PIECE_BYTES, 2 * PIECE_BYTES, AHEAD_BYTES])
def test_at_the_edges_of_a_buffer(tmp_path: Path, size: int, off: int) -> None:
    data = random.Random(size).randbytes(size + off)
    body = asyncio.run(write(tmp_path / "file", [data]))
    assert (tmp_path / "file").read_bytes() == data
    assert body.crc32 == zlib.crc32(data)


def test_a_disk_that_is_full_is_told_of(tmp_path: Path) -> None:
    async def fill() -> None:
        with Path("/dev/full").open("wb", buffering=0) as file:
            body = BodyFile(file)
            try:
                for _ in range(3):
                    await body.put(bytes(PIECE_BYTES))
                await body.flush()
            finally:
                await body.close()

    with pytest.raises(OSError, match="No space") as caught:
        asyncio.run(fill())
    assert caught.value.errno == errno.ENOSPC


def test_a_cancelled_body_leaves_the_file_alone() -> None:
    """Its writer is in the middle of a piece: `close` waits for it, since the file closes next."""

    async def cancelled() -> None:
        reading, writing = os.pipe()  # takes 64 KB, then its writer waits
        loop = asyncio.get_running_loop()
        with os.fdopen(reading, "rb", buffering=0) as there:
            with os.fdopen(writing, "wb", buffering=0) as file:
                body = BodyFile(file)
                await body.put(bytes(PIECE_BYTES))
                waiting = asyncio.create_task(body.put(bytes(PIECE_BYTES)))
                await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                closing = asyncio.create_task(body.close())
                await asyncio.sleep(0)
                assert not closing.done()
                taken = 0
                while taken < PIECE_BYTES:
                    taken += len(await loop.run_in_executor(None, there.read, PIECE_BYTES))
                await closing
            assert taken == PIECE_BYTES
            assert there.read() == b""

    asyncio.run(asyncio.wait_for(cancelled(), 30))
