"""Rows F76 and F150: the configuration of a running node is replaced, or refused whole."""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fastjmix.control.client import ControlClient, NodeRefused
from fastjmix.tools.reload import reload
from tests.support import wire
from tests.support.gateway import (
    PATIENCE,
    Gateway,
    Gateways,
    Peer,
    Store,
    get,
    holds,
    run_command,
    until,
    write_config,
)
from tests.support.ledger import Ledger, Modality, instances, settle

QUICK = "release_grace_secs = 0.1"

CT, US = b"CT1", b"US1"
ONLY_CT = "aet_table.CT1 = {}"
TOKEN = "a-token-of-the-environment"
ONLY_US = "aet_table.US1 = {}"


@pytest.fixture
def gateway_defaults(store: Store) -> dict[str, Any]:
    return {"upstream": store.port, "builder": QUICK}


class Node:
    """A running gateway whose configuration is written anew."""

    def __init__(self, own: Gateway, upstream: int, **parts: str) -> None:
        self.own = own
        self._upstream = upstream
        self._parts = {"builder": QUICK, **parts}
        self.generation = 1
        own.wait_for("http_listening")

    def write(self, **parts: str) -> None:
        """Writes the configuration with these parts changed, and does not reload."""
        self._parts |= parts
        write_config(self.own.spool.parent, self._upstream, **self._parts)

    def reload(self, **parts: str) -> dict[str, Any]:
        """Changes these parts, and reloads: what `fastjmix reload --json` prints."""
        self.write(**parts)
        return self.reload_as_it_is()

    def reload_as_it_is(self) -> dict[str, Any]:
        done = run_command("reload", "--storage", self.own.spool, "--json")
        found: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == found["exit_code"], done.stderr
        return found

    def apply(self, **parts: str) -> dict[str, Any]:
        """The same, and every process goes by it then."""
        found = self.reload(**parts)
        self.generation += 1
        assert (found["ok"], found["generation"]) == (True, self.generation), found
        self.own.wait_for(f"reloaded generation={self.generation}")
        return found

    def status(self) -> dict[str, Any]:
        done = run_command("status", "--storage", self.own.spool, "--json")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def asks(self, calling: bytes, port: int = 0) -> int:
        """The kind of the answer to an association request: 2 is A-ASSOCIATE-AC, 3 -RJ."""
        with Peer(port or self.own.dicom_port) as peer:
            kind, _ = peer.associate(calling=calling)
            if kind == 2:
                peer.release()
            return kind


@pytest.fixture
def node(start: Gateways, store: Store) -> Node:
    return Node(start(), store.port)


# -- what is applied ------------------------------------------------------------------------------


def test_the_aet_table_is_changed_and_what_was_remembered_is_dropped(node: Node) -> None:
    assert node.asks(CT) == node.asks(US) == 2
    node.apply(endpoint=ONLY_CT)
    assert (node.asks(CT), node.asks(US)) == (2, 3)
    node.apply(endpoint=ONLY_US)
    assert (node.asks(CT), node.asks(US)) == (3, 2)
    node.apply(endpoint="")
    assert (node.asks(CT), node.asks(US)) == (2, 2)


def test_a_running_association_keeps_its_rules(node: Node, store: Store) -> None:
    """Its title is in the table no more, the digest is another, and tolerate_uids is off."""
    node.apply(endpoint="tolerate_uids = true", builder=f'{QUICK}\ndigest = "blake3"')
    with Peer(node.own.dicom_port) as peer:
        peer.associate(calling=CT)
        first = wire.data_set("1.2.3.1.1", study="1.2.3.1")
        assert peer.store(first, "1.2.3.1.1") == 0
        node.apply(endpoint=ONLY_US, builder=f'{QUICK}\ndigest = "sha256"')
        assert node.asks(CT) == 3
        odd = "1.2.3.1.x"  # no UID: it is stored only by the rules of before
        assert peer.store(wire.data_set(odd, study="1.2.3.1"), odd) == 0
        peer.release()
    node.own.wait_for("envelope_sealed .*instances=2")
    store.wait_held(1)


def test_associations_count_at_their_listener_as_before(node: Node) -> None:
    node.apply(endpoint="max_associations = 2")
    with Peer(node.own.dicom_port) as one, Peer(node.own.dicom_port) as other:
        assert one.associate(calling=CT)[0] == other.associate(calling=US)[0] == 2
        node.apply(endpoint="max_associations = 2\nenable_echo = false")
        assert node.asks(CT) == 3  # both still have their place
        node.apply(endpoint="max_associations = 3")
        assert node.asks(CT) == 2
        one.release()
        other.release()


def test_a_connection_without_an_association_gets_the_new_rules(node: Node) -> None:
    node.apply(endpoint=ONLY_CT)
    with Peer(node.own.dicom_port) as peer:
        rq = wire.associate_rq(wire.context(1, wire.CT, wire.EXPLICIT), calling=US)
        peer.send(rq[:20])
        node.apply(endpoint=ONLY_US)
        peer.send(rq[20:])
        assert peer.pdu()[0] == 2


@pytest.fixture
def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


SECOND = """
[pipelines.second]
networks = ["second_net"]
endpoints = ["second_receiver"]
middleware = ["jmix_builder"]
backends = ["jmix_upstream"]

[endpoints.second_receiver]
service = "dicom_scp"

[endpoints.second_receiver.options]
local_aet = "SECOND"

[network.second_net.tcp_config]
bind_address = "127.0.0.1"
bind_port = {port}
"""


def test_a_listener_comes_and_goes(node: Node, free_port: int, store: Store) -> None:
    second = node.own.spool.parent / "pipelines" / "second.toml"
    second.write_text(SECOND.format(port=free_port))
    node.apply()
    node.own.wait_for(f"listening what=dicom ae_title=SECOND address=127.0.0.1:{free_port}")
    with Peer(free_port) as running:
        assert running.associate(called=b"SECOND")[0] == 2
        second.unlink()
        node.apply()
        node.own.wait_for(f"listening_ended address=127.0.0.1:{free_port}")
        with pytest.raises(ConnectionRefusedError):
            Peer(free_port)
        data = wire.data_set("1.2.3.2.1", study="1.2.3.2")
        assert running.store(data, "1.2.3.2.1") == 0  # it goes on, where nobody listens any more
        running.release()
    assert node.asks(CT) == 2
    store.wait_held(1)
    second.write_text(SECOND.format(port=free_port))
    node.apply()
    assert node.asks(CT, free_port) == 3  # SECOND is its name
    with Peer(free_port) as again:
        assert again.associate(called=b"SECOND")[0] == 2
        again.release()


def test_the_log_level_of_every_process_changes(node: Node) -> None:
    config = node.own.spool.parent / "config.toml"
    node.apply()
    config.write_text(config.read_text().replace('log_level = "info"', 'log_level = "error"'))
    before = len(node.own.lines)
    assert run_command("reload", "--storage", node.own.spool).returncode == 0
    node.generation += 1
    node.asks(CT)
    node.apply()
    node.asks(US)
    node.own.wait_for("association_accepted .*calling_ae=US1")
    assert "calling_ae=CT1" not in "\n".join(node.own.lines[before:])


def test_reloads_leave_no_descriptor_behind(node: Node, free_port: int) -> None:
    second = node.own.spool.parent / "pipelines" / "second.toml"

    def reload_both_ways() -> dict[str, int]:
        second.write_text(SECOND.format(port=free_port))
        node.apply(endpoint=ONLY_CT)
        second.unlink()
        node.apply(endpoint=ONLY_US)
        pids = {"supervisor": node.own.child.pid, **node.own.children()}
        return {name: len(list(Path(f"/proc/{pid}/fd").iterdir())) for name, pid in pids.items()}

    until(lambda: node.status()["node"]["state"] == "ready", "the node is ready")
    first = reload_both_ways()
    until(lambda: reload_both_ways() == first, "as many descriptors as after the first")


# -- under load -----------------------------------------------------------------------------------


def test_reloads_under_load_lose_and_repeat_nothing(node: Node, store: Store) -> None:
    """Each reload changes the rules of packing and of acceptance of every sender."""
    ledger, stop = Ledger(), threading.Event()
    modalities = [
        Modality(lambda: node.own.dicom_port, ledger, calling=f"AE{number}") for number in range(4)
    ]

    def send(number: int) -> None:
        for turn in range(1000):
            if stop.is_set():
                return
            data = instances(f"1.2.826.113.{number}.{turn}", 6, size=200_000)
            modalities[number].send(data, stop=stop)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(6):
            node.own.wait_for("association_accepted", count=4 * (turn + 1))
            node.apply(
                endpoint=f"max_associations = {40 + turn}",
                builder=f'{QUICK}\ndigest = "{("blake3", "sha256")[turn % 2]}"',
            )
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    print("reloads under load, seconds:", re.findall(r" reloaded .*seconds=(\S+)", node.own.log()))
    assert [one.failures for one in modalities] == [0] * 4
    settle(node.own, store, ledger)
    assert "child_died" not in node.own.log()


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.fault("F76")
def test_a_fault_refuses_all_of_it_and_every_fault_is_named(node: Node) -> None:
    found = node.reload(endpoint="max_assoziations = 4\nlocal_aett = 'X'", fastjmix="drain_sek = 1")
    assert (found["ok"], found["generation"], found["exit_code"]) == (False, 1, 2)
    words = ("max_assoziations", "local_aett", "drain_sek")
    for word in words:
        assert any(word in fault for fault in found["faults"])
    assert any("nearest:  max_associations" in fault for fault in found["faults"])
    assert node.asks(CT) == node.asks(US) == 2
    status = node.status()
    refused = status["node"]["configuration"]["refused"]
    _, _, ready = get(f"{node.own.http}/readyz")
    shown = run_command("status", "--storage", node.own.spool).stdout
    for word in words:
        assert any(word in fault for fault in refused["faults"])
        assert any(word in warning for warning in json.loads(ready)["warnings"])
        assert word in shown
    printed = run_command("reload", "--storage", node.own.spool)
    assert printed.returncode == 2
    assert all(word in printed.stderr for word in words)
    node.apply(endpoint=ONLY_CT, fastjmix="")
    assert node.status()["node"]["configuration"]["refused"] is None
    assert "warnings" not in json.loads(get(f"{node.own.http}/readyz")[2])


def test_a_port_that_is_taken_refuses_all_of_it(node: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        second = node.own.spool.parent / "pipelines" / "second.toml"
        second.write_text(SECOND.format(port=port))
        found = node.reload(endpoint=ONLY_US)
    assert not found["ok"]
    assert "second_receiver cannot listen" in found["faults"][0]
    assert node.asks(CT) == 2
    node.apply()  # nobody has it any more
    assert (node.asks(CT), node.asks(US)) == (3, 2)


def test_what_needs_a_restart_is_named_and_the_rest_applied(node: Node) -> None:
    found = node.apply(endpoint=ONLY_CT, fastjmix="receivers = 2\nlane_bytes = 16777216")
    assert found["needs_restart"] == ["fastjmix.receivers", "fastjmix.lane_bytes"]
    assert (node.asks(CT), node.asks(US)) == (2, 3)
    assert set(node.own.children()) == {"receiver-0", "packer-0", "uploader", "api", "ledger"}
    warnings = json.loads(get(f"{node.own.http}/readyz")[2])["warnings"]
    assert any("fastjmix.receivers" in warning for warning in warnings)
    node.apply(fastjmix="")
    assert "warnings" not in json.loads(get(f"{node.own.http}/readyz")[2])


@pytest.mark.fault("F150")
@pytest.mark.parametrize("action", ["kill", "raise"])
def test_the_process_that_reads_is_killed(start: Gateways, store: Store, action: str) -> None:
    node = Node(start(at=f"reload.read:{action}:1"), store.port)
    found = node.reload(endpoint=ONLY_CT)
    assert not found["ok"]
    why = "was killed" if action == "kill" else "a fault of fastjmix itself: RuntimeError"
    assert why in found["faults"][0]
    assert node.asks(US) == 2
    node.apply()
    assert node.asks(US) == 3


@pytest.mark.fault("F150")
@pytest.mark.parametrize("name", ["receiver-0", "packer-0", "uploader", "api", "ledger"])
def test_a_process_that_is_killed_comes_back_with_the_newest(node: Node, name: str) -> None:
    node.apply(endpoint=ONLY_CT)
    node.apply(endpoint=ONLY_US)
    os.kill(node.own.children()[name], signal.SIGKILL)
    node.own.wait_for(f"child_restarted child={name}")
    until(lambda: node.asks(CT) == 3, "a receiver is there")
    ledger = Ledger()
    Modality(lambda: node.own.dicom_port, ledger, "US1").send(instances("1.2.826.114", 2))
    node.own.wait_sent(1)
    node.apply(endpoint=ONLY_CT)  # and it takes the next one
    assert (node.asks(CT), node.asks(US)) == (2, 3)


@pytest.mark.fault("F150")
def test_a_process_that_stands_still_is_named_and_takes_it_later(node: Node) -> None:
    packer = node.own.children()["packer-0"]
    os.kill(packer, signal.SIGSTOP)
    try:
        found = node.reload(endpoint=ONLY_CT)
        assert found["ok"]
        assert any("packer-0" in warning for warning in found["warnings"])
        assert node.asks(US) == 2  # receivers wait for the packers
        configuration = node.status()["node"]["configuration"]
        assert configuration["late"] == ["packer-0"]
    finally:
        os.kill(packer, signal.SIGCONT)
    node.own.wait_for("reloaded generation=2")
    assert (node.asks(CT), node.asks(US)) == (2, 3)
    assert node.status()["node"]["configuration"]["late"] == []


@pytest.mark.fault("F150")
def test_a_file_that_is_never_read(start: Gateways, store: Store) -> None:
    """The main file is a pipe that nobody writes to."""
    shortened = "from fastjmix.supervisor import reload; reload.READ_SECS = 0.3"
    node = Node(start(first=shortened), store.port)
    config = node.own.spool.parent / "config.toml"
    config.unlink()
    os.mkfifo(config)
    found = node.reload_as_it_is()
    assert (found["ok"], "not read within" in found["faults"][0]) == (False, True)
    node.own.wait_for("not_reloaded")
    config.unlink()
    assert node.asks(CT) == 2


@pytest.mark.fault("F150")
def test_a_process_without_descriptors_gets_it_again(start: Gateways, store: Store) -> None:
    shortened = "from fastjmix.supervisor import announcements; announcements.RESEND_SECS = 0.2"
    node = Node(start(first=shortened), store.port)
    receiver = node.own.children()["receiver-0"]
    before = resource.prlimit(receiver, resource.RLIMIT_NOFILE)
    resource.prlimit(receiver, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        assert node.reload(endpoint=ONLY_CT)["ok"]
        node.own.wait_for("error   receiver-0 configuration_not_taken", count=2)
    finally:
        resource.prlimit(receiver, resource.RLIMIT_NOFILE, before)
    node.own.wait_for("reloaded generation=2")
    assert (node.asks(CT), node.asks(US)) == (2, 3)


# -- who asks -------------------------------------------------------------------------------------


def test_a_signal_reloads(node: Node) -> None:
    node.write(endpoint=ONLY_CT)
    node.own.child.send_signal(signal.SIGHUP)
    node.own.wait_for("reload_asked by=SIGHUP")
    node.own.wait_for("reloaded generation=2")
    assert (node.asks(CT), node.asks(US)) == (2, 3)


def test_reloads_at_once_are_each_answered(node: Node) -> None:
    node.write(endpoint=ONLY_CT)
    command = ["reload", "--storage", str(node.own.spool), "--json"]
    done: list[subprocess.CompletedProcess[str]] = []
    threads = [
        threading.Thread(target=lambda: done.append(run_command(*command))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.returncode for one in done] == [0, 0, 0]
    assert (node.asks(CT), node.asks(US)) == (2, 3)


def cpu_secs(pid: int) -> float:
    """The processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_node_that_ends_answers_who_asks(node: Node) -> None:
    """A reload that waits for another one, a later one, and who would undo a drain. Nothing spins
    meanwhile."""
    own, ends, answers = node.own, ("the node ends",), []
    uploader, client = own.children()["uploader"], ControlClient(own.spool)
    with Peer(own.dicom_port) as busy:
        busy.associate()
        os.kill(uploader, signal.SIGSTOP)
        own.child.send_signal(signal.SIGHUP)
        own.wait_for("reload_late processes=uploader")
        waits = threading.Thread(target=lambda: answers.append(reload(own.spool)))
        waits.start()
        own.wait_for("reload_asked", count=2)
        busy.send(wire.p_data(wire.pdvs(1, wire.store_rq("1.2.3.9"), True)))
        own.child.send_signal(signal.SIGINT)  # grace_secs for that instance
        own.wait_for("stopping")
        before = cpu_secs(own.child.pid)
        waits.join()
        answers.append(reload(own.spool))
        with pytest.raises(NodeRefused) as refused:
            client.post("/api/node/undrain", {})
        client.post("/api/node/drain", {})
        time.sleep(1.0)  # in which it has nothing to do
        used = cpu_secs(own.child.pid) - before
        os.kill(uploader, signal.SIGCONT)
        busy.send(wire.p_data(wire.pdvs(1, wire.data_set(), False)))
        assert busy.status() == 0
    assert own.child.wait(PATIENCE) == 0
    assert [(one.ok, one.faults) for one in answers] == [(False, ends), (False, ends)]
    assert refused.value.answer["faults"] == list(ends)
    assert used < 0.4


def test_a_pipeline_file_that_is_lost_ends_no_listener(node: Node, free_port: int) -> None:
    """A link into a directory that is not mounted now."""
    second = node.own.spool.parent / "pipelines" / "second.toml"
    there = second.with_suffix(".there")
    there.write_text(SECOND.format(port=free_port))
    second.symlink_to(there.name)
    node.apply()
    there.unlink()
    found = node.reload_as_it_is()
    assert (found["ok"], "second.toml" in found["faults"][0]) == (False, True)
    with Peer(free_port) as peer:
        assert peer.associate(called=b"SECOND")[0] == 2


def test_the_api_takes_it_with_credentials_only(start: Gateways, store: Store) -> None:
    node = Node(start(), store.port)
    status, answer = post(node.own)
    assert (status, "credentials" in answer["error"]) == (403, True)
    assert "reload_asked" not in node.own.log()
    table = f'[authentications.ops]\nmethod = "bearer"\noptions.token = "{TOKEN}"'
    node.apply(http='authentication_ref = "ops"', fastjmix=table)
    assert post(node.own)[0] == 401
    status, answer = post(node.own, Authorization=f"Bearer {TOKEN}")
    assert (status, answer["ok"], answer["generation"]) == (200, True, 3)
    node.own.wait_for('reload_asked by="http 127.0.0.1"')
    node.write(endpoint="wrong = 1")
    status, answer = post(node.own, Authorization=f"Bearer {TOKEN}")
    assert (status, answer["ok"], answer["generation"]) == (422, False, 3)
    assert "wrong" in answer["faults"][0]
    assert "wrong" in answer["error"]


def post(own: Gateway, **headers: str) -> tuple[int, dict[str, Any]]:
    """Asks for a reload; status and answer."""
    connection = http.client.HTTPConnection("127.0.0.1", own.http_port, timeout=30)
    try:
        named = {"Content-Type": "application/json", **headers}
        connection.request("POST", "/api/node/reload", b"{}", named)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_a_node_that_does_not_run_reloads_nothing(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    assert run_command("reload", "--storage", tmp_path / "spool").returncode == 3


# -- secrets --------------------------------------------------------------------------------------


@pytest.fixture
def secret_node(start: Gateways, store: Store) -> Node:
    parts: dict[str, Any] = {"backend": 'authentication_ref = "up"'}
    table = '\n[authentications.up]\nmethod = "bearer"\noptions.token = "${JMIX_T}"\n'
    parts["http"] = table
    return Node(start(env={"JMIX_T": TOKEN}, **parts), store.port, **parts)


def test_variables_keep_the_values_of_the_start(secret_node: Node) -> None:
    """The environment has them no more: the process that reads the next file does."""
    node = secret_node
    for endpoint in (ONLY_CT, ONLY_US):
        node.apply(endpoint=endpoint)
    assert (node.asks(CT), node.asks(US)) == (3, 2)
    secret = TOKEN.encode()
    children = node.own.children()
    assert not holds(node.own.child.pid, secret)
    assert not any(holds(pid, secret) for name, pid in children.items() if name != "uploader")
    found = node.reload(http=node._parts["http"].replace("${JMIX_T}", "${JMIX_NONE}"))
    assert "JMIX_NONE" not in found["faults"][0]
    assert "a variable that is not set" in found["faults"][0]
