"""Row F97, a memory limit: it bounds the lanes, and the kernel kills no process."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fastjmix.config import Config
from fastjmix.config.tree import Allowance
from fastjmix.errors import PlatformError
from fastjmix.supervisor import memory
from fastjmix.supervisor.memory import (
    ASSOCIATION_BYTES,
    FEWEST_LANES,
    MIB,
    Limit,
    found_limits,
    plan,
)
from tests.faults.test_processes import memory_group
from tests.support import wire
from tests.support.dicom_peers import CONGESTED
from tests.support.gateway import Gateway, Peer, Store, run_command, running, until, write_config
from tests.support.ledger import Ledger, settle
from tests.support.nodes import to
from tests.support.places import to_bucket
from tests.uploader.test_process import whole_config

THE_COMMAND = "\nfrom fastjmix.cli import main\nmain()"
SENDERS = 24
LARGE = 9_000_000
"""Bytes of an instance that does not fit in its lane."""


# -- the plan --------------------------------------------------------------------------------------


def config(tmp_path: Path, associations: int = 64, **runtime: int) -> Config:
    whole = whole_config(tmp_path, to("http://127.0.0.1:9/"))
    (listener,) = whole.dicom
    return replace(
        whole,
        dicom=(replace(listener, max_associations=associations),),
        runtime=replace(whole.runtime, lane_bytes=8 * MIB, **runtime),
    )


def test_deliveries_to_a_bucket_have_memory_of_their_own(tmp_path: Path) -> None:
    """It is taken from what is left for lanes."""
    plain = config(tmp_path)
    (listener,) = plain.dicom
    bucket = to_bucket("http://127.0.0.1:9", "b", allowance=Allowance(max_concurrent=6))
    with_bucket = replace(plain, dicom=(replace(listener, upstreams=(bucket,)),))
    limit = Limit(2 << 30, "")
    taken = memory.BUCKET_LIBRARY_BYTES + 6 * memory.BUCKET_DELIVERY_BYTES
    assert limit.left_for_lanes(plain) - limit.left_for_lanes(with_bucket) == taken


@pytest.mark.fault("F97")
@pytest.mark.parametrize("lanes", [FEWEST_LANES, 5, 63, 64, 65])
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_as_many_lanes_as_fit(tmp_path: Path, lanes: int, off: int) -> None:
    each = Limit(memory.ADDRESS_BYTES + lanes * (8 * MIB + ASSOCIATION_BYTES) + off, "", each=True)
    found = plan(config(tmp_path), [Limit(1 << 40, "the machine"), each])
    fitting = lanes - (off < 0)
    if fitting < FEWEST_LANES:
        assert (found.lanes, found.lane_bytes < 8 * MIB) == (FEWEST_LANES, True)
    else:
        assert (found.lanes, found.lane_bytes) == (min(fitting, 64), 8 * MIB)
    assert found.is_whole == (fitting >= 64)


@pytest.mark.fault("F97")
@pytest.mark.parametrize("associations", [1, 2, 4, 64])
def test_lanes_are_smaller_before_there_are_none(tmp_path: Path, associations: int) -> None:
    """With ever less memory: the lanes never take more than there is, none is smaller than the
    least size, and more memory never means fewer associations."""
    whole = config(tmp_path, associations)
    least = max(memory.LANE_BYTES_MIN, memory.LANE_PDUS * whole.dicom[0].max_pdu)
    counts = []
    for size in range(1024 * MIB, 32 * MIB, -7 * MIB - 4321):
        limit = Limit(size, "")
        try:
            found = plan(whole, [limit])
        except PlatformError as problem:
            assert limit.left_for_lanes(whole) < least + ASSOCIATION_BYTES
            needed = re.search(r"([0-9.]+) MiB or more are needed", problem.message)
            assert needed
            assert plan(whole, [Limit(int(float(needed[1]) * MIB), "")]).lanes >= 1
            counts.append(0)
            continue
        assert least <= found.lane_bytes <= 8 * MIB
        used = found.lanes * (found.lane_bytes + ASSOCIATION_BYTES)
        assert used <= limit.left_for_lanes(whole)
        counts.append(found.lanes)
    assert counts[0] == associations
    assert counts[-1] == 0
    assert counts == sorted(counts, reverse=True)


@pytest.mark.fault("F97")
def test_every_process_counts(tmp_path: Path) -> None:
    few, many = config(tmp_path), config(tmp_path, receivers=4, packers=8)
    limit = Limit(512 * MIB, "")
    more = many.runtime.receivers + many.runtime.packers - few.runtime.receivers
    more -= few.runtime.packers
    assert limit.left_for_lanes(few) - limit.left_for_lanes(many) == more * memory.CHILD_BYTES


# -- the limits that are there --------------------------------------------------------------------


def a_system(at: Path, kind: str, own: str, root: str, **limits: str) -> Path:
    """Makes a /proc/self with one mount of control groups; `limits` by "group:file"."""
    mount = at / "sys with blank"
    for name, value in limits.items():
        group, _, file = name.rpartition(":")
        (mount / group).mkdir(parents=True, exist_ok=True)
        (mount / group / file).write_text(f"{value}\n")
    proc = at / "proc"
    proc.mkdir()
    point = str(mount).replace(" ", "\\040")
    options = "rw,memory" if kind == "cgroup" else "rw"
    number, controllers = ("4", "memory") if kind == "cgroup" else ("0", "")
    (proc / "cgroup").write_text(f"9:name=systemd:/elsewhere\n{number}:{controllers}:{own}\n")
    (proc / "mountinfo").write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"31 23 0:28 {root} {point} rw shared:4 - {kind} x {options}\n"
    )
    return proc


V1, V2 = "memory.limit_in_bytes", "memory.max"


@pytest.mark.fault("F97")
@pytest.mark.parametrize(
    ("kind", "own", "root", "limits", "least"),
    [
        ("cgroup2", "/a/b", "/", {f"a/b:{V2}": "200000000", f"a:{V2}": "max"}, 200000000),
        ("cgroup2", "/a/b", "/", {f"a/b:{V2}": "max", f"a:{V2}": "150000000"}, 150000000),
        ("cgroup2", "/a/b", "/", {"a/b:memory.high": "90000000", f"a:{V2}": "99999999"}, 90000000),
        ("cgroup2", "/", "/", {f":{V2}": "7000000"}, 7000000),  # a group of its own, seen as /
        ("cgroup2", "/docker/x", "/docker/x", {f":{V2}": "8000000"}, 8000000),
        ("cgroup2", "/../../x", "/", {f":{V2}": "9000000"}, 9000000),
        ("cgroup2", "/gone", "/", {f":{V2}": "max"}, None),
        ("cgroup", "/a/b", "/", {f"a/b:{V1}": "200000000", f"a:{V1}": "100000000"}, 100000000),
        ("cgroup", "/a/b", "/", {f"a/b:{V1}": "9223372036854771712"}, None),
        ("cgroup", "/a", "/a", {f":{V1}": "not a number"}, None),
    ],
)
def test_the_limit_of_a_control_group(
    tmp_path: Path, kind: str, own: str, root: str, limits: dict[str, str], least: int | None
) -> None:
    """Set in the group itself, above it, or in a container that sees its own group only."""
    found = found_limits(a_system(tmp_path, kind, own, root, **limits))
    machine = found[0].size
    assert min(one.size for one in found) == (least or machine)


@pytest.mark.fault("F97")
@pytest.mark.parametrize("lost", ["cgroup", "mountinfo", ""])
def test_a_proc_that_tells_nothing(tmp_path: Path, lost: str) -> None:
    proc = a_system(tmp_path, "cgroup2", "/a", "/", **{f"a:{V2}": "1"})
    if lost:
        (proc / lost).unlink()
    else:
        (proc / "mountinfo").write_text("nonsense\n")
    assert [one.source for one in found_limits(proc)] == ["of this machine"]


# -- a gateway within a limit ---------------------------------------------------------------------


@contextlib.contextmanager
def limited(size: int) -> Iterator[tuple[str, Callable[[], int]] | None]:
    """Yields Python code that puts its process into a group with that limit, and a function that
    counts the group's kills; None where no group can be made."""
    with memory_group(f"fastjmix-test-{os.getpid()}-{threading.get_native_id()}") as found:
        if found is None:
            yield None
            return
        group, limit, kills = found
        (group / limit).write_text(str(size))
        yield f"import os; open('{group}/cgroup.procs', 'w').write(str(os.getpid()))", kills


def none_killed() -> int:
    return 0


def lanes_of(own: Gateway) -> int:
    return int(own.wait_for(r"memory_limit .* associations=(\d+)")[1])


@pytest.mark.fault("F97")
def test_senders_beyond_a_memory_limit_are_rejected_and_nobody_is_killed(tmp_path: Path) -> None:
    """More senders than fit, each with an instance that is larger than its lane. Each tries until
    that is stored."""
    with running(Store(tmp_path / "up", "--verify-hashes")) as store, limited(200 * MIB) as found:
        first, kills = (RLIMITED, none_killed) if found is None else found
        own = Gateway(tmp_path / "own", store.port, builder="release_grace_secs = 0.1", first=first)
        with running(own):
            lanes = lanes_of(own)
            assert 1 < lanes < SENDERS
            everyone = own.children(), own.child.pid
            ledger, answers = Ledger(), Counter[bytes]()
            pixels = os.urandom(LARGE)

            def send(number: int) -> None:
                uid = f"1.2.826.97.{number}"
                data = wire.data_set(uid, study=uid, series=f"{uid}.0", pixels=pixels)
                asked = False
                while uid not in ledger.acknowledged:
                    with Peer(own.dicom_port, 60) as peer:
                        kind, body = peer.associate()
                        answers[body if kind == 3 else b""] += 1
                        if not asked:  # each keeps its place until all have asked for one
                            asked = True
                            everyone_asked.wait(120)
                        if kind == 2:
                            ledger.sending(uid, data)
                            assert peer.store(data, uid) == 0
                            ledger.answered(uid)
                            peer.release()
                        else:
                            held.wait(0.05)

            held, everyone_asked = threading.Event(), threading.Barrier(SENDERS)
            senders = [threading.Thread(target=send, args=(n,)) for n in range(SENDERS)]
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join(120)
            assert len(ledger.acknowledged) == SENDERS
            assert set(answers) <= {b"", CONGESTED}
            assert answers[CONGESTED] > 0
            assert kills() == 0
            assert (own.children(), own.child.pid) == everyone
            settle(own, store, ledger)


RLIMITED = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({320 * MIB}, {320 * MIB}))"


@pytest.mark.fault("F97")
def test_each_process_needs_no_more_addresses_than_planned(tmp_path: Path) -> None:
    """Under a limit of the address space a thread more must not end a process: glibc would reserve
    64 MiB for each."""
    with running(Gateway(tmp_path / "own", 9, first=RLIMITED)) as own:
        own.wait_for("http_listening")
        found = own.wait_for(r"memory_limit .* associations=(\d+) .*lane_bytes=(\d+)")
        lanes = int(found[1]) * int(found[2])
        for name, pid in own.children().items():
            status = Path(f"/proc/{pid}/status").read_text()
            stated = re.search(r"VmSize:\s+(\d+) kB", status)
            assert stated is not None
            size = int(stated[1]) << 10
            shared = lanes if name.startswith(("receiver", "packer")) else 0
            assert size - shared <= memory.ADDRESS_BYTES, name


@pytest.mark.fault("F97")
@pytest.mark.parametrize("size", [16 * MIB, 64 * MIB, 110 * MIB])
def test_too_little_for_one_association_is_said_at_the_start(tmp_path: Path, size: int) -> None:
    """The error has the numbers, the exit code is 2, nothing is begun; `check` says the same."""
    write_config(tmp_path, 9)
    with limited(size) as found:
        if found is None or size < 32 * MIB:
            first = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({150 * MIB}, -1))"
            said = r"memory limit 150 MiB \(RLIMIT_AS\): too little for one association"
        else:
            first = found[0]
            said = rf"memory limit {size // MIB} MiB \(memory.*\): too little for one association"
        program = first + THE_COMMAND
        for command, code in (("run", 2), ("check", 0)):
            done = subprocess.run(
                [sys.executable, "-c", program, command, "-c", "config.toml"],
                cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == code, done.stderr
            assert re.search(said + r".* [0-9.]+ MiB or more are needed", done.stdout + done.stderr)
    assert not (tmp_path / "spool").exists()


@pytest.mark.fault("F97")
def test_an_address_space_that_holds_some_lanes(tmp_path: Path) -> None:
    own = Gateway(tmp_path / "own", 9, first=RLIMITED, builder="release_grace_secs = 0.1")
    with running(own), contextlib.ExitStack() as all_of_them:
        lanes = lanes_of(own)
        assert lanes == (320 * MIB - memory.ADDRESS_BYTES) // (8 * MIB + ASSOCIATION_BYTES)
        peers = [all_of_them.enter_context(Peer(own.dicom_port)) for _ in range(lanes + 1)]
        answers = [peer.associate() for peer in peers]
        assert [kind for kind, _ in answers] == [2] * lanes + [3]
        assert answers[-1][1] == CONGESTED
        for number, peer in enumerate(peers[:-1]):
            uid = f"1.2.826.97.2.{number}"
            assert peer.store(wire.data_set(uid, pixels=bytes(2 * MIB)), uid) == 0
            peer.release()
        assert own.stop() == 0


@pytest.mark.fault("F97")
def test_check_says_what_can_be_served(tmp_path: Path) -> None:
    path = write_config(tmp_path, 9)
    assert re.search(
        r"\n# memory limit [0-9.]+ MiB \(.*\): 64 of 64 associations at once\n",
        run_command("check", "-c", path, cwd=tmp_path).stdout,
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{RLIMITED}{THE_COMMAND}", "check", "-c", path],
        capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert re.search(
        r"# memory limit 320 MiB \(RLIMIT_AS\): 15 of 64 associations at once; raise the limit, or",
        done.stdout,
    )


@pytest.mark.fault("F97")
def test_the_kernel_takes_the_supervisor_last(tmp_path: Path) -> None:
    own = Gateway(tmp_path / "own", 9)
    with running(own):

        def score(pid: int) -> int:
            return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

        children = own.children()
        until(lambda: score(children["api"]) > score(own.child.pid), "it has said so")
        own.wait_for("http_listening")
        order = [score(own.child.pid), *(score(children[n]) for n in ORDER)]
        assert order == sorted(set(order))
        assert score(own.child.pid) == score(os.getpid())
        assert own.stop() == 0


ORDER = ("packer-0", "receiver-0", "uploader", "api")
