"""supervisor/systemd.py: the protocols of a service manager, spoken with one of the test's own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE

from fastjmix.dicom.dataset import file_meta_prefix
from fastjmix.supervisor.systemd import STATUS_MAX, InheritedSockets, Notifier
from tests.support import wire
from tests.support.gateway import PATIENCE, Gateway, Peer, Store, get, running, until
from tests.support.ledger import Ledger, instances, settle
from tests.support.manager import Manager

QUICK = "release_grace_secs = 0.1"


# -- sd_notify(3) --------------------------------------------------------------------------------


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket, and its address as NOTIFY_SOCKET has it."""
    short = Path(os.path.relpath(tmp_path / "notify"))
    address = str(short.resolve()) if request.param == "path" else f"@{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(address.replace("@", "\0", 1))
        one.settimeout(PATIENCE)
        yield one, address


@contextmanager
def notifying(environment: dict[str, str]) -> Iterator[Notifier]:
    notifier = Notifier(environment)
    yield notifier
    notifier.close()


def test_messages(manager: tuple[socket.socket, str]) -> None:
    """A status that is said twice is sent once; the variables are gone."""
    one, address = manager
    environment = {"NOTIFY_SOCKET": address, "PATH": "/bin"}
    before = time.monotonic_ns() // 1000
    with notifying(environment) as notifier:
        assert environment == {"PATH": "/bin"}
        notifier.ready("Serves")
        notifier.status("Serves")
        notifier.status("x" * 1000)
        notifier.reloading()
        notifier.stopping()
        notifier.stopping()
        notifier.keep_alive()  # nobody has asked for it
        assert notifier.wait_secs is None
        notifier.status("the end")
    assert one.recv(999) == b"READY=1\nSTATUS=Serves"
    assert one.recv(9999) == b"STATUS=" + b"x" * STATUS_MAX
    reloading, at = one.recv(999).decode().split("\n")
    assert reloading == "RELOADING=1"
    assert before <= int(at.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    assert [one.recv(999), one.recv(999)] == [b"STOPPING=1", b"STATUS=the end"]


def test_the_watchdog_is_fed_at_half_its_period(manager: tuple[socket.socket, str]) -> None:
    one, address = manager
    with notifying({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "60000000"}) as notifier:
        assert notifier.wait_secs == 0
        notifier.keep_alive()
        notifier.keep_alive()
        assert 29 < (notifier.wait_secs or 0) <= 30
        notifier.status("last")
    assert [one.recv(99), one.recv(99)] == [b"WATCHDOG=1", b"STATUS=last"]


@pytest.mark.parametrize(
    "more",
    [
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
    ],
)
def test_a_watchdog_that_is_not_for_this_process(
    manager: tuple[socket.socket, str], more: dict[str, str]
) -> None:
    with notifying({"NOTIFY_SOCKET": manager[1], **more}) as notifier:
        assert notifier.wait_secs is None


@pytest.mark.parametrize("address", ["", "vsock:2:1", "/nobody/listens/there", "@" + "x" * 300])
def test_without_a_manager_nothing_is_said(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    notifier.ready("Serves")
    notifier.keep_alive()
    notifier.stopping()
    assert (notifier.wait_secs, notifier.descriptors) == (None, ())


def test_a_manager_that_does_not_read_delays_nothing(manager: tuple[socket.socket, str]) -> None:
    with notifying({"NOTIFY_SOCKET": manager[1]}) as notifier:
        for number in range(10_000):
            notifier.status(f"line {number}")


# -- sd_listen_fds(3) ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "many", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": ""},
    ],
)
def test_sockets_that_are_not_for_this_process(environment: dict[str, str]) -> None:
    found = InheritedSockets(environment)
    assert (list(found), list(found.unwanted), found.addresses) == ([], [], frozenset())
    assert found.take("127.0.0.1", 104) is None
    assert not environment


def test_a_gateway_serves_what_it_inherits(tmp_path: Path, store: Store) -> None:
    """It says when it is ready, is watched, and binds nothing itself, also where it executes itself
    again without a variable. One that fits no listener, or does not listen, is a warning.
    """
    unwanted = socket.create_server(("127.0.0.1", 0))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    port = unwanted.getsockname()[1]
    with Manager(unwanted, datagrams, usec=200_000) as manager:
        variable: dict[str, Any] = {"endpoint": 'ack = "${ACK}"', "env": {"ACK": "stored"}}
        own = manager.start(tmp_path / "own", store.port, builder=QUICK, **variable)
        with running(own):
            manager.wait_for("READY=1")
            manager.wait_for("WATCHDOG=1", 3)
            assert own.dicom_port == manager.dicom_port
            line = own.wait_for(r"inherited_socket_unused sockets=\"(.*?)\"")[1]
            assert line == f"127.0.0.1:{port}, descriptor 6 (other)"
            with Peer(own.dicom_port) as peer:
                assert peer.associate()[0] == 2
                assert peer.store(wire.data_set()) == 0
                peer.release()
            own.wait_sent()
            assert own.stop(signal.SIGTERM) == 0
            manager.wait_for("STOPPING=1")
        before_ready, _, after = "\n".join(manager.messages).partition("READY=1")
        assert "STATUS" not in before_ready
        assert re.search("STATUS=Serves 1 DICOM and 1 HTTP listeners", after)
        assert after.index("STOPPING=1") < after.index("STATUS=Drains")


def test_the_watchdog_sees_a_supervisor_that_stands_still(tmp_path: Path) -> None:
    with Manager(usec=100_000) as manager, running(manager.start(tmp_path / "own", 9)) as own:
        manager.wait_for("WATCHDOG=1", 2)
        os.kill(own.child.pid, signal.SIGSTOP)
        time.sleep(0.1)  # what it had sent before
        seen = len(manager.messages)
        time.sleep(0.3)
        assert len(manager.messages) == seen
        os.kill(own.child.pid, signal.SIGCONT)
        manager.wait_for("WATCHDOG=1", seen + 1)


# -- the upgrade ---------------------------------------------------------------------------------


class Sender(threading.Thread):
    """Sends studies, one association each, until `ended`; notes every failure."""

    def __init__(self, number: int, port: int, ledger: Ledger, ended: threading.Event) -> None:
        super().__init__(daemon=True)
        self._number = number
        self._port = port
        self._ledger = ledger
        self._ended = ended
        self.sent = 0
        self.failures: list[object] = []

    def run(self) -> None:
        while not self._ended.is_set() and not self.failures:
            self.sent += 1
            data = instances(f"1.2.826.72.{self._number}.{self.sent}", 3)
            for uid, one in data.items():
                self._ledger.sending(uid, one)
            try:
                self.send(data)
            except Exception as problem:
                self.failures.append(problem)

    def send(self, data: dict[str, bytes]) -> None:
        with Peer(self._port, PATIENCE) as peer:
            kind, body = peer.associate()
            assert kind == 2, body
            for uid, one in data.items():
                status = peer.store(one, uid)
                assert status == 0, hex(status)
                self._ledger.answered(uid)
            peer.release()


class Storescu(Sender):
    """The same with DCMTK's storescu."""

    folder: Path

    def send(self, data: dict[str, bytes]) -> None:
        files: list[Path] = []
        meta = file_meta_prefix(wire.CT, wire.EXPLICIT, "SENDER", "JMIX_RECEIVER")
        for uid, one in data.items():
            files.append(self.folder / f"{self._number}-{uid}.dcm")
            files[-1].write_bytes(meta.render(uid.encode()) + one)
        command = ["storescu", "-aec", "JMIX_RECEIVER", "127.0.0.1", str(self._port)]
        done = subprocess.run(
            [*command, *map(str, files)],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        for uid in data:
            self._ledger.answered(uid)


class Echoes(Sender):
    """Associates with pynetdicom, and verifies."""

    def send(self, data: dict[str, bytes]) -> None:
        ae = AE("ECHOES")
        ae.add_requested_context(wire.VERIFICATION)
        association = ae.associate("127.0.0.1", self._port, ae_title="JMIX_RECEIVER")
        assert association.is_established, "pynetdicom was rejected"
        assert association.send_c_echo().Status == 0
        association.release()


@pytest.mark.fault("F151")
def test_an_upgrade_under_eight_senders_fails_no_association(tmp_path: Path, store: Store) -> None:
    """Three restarts. Peers that come between two processes wait in the backlog for the next."""
    ledger, ended = Ledger(), threading.Event()
    Storescu.folder = tmp_path
    with Manager() as manager:
        own = manager.start(tmp_path / "own", store.port, builder=QUICK)
        kinds = [Sender] * 5 + [Storescu] * 2 + [Echoes]
        senders = [
            kind(number, manager.dicom_port, ledger, ended) for number, kind in enumerate(kinds)
        ]
        for sender in senders:
            sender.start()
        for count in range(1, 4):
            with running(own):
                until(partial(all_have_sent, senders, count * 5), "all send")
                assert own.stop(signal.SIGTERM) == 0
                assert "aborted: shutting down" not in own.log()
            own = manager.start(tmp_path / "own", store.port, builder=QUICK)
        with running(own):
            until(lambda: all_have_sent(senders, 20), "all send")
            ended.set()
            for sender in senders:
                sender.join(PATIENCE)
            assert [sender.failures for sender in senders] == [[]] * 8
            settle(own, store, ledger)
    for sender in senders[5:]:
        print(type(sender).__name__, sender.sent)


def all_have_sent(senders: list[Sender], least: int) -> bool:
    """Returns whether those on plain sockets have sent so many studies; a failure ends the wait."""
    failed = [sender.failures for sender in senders if sender.failures]
    assert not failed, failed
    return all(sender.sent >= least for sender in senders[:5])


def test_whoever_waits_too_long_in_the_backlog_is_rejected(tmp_path: Path) -> None:
    """One association goes on; a newcomer gets no answer at first, and then that it is to come
    back. `drain_secs` ends it.
    """
    first = "from fastjmix.supervisor import drain; drain.WAITING_SECS = 0.5\n"
    with Manager() as manager:
        own = manager.start(tmp_path / "own", 9, first=first, fastjmix="drain_secs = 2")
        with running(own), Peer(own.dicom_port) as peer:
            own.wait_for("http_listening")
            assert peer.associate()[0] == 2
            own.child.send_signal(signal.SIGTERM)
            own.wait_for(" draining ")
            waits: list[float] = []
            while asks(own.dicom_port, waits) == 2:  # a receiver may need a moment to hear of it
                assert get(own.http + "/readyz")[0] == 503
            assert waits[-1] > 0.2
            assert peer.store(wire.data_set()) == 0
            own.wait_for("drain_cut")
            assert own.child.wait(PATIENCE) == 0


def test_a_reload_beside_the_manager(tmp_path: Path) -> None:
    """It says RELOADING and READY again; the sockets stay, while a drain lasts, too."""
    with Manager() as manager, running(manager.start(tmp_path / "own", 9)) as own:
        manager.wait_for("READY=1")
        own.wait_for("http_listening")
        own.child.send_signal(signal.SIGHUP)
        manager.wait_for("RELOADING=1")
        manager.wait_for("READY=1", 2)
        own.wait_for(" reloaded ")
        with Peer(own.dicom_port, PATIENCE) as peer:
            assert peer.associate()[0] == 2
            own.child.send_signal(signal.SIGTERM)
            own.wait_for(" draining ")
            own.child.send_signal(signal.SIGHUP)
            own.wait_for(" reloaded ", 2)
            assert peer.store(wire.data_set()) == 0
            peer.release()
        assert own.child.wait(PATIENCE) == 0
        with Peer(manager.dicom_port, PATIENCE) as waiting:  # in the backlog: nobody answers yet
            waiting.send(wire.associate_rq(wire.context(1, wire.CT, wire.EXPLICIT)))
            with running(manager.start(tmp_path / "own", 9)):
                assert waiting.pdu()[0] == 2


def asks(port: int, waits: list[float]) -> int:
    """Associates; returns the type of the answer's PDU, and adds the time until it came."""
    began = time.monotonic()
    with Peer(port, PATIENCE) as peer:
        kind, body = peer.associate()
        waits.append(time.monotonic() - began)
        if kind == 3:
            assert body == b"\0\2\3\1"
        else:
            peer.release()
        return kind


def test_without_sockets_nothing_waits(start_alone: Gateway) -> None:
    """The same manager without sockets: a newcomer is rejected at once."""
    own = start_alone
    with Peer(own.dicom_port) as peer:
        peer.associate()
        own.child.send_signal(signal.SIGTERM)
        own.wait_for(" draining ")
        until(lambda: get(own.http + "/readyz")[0] == 503, "it is not ready")
        with Peer(own.dicom_port) as other:
            assert other.associate() == (3, b"\0\2\3\1")
        peer.release()
    assert own.child.wait(PATIENCE) == 0


@pytest.fixture
def start_alone(tmp_path: Path) -> Iterator[Gateway]:
    with running(Gateway(tmp_path / "own", 9, builder=QUICK)) as own:
        own.wait_for("http_listening")
        yield own
