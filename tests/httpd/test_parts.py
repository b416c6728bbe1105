"""httpd/parts.py: the ZIP of envelopes, compared with zipfile's reading and zlib's CRC-32."""

from __future__ import annotations

import contextlib
import io
import random
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from isal.isal_zlib import crc32_combine

from fastjmix.httpd.parts import JoinedParts, Part, archive_crc
from fastjmix.jmix.write.archive import Member, central_directory, local_header
from tests.support.envelopes import envelope, envelope_members, zipped

GIB = 1 << 30


Make = Callable[[bytes, str], Part]


@pytest.fixture
def part(tmp_path: Path) -> Iterator[Make]:
    """Makes a file, and a part of it that is open until the test ends."""
    with contextlib.ExitStack() as files:

        def make(data: bytes, name: str) -> Part:
            path = tmp_path / name
            path.write_bytes(data)
            return Part(name, files.enter_context(path.open("rb", buffering=0)))

        yield make


def stored(content: dict[str, bytes]) -> bytes:
    """An archive as fastjmix seals it."""
    text, members = b"", []
    for name, data in content.items():
        crc = zlib.crc32(data)
        members.append(Member(name.encode(), crc, len(data), len(text)))
        text += local_header(name.encode(), crc, len(data)) + data
    return text + central_directory(members, len(text))


def read(joined: JoinedParts, at: int, size: int) -> bytes:
    """Reads `size` bytes at `at`, or those that are there."""
    text = b""
    while len(text) < size and (piece := joined.read(size - len(text), at + len(text))):
        text += piece
    return text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK",
        stored({}),
        stored({"manifest.json": b"{}", "empty": b"", "big": bytes(3_000_000)}),
        stored({"a": b"x" * 70_000}) + b"behind",
        stored({"inner.zip": stored({"a": b"b"})}),
        envelope(),
        zipped(envelope_members(image=b"x" * 5_000_000), zipfile.ZIP_DEFLATED),
    ],
    ids=["empty", "cut", "no member", "ours", "more behind", "nested", "foreign", "deflated"],
)
def test_the_crc_of_an_archive(part: Make, data: bytes) -> None:
    one = part(data, "a")
    assert archive_crc(one.file.fileno(), len(data)) == zlib.crc32(data)


def test_any_range_gives_the_bytes_of_the_whole(part: Make, seed: int) -> None:
    sizes = (0, 1, 65_000, 300_000)
    contents = [stored({"a": random.randbytes(size)}) for size in sizes]
    joined = JoinedParts([part(data, str(n)) for n, data in enumerate(contents)])
    text = read(joined, 0, joined.size)
    assert len(text) == joined.size
    with zipfile.ZipFile(io.BytesIO(text)) as archive:
        assert archive.testzip() is None
        assert [archive.read(name) for name in archive.namelist()] == contents
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {info.flag_bits & 8 for info in archive.infolist()} == {0}
    for _ in range(200):
        at = random.randrange(joined.size + 10)
        found = joined.read(random.randrange(1, 1000), at)
        assert found == text[at : at + len(found)]
        assert bool(found) == (at < joined.size)


def test_other_envelopes_have_another_tag(part: Make) -> None:
    tags = {
        JoinedParts([part(stored({"a": data}), name)]).tag
        for data, name in ((b"x", "a"), (b"y", "a"), (b"x", "b"))
    }
    assert len(tags) == 3


def test_a_file_that_became_shorter_ends_there(tmp_path: Path, part: Make) -> None:
    one = part(stored({"a": bytes(100_000)}), "a")
    joined = JoinedParts([one])
    (tmp_path / "a").write_bytes(b"PK")
    assert joined.read(1000, 50_000) == b""


def test_envelopes_of_many_gigabytes_take_zip64(tmp_path: Path, part: Make) -> None:
    """The files are sparse: each has one member of 4.5 GiB of zeros, which is not read for it."""
    size = 4 * GIB + (GIB >> 1)
    block = bytes(1 << 26)
    crc = of_block = zlib.crc32(block)
    for _ in range(size // len(block) - 1):
        crc = crc32_combine(crc, of_block, len(block))
    header = local_header(b"zeros", crc, size)
    tail = central_directory([Member(b"zeros", crc, size, 0)], len(header) + size)
    files = []
    for name in ("1", "2"):
        files.append(part(header, name))
        with (tmp_path / name).open("r+b") as file:
            file.seek(len(header) + size)
            file.write(tail)
    joined = JoinedParts(files)
    assert joined.size > 9 * GIB
    whole = tmp_path / "whole.zip"
    length = len(header) + size + len(tail)
    with whole.open("wb") as file:
        for at in (0, length + 30 + 7 + 20, joined.size - 1000):  # sparse, but for what is around
            file.seek(max(0, at - 1000))
            file.write(read(joined, max(0, at - 1000), 2000))
        file.truncate(joined.size)
    with zipfile.ZipFile(whole) as archive:
        assert [(info.filename, info.file_size) for info in archive.infolist()] == [
            ("1-1.zip", length),
            ("2-2.zip", length),
        ]
    listed = subprocess.run(
        ["unzip", "-Z1", str(whole)], check=True, stdout=subprocess.PIPE, text=True, timeout=60
    )
    assert listed.stdout.split() == ["1-1.zip", "2-2.zip"]
