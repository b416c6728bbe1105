"""Row F85: odd instances among ordinary ones, and their packer is killed at any moment.

The senders, the upstream and the kills are real. Afterwards every acknowledged instance is
delivered, byte for byte, and none is in rejected/.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from functools import partial
from typing import Any

import pytest

from tests.support import strange
from tests.support.gateway import PATIENCE, Gateway, Gateways, Peer, Store, until
from tests.support.ledger import Ledger, Modality, all_dead, instances, settle
from tests.support.nightly import by_form

QUICK = "release_grace_secs = 0.1"
PATIENT = "release_grace_secs = 60"
SMALL_LANES = "lane_bytes = 1048576"
EACH_FORM = len(strange.FORMS)


@pytest.fixture
def gateway_defaults(store: Store) -> dict[str, Any]:
    return {"upstream": store.port, "fastjmix": SMALL_LANES, "builder": QUICK}


def study_of(study: str, odd: int = EACH_FORM) -> dict[str, bytes]:
    """Returns ordinary instances, and odd ones between them."""
    rng = random.Random(study)
    both = instances(study, 5) | strange.instances(study, odd, rng)
    order = sorted(both)
    rng.shuffle(order)
    return {uid: both[uid] for uid in order}


COUNT = 5 + EACH_FORM

KILLS = (
    "packer.midway:kill:9",
    "packer.spilled:kill:1",
    "packer.joining:kill:1",
    f"packer.appended:kill:{COUNT - 2}",
    "packer.synced:kill:7",
    f"packer.granted:kill:{COUNT}",
    "packer.digesting:kill:12",
    "provenance.written:kill:1",
    "seal.written:kill:1",
    "seal.published:kill:1",
    "packer.granted:kill:11,recovery.walked:kill:1,recovery.sealed:kill:1",
)


@pytest.mark.fault("F85")
@pytest.mark.parametrize("at", KILLS)
@pytest.mark.parametrize("durability", by_form(("fsync",), ("fsync", "page-cache")))
def test_a_packer_killed_among_strange_instances(
    start: Gateways, store: Store, at: str, durability: str
) -> None:
    own = start(at=at, builder=f'{QUICK}\ndurability = "{durability}"')
    ledger = Ledger()
    Modality(lambda: own.dicom_port, ledger).send(study_of("1.2.826.85.1"))
    own.wait_for("failpoint_reached", at.count("kill"))
    found = settle(own, store, ledger)
    assert found.acknowledged == COUNT


def killed(own: Gateway) -> None:
    """Kills all processes of the gateway."""
    children = own.children()
    own.child.kill()
    own.child.wait()
    until(lambda: all_dead(children.values()), "no orphans")
    own.close()


@pytest.mark.fault("F85")
def test_a_gateway_killed_among_strange_instances(start: Gateways, store: Store) -> None:
    """The next gateway has larger lanes, and the one after it smaller ones again."""
    ledger = Ledger()
    own = start(builder=PATIENT)
    Modality(lambda: own.dicom_port, ledger).send(study_of("1.2.826.85.2"))
    for lanes in ("lane_bytes = 4194304", SMALL_LANES):
        killed(own)
        own = start(fastjmix=lanes, builder=PATIENT)
        study = f"1.2.826.85.{len(ledger.sent)}"
        Modality(partial(int, own.dicom_port), ledger).send(study_of(study, 4))
    assert own.stop() == 0
    own = start()
    found = settle(own, store, ledger)
    assert found.acknowledged == COUNT + 18


@pytest.mark.fault("F85")
@pytest.mark.once
@pytest.mark.timeout(by_form(120, 3600))
@pytest.mark.usefixtures("seed")
def test_random_kills_of_packers(start: Gateways, store: Store) -> None:
    """Kills come about every second, while senders repeat what failed."""
    own = start(fastjmix=f"{SMALL_LANES}\npackers = 2")
    ledger, over = Ledger(), threading.Event()

    def send(number: int) -> None:
        modality = Modality(lambda: own.dicom_port, ledger, f"STRANGE{number}")
        count = 0
        while not over.is_set():
            count += 1
            modality.send(study_of(f"1.2.826.85.9.{number}.{count}", 5), seconds=3 * PATIENCE)

    senders = [threading.Thread(target=send, args=[n]) for n in range(3)]
    for sender in senders:
        sender.start()
    for _ in range(by_form(6, 600)):
        over.wait(random.uniform(0.3, 1.5))  # the load itself
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, KeyError):
            os.kill(own.children()[random.choice(("packer-0", "packer-1"))], signal.SIGKILL)
    over.set()
    for sender in senders:
        sender.join(4 * PATIENCE)
        assert not sender.is_alive()
    found = settle(own, store, ledger)
    print(found)
    assert found.acknowledged > 20


# -- a fault of ours -------------------------------------------------------------------------------


@pytest.mark.fault("F85")
@pytest.mark.parametrize("durability", ["fsync", "page-cache"])
@pytest.mark.parametrize("point", ["packer.appended:raise:4", "packer.joining:raise:1"])
def test_a_fault_in_an_append_costs_one_instance(
    start: Gateways, store: Store, point: str, durability: str
) -> None:
    """Its packer stays alive, and instances of another association are not affected."""
    own = start(at=point, builder=f'{PATIENT}\ndurability = "{durability}"')
    ledger = Ledger()
    with Peer(own.dicom_port) as other:
        other.associate()
        packer = own.children()["packer-0"]
        modality = Modality(lambda: own.dicom_port, ledger)
        modality.send(study_of("1.2.826.85.3"))
        own.wait_for("append_failed")
        uid, data = next(iter(instances("1.2.826.85.4", 1).items()))
        ledger.sending(uid, data)
        assert other.store(data, uid) == 0
        ledger.answered(uid)
        other.release()
    assert [status for status in modality.statuses if status] in ([], [0xC0FF])
    assert own.children()["packer-0"] == packer
    assert "child_died" not in own.log()
    assert own.stop() == 0
    found = settle(start(), store, ledger)
    assert found.acknowledged == COUNT + 1


@pytest.mark.fault("F85")
@pytest.mark.parametrize("point", ["seal.written", "seal.synced", "seal.published", "seal.removed"])
def test_a_fault_in_a_seal_costs_no_packer(start: Gateways, store: Store, point: str) -> None:
    own = start(at=f"{point}:raise:1")
    packer = own.children()["packer-0"]
    ledger = Ledger()
    Modality(lambda: own.dicom_port, ledger).send(study_of("1.2.826.85.5", 3))
    own.wait_for("seal_failed")
    until(lambda: not list((own.spool / "building").iterdir()), "it is sealed after all")
    assert own.children()["packer-0"] == packer
    assert settle(own, store, ledger).acknowledged == 8
