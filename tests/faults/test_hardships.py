"""A bad peer, a bad disk or a kill at a bad moment harms nobody else."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastjmix.failpoints import VARIABLE
from tests.support import wire
from tests.support.dicom_peers import is_let_in
from tests.support.gateway import PATIENCE, Gateway, Gateways, Peer, get, images, until
from tests.support.hazards import delete_whole


@pytest.fixture
def silent() -> Iterator[int]:
    """Runs an upstream that takes connections and never answers; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def works(own: Gateway, instance: str = "1.2.3.99") -> None:
    with Peer(own.dicom_port) as peer:
        assert peer.associate()[0] == 2
        assert peer.store(wire.data_set(instance), instance) == 0
        peer.release()


@pytest.mark.fault("S08")
@pytest.mark.parametrize("missing", [0x0110, 0x0800])
def test_a_command_without_its_elements_costs_one_association(
    start: Gateways, missing: int
) -> None:
    own = start()
    elements = {
        0x0002: wire.uid(wire.CT),
        0x0100: wire.us(1),
        0x0110: wire.us(1),
        0x0800: wire.us(0),
        0x1000: wire.uid("1.2.3.9"),
    }
    del elements[missing]
    with Peer(own.dicom_port) as good, Peer(own.dicom_port) as bad:
        good.associate()
        bad.associate()
        items = wire.pdvs(1, wire.command(elements), True) + wire.pdvs(1, wire.data_set(), False)
        bad.send(wire.p_data(items))
        assert bad.pdu() == (7, b"\0\0\2\6")
        assert good.store(wire.data_set()) == 0


def test_an_echo_with_a_data_set_is_an_echo(start: Gateways) -> None:
    own = start()
    with Peer(own.dicom_port) as peer:
        peer.associate()
        echo = wire.command(
            {
                0x0002: wire.uid(wire.VERIFICATION),
                0x0100: wire.us(0x30),
                0x0110: wire.us(4),
                0x0800: wire.us(0),
            }
        )
        items = wire.pdvs(3, echo, True) + wire.pdvs(3, wire.data_set(), False)
        peer.send(wire.p_data(items))
        assert peer.status() == 0
        peer.release()
    assert not list((own.spool / "building").iterdir())


@pytest.mark.parametrize("pdv", [16378, 4090, 4000, 1000])
def test_fragments_that_end_where_the_lane_ends(start: Gateways, pdv: int) -> None:
    own = start(fastjmix="lane_bytes = 1048576", builder="release_grace_secs = 0.1")
    data = wire.data_set(pixels=os.urandom(3 << 20))
    with Peer(own.dicom_port) as peer:
        peer.associate()
        assert peer.store(data, sizes=[pdv] * (len(data) // pdv + 1)) == 0
        peer.release()
    assert images(own.wait_sealed()[0]) == {"1.2.3.9": data}


def large_head() -> bytes:
    """Returns a data set with a private element of 1 MB before the Study Instance UID."""
    plain = wire.data_set()
    cut = plain.index(struct.pack("<HH", 0x0010, 0x0010))
    return plain[:cut] + wire.element(0x00091010, b"OB", os.urandom(1_040_000)) + plain[cut:]


def test_a_large_head_is_stored_and_recovered(start: Gateways) -> None:
    own = start(builder="release_grace_secs = 30")
    data = large_head()
    with Peer(own.dicom_port) as peer:
        peer.associate()
        assert peer.store(data) == 0
        os.kill(own.children()["packer-0"], signal.SIGKILL)
        own.wait_for("envelope_recovered")
    assert images(own.envelopes("outbox")[0]) == {"1.2.3.9": data}
    works(own)


WAITS = """
from pathlib import Path
from fastjmix.spool import journal
read = journal.read
def when_released(directory):
    Path("go on").read_bytes()
    return read(directory)
journal.read = when_released
"""
"""Code by which the process that recovers a draft waits until the test has written to a pipe."""


def left_behind(own: Gateway) -> Path:
    """Kills the gateway with a draft. Returns the pipe that the recovering process waits for."""
    works(own)
    own.child.kill()
    own.child.wait()
    pipe = own.spool.parent / "go on"
    os.mkfifo(pipe)
    return pipe


def test_a_recovery_that_takes_long_keeps_nobody_waiting(start: Gateways) -> None:
    pipe = left_behind(start(builder="release_grace_secs = 30"))
    again = start(first=WAITS, builder="release_grace_secs = 0.1")
    works(again)
    again.wait_for("envelope_sealed")
    assert "envelope_recovered" not in again.log()
    pipe.write_bytes(b"go on")
    again.wait_for("envelope_recovered")
    assert len(again.envelopes("outbox")) == 2


def test_a_drain_waits_for_what_is_being_recovered(start: Gateways) -> None:
    pipe = left_behind(start(builder="release_grace_secs = 30"))
    again = start(first=WAITS, builder="release_grace_secs = 30")
    works(again)
    again.child.send_signal(signal.SIGTERM)
    again.wait_for("envelope_sealed .*draining")
    pipe.write_bytes(b"go on")
    assert again.child.wait(PATIENCE) == 0
    assert "envelope_recovered" in again.log()
    assert len(again.envelopes("outbox")) == 2


def test_a_draft_that_cannot_be_read_is_moved_to_rejected(start: Gateways) -> None:
    own = start(builder="release_grace_secs = 30")
    works(own)
    own.child.kill()
    own.child.wait()
    recipe = next((own.spool / "building").glob("*/draft.json"))
    recipe.write_text(json.dumps({**json.loads(recipe.read_text()), "profile": "none"}))
    again = start(builder="release_grace_secs = 30")
    again.wait_for("envelope_damaged")
    assert until(lambda: again.envelopes("rejected"), "the draft in rejected/")
    works(again)


def test_a_failed_seal_is_an_answer_when_the_upstream_was_promised(
    start: Gateways, silent: int
) -> None:
    own = start(silent, endpoint='ack = "uploaded"')
    own.wait_for("http_listening")  # a packer that starts makes its directories anew
    delete_whole(own.spool / "outbox")
    with Peer(own.dicom_port) as peer:
        peer.associate()
        assert peer.store(wire.data_set()) == 0xA700


def test_a_digest_that_fails_at_the_seal_is_an_answer(start: Gateways, silent: int) -> None:
    """An instance that waits for the upstream is digested as its envelope is sealed."""
    own = start(silent, endpoint='ack = "uploaded"', env={VARIABLE: "packer.digesting:eio:1"})
    with Peer(own.dicom_port) as peer:
        peer.associate()
        assert peer.store(wire.data_set()) == 0xA700
        peer.release()
    own.wait_for("seal_failed")
    assert until(lambda: not list((own.spool / "building").glob("*")), "nothing is left of it")
    assert own.envelopes("outbox") == own.envelopes("rejected") == []


def test_a_failed_seal_is_tried_again(start: Gateways) -> None:
    own = start(builder="release_grace_secs = 0.1")
    works(own)
    own.wait_for("envelope_sealed")
    (own.spool / "outbox").rename(own.spool / "gone")
    works(own)
    own.wait_for("seal_failed")
    (own.spool / "gone").rename(own.spool / "outbox")
    own.wait_for("envelope_recovered")
    assert len(own.envelopes("outbox")) == 2


def test_a_dead_receiver_with_instances_at_the_upstream_blocks_nobody(
    start: Gateways, silent: int
) -> None:
    own = start(silent, endpoint='ack = "uploaded"')
    with Peer(own.dicom_port) as peer:
        peer.associate()
        peer.send(
            wire.p_data(
                wire.pdvs(1, wire.store_rq("1.2.3.9"), True) + wire.pdvs(1, wire.data_set(), False)
            )
        )
        own.wait_for("envelope_sealed")
        os.kill(own.children()["receiver-0"], signal.SIGKILL)
        own.wait_for("child_restarted")
    with Peer(own.dicom_port) as peer:
        assert peer.associate()[0] == 2
        peer.release()


def ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def push(peer: Peer, data: bytes, seconds: float) -> int:
    """Sends until the other side takes no more; returns the number of bytes taken."""
    peer.socket.setblocking(False)
    taken, last = 0, time.monotonic()
    while time.monotonic() - last < seconds:
        with contextlib.suppress(BlockingIOError):
            taken += peer.socket.send(data)
            last = time.monotonic()
    return taken


def test_a_peer_that_runs_ahead_costs_no_processor(start: Gateways, silent: int) -> None:
    own = start(silent, endpoint='ack = "uploaded"', fastjmix="lane_bytes = 1048576")
    with Peer(own.dicom_port) as peer:
        peer.associate()
        one = wire.p_data(
            wire.pdvs(1, wire.store_rq("1.2.3.9"), True) + wire.pdvs(1, wire.data_set(), False)
        )
        push(peer, one * 2000, 1.0)
        receiver = own.children()["receiver-0"]
        before = ticks(receiver)
        time.sleep(1.0)  # what is measured is that nothing happens
        assert ticks(receiver) - before < 20


def test_an_idle_node_sleeps(start: Gateways) -> None:
    """Two things happen in five seconds: the free space is looked at, and the rates are noted."""
    own = start()
    own.wait_for("http_listening")
    pids = [own.child.pid, *own.children().values()]
    quietest = min(wakings_in(5.0, pids) for _ in range(3))
    assert quietest <= 4


def wakings_in(seconds: float, pids: list[int]) -> int:
    before = wakings(pids)
    time.sleep(seconds)  # what is measured is that nothing happens
    return wakings(pids) - before


def wakings(pids: list[int]) -> int:
    """Returns how often their threads have gone to sleep again."""
    texts = [p.read_text() for pid in pids for p in Path(f"/proc/{pid}/task").glob("*/status")]
    found = [re.search(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.M) for text in texts]
    return sum(int(one[1]) for one in found if one)


def test_systemd_signals_everyone(start: Gateways) -> None:
    """By default systemd sends SIGTERM to each process of the group. Only the supervisor stops."""
    own = start()
    names = {"receiver-0", "packer-0", "uploader", "api", "ledger"}
    until(lambda: set(own.children()) == names, "the children have their names")
    own.wait_for("http_listening")
    before = own.children()
    for pid in before.values():
        os.kill(pid, signal.SIGTERM)
    works(own)
    assert own.children() == before
    assert own.stop() == 0


def test_readyz_knows_of_a_dead_receiver(start: Gateways) -> None:
    own = start()
    own.wait_for("http_listening")
    for number in range(1, 5):  # the pause before a restart doubles: time to look
        until(lambda: "receiver-0" in own.children(), "the receiver is there")
        os.kill(own.children()["receiver-0"], signal.SIGKILL)
        own.wait_for("child_restarted child=receiver-0", number)
    until(lambda: "receiver-0" in own.children(), "the receiver is there")
    until(lambda: get(f"{own.http}/readyz")[0] == 200, "ready")
    os.kill(own.children()["receiver-0"], signal.SIGKILL)
    answer = until(lambda: (a := get(f"{own.http}/readyz"))[0] == 503 and a, "not ready")
    assert b"a receiver died" in answer[2]
    own.wait_for("child_restarted child=receiver-0", 5)
    works(own)


def test_more_connections_than_max_half_open_is_no_line_in_the_log(
    start: Gateways, tmp_path: Path
) -> None:
    own = start()
    peers = [socket.create_connection(("127.0.0.1", own.dicom_port)) for _ in range(600)]
    until(lambda: any(_closed(p) for p in peers[512:]), "the last ones are closed at once")
    for peer in peers:
        peer.close()
    until(lambda: is_let_in(own), "a connection is accepted again")
    assert sum("accept_failed" in line for line in own.lines) == 0


def _closed(peer: socket.socket) -> bool:
    peer.setblocking(False)
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False


def test_an_unwritable_log_is_the_operators(tmp_path: Path) -> None:
    from tests.support.gateway import Process, write_config

    path = write_config(tmp_path, 9)
    text = (
        path.read_text() + '\n[logging]\nlog_to_file = true\nlog_file_path = "/proc/nope/x.log"\n'
    )
    path.write_text(text)
    process = Process("run", "-c", "config.toml", cwd=tmp_path)
    assert process.child.wait(30) == 2
    process.close()
    assert "log file" in process.log()
    assert "Traceback" not in process.log()
