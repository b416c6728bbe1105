"""Rows F71 to F79, F81, S26 to S28: clocks, versions, leftovers, logs, faults of ours, secrets."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import pickle
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import (
    PATIENCE,
    Gateway,
    Gateways,
    Peer,
    Store,
    get,
    holds,
    images,
    running,
    until,
    write_config,
)
from tests.support.ledger import Ledger, Modality, account, drain, held_by, instances, settle
from tests.support.nightly import by_form

HERE = Path(__file__).parents[1]
QUICK = "release_grace_secs = 0.1"
PATIENT = "release_grace_secs = 60"
DEAD_PORT = 9


def modality(own: Gateway, ledger: Ledger | None = None) -> Modality:
    return Modality(lambda: own.dicom_port, ledger or Ledger())


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Name → mode, time of change and content of everything under a directory."""
    return {
        str(path.relative_to(root)): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(root.rglob("*"))
    }


# -- F71: the clock ------------------------------------------------------------------------------


class Clock:
    """libfaketime: the wall clock of a process moves while it runs; the monotonic one does not."""

    def __init__(self, directory: Path) -> None:
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        assert found, "libfaketime is needed: apt-get install faketime"
        self._file = directory / "clock"
        self.set("+0")
        self.env = {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset: str) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(offset + "\n")
        new.rename(self._file)


@pytest.mark.fault("F71")
@pytest.mark.parametrize("jump", ["+1d", "-1d", "+3650d"])
def test_a_clock_that_jumps_moves_no_timer(start: Gateways, tmp_path: Path, jump: str) -> None:
    """While an envelope waits to be quiet, and while an upload waits to be tried again."""
    clock = Clock(tmp_path)
    with running(Store(tmp_path / "up")) as first:
        port = first.port
    own = start(port, env=clock.env, builder="quiet_secs = 2\nrelease_grace_secs = 60")
    ledger = Ledger()
    data = instances("1.2.826.71", 2)
    with Peer(own.dicom_port) as peer:
        peer.associate()
        for number, (uid, one) in enumerate(data.items()):
            ledger.sending(uid, one)
            assert peer.store(one, uid) == 0
            ledger.answered(uid)
            if not number:
                clock.set(jump)
                own.wait_for("http_listening")
        own.wait_for("envelope_sealed .*instances=2 .*why=quiet")  # not by the first alone
        own.wait_for("upload_retry")
        clock.set("+0")
        with running(Store(tmp_path / "up", port=port)) as store:
            drain(own)
            assert own.stop() == 0
            assert account(ledger, own, held_by(store)).clean
    year = int(own.wait_for(r"^(\d{4})-.* envelope_sealed")[1])
    assert (year > time.gmtime().tm_year + 5) == (jump == "+3650d")  # it was another time there


RETAIN = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from fastjmix.spool import Retention, Spool, Ticket
from fastjmix.spool.recipe import UNKNOWN
spool = Spool(Path(sys.argv[1]))
spool.prepare()
draft = spool.drafts.new(UNKNOWN)
draft.append([b"x" * 1000])
ticket = draft.seal([], Ticket(draft.id, "p", "u", "stored", (), "", 1, 0, time.time(), "t"))
spool.deliver(ticket.id, {"status": 201})
kept = Retention(spool, 86400.0)
before = time.time()
Path(sys.argv[2]).write_text("+3650d\\n")
while time.time() - before < 86400: pass
assert kept.run() == [], "deleted early"
assert Retention(spool, None, 10).run() == [ticket.id]
"""


@pytest.mark.fault("F71")
def test_a_clock_that_jumps_deletes_nothing_early(tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    command = [sys.executable, "-c", RETAIN, str(tmp_path / "spool"), str(tmp_path / "clock")]
    env = {**os.environ, **clock.env}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# -- F72, F73: versions --------------------------------------------------------------------------

OLD_SPOOL = HERE / "data" / "spool-format-1"
"""Written by the first version that had format 1: a draft, a sealed envelope, a delivered one."""


@pytest.mark.fault("F72")
def test_a_spool_of_format_1_is_read(start: Gateways, store: Store, tmp_path: Path) -> None:
    shutil.copytree(OLD_SPOOL / "spool", tmp_path / "own" / "spool")
    for path in (tmp_path / "own" / "spool").rglob(".keep"):
        path.unlink()
    expected = json.loads((OLD_SPOOL / "expected.json").read_text())
    own = start(store.port)
    own.wait_for("envelope_recovered")
    drain(own)
    assert own.stop() == 0
    for envelope_id, contents in expected.items():
        found = images(own.spool / "sent" / f"{envelope_id}.zip")
        assert {uid: hashlib.sha256(data).hexdigest() for uid, data in found.items()} == contents


@pytest.mark.fault("F72")
def test_an_upgrade_under_load_loses_nothing(start: Gateways, store: Store) -> None:
    """Drain, then another start on the same spool, while senders go on."""
    own = [start(store.port, builder=PATIENT)]
    ledger = Ledger()
    ended = threading.Event()
    failures: list[BaseException] = []

    def send(number: int) -> None:
        try:
            sender = Modality(lambda: own[0].dicom_port, ledger)
            for count in range(1000):
                if ended.is_set():
                    break
                sender.send(instances(f"1.2.826.72.{number}.{count}", 3), pause=lambda: 0.01)
        except BaseException as problem:
            failures.append(problem)

    threads = [threading.Thread(target=send, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(by_form(2, 20)):
        enough = len(ledger.acknowledged) + 30
        until(
            partial(lambda least: len(ledger.acknowledged) > least, enough), "some are acknowledged"
        )
        assert own[0].stop(signal.SIGTERM) == 0
        own[0] = start(store.port, builder=PATIENT)
    ended.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert own[0].stop() == 0
    own[0] = start(store.port)
    settle(own[0], store, ledger)


@pytest.mark.fault("F73")
def test_a_newer_spool_is_refused_and_not_touched(start: Gateways, tmp_path: Path) -> None:
    own = start(builder=PATIENT)
    modality(own).send(instances("1.2.826.73", 2))
    own.child.kill()
    own.child.wait()
    (own.spool / ".format").write_text("2\n")
    (own.spool / "building" / "half.upload").write_text("left over")
    before = snapshot(own.spool)
    refused = subprocess.run(
        [sys.executable, "-m", "fastjmix", "run", "-c", "config.toml"],
        cwd=tmp_path / "own", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    assert "another version" in refused.stderr
    assert "'2'" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert snapshot(own.spool) == before


@pytest.mark.fault("F73")
@pytest.mark.parametrize("record", ["draft.json", "ticket"])
def test_a_record_of_another_format_is_kept_for_a_person(start: Gateways, record: str) -> None:
    """In a spool that is ours otherwise: nothing guesses at what it means; nothing deletes it."""
    own = start(builder=PATIENT if record == "draft.json" else QUICK)
    data = instances("1.2.826.73.1", 2)
    modality(own).send(data)
    if record == "ticket":
        own.wait_for("envelope_sealed")
        assert own.stop() == 0
        (path,) = (own.spool / "outbox").glob("*.json")
    else:
        own.child.kill()
        own.child.wait()
        (path,) = (own.spool / "building").glob("*/draft.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    again = start()
    if record == "ticket":  # that version, started again, delivers it
        again.wait_for("error .*ticket_unreadable .*its format is 2")
        (kept,) = again.envelopes("outbox")
        assert images(kept) == data
        return
    (kept,) = until(lambda: again.envelopes("rejected"), "it is in rejected/")
    assert all(one[-3000:] in kept.read_bytes() for one in data.values())
    refusal = json.loads(kept.with_suffix(".json").read_text())["refusal"]
    assert "cannot be read" in refusal["why"]


# -- F74, F75, F76: leftovers, neighbours, reloads -----------------------------------------------


@pytest.mark.fault("F74")
def test_leftovers_are_swept_and_foreign_files_are_not(start: Gateways, store: Store) -> None:
    shared = (
        {path.name for path in Path("/dev/shm").iterdir()} if Path("/dev/shm").is_dir() else set()
    )
    own = start(store.port, builder=PATIENT)
    modality(own).send(instances("1.2.826.74", 1))
    own.child.kill()
    own.child.wait()
    building, outbox = own.spool / "building", own.spool / "outbox"
    swept = [
        building / f"{uuid.uuid4()}.upload",
        building / f"packer-0-{uuid.uuid4()}.spill",
        outbox / f"{uuid.uuid4()}.new",
    ]
    foreign = [
        building / "notes.txt",
        building / "backup" / "a.dcm",
        own.spool / "README",
        outbox / f"{uuid.uuid4()}.json",  # no ticket of ours: its owner knows its use
    ]
    for path in swept + foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    half = building / f"{uuid.uuid4()}.draft"
    half.mkdir()
    again = start(store.port)
    again.wait_for("envelope_recovered")
    again.wait_sent(1)
    assert again.stop() == 0
    assert not [path for path in [*swept, half] if path.exists()]
    assert all(path.read_text() == "x" for path in foreign)
    mine = {path.name for path in Path("/dev/shm").iterdir()} if shared else set()
    assert not [name for name in mine - shared if "fastjmix" in name]


@pytest.mark.fault("F75")
def test_a_second_daemon_on_the_same_spool_is_refused(start: Gateways, tmp_path: Path) -> None:
    own = start()
    second = subprocess.run(
        [sys.executable, "-m", "fastjmix", "run", "-c", "config.toml"],
        cwd=tmp_path / "own", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert second.returncode == 2
    assert "another fastjmix" in second.stderr
    assert "Traceback" not in second.stderr
    modality(own).send(instances("1.2.826.75", 1))  # the first did not notice


@pytest.mark.fault("F76")
def test_a_hangup_with_a_broken_configuration_changes_nothing(start: Gateways) -> None:
    """SIGHUP says that it was refused, ends nothing, and the old configuration goes on."""
    own = start(builder=QUICK)
    own.wait_for("http_listening")
    names = {"receiver-0", "packer-0", "uploader", "api", "ledger"}
    until(lambda: set(own.children()) == names, "the children have their names")
    children = own.children()
    config = own.spool.parent / "config.toml"
    config.write_text("this is [not TOML")
    for pid in (*children.values(), own.child.pid):
        os.kill(pid, signal.SIGHUP)  # a closed terminal sends it to all of them
    own.wait_for("error   supervisor not_reloaded faults=1 generation=1")
    modality(own).send(instances("1.2.826.76", 2))
    assert own.children() == children
    own.wait_for("envelope_sealed .*instances=2")
    assert own.stop() == 0
    refused = subprocess.run(
        [sys.executable, "-m", "fastjmix", "run", "-c", str(config)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


# -- F77: the log --------------------------------------------------------------------------------


@contextlib.contextmanager
def unheard(directory: Path, log_file: str, **popen: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A gateway whose stderr is as `popen` says, logging at the finest level."""
    path = write_config(directory, DEAD_PORT, builder=QUICK)
    text = path.read_text().replace('log_level = "info"', 'log_level = "trace"')
    path.write_text(f'{text}\n[logging]\nlog_to_file = true\nlog_file_path = "{log_file}"\n')
    command = [sys.executable, "-m", "fastjmix", "run", "-c", "config.toml"]
    child = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, **popen)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def port_of(child: subprocess.Popen[bytes]) -> int:
    """The DICOM port of a gateway that tells nobody: the listening socket of its receiver."""

    def found() -> int | None:
        with contextlib.suppress(OSError, ValueError):
            tasks = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
            for pid in tasks:
                if Path(f"/proc/{pid}/comm").read_text().strip() == "receiver-0":
                    links = descriptors(int(pid))
                    inodes = {m[1] for one in links if (m := re.match(r"socket:\[(\d+)\]", one))}
                    rows = [one.split() for one in Path("/proc/net/tcp").read_text().splitlines()]
                    ours = [row[1] for row in rows if row[3] == "0A" and row[9] in inodes]
                    if len(ours) == 1:  # it has dropped what other processes listen on
                        return int(ours[0].rpartition(":")[2], 16)
        return None

    port: int = until(found, "the receiver listens")
    return port


def works_unheard(child: subprocess.Popen[bytes], spool: Path, associations: int) -> None:
    """Many events; every instance gets its status, and the envelope is what was sent."""
    port = port_of(child)
    data = instances("1.2.826.77", 4)
    for number in range(associations):
        with Peer(port) as peer:
            peer.associate(calling=b"A" * 16, called=b"B" * 16 if number % 2 else b"JMIX_RECEIVER")
    Modality(lambda: port, Ledger()).send(data)
    child.send_signal(signal.SIGTERM)
    assert child.wait(PATIENCE) == 0
    (archive,) = (spool / "outbox").glob("*.zip")
    assert images(archive) == data


@pytest.mark.fault("F77")
def test_stderr_closed(tmp_path: Path) -> None:
    """No file takes its number: log lines in an envelope would be found below."""
    with unheard(tmp_path, "log.txt", preexec_fn=lambda: os.closerange(0, 3)) as child:
        works_unheard(child, tmp_path / "spool", 10)
    assert "envelope_sealed" in (tmp_path / "log.txt").read_text()


@pytest.mark.fault("F77")
def test_the_log_disk_is_full(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full, unheard(tmp_path, "/dev/full", stderr=full) as child:
        works_unheard(child, tmp_path / "spool", 10)


@pytest.mark.fault("F77")
def test_nobody_reads_the_log(tmp_path: Path) -> None:
    """A pipe that is full before the gateway starts; what is dropped is counted."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * 4096)
    try:
        with unheard(tmp_path, "log.txt", stderr=writer) as child:
            port = port_of(child)
            for _ in range(20):
                with Peer(port) as peer:
                    peer.associate()
            assert len(os.read(reader, 4096)) == 4096  # there is room again
            works_unheard(child, tmp_path / "spool", 10)
        reported = os.read(reader, 4096).decode()
    finally:
        os.close(reader)
        os.close(writer)
    assert re.search(r"log_lines_dropped process=\d+ count=\d+", reported)
    assert "log_lines_dropped" not in (tmp_path / "log.txt").read_text()


@pytest.mark.fault("F77")
def test_the_journal_does_not_read(tmp_path: Path) -> None:
    """systemd gives a socket for stderr."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                theirs.send(b"x" * 4096)
        theirs.setblocking(True)
        with unheard(tmp_path, "log.txt", stderr=theirs) as child:
            works_unheard(child, tmp_path / "spool", 10)


# -- F81: a backlog ------------------------------------------------------------------------------

BYTES_EACH = 400
"""Memory that the process may hold for each waiting envelope: about 100, and what listing them took
at once (test_what_waits_costs_little measures the first alone)."""

SLACK_KB = 6_000
"""KB that it holds with any backlog, beyond what it holds with none."""


def backlog(own: Gateway, count: int) -> None:
    """`count` envelopes in outbox/: one archive, hard-linked, and a ticket for each."""
    outbox = own.spool / "outbox"
    (archive,) = own.envelopes("outbox")
    ticket = json.loads(archive.with_suffix(".json").read_text())
    for number in range(1, count):
        if number % 30_000 == 0:  # ext4: at most 65,000 links
            archive = Path(shutil.copy(archive, outbox / f"{uuid.uuid4()}.zip"))
            name = archive.stem
        else:
            name = str(uuid.UUID(int=number, version=4))
            os.link(archive, outbox / f"{name}.zip")
        (outbox / f"{name}.json").write_text(json.dumps({**ticket, "id": name}))


def private_kb(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", text)[1])  # type: ignore[index]


@pytest.mark.fault("F81")
def test_a_restart_with_a_backlog(start: Gateways) -> None:
    """The port is open soon, and an envelope that waits costs the uploader little memory."""
    count = by_form(5_000, 100_000)
    own = start(builder=QUICK)
    modality(own).send(instances("1.2.826.81", 1))
    own.wait_for("upload_retry")
    alone = private_kb(own.children()["uploader"])
    assert own.stop() == 0
    backlog(own, count)
    began = time.monotonic()
    again = start(builder=QUICK)
    modality(again).send(instances("1.2.826.82", 1), seconds=10)
    assert time.monotonic() - began < 10 * by_form(3, 1)  # a bound on waiting: CI may be busy
    again.wait_for("http_listening")

    def known() -> bool:
        text = get(f"{again.http}/metrics")[2].decode()
        return float(re.search(r"^fastjmix_outbox_envelopes (\S+)", text, re.M)[1]) >= count  # type: ignore[index]

    until(known, "the uploader knows of all of them", 120)
    grown = private_kb(again.children()["uploader"]) - alone
    print(f"{count} envelopes: {grown} KB")
    assert grown < SLACK_KB + count * BYTES_EACH / 1024
    assert again.stop() == 0


# -- S27: shared memory that somebody else writes ------------------------------------------------


def mapped(pid: int, name: str) -> mmap.mmap:
    """A memory file of a process, opened as any other process of its user could."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if name in str(entry.readlink()):
                with entry.open("r+b") as file:
                    return mmap.mmap(file.fileno(), os.fstat(file.fileno()).st_size)
    raise AssertionError(f"no {name} in process {pid}")


@pytest.mark.fault("S27")
@pytest.mark.once
@pytest.mark.parametrize("name", ["memfd:fastjmix-control", "memfd:fastjmix-lanes"])
def test_random_writes_into_the_shared_memory(start: Gateways, name: str) -> None:
    """A fault of ours may be raised and a child started again; none may die of a wild access."""
    own = start(
        builder=QUICK,
        fastjmix="lane_bytes = 1048576\nreceivers = 2\npackers = 2",
        endpoint="max_associations = 16",
    )
    own.wait_for("http_listening")
    memory = mapped(own.child.pid, name)
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    ended = threading.Event()

    def send(number: int) -> None:
        sender = Modality(lambda: own.dicom_port, Ledger(), timeout=2)
        for count in range(10_000):
            if ended.is_set():
                return
            data = instances(f"1.2.826.27.{number}.{count}", 2, 60_000)
            with contextlib.suppress(AssertionError):
                sender.send(data, seconds=2, stop=ended)

    threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    with memory:
        # The lanes in use are the first: most writes go there, the rest to the processes' words.
        size = len(memory)
        values = (0, 1, 0xFF, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, (1 << 63), (1 << 64) - 1)
        ends = time.monotonic() + by_form(3.0, 60.0)
        while time.monotonic() < ends:
            at = rng.randrange(size) if rng.random() < 0.2 else rng.randrange(min(size, 8 * 12288))
            at = (at & ~7) if rng.random() < 0.5 else (at & ~3)
            width = rng.choice((4, 8))
            value = rng.choice(values) if rng.random() < 0.5 else rng.getrandbits(64)
            at = min(at, size - 8)
            memory[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
            time.sleep(0.0005)
        with pytest.raises(OSError):  # its size is sealed
            memory.resize(4096)
    ended.set()
    for thread in threads:
        thread.join()
    own.child.kill()
    own.child.wait()
    died = re.findall(r"child_died child=(\S+) how=(.*)", own.log())
    assert not [one for one in died if one[1].startswith("SIG")], died


# -- S28: secrets --------------------------------------------------------------------------------

SECRET = "token-CANARY-2718281828"

AUTHENTICATION = """
[authentications.jmix_auth]
id = "jmix_auth"
method = "bearer"

[authentications.jmix_auth.options]
token = "{token}"
"""


@pytest.mark.fault("S28")
@pytest.mark.parametrize("source", ["the file", "the environment"])
def test_the_token_is_only_where_it_is_used(start: Gateways, source: str) -> None:
    own = start(
        env={"JMIX_TOKEN": SECRET} if source == "the environment" else {"UNRELATED": "1"},
        fastjmix=AUTHENTICATION.format(token=SECRET if source == "the file" else "${JMIX_TOKEN}"),
        backend='authentication_ref = "jmix_auth"',
    )
    own.wait_for("http_listening")
    processes = {**own.children(), "supervisor": own.child.pid}
    found = {name: holds(pid, SECRET.encode()) for name, pid in processes.items()}
    environments = [Path(f"/proc/{p}/environ").read_bytes() for p in processes.values()]
    assert not any(SECRET.encode() in one for one in environments)
    assert found.pop("uploader")
    others = ("receiver-0", "packer-0", "api", "ledger", "supervisor")
    assert found == dict.fromkeys(others, False)
    assert "CANARY" not in own.log()


@pytest.mark.fault("S28")
def test_the_token_is_used(start: Gateways, tmp_path: Path) -> None:
    """Taken from the environment, through the second beginning, to the upstream."""
    token = tmp_path / "token"
    token.write_text(SECRET)
    with running(Store(tmp_path / "up", "--token-file", str(token))) as store:
        own = start(
            store.port,
            env={"JMIX_TOKEN": SECRET},
            builder=QUICK,
            fastjmix=AUTHENTICATION.format(token="${JMIX_TOKEN}"),
            backend='authentication_ref = "jmix_auth"',
        )
        modality(own).send(instances("1.2.826.28", 1))
        own.wait_sent(1)
        assert own.stop() == 0


def descriptors(pid: int) -> list[str]:
    return [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]


@pytest.mark.fault("S28")
def test_children_keep_what_they_need(start: Gateways) -> None:
    """No file of secrets is open anywhere; lanes only where they are used; no new privileges."""
    own = start(fastjmix="packers = 2")
    own.wait_for("http_listening")
    modality(own).send(instances("1.2.826.28.1", 1))
    names = {"receiver-0", "packer-0", "packer-1", "uploader", "api", "ledger"}
    until(lambda: set(own.children()) == names, "the children have their names")
    listening = {
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    }
    for name, pid in own.children().items():
        opened = descriptors(pid)
        assert not [one for one in opened if re.search("memfd:fastjmix-(uploader|api|answer)", one)]
        doors = [one for one in opened if one.strip("socket:[]") in listening]
        assert len(doors) == (1 if name in ("receiver-0", "api") else 0), (name, doors)
        lanes = [one for one in opened if "memfd:fastjmix-lanes" in one]
        assert bool(lanes) == name.startswith(("receiver", "packer")), name
        lock = [one for one in opened if one.endswith("/.lock")]
        assert bool(lock) == (not name.startswith(("receiver", "ledger"))), name
        status = Path(f"/proc/{pid}/status").read_text()
        assert re.search(r"NoNewPrivs:\s+1", status), name


@pytest.mark.fault("S28")
def test_a_foreign_configuration_memory_is_refused(tmp_path: Path) -> None:
    """Only we set that variable, for ourselves."""
    write_config(tmp_path, DEAD_PORT)
    with (tmp_path / "own").open("wb") as file:
        pickle.dump("anything", file)
    with (tmp_path / "own").open("rb") as file:
        number = file.fileno()
        done = subprocess.run(
            [sys.executable, "-m", "fastjmix", "run", "-c", "config.toml"],
            cwd=tmp_path, env={**os.environ, "FASTJMIX_VAULT": f"{number},{number},{number}"},
            pass_fds=[number], capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert "FASTJMIX_VAULT" in done.stderr
