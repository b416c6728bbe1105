"""The ledger of a running node: the story of a study, and agreement with the disk after kills."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastjmix.ledger.database import LedgerUnavailable, reading
from fastjmix.ledger.places import Places
from fastjmix.ledger.queries import Ledger, Search
from fastjmix.ledger.reading import provenance
from fastjmix.ledger.rows import EnvelopeRow
from fastjmix.spool import Provenance, Ticket
from fastjmix.spool.directories import Directories
from tests.support.disks import Memory
from tests.support.gateway import Gateway, Gateways, Store, get, until
from tests.support.ledger import Ledger as Sent
from tests.support.ledger import Modality, drain, instances
from tests.support.nightly import by_form

QUICK = "release_grace_secs = 0.1"


@pytest.fixture
def gateway_defaults(store: Store) -> dict[str, Any]:
    return {"upstream": store.port, "builder": QUICK}


Told = tuple[str, int | None, Provenance | None]
"""The state of an envelope; once it is sealed, the number of its instances and its provenance."""


def on_disk(spool: Path) -> dict[str, Told]:
    """Returns what the directories say of each envelope."""
    found: dict[str, Told] = {}
    places = Places(Directories(spool))
    for envelope_id, state in places.listed().items():
        if state == "building":
            found[envelope_id] = state, None, None
            continue
        directory = "outbox" if state == "held" else state
        ticket = Ticket.read(spool / directory / f"{envelope_id}.json", envelope_id)
        found[envelope_id] = state, ticket.instances, places.provenance(envelope_id)
    return found


def in_ledger(spool: Path) -> dict[str, Told]:
    """Returns the same as the ledger has it."""
    rows: list[EnvelopeRow] = []
    cursor = None
    while True:
        page = Ledger(spool).search(Search(), 1000, cursor)
        rows += page.envelopes
        if (cursor := page.cursor) is None:
            break
    with reading(spool) as connection:
        return {
            one.id: (one.state, None, None)
            if one.state == "building"
            else (one.state, one.instances, provenance(connection, one.number))
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


def is_new(own: Gateway, name: str, before: int) -> bool:
    return own.children().get(name, before) != before


@contextmanager
def sending(ports: list[int], sent: Sent, rng: random.Random) -> Iterator[None]:
    """Sends a study after the other to the last of `ports`; what fails is sent again."""
    stop = threading.Event()
    modality = Modality(lambda: ports[-1], sent, timeout=5)

    def send() -> None:
        for number in itertools.takewhile(lambda _: not stop.is_set(), itertools.count(1)):
            study = instances(f"1.2.826.133.{number}", 6)
            modality.send(study, stop=stop, pause=lambda: rng.random() * 0.02)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def assert_whole(own: Gateway, sent: Sent) -> None:
    """Every study is told to its end: each instance by its association, the upstream's answer."""
    drain(own)
    until_agrees(own.spool)
    for study in {uid.rpartition(".")[0] for uid in sent.acknowledged}:
        found = Ledger(own.spool).trace(study)
        assert found.kind == "study"
        assert all(one.envelope.state == "sent" for one in found.envelopes)
        assert all(one.attempts[-1].outcome == "delivered" for one in found.envelopes)
        known = {one.id: one for one in found.associations}
        for part in (part for one in found.envelopes for part in one.instances):
            if part.association:  # else the journal had not reached the disk
                assert known[part.association].calling_ae == "MODALITY"
                assert known[part.association].peer.startswith("127.0.0.1:")
                assert part.arrived is not None


@pytest.mark.fault("F133")
def test_after_kills_of_the_node_the_ledger_agrees_with_the_disk(
    start: Gateways, store: Store
) -> None:
    sent, rng = Sent(), random.Random(133)
    own = start()
    ports = [own.dicom_port]
    with sending(ports, sent, rng):
        for _ in range(by_form(3, 30)):
            more = len(sent.acknowledged) + rng.randrange(4, 20)
            until(partial(acknowledged, sent, more), "it takes instances")
            kill(own)
            own = start()
            ports.append(own.dicom_port)
            until_agrees(own.spool)
    assert_whole(own, sent)


@pytest.mark.fault("F133")
def test_after_kills_of_any_process_the_ledger_agrees_with_the_disk(
    start: Gateways, store: Store
) -> None:
    sent, rng = Sent(), random.Random(134)
    own = start()
    with sending([own.dicom_port], sent, rng):
        for number in range(by_form(6, 60)):
            more = len(sent.acknowledged) + rng.randrange(4, 20)
            until(partial(acknowledged, sent, more), "it takes instances")
            children = own.children()
            name = "ledger" if number % 3 == 0 else rng.choice(sorted(children))
            os.kill(children[name], signal.SIGKILL)
            until(partial(is_new, own, name, children[name]), f"{name} is there again")
    assert_whole(own, sent)


@pytest.mark.fault("F133")
@pytest.mark.parametrize("nth", [1, 2, 4, 7])
def test_a_kill_in_a_transaction_undoes_all_of_it(start: Gateways, store: Store, nth: int) -> None:
    own = start(at=f"ledger.written:kill:{nth}")
    sent = Sent()
    modality = Modality(lambda: own.dicom_port, sent)
    while "point=ledger.written" not in own.log():
        modality.send(instances(f"1.2.826.135.{len(sent.sent)}", 4))
    own.wait_for("child_restarted child=ledger")
    modality.send(instances("1.2.826.136", 4))
    assert_whole(own, sent)
    assert own.stop() == 0


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


@pytest.mark.fault("F131")
def test_a_full_disk_under_the_ledger_stops_nothing(
    start: Gateways, store: Store, tmp_path: Path
) -> None:
    with closing(Memory(tmp_path / "own" / "spool" / "ledger", 1 << 20)) as disk:
        own = start()
        until_agrees(own.spool)
        filler = disk.fill(0)
        sent = Sent()
        modality = Modality(lambda: own.dicom_port, sent)
        while "ledger_failing" not in own.log():
            modality.send(instances(f"1.2.826.137.{len(sent.sent)}", 40))
        modality.send(instances("1.2.826.138", 40))
        drain(own)
        status, _, body = get(f"{own.http}/readyz")
        assert (status, b"ledger" in body) == (200, True)
        assert re.search(r"ledger_failing .*why=.*full", own.log())
        assert not agrees(own.spool)
        filler.unlink()
        own.wait_for("ledger_writes_again")
        assert_whole(own, sent)
        until(lambda: b"ledger" not in get(f"{own.http}/readyz")[2], "the warning is over")
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
