"""Tries out a target that is no JMIX server: a directory, or a bucket.

Guaranteed: no envelope is sent. In a directory one small file is written as an envelope is, and
deleted; of a bucket a page of names is asked for.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from fastjmix.config import Upstream
from fastjmix.config.file_system import kind_of
from fastjmix.config.tree import BucketPlace, DirectoryPlace
from fastjmix.spool import elsewhere
from fastjmix.tools.check.finding import Finding
from fastjmix.tools.check.limited import start
from fastjmix.uploader.pace import Pace
from fastjmix.uploader.targets.directory import assess_error
from fastjmix.uploader.throttle import Throttle

ANSWER_SECS: Final = 15.0
"""Seconds for all that is tried of one of them."""

GIB: Final = 1 << 30


async def tried_out(one: Upstream, place: DirectoryPlace | BucketPlace, where: str) -> Finding:
    """Returns what was found of the place of a target."""
    if isinstance(place, BucketPlace):
        return await _bucket(one, place, where)
    future = start(lambda: _directory(place, where))
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), ANSWER_SECS)
    except TimeoutError:
        hint = "Is the server of the share there? See the kernel's log."
        return Finding("fault", "directory", where, f"no answer in {ANSWER_SECS:g} s", hint)


def _directory(place: DirectoryPlace, where: str) -> Finding:
    path = place.path
    try:
        if place.require_mount:
            elsewhere.require_mount(path)
        secs = elsewhere.try_out(path, place.file_mode)
        disk = os.statvfs(path)
    except OSError as problem:
        hint = f"fastjmix runs as user {os.geteuid()} here: check the mount, the owner, the mode."
        return Finding("fault", "directory", where, assess_error(problem).reason, hint)
    free = disk.f_bavail * disk.f_frsize / GIB
    found = f"a file was written durably in {1000 * secs:.1f} ms; {free:.1f} GiB are free"
    return Finding("ok", "directory", where, f"{found}, on {_kind(path)}")


def _kind(path: Path) -> str:
    try:
        return kind_of(path)
    except OSError:
        return "a file system of unknown type"


async def _bucket(one: Upstream, place: BucketPlace, where: str) -> Finding:
    from fastjmix.uploader.targets.s3 import S3Client  # an optional library

    client = S3Client(one, place, Pace(), Throttle(None))
    try:
        async with asyncio.timeout(ANSWER_SECS):
            refused = await client.look_up()
    except TimeoutError:
        return Finding("fault", "bucket", where, f"no answer in {ANSWER_SECS:g} s")
    if refused is None:
        found = "its names can be listed; whether it can be written is not tried"
        return Finding("ok", "bucket", where, found)
    status = f"{refused.status}: " if refused.status is not None else ""
    hint = "The keys need s3:PutObject, s3:GetObject and s3:ListBucket."
    return Finding("fault", "bucket", where, f"{status}{refused.reason}", hint)
