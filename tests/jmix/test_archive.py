"""jmix/write/archive.py: every reader opens it, at every limit, and damage is seen."""

from __future__ import annotations

import os
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastjmix.jmix.write import archive
from fastjmix.jmix.write.archive import Member
from tests import reference

FOUR_GIB = 1 << 32

names = st.lists(
    st.text(st.characters(exclude_categories=["C"], exclude_characters="\\/:"), min_size=1),
    unique=True,
    max_size=6,
)
numbers32 = st.one_of(
    st.integers(0, FOUR_GIB - 1), st.sampled_from([0, FOUR_GIB - 2, FOUR_GIB - 1])
)
sizes = st.one_of(st.integers(0, 1 << 40), st.sampled_from([FOUR_GIB - 2, FOUR_GIB - 1, FOUR_GIB]))


def build(contents: Sequence[tuple[str, bytes]], order: Sequence[int] | None = None) -> bytes:
    """An archive in memory; `order` is that of the central directory."""
    out = BytesIO()
    members = []
    for name, data in contents:
        crc = zlib.crc32(data)
        members.append(Member(name.encode(), crc, len(data), out.tell()))
        out.write(archive.local_header(name.encode(), crc, len(data)) + data)
    listed = members if order is None else [members[index] for index in order]
    out.write(archive.central_directory(listed, out.tell()))
    return out.getvalue()


def reader(data: bytes) -> archive.ReadAt:
    return lambda offset, length: data[offset : offset + length]


def file_reader(path: Path) -> tuple[archive.ReadAt, Callable[[], None]]:
    descriptor = os.open(path, os.O_RDONLY)
    return lambda offset, length: os.pread(descriptor, length, offset), lambda: os.close(descriptor)


@pytest.fixture
def sample() -> bytes:
    """Documents last in the file and first in the central directory, as envelopes have them."""
    return build(
        [
            ("payload/series_1/image_001.dcm", b"DICM" * 40),
            ("payload/series_1/image_002.dcm", b""),
            ("payload/metadata.json", b'{"id":"x"}'),
            ("manifest.json", b"{}"),
        ],
        [3, 2, 0, 1],
    )


def check(data: bytes) -> None:
    archive.check_structure(reader(data), len(data))


# -- headers ---------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(max_size=300), numbers32, sizes)
def test_local_header_is_the_tables(name: bytes, crc: int, size: int) -> None:
    header = archive.local_header(name, crc, size)
    assert header == reference.local_header(name, crc, size)
    member = Member(name, crc, size, 7)
    assert archive.data_offset(member) == 7 + len(header)


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=9), numbers32, sizes, sizes), max_size=5), sizes)
def test_the_central_directory_holds_the_given_members(
    told: list[tuple[str, int, int, int]], start: int
) -> None:
    members = [Member(name.encode(), *numbers) for name, *numbers in told]
    written = archive.central_directory(members, start)
    # Read by the standard library from a file whose first `start` bytes do not exist.
    image = Sparse(start, written)
    with zipfile.ZipFile(image) as found:
        seen = [(i.CRC, i.file_size, i.compress_size, i.header_offset) for i in found.infolist()]
        assert seen == [(crc, size, size, offset) for _, crc, size, offset in told]
        assert found.start_dir == start
        assert found.comment == b""


class Sparse(BytesIO):
    """`start` zero bytes, of any number, and then `tail`."""

    def __init__(self, start: int, tail: bytes) -> None:
        super().__init__()
        self.start, self.tail, self.at = start, tail, 0

    def seek(self, offset: int, whence: int = 0, /) -> int:
        base = (0, self.at, self.start + len(self.tail))[whence]
        if base + offset < 0:
            raise OSError("before the beginning")
        self.at = base + offset
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, size: int | None = -1, /) -> bytes:
        first = self.at - self.start
        last = len(self.tail) if size is None or size < 0 else first + size
        assert last - first < 1 << 20, "nobody reads the hole"
        data = bytes(max(0, min(last, 0) - first)) + self.tail[max(first, 0) : max(last, 0)]
        self.at += len(data)
        return data


# -- whole archives --------------------------------------------------------------------------


@settings(deadline=None)
@given(st.data(), names)
def test_what_goes_in_comes_out(data: st.DataObject, found: list[str]) -> None:
    contents = [(name, data.draw(st.binary(max_size=60))) for name in found]
    order = data.draw(st.permutations(range(len(contents))))
    made = build(contents, order)

    with zipfile.ZipFile(BytesIO(made)) as opened:
        twin = zipfile.ZipFile(BytesIO(reference.zip_by_zipfile(contents)))
        assert opened.namelist() == [contents[index][0] for index in order]
        assert opened.testzip() is None
        for name, expected in contents:
            info, other = opened.getinfo(name), twin.getinfo(name)
            assert opened.read(name) == expected
            for field in ("CRC", "file_size", "date_time", "external_attr", "create_system",
                          "compress_type", "comment", "internal_attr", "volume"):  # fmt: skip
                assert getattr(info, field) == getattr(other, field), field
            assert info.flag_bits == 0x0800
    assert reference.read_forward(made) == contents

    check(made)
    walked = walk(made)
    for (member, start), (_, expected) in zip(walked, contents, strict=True):
        assert made[start : start + member.size] == expected


def test_equal_members_give_equal_bytes() -> None:
    small = build([("a", b"b")])
    assert small == (
        b"PK\x03\x04\x14\x00\x00\x08\x00\x00\x00\x00!\x00\xf9\xef\xbeq"
        b"\x01\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00ab"
        b"PK\x01\x02\x14\x03\x14\x00\x00\x08\x00\x00\x00\x00!\x00\xf9\xef\xbeq"
        b"\x01\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
        b"\xa4\x81\x00\x00\x00\x00a"
        b"PK\x05\x06\x00\x00\x00\x00\x01\x00\x01\x00/\x00\x00\x00 \x00\x00\x00\x00\x00"
    )


def test_members_claim_the_version_that_they_need(sample: bytes) -> None:
    with zipfile.ZipFile(BytesIO(sample)) as found:
        versions = {(one.create_version, one.extract_version) for one in found.infolist()}
        assert versions == {(20, 20)}
        assert {one.create_system for one in found.infolist()} == {3}
    local = sample[4:6]
    assert local == b"\x14\x00"


def test_archives_of_earlier_versions_are_whole(sample: bytes) -> None:
    """Their members were all made by 4.5; some of them only is damage."""
    first = sample.index(b"PK\x01\x02")
    earlier = bytearray(sample)
    at = first
    while sample[at : at + 4] == b"PK\x01\x02":
        earlier[at + 4] = 45
        at += 46 + sum(struct.unpack_from("<3H", sample, at + 28))
    check(bytes(earlier))
    earlier[first + 4] = 20
    with pytest.raises(ValueError, match="not as fastjmix writes it"):
        archive.check_structure(reader(bytes(earlier)), len(earlier))


@pytest.mark.parametrize("tool", [["unzip", "-tq"], ["7z", "t", "-bd"], ["zipinfo"]])
def test_tools_open_it(tool: list[str], sample: bytes, tmp_path: Path) -> None:
    path = tmp_path / "envelope.zip"
    path.write_bytes(sample)
    done = subprocess.run([*tool, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()


# -- limits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [65534, 65535, 65536])
def test_limits_of_entries(count: int, tmp_path: Path) -> None:
    made = build([(f"{index:x}", b"") for index in range(count)])
    assert (b"PK\x06\x06" in made) == (count >= 65535)
    check(made)
    with zipfile.ZipFile(BytesIO(made)) as found:
        assert len(found.infolist()) == count
    path = tmp_path / "many.zip"
    path.write_bytes(made)
    for tool in (["unzip", "-tq"], ["7z", "t", "-bd"]):
        subprocess.run([*tool, path], stdout=subprocess.DEVNULL, check=True)


def sparse_archive(path: Path, size: int) -> list[Member]:
    """A hole of `size` bytes as a member, a small one behind it; takes no room on disk."""
    small = b"the last, small member"
    first = Member(b"payload/hole.dcm", 0, size, 0)
    second = Member(
        b"manifest.json", zlib.crc32(small), len(small), archive.data_offset(first) + size
    )
    start = archive.data_offset(second) + len(small)
    with path.open("wb") as file:
        file.write(archive.local_header(*first[:3]))
        file.seek(second.offset)
        file.write(archive.local_header(*second[:3]) + small)
        file.write(archive.central_directory([second, first], start))
    assert path.stat().st_blocks < 1000
    return [second, first]


FIRST_HEADER = 30 + len(b"payload/hole.dcm")


@pytest.mark.parametrize(
    "size",
    [
        # The member's own size at its limit.
        FOUR_GIB - 2,
        FOUR_GIB - 1,
        FOUR_GIB,
        # The offset of a small last member at its limit.
        FOUR_GIB - 2 - FIRST_HEADER,
        FOUR_GIB - 1 - FIRST_HEADER,
        FOUR_GIB - FIRST_HEADER,
        # The offset of the central directory alone.
        FOUR_GIB - 1 - FIRST_HEADER - 30 - len(b"manifest.json") - 22,
        (1 << 31) - 1,
    ],
)
def test_limits_of_sizes_and_offsets(size: int, tmp_path: Path) -> None:
    path = tmp_path / "sparse.zip"
    members = sparse_archive(path, size)
    read_at, close = file_reader(path)
    length = path.stat().st_size
    archive.check_structure(read_at, length)
    assert [member for member, _ in archive.walk(read_at, length)] == members[::-1]
    close()

    wide = size >= FOUR_GIB - 1
    with zipfile.ZipFile(path) as found:
        small, hole = found.infolist()
        assert (hole.file_size, hole.compress_size, hole.header_offset) == (size, size, 0)
        assert (hole.extract_version, len(hole.extra)) == ((45, 20) if wide else (20, 0))
        assert small.header_offset == members[0].offset
        assert small.extract_version == (45 if small.header_offset >= FOUR_GIB - 1 else 20)
        assert [one.create_version for one in (small, hole)] == [
            one.extract_version for one in (small, hole)
        ]
        assert found.read(small) == b"the last, small member"
        with found.open(hole) as inside:
            assert inside.read(8) == bytes(8)

    for tool in (["unzip", "-p"], ["7z", "e", "-so"]):
        done = subprocess.run([*tool, path, "manifest.json"], capture_output=True, check=True)
        assert done.stdout == b"the last, small member"
    listed = subprocess.run(["7z", "l", "-slt", path], capture_output=True, text=True, check=True)
    assert f"\nSize = {size}\n" in listed.stdout
    assert "Warnings" not in listed.stdout


# -- walking what a crash left ---------------------------------------------------------------


def test_a_torn_tail_ends_the_walk(sample: bytes) -> None:
    whole = [(member, start + member.size) for member, start in walk(sample)]
    for cut in range(len(sample) + 1):
        assert walk(sample[:cut]) == [
            (member, end - member.size) for member, end in whole if end <= cut
        ]


def walk(data: bytes) -> list[tuple[Member, int]]:
    return list(archive.walk(reader(data), len(data)))


def test_an_archive_inside_a_member_is_data(sample: bytes) -> None:
    outer = build([("payload/series_1/image_001.dcm", sample), ("manifest.json", b"{}")])
    assert [member.name for member, _ in walk(outer)] == [
        b"payload/series_1/image_001.dcm",
        b"manifest.json",
    ]
    torn = outer[: len(sample) + 10]
    assert walk(torn) == []
    with pytest.raises(ValueError):
        check(torn)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_the_walk_survives_anything(junk: bytes) -> None:
    assert walk(junk) == []
    assert [member.name for member, _ in walk(archive.local_header(b"a", 0, 0) + junk)] == [b"a"]


def test_a_long_name_is_read_whole() -> None:
    made = build([("n" * 65535, b"data"), ("b", b"")])
    assert [len(member.name) for member, _ in walk(made)] == [65535, 1]
    check(made)
    assert walk(made[:60000]) == []


# -- checking what was sealed ----------------------------------------------------------------


def structure(data: bytes) -> Iterator[int]:
    """Offsets of every byte that is not a member's data."""
    position = 0
    for _, start in walk(data):
        yield from range(position, start)
        position = start + next(m.size for m, s in walk(data) if s == start)
    yield from range(position, len(data))


@pytest.mark.fault("F24")
def test_no_byte_of_the_structure_can_change(sample: bytes) -> None:
    check(sample)
    for offset in structure(sample):
        for bit in (0x01, 0x80):
            damaged = bytearray(sample)
            damaged[offset] ^= bit
            with pytest.raises(ValueError):
                check(bytes(damaged))


def test_no_byte_of_zip64_can_change(tmp_path: Path) -> None:
    path = tmp_path / "sparse.zip"
    sparse_archive(path, FOUR_GIB)
    size = path.stat().st_size
    read_at, close = file_reader(path)
    tail_at = FOUR_GIB + 66
    tail = read_at(tail_at, size)
    close()
    head = archive.local_header(b"payload/hole.dcm", 0, FOUR_GIB)
    assert FOUR_GIB + len(head) == tail_at
    data = tail.index(b"the last")
    for offset in (*range(data), *range(data + 22, len(tail))):
        damaged = bytearray(tail)
        damaged[offset] ^= 0x01

        def damaged_at(at: int, length: int, image: bytearray = damaged) -> bytes:
            if at < tail_at:
                return (head + bytes(length))[at : at + length]
            return bytes(image[at - tail_at : at - tail_at + length])

        with pytest.raises(ValueError):
            archive.check_structure(damaged_at, size)


@pytest.mark.parametrize("change", [b"", b"\0", b"a comment"])
def test_neither_more_nor_less(sample: bytes, change: bytes) -> None:
    with pytest.raises(ValueError):
        check(sample + change if change else sample[:-1])
    with pytest.raises(ValueError):
        check(change)


@settings(deadline=None)
@given(st.data())
def test_cut_anywhere_it_is_refused(data: st.DataObject) -> None:
    made = build([("a", b"x" * 50), ("b", b"y")])
    cut = data.draw(st.integers(0, len(made) - 1))
    with pytest.raises(ValueError):
        check(made[:cut])


def test_members_and_directory_must_agree() -> None:
    first = archive.local_header(b"a", 0, 0)
    second = archive.local_header(b"b", 0, 0)
    both = [Member(b"a", 0, 0, 0), Member(b"b", 0, 0, len(first))]

    def sealed(body: bytes, members: list[Member]) -> bytes:
        return body + archive.central_directory(members, len(body))

    check(sealed(first + second, both))
    for body, members, reported in (
        (first + second, both[:1], "belong to no member"),  # one is not listed
        (first + b"??" + second, [both[0], Member(b"b", 0, 0, 33)], "header at 31"),  # a gap
        (first + first, [both[0], Member(b"a", 0, 0, 31)], "twice"),
        (first, both, "header at 31"),  # listed, not there
    ):
        with pytest.raises(ValueError, match=reported):
            check(sealed(body, members))


def test_a_member_added_by_another_writer_is_seen(sample: bytes, tmp_path: Path) -> None:
    path = tmp_path / "envelope.zip"
    path.write_bytes(sample)
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr("payload/extra", b"")
    with pytest.raises(ValueError):
        check(path.read_bytes())
