"""packer/duplicates.py: instances that only look alike are all kept."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from fastjmix.packer.duplicates import COMPARED_MAX
from tests.faults.test_storage import LATE, calls, data_sets
from tests.support import wire
from tests.support.disks import Strace, child, opened
from tests.support.gateway import Gateway

CRC_TABLE = [zlib.crc32(bytes([n])) ^ zlib.crc32(b"\0") for n in range(256)]
"""Table of the CRC-32, but for a constant that is the same in all entries: its entry 0 is 0
here, too."""


def same_crc(data: bytes, number: int) -> bytes:
    """Returns `data` with another end: four bytes hold `number`, and four restore the CRC-32.

    The register is run backwards from its final value: each entry has another highest byte.
    """
    start = data[:-8] + number.to_bytes(4, "little")
    by_top = {entry >> 24: index for index, entry in enumerate(CRC_TABLE)}
    wanted = zlib.crc32(data) ^ 0xFFFFFFFF
    indices: list[int] = []
    for _ in range(4):
        indices.insert(0, by_top[wanted >> 24])
        wanted = (wanted ^ CRC_TABLE[indices[0]]) << 8
    now, patch = zlib.crc32(start) ^ 0xFFFFFFFF, b""
    for index in indices:
        patch += bytes([(now ^ index) & 0xFF])
        now = now >> 8 ^ CRC_TABLE[index]
    assert zlib.crc32(start + patch) == zlib.crc32(data)
    return start + patch


@pytest.mark.fault("S30")
def test_bytes_that_were_made_to_look_alike_are_all_kept(
    start: Callable[..., Gateway], tmp_path: Path
) -> None:
    """Length and CRC-32 are equal: each is compared with COMPARED_MAX others and no more."""
    own = start(builder=LATE, fastjmix="packers = 1")
    first = wire.data_set("1.2.5", pixels=os.urandom(20_000))
    sent = [first, *(same_crc(first, number) for number in range(3 * COMPARED_MAX))]
    assert len({zlib.crc32(data) for data in sent}) == 1
    with opened(own) as peer:
        assert [peer.store(data, "1.2.5") for data in sent[:-4]] == [0] * (len(sent) - 4)
        reads = Strace(tmp_path / "trace", "-e", "trace=pread64", pids=[child(own, "packer-0")])
        with reads:
            assert [peer.store(data, "1.2.5") for data in sent[-4:]] == [0] * 4
        assert calls(reads, "pread64") <= 4 * (2 * COMPARED_MAX + 4)
    assert own.stop() == 0
    (archive,) = own.envelopes("outbox")
    assert data_sets(archive) == sorted(sent)
