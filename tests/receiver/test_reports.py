"""The events of a receiver, and what the ledger knows by them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from fastjmix.ipc.events import EventReader, Events, make_pipe
from fastjmix.ledger.database import LedgerUnavailable
from fastjmix.ledger.queries import Ledger
from fastjmix.receiver.measures import Measures
from fastjmix.receiver.reports import EVENTS_A_SECOND, Reports
from fastjmix.spool import AssociationFacts, Provenance, Spool
from tests.support import wire
from tests.support.gateway import Gateways, Peer, run_to_end, until


def test_rejections_and_refusals_are_bounded_each() -> None:
    reading, writing = make_pipe()
    reports, reader = Reports(Events(writing)), EventReader(reading)
    connection: Any = SimpleNamespace(peer="10.0.0.1:5")
    association: Any = SimpleNamespace(origin=AssociationFacts("1-1"), head=None)
    began = time.monotonic()
    for _ in range(EVENTS_A_SECOND + 7):
        reports.rejection(connection, "x" * 1000, "A", "B")
    reports.refusal(association, 0xA700, "full", "1.2", "1.3")
    assert time.monotonic() - began < 1, "too slow to be told"
    found = reader.read()
    kinds = [one["kind"] for one in found]
    assert kinds == ["rejection"] * EVENTS_A_SECOND + ["refusal"]
    assert found[-1]["status"] == "A700"
    assert found[0]["why"] == "x" * 300
    time.sleep(max(0.0, began + 1.05 - time.monotonic()))
    reports.rejection(connection, "again")
    (last,) = reader.read()
    assert last["left_out"] == 7


@pytest.mark.fault("S35")
def test_associations_without_an_instance_are_bounded() -> None:
    reading, writing = make_pipe()
    reports, reader = Reports(Events(writing)), EventReader(reading)
    association: Any = SimpleNamespace(origin=AssociationFacts("1-1"))
    nothing = Measures().facts(time.monotonic(), 0, 0)
    began = time.monotonic()
    for _ in range(EVENTS_A_SECOND + 7):
        reports.association_ended(association, "released", nothing)
    reports.association_ended(association, "lost", {**nothing, "stored": 1})
    reports.association_ended(association, "lost", {**nothing, "refused": 1})
    assert time.monotonic() - began < 1, "too slow to be told"
    ways = [one["how"] for one in reader.read()]
    assert ways == ["released"] * EVENTS_A_SECOND + ["lost"] * 2
    time.sleep(max(0.0, began + 1.05 - time.monotonic()))
    reports.association_ended(association, "released", nothing)
    (last,) = reader.read()
    assert last["left_out"] == 7


def known(look: Callable[[], Any]) -> Any:
    """Returns what the ledger tells, when it can be read: the node makes it at its start."""
    with contextlib.suppress(LedgerUnavailable):
        return look()
    return None


def test_the_ledger_knows_an_association_its_envelope_and_what_was_refused(
    start: Gateways,
) -> None:
    own = start(builder="release_grace_secs = 0.1")
    with Peer(own.dicom_port) as peer:
        peer.associate(calling=b"CT_ONE")
        first = wire.data_set("1.2.826.31.1", study="1.2.826.31")
        assert peer.store(first, instance="1.2.826.31.1") == 0
        assert peer.store(first, instance="1.2.826.31.9") == 0xA900
        peer.release()
    done = run_to_end("echoscu", "-aec", "NOT_OURS", "127.0.0.1", str(own.dicom_port))
    assert done.returncode != 0
    ledger = Ledger(own.spool)
    (association,) = until(
        lambda: known(ledger.recent_associations), "the ledger has the association"
    )
    assert (association.calling_ae, association.stored, association.refused) == ("CT_ONE", 1, 1)
    assert association.statuses == {"0000": 1, "A900": 1}
    assert association.how == "released"
    assert association.peer.startswith("127.0.0.1:")
    story = until(lambda: ledger.trace("1.2.826.31").envelopes, "the ledger has the envelope")
    envelope_id = story[0].envelope.id
    own.wait_for(f"envelope_sealed envelope={envelope_id}")
    found = Provenance.read(Spool(own.spool), envelope_id)
    assert found.associations[0].id == association.id
    assert found.associations[0].implementation_uid == association.implementation_uid
    assert abs(found.instances[0].arrived - association.began) < 60
    assert [one.status for one in ledger.trace(association.id).refusals] == ["A900"]
    (rejection,) = until(ledger.recent_rejections, "the ledger has the rejection")
    assert (rejection.called_ae, "called AE" in rejection.why) == ("NOT_OURS", True)
