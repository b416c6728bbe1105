"""failpoints.py: every point is listed and reached, and costs nothing when unset."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pytest

from fastjmix.failpoints import ARMED, POINTS, VARIABLE
from tests.faults.test_system import DEAD_PORT, HERE, QUICK, modality
from tests.support.envelopes import envelope
from tests.support.gateway import (
    PATIENCE,
    Gateway,
    Gateways,
    Peer,
    Store,
    images,
    running,
    until,
    write_config,
)
from tests.support.ledger import Ledger, instances, settle

PACKAGE = HERE.parent / "fastjmix"


def post(own: Gateway, envelope_id: str, body: bytes) -> int:
    """POSTs an envelope until it is accepted, or is known to be here: the status."""

    def accepted() -> int:
        request = urllib.request.Request(
            f"{own.http}/jmix/api/jmix", body, {"Content-Type": "application/zip"}
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as problem:
            with problem:
                return 409 if problem.code == 409 else 0
        except OSError:
            return 0

    return int(until(accepted, f"{envelope_id} accepted"))


def everything(own: Gateway, ledger: Ledger) -> str:
    """A load that comes by every fail point; senders try again until they have succeeded.

    The id of the envelope that was POSTed."""
    study = "1.2.826.78"
    sender = modality(own, ledger)
    sender.send(instances(study, 2))
    sender.send(instances(f"{study}.1", 1, 1_500_000))
    posted = str(uuid.uuid4())
    assert post(own, posted, envelope(posted)) in (201, 409)
    return posted


ELSEWHERE = ("elsewhere.", "encrypt.", "end.", "packer.decided", "reload.", "requeue.")

FAULTS = [
    *((one, "raise:1") for one in POINTS if not one.startswith(ELSEWHERE)),
    # F01 to F10 kill at all the others. The first listing is made at the start, of nothing.
    *((one, "kill:1") for one in POINTS if one.startswith(("recovery.", "api."))),
    ("uploader.listed", "kill:2"),
]


@pytest.mark.fault("F78")
@pytest.mark.parametrize(("point", "what"), FAULTS)
def test_a_fault_of_ours_at_every_point(
    start: Gateways, store: Store, point: str, what: str
) -> None:
    """An exception: answered with a failure, or the process is started again. Nothing is lost, and
    nothing goes on half-dead: what was to be done is done in the end. A kill: the same.

    The points of encryption are in packer/test_seal.py, that of a requeue in spool/test_holds.py
    and uploader/test_actions.py, that of a rule in packer/test_routes.py, that of a directory in
    uploader/test_targets_directory.py, those of several upstreams in uploader/test_finishing.py,
    that of a reload in supervisor/test_reload.py."""
    at = f"{point}:{what}"
    if point.startswith("recovery."):
        at = f"packer.appended:kill:2,{at}"
    own = start(
        store.port,
        env={VARIABLE: at},
        builder=QUICK,
        fastjmix="lane_bytes = 1048576",
        posts_to='"jmix_upstream"',
    )
    own.wait_for("http_listening")
    ledger = Ledger()
    posted = everything(own, ledger)
    own.wait_for(f"failpoint_reached point={point}")
    if what.startswith("kill"):
        own.wait_for("child_died child=.* how=SIGKILL", at.count(":kill:"))
    settle(own, store, ledger, {posted})


def test_every_point_is_listed_and_reached() -> None:
    """Each name in the table is in the code, once or more, and no other one is."""
    sources = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pxi")]
    used = {
        name
        for path in sources
        if path.name != "failpoints.py"
        for name in re.findall(r'\breach\("([^"]+)"\)', path.read_text())
    }
    assert used == set(POINTS)


def test_points_cost_nothing_when_unset() -> None:
    """Not measured here (bench/ does): the call does nothing, and there is nothing to look at."""
    from fastjmix import failpoints

    assert not ARMED
    assert failpoints.reach.__code__.co_code == (lambda name: None).__code__.co_code


@pytest.mark.parametrize(
    "text", ["nowhere:kill:1", "packer.synced:explode:1", "packer.synced:kill:0", "packer.synced"]
)
def test_a_point_that_does_not_exist_is_the_operators(tmp_path: Path, text: str) -> None:
    write_config(tmp_path, DEAD_PORT)
    done = subprocess.run(
        [sys.executable, "-m", "fastjmix", "run", "-c", "config.toml"],
        cwd=tmp_path, env={**os.environ, VARIABLE: text},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert VARIABLE in done.stderr
    assert "Traceback" not in done.stderr


def standing_still(own: Gateway) -> int:
    """The process that a fail point has stopped, once it is: it says so just before."""
    pid = int(own.wait_for(r"failpoint_reached .*pid=(\d+)")[1])
    status = Path(f"/proc/{pid}/stat")
    until(lambda: status.read_text().rsplit(")", 1)[1].split()[0] == "T", "it stands still")
    return pid


@pytest.mark.fault("F79")
@pytest.mark.parametrize("while_", ["seal.written", "uploader.body", "delivered"])
def test_an_instance_for_an_envelope_that_is_closed(
    start: Gateways, store: Store, while_: str
) -> None:
    """A new envelope of the same study; together they are what was sent."""
    env = {} if while_ == "delivered" else {VARIABLE: f"{while_}:stop:1"}
    own = start(store.port, env=env, builder=QUICK)
    ledger = Ledger()
    data = instances("1.2.826.79", 2, 400_000)
    first, late = [{uid: one} for uid, one in data.items()]
    modality(own, ledger).send(first)
    stopped = 0
    if while_ == "delivered":
        own.wait_sent(1)
    else:
        stopped = standing_still(own)
    sender = threading.Thread(target=modality(own, ledger).send, args=(late,))
    sender.start()
    if while_ == "seal.written":  # its packer is the one that seals: it waits
        own.wait_for("association_accepted", 2)
    else:
        sender.join()
    if stopped:
        os.kill(stopped, signal.SIGCONT)
    sender.join()
    settle(own, store, ledger)
    found = [images(archive) for archive in own.envelopes("sent")]
    assert sorted(found, key=list) == [first, late]
    tickets = [json.loads(p.read_text()) for p in (own.spool / "sent").glob("*.json")]
    assert {tuple(ticket["studies"]) for ticket in tickets} == {("1.2.826.79",)}


@pytest.mark.fault("S26")
def test_every_path_is_the_owners_alone(start: Gateways, store: Store, tmp_path: Path) -> None:
    """While an envelope is built, an instance spilled, one sealed, one sent; and the log file."""
    old = os.umask(0)  # the worst that a gateway can be started with
    try:
        path = write_config(tmp_path / "own", store.port)
        path.write_text(
            path.read_text()
            + '[logging]\nlog_to_file = true\nlog_file_path = "./logs/deep/log.txt"\n'
        )
        own = Gateway.__new__(Gateway)
        super(Gateway, own).__init__(
            "run", "-c", "config.toml", cwd=tmp_path / "own",
            env={VARIABLE: "packer.spilled:stop:1"},
        )  # fmt: skip
    finally:
        os.umask(old)
    with running(own):
        own.spool = tmp_path / "own" / "spool"
        own.dicom_port = int(own.wait_for(r"listening what=dicom .*:(\d+)$")[1])
        modality(own).send(instances("1.2.826.26", 2))
        with Peer(own.dicom_port) as peer:
            peer.associate()
            uid, big = next(iter(instances("1.2.826.27", 1, 8_000_000).items()))
            peer.socket.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                peer.store(big, uid)
        stopped = standing_still(own)
        found = list(own.spool.rglob("*"))
        assert any(p.suffix == ".spill" for p in found)
        assert any(p.name == "draft.json" for p in found)
        os.kill(stopped, signal.SIGCONT)
        own.wait_sent(1)
        found += [*own.spool.rglob("*"), own.spool, *(tmp_path / "own" / "logs").rglob("*")]
        for path in found:
            with contextlib.suppress(FileNotFoundError):
                assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
        assert (tmp_path / "own" / "logs" / "deep" / "log.txt").exists()
