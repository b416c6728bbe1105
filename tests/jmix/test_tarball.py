"""jmix/write/tarball.py: tars of others are read in bounded time and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.write import tarball
from tests.jmix.test_strict_reading import peak


def tar_header(name: bytes, kind: bytes, size: int) -> bytes:
    header = bytearray(512)
    header[: len(name)] = name
    header[100:107], header[124:135], header[156:157] = b"0000644", b"%011o" % size, kind
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    return bytes(header)


def pax(records: bytes) -> bytes:
    return tar_header(b"x", b"x", len(records)) + records + bytes(-len(records) % 512)


def pax_path(path: bytes) -> bytes:
    length = len(path) + len(b" path=\n")
    length += len(b"%d" % (length + len(b"%d" % length)))
    return pax(b"%d path=%s\n" % (length, path))


@pytest.mark.fault("S31")
def test_a_pax_header_is_walked_once() -> None:
    keys_ = (b"7 %03x=\n" % n for n in range(4096))
    records = b"".join(keys_)
    member = pax(records) + tar_header(b"metadata.json", b"0", 0)
    started = time.process_time()
    for _ in range(100):
        assert [path for path, _, _ in tarball.untar("php", [member + bytes(1024)])]
    assert time.process_time() - started < 5


@pytest.mark.fault("S31")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_bytes_of_an_extended_header(off: int) -> None:
    size = tarball.HEADER_MAX + off
    records = b"%d x=%s\n" % (size, b"y" * (size - 9))
    tar = pax(records) + tar_header(b"a", b"0", 0) + bytes(1024)
    if off > 0:
        with pytest.raises(EnvelopeError, match="HEADER_MAX"):
            list(tarball.untar("php", [tar]))
    else:
        assert [path for path, _, _ in tarball.untar("php", [tar])] == ["a"]


@pytest.mark.fault("S31")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_members_of_a_tar(monkeypatch: pytest.MonkeyPatch, off: int) -> None:
    monkeypatch.setattr(tarball, "MEMBERS_MAX", 11 - off)  # one of them a folder
    tar = b"".join(tar_header(b"a/%d" % n, b"0", 0) for n in range(10)) + bytes(1024)
    if off > 0:
        with pytest.raises(EnvelopeError, match="MEMBERS_MAX"):
            list(tarball.untar("php", [tar]))
    else:
        assert len(list(tarball.untar("php", [tar]))) == 10


@pytest.mark.fault("S31")
@pytest.mark.parametrize("off", [0, 1])
def test_names_of_a_tar_are_bounded_in_all(monkeypatch: pytest.MonkeyPatch, off: int) -> None:
    paths = [b"%02d/%s" % (n, b"y" * 500) for n in range(10)]
    held = sum(2 + len(path) for path in paths)  # and the folder of each
    monkeypatch.setattr(tarball, "NAMES_BYTES_MAX", held - off)
    tar = b"".join(pax_path(path) + tar_header(b"-", b"0", 0) for path in paths) + bytes(1024)
    if off:
        with pytest.raises(EnvelopeError, match="NAMES_BYTES_MAX"):
            list(tarball.untar("php", [tar]))
    else:
        assert len(list(tarball.untar("php", [tar]))) == 10


@pytest.mark.fault("S31")
def test_names_of_a_tar_imply_folders_within_bounds() -> None:
    def tar() -> Iterator[bytes]:
        for number in range(100_000):
            yield pax_path(b"%d/" % number + b"x/" * 240 + b"f") + tar_header(b"-", b"0", 0)

    def look() -> None:
        with pytest.raises(EnvelopeError, match=r"MEMBERS_MAX|NAMES_BYTES_MAX"):
            for _ in tarball.untar("php", tar()):
                pass

    assert peak(look) < 100 << 20
