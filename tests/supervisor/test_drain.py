"""supervisor/drain.py, and what the processes answer: receiver, packer and uploader draining.py.

The first part asks and answers by hand. The second drains whole gateways.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastjmix.ipc.drain import UPLOADER, DrainPage, Intake
from fastjmix.supervisor import drain as module
from fastjmix.supervisor.drain import Drain, Phase
from tests.support import wire
from tests.support.gateway import PATIENCE, Gateway, Gateways, Peer, Store, get, running, until
from tests.support.ledger import Ledger, Modality, instances, settle

PATIENT = "release_grace_secs = 60\nquiet_secs = 60"
CONGESTED = (3, b"\0\2\3\1")
"""A-ASSOCIATE-RJ, transient, by the service provider (presentation): temporary congestion."""


# -- the demands -----------------------------------------------------------------------------------


class Steps:
    """A drain of two receivers and two packers, which the test answers for."""

    def __init__(self, drain_secs: float = 900.0) -> None:
        self.page = DrainPage(2, 2)
        self.wakes = 0
        self.drain = Drain(self.page, drain_secs, self._wake)

    def _wake(self) -> None:
        self.wakes += 1

    def answer(self, *processes: int) -> Phase | None:
        """Answers the latest demand for these; returns what the drain waits for then."""
        for process in processes:
            self.page.answer(process, self.page.demand.number)
        self.drain.step()
        return self.drain.phase

    @property
    def intake(self) -> Intake:
        return self.page.demand.intake


def test_a_demand_is_met_before_the_next_is_made() -> None:
    steps = Steps()
    assert (steps.drain.wait_secs, steps.drain.as_json(), steps.page.draining) == (
        None,
        None,
        False,
    )
    steps.drain.begin("a person")
    assert (steps.intake, steps.wakes, steps.page.draining) == (Intake.REJECTED, 1, True)
    assert steps.answer(2, 3, UPLOADER) is Phase.CLOSING  # nobody has asked them yet
    assert steps.answer(0) is Phase.CLOSING
    assert steps.answer(1) is Phase.SEALING
    assert steps.answer() is Phase.SEALING  # the packers answered an earlier demand
    assert steps.answer(2, 3) is Phase.DELIVERING
    assert steps.drain.wait_secs is not None
    assert not steps.drain.over
    steps.answer(UPLOADER)
    assert steps.drain.over
    assert steps.drain.undo() is False


def test_it_is_undone_at_any_step() -> None:
    steps = Steps()
    assert steps.drain.undo() is False
    for answers in ((), (0, 1), (0, 1, 2, 3)):
        steps.drain.begin("a person")
        for process in answers:
            steps.answer(process)
        assert steps.drain.undo() is True
        assert (steps.intake, steps.drain.phase, steps.drain.over) == (Intake.OPEN, None, False)
        steps.drain.step()
        assert not steps.drain.over


def test_what_others_show_of_it() -> None:
    steps = Steps(drain_secs=100.0)
    before = time.time()
    steps.drain.begin("alice")
    shown = steps.drain.as_json()
    assert shown is not None
    assert before - 0.001 <= float(shown["since"]) <= time.time() + 0.001
    assert float(shown["until"]) - float(shown["since"]) == pytest.approx(100)
    assert (shown["by"], shown["phase"]) == ("alice", "closing")


def test_it_ends_after_drain_secs_or_at_once() -> None:
    steps = Steps(drain_secs=0.05)
    steps.drain.begin("a person")
    steps.drain.step()
    assert not steps.drain.over
    until(lambda: steps.answer() and steps.drain.over, "it is over")
    steps = Steps(drain_secs=0.0)
    steps.drain.begin("a person")
    steps.drain.step()
    assert steps.drain.over
    steps = Steps()
    steps.drain.cut()
    assert not steps.drain.over
    steps.drain.begin("a person")
    steps.drain.cut()
    assert steps.drain.over


def test_a_restart_hands_over_what_is_not_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HAND_OVER_SECS", 0.05)
    for restart in (False, True):
        steps = Steps()
        steps.drain.begin("SIGTERM", restart=restart)
        assert steps.drain.hastened is restart
        steps.answer(0, 1)
        assert steps.answer(2, 3) is Phase.DELIVERING
        time.sleep(0.06)
        steps.drain.step()
        assert steps.drain.over is restart
    steps = Steps()
    steps.drain.begin("a person")
    steps.drain.begin("SIGTERM", restart=True)  # hastens the one that lasts
    assert (steps.drain.hastened, steps.drain.as_json()["by"]) == (True, "a person")  # type: ignore[index]


def test_peers_wait_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_SECS", 0.05)
    steps = Steps()
    steps.drain.begin("SIGTERM", restart=True, waits=True)
    assert steps.intake is Intake.WAITING
    assert steps.answer(0, 1) is Phase.SEALING
    assert steps.intake is Intake.WAITING
    time.sleep(0.06)
    steps.drain.step()
    assert (steps.intake, steps.drain.phase) == (Intake.REJECTED, Phase.SEALING)


# -- whole gateways --------------------------------------------------------------------------------


@pytest.fixture
def gateway_defaults(store: Store) -> dict[str, Any]:
    return {"upstream": store.port, "builder": PATIENT}


@contextlib.contextmanager
def opened(own: Gateway) -> Iterator[Peer]:
    """Yields a peer with an association."""
    own.wait_for("http_listening")
    with Peer(own.dicom_port, PATIENCE) as peer:
        assert peer.associate()[0] == 2
        yield peer


def store_some(peer: Peer, ledger: Ledger, data: dict[str, bytes]) -> None:
    for uid, one in data.items():
        ledger.sending(uid, one)
        assert peer.store(one, uid) == 0
        ledger.answered(uid)


def drains(own: Gateway) -> None:
    """Sends SIGTERM, and waits until a newcomer is rejected."""
    own.child.send_signal(signal.SIGTERM)
    own.wait_for(" draining by=SIGTERM ")

    def rejected() -> bool:
        with Peer(own.dicom_port, PATIENCE) as other:
            answer = other.associate()
            if answer[0] == 2:  # a receiver may need a moment to hear of it
                other.release()
            return answer == CONGESTED

    until(rejected, "a newcomer is rejected")


def test_an_association_goes_on_and_its_envelope_is_delivered(start: Gateways) -> None:
    """Longer than grace_secs. Not ready at once; a newcomer is to come back; nothing is left."""
    own, ledger = start(fastjmix="", name="own"), Ledger()
    data = instances("1.2.826.18.1", 6)
    with opened(own) as peer:
        store_some(peer, ledger, dict(list(data.items())[:2]))
        own.child.send_signal(signal.SIGTERM)
        own.wait_for(" draining ")
        status, _, body = get(own.http + "/readyz")
        assert (status, b"fastjmix drains" in body) == (503, True)
        drains_on = own.http + "/healthz"
        assert get(drains_on)[0] == 200
        store_some(peer, ledger, data)
        peer.release()
    assert own.child.wait(PATIENCE) == 0
    own.wait_for(" drained ")
    assert [len(own.envelopes(one)) for one in ("outbox", "sent")] == [0, 1]
    assert not any((own.spool / "building").iterdir())


def test_an_envelope_is_sealed_when_its_last_sender_has_gone(start: Gateways) -> None:
    """And not while another one sends, whose envelopes are delivered before the end, too."""
    own, ledger = start(), Ledger()
    with opened(own) as first, opened(own) as second:
        store_some(first, ledger, instances("1.2.826.18.2", 2))
        store_some(second, ledger, instances("1.2.826.18.3", 2))
        drains(own)
        first.release()
        own.wait_sent(1)
        store_some(second, ledger, instances("1.2.826.18.3", 4))
        assert len(own.envelopes("sent")) == 1
        second.release()
    assert own.child.wait(PATIENCE) == 0
    assert len(own.envelopes("sent")) == 2


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port at which connections are taken, and nothing is answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        yield silent.getsockname()[1]


def test_a_paused_upstream_keeps_nobody_waiting(start: Gateways) -> None:
    own, ledger = start(upstream=9, builder="release_grace_secs = 0.1"), Ledger()
    Modality(lambda: own.dicom_port, ledger).send(instances("1.2.826.18.4", 2))
    own.wait_for("upstream_paused")
    began = time.monotonic()
    assert own.stop(signal.SIGTERM) == 0
    assert time.monotonic() - began < 5
    assert len(own.envelopes("outbox")) == 1


def test_a_slow_upstream_is_not_waited_for_without_end(start: Gateways, black_hole: int) -> None:
    first = "from fastjmix.supervisor import drain; drain.HAND_OVER_SECS = 0.5"
    own, ledger = (
        start(upstream=black_hole, builder="release_grace_secs = 0.1", first=first),
        Ledger(),
    )
    Modality(lambda: own.dicom_port, ledger).send(instances("1.2.826.18.5", 2))
    own.wait_sealed()
    assert own.stop(signal.SIGTERM) == 0
    own.wait_for("drained .*handed_over=True")
    assert len(own.envelopes("outbox")) == 1


def test_the_second_sigterm_falls_back_to_grace_secs(start: Gateways) -> None:
    own, ledger = start(), Ledger()
    data = instances("1.2.826.18.6", 2)
    with opened(own) as idle, opened(own) as busy:
        store_some(idle, ledger, data)
        drains(own)
        items = wire.p_data(wire.pdvs(1, wire.store_rq("1.2.3.9"), True))
        busy.send(items)  # within an instance: it may end within grace_secs
        own.child.send_signal(signal.SIGTERM)
        own.wait_for("drain_cut phase=closing")
        assert idle.pdu() == (7, b"\0\0\2\0")
        busy.send(wire.p_data(wire.pdvs(1, wire.data_set(), False)))
        assert busy.status() == 0
        assert busy.pdu() == (7, b"\0\0\2\0")
    assert own.child.wait(PATIENCE) == 0
    assert len(own.envelopes("outbox") + own.envelopes("sent")) == 2


def test_the_end_of_drain_secs_does_the_same(start: Gateways) -> None:
    own, ledger = start(fastjmix="drain_secs = 0.5"), Ledger()
    with opened(own) as idle:
        store_some(idle, ledger, instances("1.2.826.18.7", 2))
        own.child.send_signal(signal.SIGTERM)
        assert idle.pdu() == (7, b"\0\0\2\0")
    own.wait_for("drain_cut phase=closing")
    assert own.child.wait(PATIENCE) == 0
    assert len(own.envelopes("outbox") + own.envelopes("sent")) == 1


def test_sigint_ends_a_drain(start: Gateways) -> None:
    own = start()
    with opened(own) as idle:
        drains(own)
        own.child.send_signal(signal.SIGINT)
        assert idle.pdu() == (7, b"\0\0\2\0")
    assert own.child.wait(PATIENCE) == 0


def test_several_receivers_and_packers(start: Gateways) -> None:
    own, ledger = start(fastjmix="receivers = 2\npackers = 3"), Ledger()
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(opened(own)) for _ in range(6)]
        for number, peer in enumerate(peers):
            store_some(peer, ledger, instances(f"1.2.826.18.8{number}", 2))
        drains(own)
        for peer in peers:
            peer.release()
    assert own.child.wait(PATIENCE) == 0
    assert [len(own.envelopes(one)) for one in ("outbox", "sent")] == [0, 6]


def test_uploaded_means_uploaded(start: Gateways) -> None:
    """ack = "uploaded": a drain does not break off what a modality waits for."""
    own, ledger = start(endpoint='ack = "uploaded"'), Ledger()
    with opened(own) as peer:
        drains(own)
        store_some(peer, ledger, instances("1.2.826.18.9", 3))
        peer.release()
    assert own.child.wait(PATIENCE) == 0
    assert len(own.envelopes("sent")) == 3


# -- kills -----------------------------------------------------------------------------------------


@pytest.mark.fault("F152")
@pytest.mark.parametrize("victim", ["receiver-0", "packer-0", "uploader"])
def test_a_process_is_killed_while_it_drains(start: Gateways, store: Store, victim: str) -> None:
    """It is started again, and drains on. Nothing acknowledged is lost."""
    own, ledger = start(), Ledger()
    data = instances(f"1.2.826.18.{200 + len(victim)}.{ord(victim[0])}", 4)
    with opened(own) as peer:
        store_some(peer, ledger, dict(list(data.items())[:2]))
        drains(own)
        os.kill(own.children()[victim], signal.SIGKILL)
        own.wait_for(f"child_restarted child={victim}")
        if victim != "receiver-0":
            store_some(peer, ledger, dict(list(data.items())[2:]))
            peer.release()
    assert own.child.wait(PATIENCE) == 0
    assert "drain_cut" not in own.log()
    assert not own.envelopes("outbox")
    with running(Gateway(own.spool.parent, store.port)) as again:
        settle(again, store, ledger)


@pytest.mark.fault("F152")
def test_the_node_is_killed_while_it_drains(start: Gateways, store: Store) -> None:
    own, ledger = start(), Ledger()
    ended = threading.Event()
    data = instances("1.2.826.18.300", 500)

    def send() -> None:
        with contextlib.suppress(OSError, EOFError), opened(own) as peer:
            for uid, one in data.items():
                ledger.sending(uid, one)
                assert peer.store(one, uid) == 0
                ledger.answered(uid)
                if ended.is_set():
                    return

    sender = threading.Thread(target=send)
    sender.start()
    until(lambda: len(ledger.acknowledged) > 5, "it sends")
    own.child.send_signal(signal.SIGTERM)
    own.wait_for(" draining ")
    seen = len(ledger.acknowledged)
    until(lambda: len(ledger.acknowledged) > seen + 5, "it sends on")
    own.child.kill()
    ended.set()
    sender.join(PATIENCE)
    own.child.wait()
    with running(Gateway(Path(own.spool.parent), store.port)) as again:
        settle(again, store, ledger)
