"""packer/senders.py, spool/calling_aes.py: the associations that an open envelope waits for.

Tests do not sleep until a timer is due: they wait for the seal of another study that is due later.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import xxhash

from fastjmix.packer import senders
from fastjmix.spool import Spool, calling_aes
from fastjmix.spool.calling_aes import RETURNING_FILE, CallingAEs
from tests.e2e.test_studies import instance, metric, sealed, send
from tests.support import wire
from tests.support.dicom_peers import archives, new_uid
from tests.support.gateway import Gateway, Peer, images, running
from tests.support.reception import Reception

TIMERS = "quiet_secs = 1.0\nrelease_grace_secs = 0.5"
PATIENT = "quiet_secs = 6.0\nrelease_grace_secs = 0.2"
"""A busy neighbour may delay a return by some seconds; it must still come within `quiet_secs`."""


@contextmanager
def gateway_with(directory: Path, builder: str, **parts: Any) -> Iterator[Gateway]:
    with running(Gateway(directory, 9, builder=builder, **parts)) as own:
        yield own


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway_with(tmp_path_factory.mktemp("gateway"), TIMERS) as own:
        yield own


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two packers: a calling AE title that one remembers is known to the other."""
    directory = tmp_path_factory.mktemp("patient")
    with gateway_with(directory, PATIENT, fastjmix="packers = 2") as own:
        yield own


@contextmanager
def association(own: Gateway, title: str = "") -> Iterator[Peer]:
    with Peer(own.dicom_port) as peer:
        calling = (title or f"AE{new_uid()[-12:]}").encode()
        assert peer.associate(calling=calling)[0] == 2
        yield peer


def store(peer: Peer, one: tuple[str, bytes]) -> None:
    uid, data = one
    assert peer.store(data, uid) == 0


def begin(peer: Peer, one: tuple[str, bytes], share: float = 0.5) -> bytes:
    """Sends that share of an instance; returns the rest of its PDUs."""
    uid, data = one
    sizes = [16000] * (len(data) // 16000 + 1)
    command = wire.p_data(wire.pdvs(1, wire.store_rq(uid), True))
    stream = wire.p_data(wire.pdvs(1, data, False, sizes))
    cut = max(1000, int(len(stream) * share))
    peer.send(command + stream[:cut])
    return stream[cut:]


def wait_released(own: Gateway) -> None:
    """Returns when the grace of an association that was released now would have ended."""
    study = new_uid()
    send(own, instance(study))
    sealed(own, study)


def wait_quiet(own: Gateway) -> None:
    """Returns when a study whose last instance came before now would be quiet."""
    study = new_uid()
    with association(own) as peer:
        store(peer, instance(study))
        sealed(own, study)
        peer.release()


def uids_of(found: list[Path]) -> list[set[str]]:
    return [set(images(archive)) for archive in found]


# -- an instance that is arriving ----------------------------------------------------------------


@pytest.mark.fault("F101")
@pytest.mark.parametrize("pixels", [60_000, 9_000_000])
def test_an_instance_longer_than_quiet_secs_does_not_tear_its_study(
    gateway: Gateway, pixels: int
) -> None:
    """Larger than its lane, too, so that it goes to a file."""
    study = new_uid()
    first, second = instance(study), instance(study, pixels=pixels)
    with association(gateway) as peer:
        store(peer, first)
        rest = begin(peer, second, 0.9)
        wait_quiet(gateway)
        wait_quiet(gateway)  # twice: the lanes are asked each time
        assert archives(gateway, study) == []
        peer.send(rest)
        assert peer.status() == 0
        peer.release()
    assert uids_of(sealed(gateway, study)) == [{first[0], second[0]}]


@pytest.mark.fault("F101")
def test_a_release_does_not_seal_what_another_association_is_sending(
    gateway: Gateway,
) -> None:
    study = new_uid()
    first, second = instance(study), instance(study, pixels=60_000)
    with association(gateway) as one, association(gateway) as other:
        rest = begin(other, second)
        store(one, first)
        one.release()
        wait_released(gateway)
        assert archives(gateway, study) == []
        other.send(rest)
        assert other.status() == 0
        other.release()
    assert uids_of(sealed(gateway, study)) == [{first[0], second[0]}]


@pytest.mark.fault("F101")
def test_the_grace_begins_when_the_last_one_broke_off(gateway: Gateway) -> None:
    """A sender that broke off is likely to come again."""
    study = new_uid()
    first, second = instance(study), instance(study, pixels=60_000)
    with ExitStack() as stack:
        one, other = (stack.enter_context(association(gateway)) for _ in range(2))
        begin(other, second)
        store(one, first)
        one.release()
        wait_released(gateway)
        other.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        other.socket.close()  # RST
        send(gateway, second)
    assert uids_of(sealed(gateway, study)) == [{first[0], second[0]}]


@pytest.mark.fault("F101")
def test_a_sender_that_breaks_off_and_stays_away_is_not_awaited(gateway: Gateway) -> None:
    study = new_uid()
    first = instance(study)
    with association(gateway) as one, association(gateway) as other:
        begin(other, instance(study, pixels=60_000))
        store(one, first)
        one.release()
        other.send(wire.ABORT)
    assert uids_of(sealed(gateway, study)) == [{first[0]}]
    gateway.wait_for(rf"envelope_sealed .*{archives(gateway, study)[0].stem}.*why=released")


@pytest.mark.fault("F101")
def test_the_envelope_that_makes_place_is_not_one_on_the_wire(tmp_path: Path) -> None:
    few = "from fastjmix.packer import seal_schedule; seal_schedule.OPEN_MAX = 2"
    with gateway_with(tmp_path, "quiet_secs = 60", first=few) as own, ExitStack() as stack:
        studies = [new_uid() for _ in range(3)]
        peers = [stack.enter_context(association(own)) for _ in range(4)]
        store(peers[0], instance(studies[0]))
        rest = begin(peers[1], instance(studies[0], pixels=60_000))
        store(peers[2], instance(studies[1]))
        store(peers[3], instance(studies[2]))
        own.wait_for('envelope_sealed .*why="too many are open"')
        assert len(archives(own, studies[1])) == 1
        assert archives(own, studies[0]) == []
        peers[1].send(rest)
        assert peers[1].status() == 0


# -- an association for each instance ------------------------------------------------------------


def study_of(packer: int) -> str:
    """Returns a Study Instance UID whose packer, of two, has this number."""
    while True:
        study = new_uid()
        if xxhash.xxh3_64_intdigest(study.encode()) % 2 == packer:
            return study


def send_apart(own: Gateway, title: str, count: int, study: str) -> list[tuple[str, bytes]]:
    """Sends instances of a study, each in an association of its own, with the grace in between."""
    sent = [instance(study) for _ in range(count)]
    for number, one in enumerate(sent):
        if number:
            wait_released(own)
        send(own, one, calling=title)
    return sent


def seals_of(own: Gateway, title: str) -> list[str]:
    """Returns the reasons of the seals of a calling AE title's envelopes."""
    lines = [one for one in own.lines if "envelope_sealed " in one and f"={title} " in one]
    return [re.findall(r' why=("[^"]*"|\S+)', one)[0].strip('"') for one in lines]


@pytest.mark.fault("F102")
def test_a_sender_with_an_association_an_image_gets_one_envelope_a_study(
    patient: Gateway,
) -> None:
    """The first study may come in two envelopes. Either packer knows what the other remembers."""
    before = metric(patient, "fastjmix_calling_aes_returning")
    title, first = "APART", study_of(0)
    send_apart(patient, title, 2, first)
    patient.wait_for(rf"calling_ae_returns .*calling_ae={title} .*study={first}")
    for packer in (1, 0):
        study = study_of(packer)
        sent = send_apart(patient, title, 3, study)
        assert uids_of(sealed(patient, study)) == [{uid for uid, _ in sent}]
    sealed(patient, first, 2)
    patient.wait_for(rf"envelope_sealed .*={title} ", 4)
    assert seals_of(patient, title) == ["released", "released"] + 2 * ["not returned"]
    assert metric(patient, "fastjmix_calling_aes_returning") == before + 1
    assert metric(patient, "fastjmix_returns_total") >= 5


@pytest.mark.fault("F102")
def test_a_study_with_more_returns_is_torn_once(patient: Gateway) -> None:
    """From the second return on, the study with the first return is waited for, too."""
    study = new_uid()
    sent = send_apart(patient, "MORE", 4, study)
    found = uids_of(sealed(patient, study, 3))
    assert sorted(map(len, found)) == [1, 1, 2]
    assert set().union(*found) == {uid for uid, _ in sent}


def parallel(own: Gateway, title: str) -> None:
    """Opens two associations at once: the second is open when the first is released."""
    study = new_uid()
    with association(own, title) as one, association(own, title) as other:
        store(one, instance(study))
        one.release()
        wait_released(own)
        store(other, instance(study))
        other.release()


def repetition(own: Gateway, title: str) -> None:
    """Sends a study twice."""
    study = new_uid()
    both = [instance(study) for _ in range(2)]
    send(own, *both, calling=title)
    wait_released(own)
    send(own, *both, calling=title)


def other_title(own: Gateway, title: str) -> None:
    """Sends to one study from two devices."""
    study = new_uid()
    send(own, instance(study), calling=title)
    wait_released(own)
    send(own, instance(study))


def broken_off(own: Gateway, title: str) -> None:
    """Loses the connection inside an instance, and sends the rest again."""
    study = new_uid()
    second = instance(study, pixels=60_000)
    with association(own, title) as peer:
        store(peer, instance(study))
        begin(peer, second)
        peer.send(wire.ABORT)
    wait_released(own)
    send(own, second, calling=title)


def too_late(own: Gateway, title: str) -> None:
    """Returns after `quiet_secs`."""
    study = new_uid()
    send(own, instance(study), calling=title)
    sealed(own, study)
    wait_quiet(own)
    send(own, instance(study), calling=title)


@pytest.mark.fault("F102")
@pytest.mark.parametrize(
    "scenario", [parallel, repetition, other_title, broken_off, too_late], ids=lambda f: f.__name__
)
def test_a_sender_that_does_not_come_back_is_not_awaited(patient: Gateway, scenario: Any) -> None:
    title = f"N{scenario.__name__[:14].upper()}"
    scenario(patient, title)
    study = new_uid()
    send(patient, instance(study), calling=title)
    (archive,) = sealed(patient, study)
    patient.wait_for(rf"envelope_sealed .*{archive.stem}.*why=released")
    assert f"calling_ae={title} study=" not in patient.log()


@pytest.mark.fault("F102")
@pytest.mark.parametrize(
    ("after", "learns"), [(0.0, False), (0.5, False), (2.0, True), (29.0, True), (31.0, False)]
)
def test_a_sender_that_comes_back_within_the_grace_gets_no_longer_wait(
    tmp_path: Path, after: float, learns: bool
) -> None:
    """A return that is too late does not count either. The grace is 1 s, `quiet_secs` 30."""
    reception = Reception(tmp_path)
    lanes, known = reception.passage.lanes, reception.parts.senders
    (first, second), study = (new_uid(), new_uid()), new_uid()
    assert reception.store(instance(study, uid=first)[1], first) == 0
    lanes.open(0, 0, 0, b"MODALITY")
    reception._pack()
    ((key, left),) = known._released.items()
    known._released[key] = left._replace(at=left.at - after)
    lanes.open(0, lanes.new_association(), 0, b"MODALITY")
    assert reception.store(instance(study, uid=second)[1], second) == 0
    assert known._known.returns("MODALITY") == learns
    reception.close()


@pytest.mark.fault("F102")
def test_while_another_association_sends_to_the_study_nobody_has_left_it(
    patient: Gateway,
) -> None:
    study = new_uid()
    with association(patient) as other:
        store(other, instance(study))
        for _ in range(2):
            send(patient, instance(study), calling="SEVERAL")
            wait_released(patient)
        other.release()
    sealed(patient, study)
    assert "calling_ae=SEVERAL study=" not in patient.log()


@pytest.mark.fault("F102")
@pytest.mark.parametrize("content", ["", "junk", '{"a": 1}', '{"fastjmix": 1, "entries": 7}', None])
def test_a_file_that_is_not_ours_costs_no_instance(tmp_path: Path, content: str | None) -> None:
    """None: a directory has that name."""
    spool = Spool(tmp_path / "spool", durable=False)
    spool.prepare()
    path = spool.root / RETURNING_FILE
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    known = CallingAEs(spool)
    assert len(known) == 0
    assert known.learn("CR1")
    assert known.returns("CR1")
    ours = content in ("", '{"fastjmix": 1, "entries": 7}')
    assert CallingAEs(spool).returns("CR1") == ours
    if not ours and content is not None:
        assert path.read_text() == content
    spool.release()


# -- what is remembered --------------------------------------------------------------------------


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_calling_ae_titles_that_are_remembered(spool: Spool, over: int) -> None:
    """They fit, however they are escaped; the one that returned first is forgotten."""
    titles = [f"{chr(1) * 12}{n:04}" for n in range(calling_aes.TITLES_MAX + over)]
    known = CallingAEs(spool)
    for title in titles:
        assert known.learn(title)
    other = CallingAEs(spool)
    assert len(other) == min(len(titles), calling_aes.TITLES_MAX)
    assert other.returns(titles[0]) == (over < 1)
    assert other.returns(titles[-1])


@pytest.mark.parametrize("off", [-60, 60])
def test_a_title_that_stays_away_is_forgotten(spool: Spool, off: float) -> None:
    at = time.time() - calling_aes.FORGET_SECS - off
    content = {"fastjmix": 1, "entries": {"CR1": {"returned": at}, "CR2": {"returned": "x"}}}
    (spool.root / RETURNING_FILE).write_text(json.dumps(content))
    assert CallingAEs(spool).returns("CR1") == (off < 0)
    assert not CallingAEs(spool).returns("CR2")


@pytest.mark.parametrize("off", [-60, 60])
def test_a_return_is_written_once_a_day(spool: Spool, off: float) -> None:
    path = spool.root / RETURNING_FILE
    at = time.time() - calling_aes.FRESH_SECS - off
    path.write_text(json.dumps({"fastjmix": 1, "entries": {"CR1": {"returned": at}}}))
    before = path.read_bytes()
    assert not CallingAEs(spool).learn("CR1")
    assert (path.read_bytes() == before) == (off < 0)


def learn_ten(root: Path, number: int, start: Any) -> None:
    spool = Spool(root, durable=False)
    known = CallingAEs(spool)
    start.wait()
    for n in range(10):
        known.learn(f"CR{number}-{n}")


def test_processes_that_learn_at_once_lose_nothing(spool: Spool) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    children = [context.Process(target=learn_ten, args=(spool.root, n, start)) for n in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    assert len(CallingAEs(spool)) == 30


def test_a_lock_that_somebody_keeps_is_not_waited_for(spool: Spool) -> None:
    with calling_aes._locked(spool.root):
        known = CallingAEs(spool)
        began = time.monotonic()
        assert known.learn("CR1")
        most = calling_aes.LOCK_TRIES * calling_aes.LOCK_PAUSE_SECS
        assert most * 0.9 <= time.monotonic() - began < most + 5
        assert known.returns("CR1")
    assert not (spool.root / RETURNING_FILE).exists()


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_studies_of_an_association_that_are_remembered(tmp_path: Path, over: int) -> None:
    reception = Reception(tmp_path)
    count = senders.STUDIES_MAX + over
    for n in range(count):
        uid, data = instance(f"1.2.{n}")
        assert reception.store(data, uid) == 0
    (sending,) = reception.parts.senders._sending.values()
    assert len(sending.first) == min(count, senders.STUDIES_MAX)
    reception.parts.senders.association_ended(1)
    assert not reception.parts.senders._sending
    reception.close()


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_studies_of_released_associations_that_are_remembered(
    tmp_path: Path, over: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(senders, "RELEASED_MAX", 5)
    reception = Reception(tmp_path)
    for n in range(5 + over):
        uid, data = instance(f"1.2.{n}")
        assert reception.store(data, uid) == 0
    reception.parts.senders.association_ended(1)
    assert len(reception.parts.senders._released) == min(5 + over, 5)
    reception.close()
