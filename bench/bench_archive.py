"""Headers and the central directory, and members onto a file. Floors: struct, write(2); zipfile."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from bench.study import CT_STUDY, MR_STUDY
from fastjmix.jmix.write.archive import Member, central_directory, local_header

COUNT = 10_000
MEMBERS = [
    Member(b"payload/series_1/image_%03d.dcm" % number, number, 33000, number * 33100)
    for number in range(1, COUNT + 1)
]
STUDY = MR_STUDY.sized(100)
INSTANCE = CT_STUDY.head(0) + b"".join(CT_STUDY.pixels(0))


def bench_central_directory(benchmark: Any) -> None:
    benchmark.group = f"central directory of {COUNT}"
    made = benchmark(central_directory, MEMBERS, 0)
    assert made.startswith(b"PK\x01\x02")
    assert made.endswith(struct.pack("<H", 0))
    assert made.count(b"PK\x01\x02") == COUNT


def bench_floor_struct(benchmark: Any) -> None:
    """As many records of the same size, without looking at what is in them."""
    pack = struct.Struct("<I6H3I5H2I").pack

    def all_of_them() -> bytes:
        return b"".join(
            pack(0x02014B50, 0, 0, 0, 0, 0, 0, m.crc, m.size, m.size, 31, 0, 0, 0, 0, 0, m.offset)
            + m.name
            for m in MEMBERS
        )

    benchmark.group = f"central directory of {COUNT}"
    assert len(benchmark(all_of_them)) > 46 * COUNT


def bench_local_header(benchmark: Any) -> None:
    benchmark.group = "local header"
    assert benchmark(local_header, b"payload/series_1/image_001.dcm", 1, 2).startswith(
        b"PK\x03\x04"
    )


def bench_members_onto_a_file(benchmark: Any, tmp_path: Path) -> None:
    """100 members of 0.5 MB, one pwritev(2) each, and the end of the archive."""
    path = tmp_path / "ours.zip"
    checksum = zlib.crc32(INSTANCE)

    def pack() -> None:
        file = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o600)
        offset, members = 0, []
        for number in range(100):
            name = b"image_%03d.dcm" % number
            members.append(Member(name, checksum, len(INSTANCE), offset))
            header = local_header(name, checksum, len(INSTANCE))
            offset += os.pwritev(file, [header, INSTANCE], offset)
        os.pwrite(file, central_directory(members, offset), offset)
        os.close(file)

    benchmark.group = "100 members of 0.5 MB"
    benchmark(pack)
    with zipfile.ZipFile(path) as made:
        assert made.testzip() is None
        assert len(made.namelist()) == 100


def bench_floor_write(benchmark: Any, tmp_path: Path) -> None:
    path = tmp_path / "plain"

    def write() -> None:
        file = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        for _ in range(100):
            os.write(file, INSTANCE)
        os.close(file)

    benchmark.group = "100 members of 0.5 MB"
    benchmark(write)
    assert path.stat().st_size == 100 * len(INSTANCE)


def bench_zipfile(benchmark: Any, tmp_path: Path) -> None:
    path = tmp_path / "zipfile.zip"

    def pack() -> None:
        with zipfile.ZipFile(path, "w") as made:
            for number in range(100):
                made.writestr(f"image_{number:03d}.dcm", INSTANCE)

    benchmark.group = "100 members of 0.5 MB"
    benchmark(pack)
    assert zipfile.is_zipfile(io.BytesIO(path.read_bytes()))
