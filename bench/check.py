"""Are these envelopes what was sent? Asked after every timed run.

Wanted: a benchmark that cannot be won by leaving work out.
Guaranteed: OutputError unless the sealed envelopes hold each instance of each study once, data set
for data set the bytes that were sent, with the CRC-32 that zipfile computes, and, where hashing was
asked for, listed digests and a payload hash that are right. Members are streamed, never held whole.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Final

from bench.study import Study

PIECE: Final = 1 << 20


class OutputError(Exception):
    """The output of a run is not what was sent."""


def envelopes(
    archives: Sequence[Path], studies: Iterable[Study], *, hashed: bool = True, listed: bool = True
) -> None:
    """Raises OutputError unless `archives` hold exactly the instances of `studies`."""
    expected = {
        study.instance_uid(index): (study, index)
        for study in studies
        for index in range(study.instances)
    }
    for archive in archives:
        try:
            _one(archive, expected, hashed, listed)
        except (zipfile.BadZipFile, KeyError, ValueError, OSError) as problem:
            raise OutputError(f"{archive.name}: {problem!r}") from problem
    if expected:
        missing = next(iter(expected))
        raise OutputError(f"{len(expected)} instances are missing, {missing} is one of them")


def _one(archive: Path, expected: dict[str, tuple[Study, int]], hashed: bool, listed: bool) -> None:
    members: dict[str, tuple[int, str]] = {}
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if info.filename == "manifest.json":
                continue
            with opened.open(info) as stream:
                digest = hashlib.sha256() if hashed else None
                if info.filename.endswith(".dcm"):
                    _instance(info, stream, digest, expected)
                else:
                    _drain(stream, digest)
            members[info.filename] = (info.file_size, digest.hexdigest() if digest else "")
        manifest = json.loads(opened.read("manifest.json"))
    _manifest(archive, manifest, members, hashed, listed)


def _drain(stream: IO[bytes], digest: Any) -> None:
    while piece := stream.read(PIECE):
        if digest:
            digest.update(piece)


def _instance(
    info: zipfile.ZipInfo, stream: IO[bytes], digest: Any, expected: dict[str, tuple[Study, int]]
) -> None:
    start = stream.read(144)
    meta = stream.read(int.from_bytes(start[140:144], "little"))
    if start[128:132] != b"DICM":
        raise OutputError(f"{info.filename} is not a Part 10 file")
    at = meta.index(b"\x02\x00\x03\x00UI") + 6
    length = int.from_bytes(meta[at : at + 2], "little")
    uid = meta[at + 2 : at + 2 + length].rstrip(b"\0").decode()
    if uid not in expected:
        raise OutputError(f"{info.filename} holds {uid}, which was not sent, or is there twice")
    study, index = expected.pop(uid)
    if digest:
        digest.update(start + meta)
    for piece in (memoryview(study.head(index)), *study.pixels(index)):
        for offset in range(0, len(piece), PIECE):
            part = piece[offset : offset + PIECE]
            found = stream.read(len(part))
            if found != part:
                raise OutputError(f"{info.filename}: the data set of {uid} differs")
            if digest:
                digest.update(found)
    if stream.read(1):  # at its end zipfile compares the CRC-32
        raise OutputError(f"{info.filename} is longer than what was sent")


def _manifest(
    archive: Path,
    manifest: dict[str, Any],
    members: dict[str, tuple[int, str]],
    hashed: bool,
    listed: bool,
) -> None:
    if listed:
        listing = {
            entry["path"]: (entry["size_bytes"], entry.get("hash", "").removeprefix("sha256:"))
            for entry in manifest["files"]
        }
        if listing != members:
            raise OutputError(f"{archive.name}: the listing is not what is in the archive")
    if not hashed:
        return
    paths = {name.removeprefix("payload/"): held for name, held in members.items()}
    lines = {path: f"file:{path}:{size}:{digest}\n" for path, (size, digest) in paths.items()}
    folders = {path.rpartition("/")[0] for path in paths} - {""}
    lines |= {folder: f"dir:{folder}\n" for folder in folders}
    tree = "".join(lines[path] for path in sorted(lines, key=str.encode))
    if (
        manifest["security"]["payload_hash"]
        != f"sha256:{hashlib.sha256(tree.encode()).hexdigest()}"
    ):
        raise OutputError(f"{archive.name}: the payload hash is wrong")


def files(directory: Path, studies: Sequence[Study]) -> None:
    """Raises OutputError unless a peer's directory holds a file an instance, whole."""
    sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file()]
    wanted, least = sum(s.instances for s in studies), sum(s.data_bytes for s in studies)
    if len(sizes) != wanted or sum(sizes) < least:
        raise OutputError(f"{len(sizes)} files of {sum(sizes)} bytes for {wanted} of {least}")
