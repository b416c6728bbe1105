"""The uploader as a process: it starts, is stopped, and ends."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
import sys
from pathlib import Path

import pytest

from fastjmix import config, log
from fastjmix.uploader.loop import log_loop_problem
from tests.support import wire
from tests.support.gateway import Gateway, Peer, Store, running
from tests.support.nodes import node, run, to, until
from tests.support.proxy import Plan, Proxy, Reset, Say, in_turn
from tests.support.upstreams import Upstream, http_head

CHILD = """
import pickle, sys
from pathlib import Path
from fastjmix import log; from fastjmix.uploader import loop as uploader
from fastjmix.ipc.channels import Channels
from fastjmix.spool import Spool
from fastjmix.ipc.metrics import MetricsPage

config, stop, outbox_wake = pickle.load(sys.stdin.buffer)
log.setup("info", None, "uploader")
links = Channels(stop, outbox_wake, {}, MetricsPage(1).row(0))
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
        tolerate_uids=False,
        accept_malformed=False,
        limits=config.PeerLimits(30, 60, 300, 1000, 512),
        calling=None,
        builder=builder,
        upstreams=(upstream,),
    )
    return config.Config(
        name="test",
        source=root / "config.toml",
        storage_dir=root,
        log=config.LogSettings("info", None),
        runtime=config.Runtime(1, 1, 1 << 20, 1, 900, None, None, 3600),
        dicom=(listener,),
        http=(),
    )


@pytest.mark.parametrize("way", ["the stop link", "SIGTERM"])
def test_the_process_delivers_until_it_is_stopped(tmp_path: Path, way: str) -> None:
    async def test() -> None:
        async with Upstream().open() as store:
            upstream = to(store.url)
            async with node(tmp_path, upstream, start=False) as one:
                first = one.seal()
                inherited = (one.channels.stop, one.channels.outbox_wake)
                settings = pickle.dumps((whole_config(tmp_path, upstream), *inherited))
                child = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-c",
                    CHILD,
                    stdin=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    pass_fds=inherited,
                )
                assert child.stdin is not None
                child.stdin.write(settings)
                child.stdin.write_eof()
                await store.wait(1)
                second = one.seal()
                await store.wait(2)
                await until(lambda: not one.spool.outbox_listing.ids())
                child.send_signal(signal.SIGINT)  # the terminal's, to the whole group
                if way == "SIGTERM":
                    child.send_signal(signal.SIGTERM)
                else:
                    os.eventfd_write(one.channels.stop, 1)
                async with asyncio.timeout(10):
                    _, errors = await child.communicate()
                assert child.returncode == 0
                assert errors.count(b" envelope_uploaded ") == 2
                assert one.receipt(first)["status"] == one.receipt(second)["status"] == 201

    run(test)


def test_an_abandoned_task_that_fails_is_one_line_of_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An example is a connection that is reset when its attempt is over. No traceback is
    printed.
    """
    log.setup("info", tmp_path / "log", "uploader")

    async def test() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log_loop_problem)

        async def reset() -> None:
            raise ConnectionResetError(104, "Connection reset by peer")

        tasks = [asyncio.create_task(reset())]
        await asyncio.wait(tasks)
        tasks.clear()
        gc.collect()
        await until(lambda: "loop_problem" in (tmp_path / "log").read_text())

    run(test)
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert "Connection reset by peer" in line
    assert capfd.readouterr().err.splitlines() == [line]


def test_a_reset_while_a_body_is_sent_is_one_line_an_attempt(tmp_path: Path) -> None:
    """Resets a connection anywhere in the body, before or after an answer. stderr is the
    log here.
    """
    places = (0, 1, 3000, 65536, 700_000)
    late = http_head("500 X", Content_Length=0)
    plans = [Plan(up=(Reset(place),)) for place in places]
    plans += [Plan(up=(Say(place, late), Reset(place + 65536))) for place in places[2:]]
    with running(Store(tmp_path)) as store, Proxy(store.port, in_turn(*plans)).running() as proxy:
        builder = "release_grace_secs = 0.1"
        with (
            running(Gateway(tmp_path / "node", proxy.port, builder=builder)) as gateway,
            Peer(gateway.dicom_port) as peer,
        ):
            assert peer.associate()[0] == 2
            assert peer.store(wire.data_set(pixels=bytes(2 << 20))) == 0
            peer.release()
            gateway.wait_for("upload_retry", 3)
            text = gateway.log()
            assert "Traceback" not in text
            assert "never retrieved" not in text
            assert "loop_problem" not in text
            uploader = [line for line in text.splitlines() if " uploader " in line]
            events = {line.split(" uploader ")[1].split()[0] for line in uploader}
            assert events <= {"upload_retry", "upstream_paused", "upstream_resumed"}
            assert all(text.count(line) == 1 for line in uploader)
            assert len([line for line in text.splitlines() if line[:2] != "20"]) <= 1
