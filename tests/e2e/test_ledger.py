"""The ledger of a running node: the story of a study, and agreement with the disk after kills."""

from __future__ import annotations

import itertools
import random
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastjmix.ledger.database import LedgerUnavailable
from fastjmix.ledger.places import Places
from fastjmix.ledger.queries import Ledger, Search
from fastjmix.ledger.rows import EnvelopeRow
from fastjmix.spool import Ticket
from fastjmix.spool.directories import Directories
from tests.support.gateway import Gateway, Gateways, Store, get, until
from tests.support.ledger import Ledger as Sent
from tests.support.ledger import Modality, drain, instances
from tests.support.nightly import by_form

QUICK = "release_grace_secs = 0.1"


@pytest.fixture
def gateway_defaults(store: Store) -> dict[str, Any]:
    return {"upstream": store.port, "builder": QUICK}


def on_disk(spool: Path) -> dict[str, tuple[str, int | None]]:
    """Returns the state of each envelope, and the number of its instances once it is sealed."""
    found: dict[str, tuple[str, int | None]] = {}
    for envelope_id, state in Places(Directories(spool)).listed().items():
        directory = "outbox" if state == "held" else state
        ticket = None
        if state != "building":
            ticket = Ticket.read(spool / directory / f"{envelope_id}.json", envelope_id)
        found[envelope_id] = state, ticket.instances if ticket else None
    return found


def in_ledger(spool: Path) -> dict[str, tuple[str, int | None]]:
    """Returns the same as the ledger has it."""
    rows: list[EnvelopeRow] = []
    cursor = None
    while True:
        page = Ledger(spool).search(Search(), 1000, cursor)
        rows += page.envelopes
        if (cursor := page.cursor) is None:
            break
    return {
        one.id: (one.state, None if one.state == "building" else one.instances)
        for one in rows
        if one.state != "gone"
    }


def agrees(spool: Path) -> bool:
    """Returns whether the ledger and the directories say the same, while nothing moves."""
    try:
        before = on_disk(spool)
        return in_ledger(spool) == before == on_disk(spool)
    except (LedgerUnavailable, FileNotFoundError):  # it is being made; something moves
        return False


def acknowledged(sent: Sent, count: int) -> bool:
    return len(sent.acknowledged) >= count


def until_agrees(spool: Path) -> None:
    """Waits until both say the same; the error of a failure shows what differs."""
    try:
        until(lambda: agrees(spool), "the ledger agrees with the disk")
    except AssertionError:
        assert in_ledger(spool) == on_disk(spool)
        raise


def kill(own: Gateway) -> None:
    """Kills the whole node: its children die with the supervisor."""
    own.child.kill()
    own.child.wait()


@pytest.mark.fault("F133")
def test_after_kills_of_the_node_the_ledger_agrees_with_the_disk(
    start: Gateways, store: Store
) -> None:
    sent, rng = Sent(), random.Random(133)
    own = start()
    ports = [own.dicom_port]
    stop = threading.Event()
    modality = Modality(lambda: ports[0], sent, timeout=5)

    def send() -> None:
        for number in itertools.takewhile(lambda _: not stop.is_set(), itertools.count(1)):
            study = instances(f"1.2.826.133.{number}", 6)
            modality.send(study, stop=stop, pause=lambda: rng.random() * 0.02)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        for _ in range(by_form(4, 30)):
            more = len(sent.acknowledged) + rng.randrange(4, 20)
            until(partial(acknowledged, sent, more), "it takes instances")
            kill(own)
            own = start()
            ports[0] = own.dicom_port
            until_agrees(own.spool)
    finally:
        stop.set()
        thread.join()
    drain(own)
    until_agrees(own.spool)
    for uid in sent.acknowledged:
        found = Ledger(own.spool).trace(uid.rpartition(".")[0])
        assert found.kind == "study"
        assert all(one.envelope.state == "sent" for one in found.envelopes)
        assert all(one.attempts[-1].outcome == "delivered" for one in found.envelopes)


@pytest.mark.fault("F131")
def test_a_full_ledger_stops_nothing(start: Gateways, store: Store) -> None:
    """A directory where the file should be: nothing can be written there, whoever tries."""
    own = start(name="full")
    until_agrees(own.spool)
    kill(own)
    for one in (own.spool / "ledger").iterdir():
        one.unlink()
    (own.spool / "ledger").rmdir()
    (own.spool / "ledger").write_text("in the way")
    own = start(name="full")
    own.wait_for("ledger_failing")
    sent = Sent()
    Modality(lambda: own.dicom_port, sent).send(instances("1.2.826.131", 3))
    (archive,) = own.wait_sent()
    assert get(f"{own.http}/readyz")[0] == 200
    (own.spool / "ledger").unlink()
    own.wait_for("ledger_writes_again")
    until_agrees(own.spool)
    found = Ledger(own.spool).envelope(archive.stem)
    assert found is not None
    assert own.stop() == 0


def test_retention_leaves_the_story(start: Gateways, store: Store) -> None:
    """The auditor's question: from where it came, and what the upstream said, when all is gone."""
    own = start(fastjmix="retention = { max_age_days = 0 }")
    until_agrees(own.spool)
    Modality(lambda: own.dicom_port, Sent()).send(instances("1.2.826.7", 2))
    own.wait_for("envelopes_expired")

    def gone() -> bool:
        rows = Ledger(own.spool).search(Search(study="1.2.826.7")).envelopes
        return [one.state for one in rows] == ["gone"]

    until(gone, "the ledger knows that it is gone")
    (story,) = Ledger(own.spool).trace("1.2.826.7").envelopes
    assert [one.state for one in story.moves] == ["sent", "gone"]
    assert [one.reason for one in story.moves] == ["delivered", "retention"]
    (attempt,) = story.attempts
    assert (attempt.outcome, attempt.status) == ("delivered", 201)
    assert (attempt.bytes, attempt.upstream) == (story.envelope.bytes, "jmix_upstream")
    assert story.envelope.instances == 2


def test_a_stopped_node_leaves_a_whole_ledger(start: Gateways, store: Store) -> None:
    own = start()
    Modality(lambda: own.dicom_port, Sent()).send(instances("1.2.826.8", 2))
    assert own.stop() == 0
    assert agrees(own.spool)
    own = start()
    own.wait_sent()
    until_agrees(own.spool)
