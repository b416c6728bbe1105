"""httpd/upload_body.py: a body is written in order and whole, and the file is left alone
afterwards.
"""

from __future__ import annotations

import asyncio
import errno
import random
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastjmix.httpd.upload_body import AHEAD_BYTES, PIECE_BYTES, PIECES_MAX, BodyFile


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
def test_pieces_of_any_size_arrive_in_their_order(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], seed: int
) -> None:
    pieces = [random.Random(seed + n).randbytes(size) for n, size in enumerate(sizes)]
    path = tmp_path_factory.mktemp("body") / "file"
    body = asyncio.run(write(path, pieces))
    data = b"".join(pieces)
    assert path.read_bytes() == data
    assert (body.size, body.crc32) == (len(data), zlib.crc32(data))


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("size", [PIECE_BYTES, 2 * PIECE_BYTES, AHEAD_BYTES])
def test_at_the_edges_of_a_part(tmp_path: Path, size: int, off: int) -> None:
    data = random.Random(size).randbytes(size + off)
    body = asyncio.run(write(tmp_path / "file", [data]))
    assert (tmp_path / "file").read_bytes() == data
    assert body.crc32 == zlib.crc32(data)


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
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


def test_pieces_are_not_gathered_without_end(tmp_path: Path) -> None:
    """A peer may send a byte at a time, and a Python object is forty times as large."""

    async def dribble() -> None:
        with (tmp_path / "file").open("wb") as file:
            body = BodyFile(file)
            for number in range(3 * PIECES_MAX - 1):
                await body.put(bytes([number % 251]))
            await body.close()
            assert body.size == 2 * PIECES_MAX
            await body.flush()
            assert body.size == 3 * PIECES_MAX - 1

    asyncio.run(dribble())
    assert (tmp_path / "file").read_bytes() == bytes(n % 251 for n in range(3 * PIECES_MAX - 1))


def test_a_cancelled_body_leaves_the_file_alone(tmp_path: Path) -> None:
    """Its writer has yet to run: `close` waits for it, since the file closes next."""

    async def cancelled() -> None:
        loop = asyncio.get_running_loop()
        busy = threading.Event()
        loop.set_default_executor(ThreadPoolExecutor(1))
        ahead = loop.run_in_executor(None, busy.wait)
        with (tmp_path / "file").open("wb") as file:
            body = BodyFile(file)
            await body.put(b"1" * PIECE_BYTES)
            waiting = asyncio.create_task(body.put(b"2" * PIECE_BYTES))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            closing = asyncio.create_task(body.close())
            await asyncio.sleep(0)
            assert not closing.done()
            busy.set()
            await closing
            assert (tmp_path / "file").stat().st_size == PIECE_BYTES
        await ahead
        await loop.shutdown_default_executor()
        assert (tmp_path / "file").read_bytes() == b"1" * PIECE_BYTES

    asyncio.run(asyncio.wait_for(cancelled(), 30))
