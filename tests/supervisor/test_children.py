"""Row F90: a process cannot come back, for want of a log, a process, a descriptor or memory.

The lack is real where a test can make one (directories, pipes, limits); where a system call has to
fail in a process that runs, strace makes it fail.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import wire
from tests.support.disks import Strace
from tests.support.gateway import PATIENCE, Gateway, Gateways, Peer, Process, Store, running, until
from tests.support.ledger import Ledger, Modality, instances, settle
from tests.support.odd_values import LOGS_ODD_VALUES

QUICK = "release_grace_secs = 0.1"
AGAIN_AT_ONCE = "from fastjmix.log import outlets; outlets.REOPEN_SECS = 0.05"
ALL = ("receiver-0", "packer-0", "uploader", "api")
FORKS = "clone,fork,vfork,clone3"


@pytest.fixture
def gateway_defaults(store: Store) -> dict[str, Any]:
    return {"upstream": store.port, "builder": QUICK}


class Sent:
    """A ledger, and a modality for it."""

    def __init__(self, own: Gateway) -> None:
        self.ledger = Ledger()
        self.send = Modality(lambda: own.dicom_port, self.ledger).send


def failing(own: Gateway, tmp_path: Path, calls: str, error: str, when: str = "1+") -> Strace:
    """Makes system calls of the supervisor fail from now on."""
    options = ("-e", f"trace={calls}", "-e", f"inject={calls}:error={error}:when={when}")
    return Strace(tmp_path / "calls", *options, pids=[own.child.pid])


# -- the log ---------------------------------------------------------------------------------------


def no_directory(logs: Path) -> None:
    """Puts a file where the directory was."""
    logs.rename(logs.with_name("old"))
    logs.write_text("")


def a_directory(logs: Path) -> None:
    (logs / "log").rename(logs / "old")
    (logs / "log").mkdir()


def a_pipe(logs: Path) -> None:
    """Makes a pipe that nobody reads."""
    (logs / "log").unlink()
    os.mkfifo(logs / "log")


def a_link_to_nowhere(logs: Path) -> None:
    (logs / "log").unlink()
    (logs / "log").symlink_to(logs / "none" / "log")


def mended(logs: Path) -> None:
    if logs.is_file():
        logs.unlink()
    elif (logs / "log").is_dir():
        (logs / "log").rmdir()
    else:
        (logs / "log").unlink()


@pytest.mark.fault("F90")
@pytest.mark.parametrize("spoil", [no_directory, a_directory, a_pipe, a_link_to_nowhere])
def test_children_without_a_log_file_work_and_use_it_when_it_is_back(
    start: Gateways, store: Store, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    logs = tmp_path / "own" / "logs"
    logs.mkdir(parents=True)
    place = f'\n[logging]\nlog_to_file = true\nlog_file_path = "{logs}/log"\n'
    own = start(first=AGAIN_AT_ONCE, fastjmix=place)
    own.wait_for("http_listening")
    children = own.children()
    spoil(logs)
    for name in ALL:
        os.kill(children[name], signal.SIGKILL)
        own.wait_for(f"error   {name} log_file_failed file=.* why=")  # on stderr, once
    sent = Sent(own)
    sent.send(instances("1.2.826.90", 3))
    own.wait_for("envelope_uploaded")
    own.wait_for("http_listening", 2)
    mended(logs)

    def written_again() -> bool:
        with contextlib.suppress(OSError), Peer(own.dicom_port) as peer:
            peer.associate()
            peer.release()
        return (logs / "log").is_file() and "receiver-0 assoc" in (logs / "log").read_text()

    until(written_again, "the receiver writes into the file")
    assert "log_lines_dropped" in (logs / "log").read_text()
    assert sum("receiver-0 log_file_failed" in line for line in own.lines) == 1
    settle(own, store, sent.ledger)


@pytest.mark.fault("F90")
@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EROFS", "EMFILE"])
def test_a_start_while_the_disk_of_the_log_fails(
    start: Gateways, store: Store, tmp_path: Path, error: str
) -> None:
    """After a power failure, say: images come first, and the log when it can."""
    file = tmp_path / "log"
    python = a_python(
        tmp_path / "python", f"-P {file}", "-e trace=openat",
        f"-e inject=openat:error={error}:when=1",
    )  # fmt: skip
    place = f'\n[logging]\nlog_to_file = true\nlog_file_path = "{file}"\n'
    own = start(python=python, first=AGAIN_AT_ONCE, fastjmix=place)
    own.wait_for("error   supervisor log_file_failed file=.* why=")
    sent = Sent(own)
    sent.send(instances("1.2.826.90.7", 2))
    settle(own, store, sent.ledger)
    assert "supervisor stopped" in file.read_text()


@pytest.mark.fault("F90")
def test_whatever_is_logged_raises_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOGS_ODD_VALUES, str(tmp_path / "log"), "text"],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "logged\n"), done.stderr[-2000:]
    lines = (tmp_path / "log").read_bytes().split(b"\n")
    assert len(lines) == 14 * 4 + 2  # each is there, and none is more than one
    assert max(map(len, lines)) < 4096


@pytest.mark.fault("F90")
def test_a_journal_that_does_not_read_and_no_descriptor_left(tmp_path: Path) -> None:
    """systemd's socket is full; a child has no descriptor for a copy of it. No line waits."""
    program = """
import resource, socket, os, sys, contextlib
from fastjmix import log
a, b = socket.socketpair()
b.setblocking(False)
with contextlib.suppress(BlockingIOError):
    while True: b.send(b"x" * 4096)
b.setblocking(True)
os.dup2(b.fileno(), 2)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
log.setup("debug", None, "x")
log.get().info("event")
print("logged")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=10, check=False
    )
    assert done.stdout == "logged\n"


# -- fork ------------------------------------------------------------------------------------------


@pytest.mark.fault("F90")
@pytest.mark.parametrize(
    ("victim", "error"),
    [("receiver-0", "EAGAIN"), ("packer-0", "ENOMEM"), ("uploader", "ENOSYS"), ("api", "EAGAIN")],
)
def test_a_child_dies_while_no_process_can_be_made(
    start: Gateways, store: Store, tmp_path: Path, victim: str, error: str
) -> None:
    """The others go on; when there is room again it is back, and all that was kept is delivered."""
    own = start()
    sent = Sent(own)
    sent.send(instances("1.2.826.90.1", 2))
    children = own.children()
    with failing(own, tmp_path, FORKS, error):
        os.kill(children[victim], signal.SIGKILL)
        reported = own.wait_for(f"error   supervisor child_not_started child={victim} why=.*", 2)
        assert "retry_secs=" in reported[0]
        if victim in ("uploader", "api"):
            sent.send(instances("1.2.826.90.2", 2))
        others = [name for name in ALL if name != victim]
        assert {name: children[name] for name in others}.items() <= own.children().items()
    own.wait_for(f"child_restarted child={victim}")
    sent.send(instances("1.2.826.90.3", 2))
    settle(own, store, sent.ledger)


@pytest.mark.fault("F90")
def test_a_child_that_somebody_else_collected(
    start: Gateways, store: Store, tmp_path: Path
) -> None:
    """waitpid(2) says ECHILD: nobody knows how it ended, and it is started again."""
    own = start()
    children = own.children()
    with failing(own, tmp_path, "wait4,waitid", "ECHILD", "1"):
        os.kill(children["packer-0"], signal.SIGKILL)
        own.wait_for("child_restarted")
    sent = Sent(own)
    sent.send(instances("1.2.826.90.4", 2))
    settle(own, store, sent.ledger)


@pytest.mark.fault("F90")
def test_a_child_that_a_real_time_signal_ends(start: Gateways, store: Store) -> None:
    own = start()
    os.kill(own.children()["api"], signal.SIGRTMIN + 3)
    own.wait_for(f'child_died child=api how="signal {signal.SIGRTMIN + 3}"')
    own.wait_for("child_restarted child=api")
    assert own.stop() == 0


@pytest.mark.fault("F90")
@pytest.mark.parametrize("call", ["poll", "read"])
def test_the_supervisors_own_calls_fail(
    start: Gateways, store: Store, tmp_path: Path, call: str
) -> None:
    own = start()
    api = own.children()["api"]
    with failing(own, tmp_path, call, "ENOMEM", "1..2"):
        for _ in range(2):
            os.kill(own.child.pid, signal.SIGHUP)  # it has something to read
            own.wait_for("supervisor supervisor_failed|reload_asked")
    os.kill(api, signal.SIGKILL)
    own.wait_for("child_restarted child=api")
    sent = Sent(own)
    sent.send(instances("1.2.826.90.5", 2))
    settle(own, store, sent.ledger)


def a_python(at: Path, *options: str) -> str:
    """Returns a Python whose system calls fail as `options` say, from its first on."""
    tracer = shutil.which("strace")
    assert tracer, "the tests need strace: apt-get install strace"
    at.write_text(
        f'#!/bin/sh\nexec {tracer} -D -o /dev/null {" ".join(options)} {sys.executable} "$@"\n'
    )
    at.chmod(0o755)
    return str(at)


@pytest.mark.fault("F90")
@pytest.mark.parametrize("when", ["1..3", "2..3"])
def test_no_process_can_be_made_at_the_start(
    start: Gateways, store: Store, tmp_path: Path, when: str
) -> None:
    """Neither for who reads the configuration nor, a moment later, for the first children."""
    python = a_python(
        tmp_path / "python", f"-e trace={FORKS}", f"-e inject={FORKS}:error=EAGAIN:when={when}"
    )
    own = start(python=python)
    if when == "2..3":
        own.wait_for("child_not_started child=receiver-0")
    sent = Sent(own)
    sent.send(instances("1.2.826.90.6", 2))
    settle(own, store, sent.ledger)


@pytest.mark.fault("F90")
def test_a_reader_of_the_configuration_that_is_killed(tmp_path: Path) -> None:
    """One line, and exit code 1: a service manager starts it again."""
    os.mkfifo(tmp_path / "config.toml")  # a reader of it waits
    own = Process("run", "-c", "config.toml", cwd=tmp_path)
    with running(own):
        children = Path(f"/proc/{own.child.pid}/task/{own.child.pid}/children")
        os.kill(int(until(children.read_text, "the reader").split()[0]), signal.SIGKILL)
        assert own.child.wait(PATIENCE) == 1
    assert own.log() == "fastjmix: the process that reads the configuration was killed"


# -- descriptors -----------------------------------------------------------------------------------

TWO_DOORS = """
[network.second.tcp_config]
bind_address = "127.0.0.2"
bind_port = 0
"""


class PeerAt(Peer):
    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), 20)


@pytest.mark.fault("F90")
def test_a_receiver_without_descriptors_pauses_all_its_listeners(
    start: Gateways, store: Store
) -> None:
    """Peers knock at two doors in one turn, and there is no descriptor for either."""
    own = start(fastjmix=TWO_DOORS, first=SECOND_NETWORK)
    doors = re.findall(r"what=dicom .* address=([\d.]+):(\d+)", own.log())
    assert len(doors) == 2
    receiver = own.children()["receiver-0"]
    with Peer(own.dicom_port) as peer:
        peer.associate()
        peer.release()
    os.kill(receiver, signal.SIGSTOP)
    used = {int(one.name) for one in Path(f"/proc/{receiver}/fd").iterdir()}
    lowest = min(set(range(len(used) + 1)) - used)
    before = resource.prlimit(receiver, resource.RLIMIT_NOFILE)
    resource.prlimit(receiver, resource.RLIMIT_NOFILE, (lowest, before[1]))
    with contextlib.ExitStack() as knocking:
        peers = [knocking.enter_context(PeerAt(host, int(port))) for host, port in doors * 3]
        os.kill(receiver, signal.SIGCONT)
        own.wait_for("accept_failed", 3)
        resource.prlimit(receiver, resource.RLIMIT_NOFILE, before)
        assert [peer.associate()[0] for peer in peers] == [2] * 6
    assert sum("accept_failed" in line for line in own.lines) < 40  # it does not spin
    assert own.children()["receiver-0"] == receiver
    assert own.stop() == 0


SECOND_NETWORK = """
from pathlib import Path
pipeline = Path("pipelines/dicom-to-jmix.toml")
pipeline.write_text(pipeline.read_text().replace('["dicom_net"]', '["dicom_net", "second"]'))
"""


@pytest.mark.fault("F90")
def test_a_receiver_that_cannot_watch_a_connection(
    start: Gateways, store: Store, tmp_path: Path
) -> None:
    """epoll_ctl(2) says ENOSPC once: one connection is lost, the receiver is not."""
    own = start()
    receiver = own.children()["receiver-0"]
    options = ("-e", "trace=epoll_ctl", "-e", "inject=epoll_ctl:error=ENOSPC:when=1")
    with Strace(tmp_path / "calls", *options, pids=[receiver]), Peer(own.dicom_port) as peer:
        assert peer.closed()
        with Peer(own.dicom_port) as second:
            assert second.associate()[0] == 2
            assert second.store(wire.data_set()) == 0
    assert own.children()["receiver-0"] == receiver
    own.wait_for("accept_failed")
    assert own.stop() == 0


@pytest.mark.fault("F26")
@pytest.mark.parametrize(("limit", "told"), [(64, True), (2047, True), (2048, False)])
def test_too_few_descriptors_are_reported_at_the_start(
    start: Gateways, store: Store, tmp_path: Path, limit: int, told: bool
) -> None:
    """Later it looks like a fault of the storage, or of the network."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nulimit -n {limit}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    own = start(python=python, first=AGAIN_AT_ONCE)
    own.wait_for(" supervisor started ")
    sent = Sent(own)
    sent.send(instances("1.2.826.26.9", 2))
    settle(own, store, sent.ledger)
    lines = [line for line in own.lines if " few_descriptors " in line]
    assert len(lines) == told
    assert all(f"limit={limit} wanted=2048 hint=" in line for line in lines)
    assert all("LimitNOFILE" in line for line in lines)
