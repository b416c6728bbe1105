"""The uploader as the process that it is: started, told to stop, gone."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
from pathlib import Path

import pytest
from nodes import node, run, to, until
from upstreams import Upstream

from fastjmix import config

CHILD = """
import pickle, sys
from pathlib import Path
from fastjmix import log, uploader
from fastjmix.links import Links
from fastjmix.spool import Spool
from fastjmix.stats import StatsPage

config, stop, bell = pickle.load(sys.stdin.buffer)
log.setup("info", None, "uploader")
links = Links(stop, bell, {}, StatsPage(1).row(0))
uploader.run(config, Spool(config.storage_dir), links)
"""


def whole_config(root: Path, upstream: config.Upstream) -> config.Config:
    builder = config.Builder(
        profile="harmony",
        digest="sha256",
        skip_hashing=False,
        skip_listing=False,
        durability="fsync",
        release_grace_secs=1,
        quiet_secs=30,
        max_envelope_bytes=1 << 40,
        max_envelope_instances=1 << 20,
    )
    listener = config.DicomListener(
        pipeline="dicom_to_jmix",
        endpoint="dicom_scp",
        host="127.0.0.1",
        port=0,
        ae_title="JMIX_RECEIVER",
        max_pdu=65536,
        enable_store=True,
        enable_echo=True,
        max_associations=1,
        ack="stored",
        accept_any_called_aet=False,
        limits=config.PeerLimits(30, 60, 300, 1000, 512),
        calling=None,
        builder=builder,
        upstream=upstream,
    )
    return config.Config(
        name="test",
        source=root / "config.toml",
        storage_dir=root,
        log=config.LogSettings("info", None),
        runtime=config.Runtime(1, 1, 1 << 20, 1, None, None, 3600),
        dicom=(listener,),
        http=(),
    )


@pytest.mark.parametrize("way", ["the stop link", "SIGTERM"])
def test_the_process_delivers_until_it_is_told_to_stop(tmp_path: Path, way: str) -> None:
    async def test() -> None:
        async with Upstream().open() as store:
            upstream = to(store.url)
            async with node(tmp_path, upstream, start=False) as one:
                first = one.seal()
                inherited = (one.links.stop, one.links.outbox_bell)
                told = pickle.dumps((whole_config(tmp_path, upstream), *inherited))
                child = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-c",
                    CHILD,
                    stdin=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    pass_fds=inherited,
                )
                assert child.stdin is not None
                child.stdin.write(told)
                child.stdin.write_eof()
                await store.wait(1)
                second = one.seal()
                await store.wait(2)
                await until(lambda: not one.spool.waiting())
                child.send_signal(signal.SIGINT)  # the terminal's, to the whole group
                if way == "SIGTERM":
                    child.send_signal(signal.SIGTERM)
                else:
                    os.eventfd_write(one.links.stop, 1)
                async with asyncio.timeout(10):
                    _, errors = await child.communicate()
                assert child.returncode == 0
                assert errors.count(b" envelope_uploaded ") == 2
                assert one.receipt(first)["status"] == one.receipt(second)["status"] == 201

    run(test)
