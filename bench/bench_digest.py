"""CRC-32 and digest by turns, block by block. Floors: each by its library, same bytes."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from isal.isal_zlib import crc32

from bench.passage import PREFIX, OneLane, stream
from bench.study import CT_STUDY
from fastjmix._core import FileDigest

STUDY = CT_STUDY.sized(1)
DATA = STUDY.head(0) + b"".join(STUDY.pixels(0))
MEMBER = PREFIX + DATA
BLOCK = 65536


@pytest.mark.parametrize("digest", [hashlib.sha256, blake3], ids=["sha256", "blake3"])
def bench_read_back(benchmark: Any, tmp_path: Path, digest: Callable[..., Any]) -> None:
    """Digest and CRC-32 of a member in the page cache: with one more copy than the floors."""
    benchmark.group = "digest of 0.5 MB"
    (tmp_path / "member").write_bytes(MEMBER)
    reading = FileDigest(crc32)
    with (tmp_path / "member").open("rb") as file:

        def read_back() -> tuple[int, bytes]:
            hasher = digest()
            return reading.update(hasher, 0, file.fileno(), 0, len(MEMBER)), hasher.digest()

        assert benchmark(read_back) == (zlib.crc32(MEMBER), digest(MEMBER).digest())


def bench_arrival(benchmark: Any) -> None:
    """Measures the work before a member is written: the whole way through a lane."""
    benchmark.group = "CRC-32 of 0.5 MB"
    lane, data = OneLane(), stream(STUDY)
    (arrival,) = benchmark(lane.feed, data)
    assert arrival.crc == zlib.crc32(MEMBER)


def bench_floor_hashlib_sha256(benchmark: Any) -> None:
    benchmark.group = "digest of 0.5 MB"
    assert benchmark(lambda: hashlib.sha256(MEMBER).digest()) == hashlib.sha256(MEMBER).digest()


def bench_sha256_by_turns_with_isal(benchmark: Any) -> None:
    """The cost that `read_back` avoids: ISA-L leaves the vector registers' upper halves dirty."""
    benchmark.group = "digest of 0.5 MB"
    blocks = [memoryview(MEMBER)[at : at + BLOCK] for at in range(0, len(MEMBER), BLOCK)]

    def by_turns() -> tuple[int, bytes]:
        digest, checksum = hashlib.sha256(), 0
        for block in blocks:
            digest.update(block)
            checksum = crc32(block, checksum)
        return checksum, digest.digest()

    assert benchmark(by_turns) == (zlib.crc32(MEMBER), hashlib.sha256(MEMBER).digest())


def bench_blake3(benchmark: Any) -> None:
    benchmark.group = "digest of 0.5 MB"
    assert len(benchmark(lambda: blake3(MEMBER).digest())) == 32


@pytest.mark.parametrize("function", [crc32, zlib.crc32], ids=["floor isal", "zlib"])
def bench_crc32(benchmark: Any, function: Callable[[bytes], int]) -> None:
    benchmark.group = "CRC-32 of 0.5 MB"
    assert benchmark(function, MEMBER) == zlib.crc32(MEMBER)
