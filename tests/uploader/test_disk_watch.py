"""uploader/disk_watch.py: the lines about a disk that fills."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from fastjmix import log
from fastjmix.spool import FreeSpace, free_space
from fastjmix.uploader import disk_watch
from fastjmix.uploader.disk_watch import DiskWatch
from tests.support.disks import Memory


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines()


def test_one_line_a_crossing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_space, "MEASURE_SECS", -1.0)
    monkeypatch.setattr(disk_watch, "LOOK_SECS", 0.01)
    log.setup("info", tmp_path / "log", "uploader")
    disk = Memory(tmp_path / "small", 16 << 20)

    async def fills() -> None:
        watch = asyncio.create_task(DiskWatch(FreeSpace(disk.at, 8 << 20, 2 << 20)).run())
        for number, size in enumerate((9, 15, 10, 0), start=1):
            (disk.at / "filler").write_bytes(bytes(size << 20))
            async with asyncio.timeout(60):
                while len(lines(tmp_path / "log")) < number:
                    await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)  # no second line
        watch.cancel()

    try:
        asyncio.run(fills())
    finally:
        disk.close()
    soft, hard, again, above = lines(tmp_path / "log")
    numbers = r"free_bytes=\d+ soft_mark_bytes=8388608 hard_mark_bytes=2097152"
    refused = "new associations are rejected"
    assert re.search(f" warning uploader disk_below_mark mark=soft .*{numbers}.*{refused}", soft)
    assert re.search(f" error   uploader disk_below_mark mark=hard .*{numbers}.*A700", hard)
    assert re.search(" warning uploader disk_below_mark mark=soft was_below=hard ", again)
    assert re.search(" info    uploader disk_above_marks was_below=soft resource=space ", above)


def test_without_a_disk_it_waits() -> None:
    async def waits() -> None:
        watch = asyncio.create_task(DiskWatch(None).run())
        await asyncio.sleep(0)
        assert not watch.done()
        watch.cancel()

    asyncio.run(waits())
