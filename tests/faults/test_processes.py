"""Rows F01 to F15: a process dies, or stands still, at the worst moment.

The moments are the fail points of fastjmix/failpoints.py; the processes, the senders that try
again, the upstream and the kills are real. After each fault: what was acknowledged is delivered,
byte for byte, nothing else is, and one envelope id has one content.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import signal
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest
import xxhash

from fastjmix.spool import Provenance, Spool
from tests.support import wire
from tests.support.gateway import (
    PATIENCE,
    Gateway,
    Gateways,
    Peer,
    Store,
    get,
    images,
    members,
    running,
    until,
)
from tests.support.ledger import (
    Ledger,
    Modality,
    all_dead,
    digest,
    instances,
    settle,
)
from tests.support.nightly import by_form

QUICK = "release_grace_secs = 0.1"
PATIENT = "release_grace_secs = 60"
SMALL_LANES = "lane_bytes = 1048576"
LARGE = 1_500_000
"""Bytes of an instance that does not fit in a small lane, nor in one chunk of an upload."""


@pytest.fixture
def gateway_defaults(store: Store) -> dict[str, Any]:
    return {"upstream": store.port}


class Sent:
    """A ledger, and a modality for it, before one gateway."""

    def __init__(self, own: Gateway) -> None:
        self.ledger = Ledger()
        self.own = own
        self.modality = Modality(lambda: self.own.dicom_port, self.ledger)

    def send(self, study: str, count: int = 3, size: int = 3000) -> dict[str, bytes]:
        data = instances(study, count, size)
        self.modality.send(data)
        return data


def reached(own: Gateway, point: str, count: int = 1) -> int:
    """Until a fail point was reached; the process that reached it."""
    return int(own.wait_for(rf"failpoint_reached point={point} .*pid=(\d+)", count)[1])


def one_shot(study: str, size: int = 3000) -> tuple[str, bytes]:
    return next(iter(instances(study, 1, size).items()))


def in_halves(uid: str, data: bytes) -> tuple[bytes, bytes]:
    """A C-STORE as a peer sends it, cut in the middle of the data set."""
    whole = wire.p_data(
        wire.pdvs(1, wire.store_rq(uid), True)
        + wire.pdvs(1, data, False, [4000] * (len(data) // 4000 + 1))
    )
    return whole[: len(whole) // 2], whole[len(whole) // 2 :]


# -- the receiver --------------------------------------------------------------------------------


def two_receivers(own: Gateway) -> tuple[Peer, Peer]:
    """Two open associations that are carried by two receivers."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.ExitStack() as closing:
            first = closing.enter_context(Peer(own.dicom_port))
            second = closing.enter_context(Peer(own.dicom_port))
            answers = [peer.associate()[0] for peer in (first, second)]
            if answers != [2, 2]:
                continue  # the lanes of the last try are not free yet
            numbers = [peer.socket.getsockname()[1] for peer in (first, second)]
            found = {
                own.wait_for(rf"(receiver-\d) association_accepted .*:{number} ")[1]
                for number in numbers
            }
            if len(found) == 2:
                closing.pop_all()
                return first, second
    raise AssertionError("one receiver took every association")


@pytest.mark.fault("F01")
def test_a_receiver_killed_inside_a_data_set(start: Gateways, store: Store) -> None:
    """Its peers are lost, the other receiver's are not, and its lanes are free again."""
    own = start(
        at="receiver.pdv:kill:1",
        fastjmix="receivers = 2",
        endpoint="max_associations = 2",
        builder=QUICK,
    )
    ledger = Ledger()
    lost_uid, lost = one_shot("1.2.826.1.1", 50_000)
    kept_uid, kept = one_shot("1.2.826.1.2")
    victim, other = two_receivers(own)
    with victim, other:
        ledger.sending(lost_uid, lost)
        victim.send(in_halves(lost_uid, lost)[0])
        reached(own, "receiver.pdv")
        with pytest.raises((EOFError, ConnectionError)):
            victim.pdu()  # no response
        ledger.sending(kept_uid, kept)
        assert other.store(kept, kept_uid) == 0
        ledger.answered(kept_uid)

        def lane_is_free() -> bool:
            with Peer(own.dicom_port) as third:
                free = third.associate()[0] == 2
                if free:
                    third.release()
                return free

        until(lane_is_free, "the dead receiver's lane can be had again")
        other.release()
    found = settle(own, store, ledger)
    assert found.delivered == 1  # no trace of the other


@pytest.mark.fault("F01")
def test_a_receiver_killed_before_it_wakes_its_packer(start: Gateways, store: Store) -> None:
    """The packer sleeps, and was to be woken by the one that died: it does not sleep for ever."""
    own = start(at="receiver.pdv:kill:1", builder=QUICK)
    own.wait_for("http_listening")
    packer = until(lambda: own.children().get("packer-0"), "the packer has its name")
    until(lambda: Path(f"/proc/{packer}/stat").read_text().split()[2] == "S", "the packer sleeps")
    sent = Sent(own)
    sent.send("1.2.826.1.3", 2)  # in much less than GRANT_SECS, which would end a long silence
    assert reached(own, "receiver.pdv")
    settle(own, store, sent.ledger)


@pytest.mark.fault("F02")
def test_a_receiver_killed_before_it_announces_the_end(start: Gateways, store: Store) -> None:
    own = start(at="receiver.last:kill:1", builder=PATIENT)
    sent = Sent(own)
    uid, data = one_shot("1.2.826.2.1", 50_000)
    with Peer(own.dicom_port) as peer:
        peer.associate()
        with pytest.raises((EOFError, ConnectionError)):
            peer.store(data, uid)
    sent.modality.send({uid: data})
    assert own.stop() == 0
    (archive,) = own.wait_sealed()
    assert images(archive) == {uid: data}
    assert len([name for name in members(archive) if name.endswith(".dcm")]) == 1


@pytest.mark.fault("F03")
def test_a_receiver_killed_before_it_answers(start: Gateways, store: Store) -> None:
    """The instance is there; sent again it is kept once."""
    own = start(at="receiver.granted:kill:1", builder=PATIENT)
    sent = Sent(own)
    uid, data = one_shot("1.2.826.3.1")
    with Peer(own.dicom_port) as peer:
        peer.associate()
        with pytest.raises((EOFError, ConnectionError)):
            peer.store(data, uid)
    draft = next((own.spool / "building").glob("*/envelope.zip"))
    assert digest(data[-3000:]) == digest(draft.read_bytes()[-3000:])
    sent.modality.send({uid: data})
    assert own.stop() == 0
    (archive,) = own.wait_sealed()
    assert images(archive) == {uid: data}
    assert len([name for name in members(archive) if name.endswith(".dcm")]) == 1


# -- the packer ----------------------------------------------------------------------------------


def packer_dies(
    own: Gateway, store: Store, point: str, study: str, size: int = 3000
) -> tuple[Sent, list[int]]:
    """Two instances acknowledged, the packer dies at the third; what the peer was answered then."""
    sent = Sent(own)
    pixels = one_shot(f"{study}.9", size)[1][-size:]
    first = sent.send(study, 2)
    third = wire.data_set(f"{study}.3", study=study, series=f"{study}.0", pixels=pixels)
    sent.ledger.sending(f"{study}.3", third)
    with Peer(own.dicom_port, PATIENCE) as peer:
        peer.associate()
        status = peer.store(third, f"{study}.3")
        if status == 0:
            sent.ledger.answered(f"{study}.3")
        peer.release()
    reached(own, point)
    own.wait_for("child_restarted child=packer-0")
    sent.modality.send({f"{study}.3": third})
    assert status in (0, 0xA700)
    assert len(first) == 2
    return sent, [status]


@pytest.mark.fault("F04")
def test_a_packer_killed_while_it_takes_an_instance(start: Gateways, store: Store) -> None:
    """The successor seals what was there and takes the instance from its lane again: 0000."""
    own = start(at="packer.midway:kill:3", builder=PATIENT)
    sent, statuses = packer_dies(own, store, "packer.midway", "1.2.826.4.1")
    assert statuses == [0]
    own.child.send_signal(signal.SIGTERM)
    assert settle_stopped(own, store, sent).delivered == 3


def settle_stopped(own: Gateway, store: Store, sent: Sent) -> Any:
    """A patient gateway seals when it is stopped; the next one delivers."""
    assert own.stop() == 0
    again = Gateway(own.spool.parent, store.port)
    with running(again):
        return settle(again, store, sent.ledger)


@pytest.mark.fault("F04")
def test_a_packer_killed_inside_a_member(start: Gateways, store: Store) -> None:
    """On disk: two whole members, and the header of a third without its bytes."""
    own = start(at="packer.joining:kill:1", builder=PATIENT, fastjmix=SMALL_LANES)
    sent, _ = packer_dies(own, store, "packer.joining", "1.2.826.4.2", LARGE)
    recovered = own.wait_for(r"envelope_recovered envelope=(\S+) instances=2")[1]
    until(
        lambda: any(p.stem == recovered for p in own.envelopes("sent")), "the first two delivered"
    )
    assert settle_stopped(own, store, sent).delivered == 3


@pytest.mark.fault("F04")
def test_a_packer_killed_with_half_an_instance_spilled(start: Gateways, store: Store) -> None:
    own = start(at="packer.spilled:kill:1", builder=PATIENT, fastjmix=SMALL_LANES)
    sent, statuses = packer_dies(own, store, "packer.spilled", "1.2.826.4.3", LARGE)
    assert statuses == [0xA700] or statuses == [0]
    assert not list((own.spool / "building").glob("*.spill"))
    assert settle_stopped(own, store, sent).delivered == 3


@pytest.mark.fault("F05")
def test_a_packer_killed_before_it_syncs(start: Gateways, store: Store) -> None:
    own = start(at="packer.appended:kill:3", builder=PATIENT)
    sent, statuses = packer_dies(own, store, "packer.appended", "1.2.826.5.1")
    assert statuses == [0]
    assert settle_stopped(own, store, sent).delivered == 3


@pytest.mark.fault("F06")
@pytest.mark.parametrize("point", ["packer.synced", "packer.granted", "packer.digesting"])
def test_a_packer_killed_between_sync_and_answer(start: Gateways, store: Store, point: str) -> None:
    own = start(at=f"{point}:kill:3", builder=PATIENT)
    sent, statuses = packer_dies(own, store, point, "1.2.826.6.1")
    assert statuses == [0]
    assert settle_stopped(own, store, sent).delivered == 3


def test_an_instance_that_kills_packers_is_given_up(start: Gateways, store: Store) -> None:
    """Taken from its lane once more, not for ever: then A700, and the others go on."""
    own = start(at="packer.midway:kill:3,packer.midway:kill:3", builder=PATIENT)
    sent, statuses = packer_dies(own, store, "packer.midway", "1.2.826.4.4")
    assert statuses == [0xA700]
    assert settle_stopped(own, store, sent).delivered == 3


# -- the seal ------------------------------------------------------------------------------------


def masked(document: Any) -> Any:
    """Without what differs between any two envelopes: ids, times, and digests over those."""
    if isinstance(document, dict):
        return {
            key: masked(value)
            for key, value in document.items()
            if key not in ("id", "payload_hash", "timestamp")
            and not key.endswith(("_at", "_time", "created"))
        }
    if isinstance(document, list):
        return [
            masked({k: v for k, v in one.items() if k != "hash"})
            if isinstance(one, dict) and str(one.get("path", "")).endswith("metadata.json")
            else masked(one)
            for one in document
        ]
    return document


def layout(archive: Path) -> list[tuple[str, int, int, int, int]]:
    with zipfile.ZipFile(archive) as opened:
        return [
            (m.filename, m.header_offset, m.file_size, m.flag_bits, m.compress_type)
            for m in opened.infolist()
        ]


@pytest.mark.fault("F07")
def test_a_seal_cut_short_is_made_anew_and_equals_a_clean_one(
    start: Gateways, store: Store, tmp_path: Path
) -> None:
    """Whole-file equality is impossible: an envelope's id and time of sealing stand in it, and the
    digests over them. All else is compared: every member's place, size and order, the images'
    bytes, and the documents without those values."""
    own = start(at="seal.written:kill:1", builder=QUICK)
    sent = Sent(own)
    data = sent.send("1.2.826.7.1", 5)
    reached(own, "seal.written")
    own.wait_for("envelope_recovered .*instances=5")
    settle(own, store, sent.ledger)
    with running(Gateway(tmp_path / "clean", store.port, builder=QUICK)) as clean:
        reference = Sent(clean)
        reference.send("1.2.826.7.1", 5)
        settle(clean, store, reference.ledger)
        (rebuilt,), (sealed,) = own.envelopes("sent"), clean.envelopes("sent")
        assert layout(rebuilt) == layout(sealed)
        ours, theirs = members(rebuilt), members(sealed)
    for name in theirs:
        if name.endswith(".dcm"):
            assert ours[name] == theirs[name]
        else:
            assert masked(json.loads(ours[name])) == masked(json.loads(theirs[name]))
    assert images(rebuilt) == data


SEAL = [
    "seal.written:1",
    "seal.synced:1",
    "spool.renamed:2",  # the provenance has its name, which is not synced
    "provenance.written:1",
    "spool.renamed:3",  # the ticket is in outbox/; the archive is not
    "spool.renamed:4",  # the archive is in outbox/; outbox/ was not synced
    "seal.published:1",
    "spool.dropping:1",
    "seal.removed:1",
]


@pytest.mark.fault("F08")
@pytest.mark.parametrize("who", ["the packer", "everything"])
@pytest.mark.parametrize("moment", SEAL)
def test_killed_around_the_rename(start: Gateways, store: Store, moment: str, who: str) -> None:
    """One envelope, in one place: whether a new packer finds it or a new start does."""
    point, nth = moment.split(":")
    own = start(at=f"{point}:{'kill' if who == 'the packer' else 'stop'}:{nth}", builder=QUICK)
    sent = Sent(own)
    data = sent.send("1.2.826.8.1", 2)
    reached(own, point)
    if who == "everything":
        children = own.children().values()
        own.child.kill()
        own.child.wait()
        until(lambda: all_dead(children), "the children are gone")
        drafts = [p for p in (own.spool / "building").iterdir() if p.suffix != ".draft"]
        building = {path.stem for path in drafts}
        outbox = {path.stem for path in own.envelopes("outbox") + own.envelopes("sent")}
        assert len(building | outbox) == 1
        sent.own = own = start()
    found = settle(own, store, sent.ledger)
    assert found.delivered == 2
    (archive,) = own.envelopes("sent")
    assert images(archive) == data
    came = Provenance.read(Spool(own.spool), archive.stem)
    assert {one.sop_instance_uid for one in came.instances} == set(data)
    assert {one.association for one in came.instances} == set(range(len(came.associations)))
    assert all(one.arrived >= came.associations[0].began - 1 for one in came.instances)


# -- the uploader --------------------------------------------------------------------------------


def stored(store: Store, envelope_id: str) -> int:
    return sum(f"envelope_stored envelope={envelope_id}" in line for line in store.lines)


@pytest.mark.fault("F09")
def test_an_uploader_killed_inside_a_body(start: Gateways, store: Store) -> None:
    own = start(at="uploader.body:kill:2", builder=QUICK)
    sent = Sent(own)
    sent.send("1.2.826.9.1", 1, LARGE)
    reached(own, "uploader.body")
    own.wait_for("child_restarted child=uploader")
    settle(own, store, sent.ledger)
    (archive,) = own.envelopes("sent")
    assert stored(store, archive.stem) == 1


@pytest.mark.fault("F10")
@pytest.mark.parametrize("point", ["uploader.answered", "move.recorded", "move.moved"])
def test_an_uploader_killed_between_answer_and_archive(
    start: Gateways, store: Store, point: str
) -> None:
    """A second POST is answered 409: the upstream's manifest is compared before it counts."""
    own = start(at=f"{point}:kill:1", builder=QUICK)
    sent = Sent(own)
    sent.send("1.2.826.10.1", 1)
    reached(own, point)
    own.wait_for("child_restarted child=uploader")
    settle(own, store, sent.ledger)
    (archive,) = own.envelopes("sent")
    assert stored(store, archive.stem) == 1
    if point == "uploader.answered":
        own.wait_for(rf"envelope_uploaded envelope={archive.stem} .*status=409")
    else:  # the record says that it was taken: its successor ends the move
        assert "status=409" not in own.log()
    receipt = json.loads(archive.with_suffix(".json").read_text())["receipt"]
    assert receipt["status"] in (201, 409)
    with running(start()) as again:
        assert again.stop() == 0
        assert not any((again.spool / "outbox").iterdir())  # not even a ticket


# -- the supervisor ------------------------------------------------------------------------------


def locked(file: IO[str]) -> bool:
    """True when the lock on a file was free, and is ours now."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def bindable(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


@pytest.mark.fault("F11")
def test_the_supervisor_killed_leaves_no_orphan(start: Gateways, store: Store) -> None:
    """Nobody holds the ports or the lock, and the next start delivers what was acknowledged."""
    own = start(builder=PATIENT)
    own.wait_for("http_listening")
    sent = Sent(own)
    with Peer(own.dicom_port) as peer:
        peer.associate()
        uid, data = one_shot("1.2.826.11.1")
        sent.ledger.sending(uid, data)
        assert peer.store(data, uid) == 0
        sent.ledger.answered(uid)
        children = own.children()
        own.child.kill()
        own.child.wait()
        until(lambda: all_dead(children.values()), "no orphans", 5)
        assert peer.closed()
    # A process that shows as dead may have a thread that has not closed its files yet.
    for port in (own.dicom_port, own.http_port):
        until(lambda: bindable(port), "the port is free", 5)  # noqa: B023
    with (own.spool / ".lock").open() as lock:
        until(lambda: locked(lock), "the lock is free", 5)
    began = time.monotonic()
    again = start(builder=QUICK)
    assert time.monotonic() - began < PATIENCE  # it was waited for; how long is not a promise here
    again.wait_for("envelope_recovered")
    sent.own = again
    assert settle(again, store, sent.ledger).delivered == 1


@pytest.mark.fault("F11")
def test_a_start_right_behind_the_kill_waits_for_the_lock(start: Gateways, store: Store) -> None:
    """A predecessor's packer that is still on its way out holds the lock a little longer."""
    own = start(builder=QUICK)
    with (own.spool / ".lock").open() as lock:  # the same file, another description
        assert own.stop() == 0
        fcntl.flock(lock, fcntl.LOCK_EX)
        threading.Timer(1.5, fcntl.flock, (lock, fcntl.LOCK_UN)).start()
        again = start(builder=QUICK)
    Sent(again).send("1.2.826.11.2", 1)
    assert again.stop() == 0


# -- F12: tests/soak.py --------------------------------------------------------------------------


@pytest.mark.fault("F12")
@pytest.mark.once
@pytest.mark.timeout(by_form(500, 4500))
def test_random_kills_under_load(tmp_path: Path) -> None:
    """kill -9 of a random process every 0.5 to 3 s, senders that try again, and the ledger."""
    from tests import soak

    found = soak.run(tmp_path, seconds=by_form(60.0, 1800.0), senders=by_form(8, 20), mixed=False)
    print(found)
    assert found.clean, found


# -- stops ---------------------------------------------------------------------------------------


@pytest.mark.fault("F13")
def test_sigint_with_fifty_associations(start: Gateways, store: Store) -> None:
    """In flight: finished, answered, then A-ABORT. Idle: A-ABORT. New: refused. Exit 0."""
    own = start(builder=PATIENT)
    sent = Sent(own)
    data = instances("1.2.826.13.1", 50, 20_000)
    with contextlib.ExitStack() as closing:
        peers = [closing.enter_context(Peer(own.dicom_port, PATIENCE)) for _ in data]
        rest = {}
        for peer, (uid, one) in zip(peers, data.items(), strict=True):
            assert peer.associate()[0] == 2
            first, rest[peer] = in_halves(uid, one)
            if len(rest) % 2:
                sent.ledger.sending(uid, one)
                peer.send(first)
        own.child.send_signal(signal.SIGINT)
        own.wait_for(" stopping ")
        for peer in peers[1::2]:
            assert peer.pdu() == (7, b"\0\0\2\0")
        with pytest.raises(OSError):
            Peer(own.dicom_port)
        for peer, uid in zip(peers[::2], list(data)[::2], strict=True):
            peer.send(rest[peer])
            assert peer.status() == 0
            sent.ledger.answered(uid)
            assert peer.pdu() == (7, b"\0\0\2\0")
    assert own.child.wait(PATIENCE) == 0
    assert {uid for e in own.wait_sealed() for uid in images(e)} == set(list(data)[::2])
    with running(Gateway(own.spool.parent, store.port)) as again:
        assert settle(again, store, sent.ledger).delivered == 25


def studies_of_packer(number: int, of: int, prefix: str) -> Iterator[str]:
    """Study Instance UIDs that this packer gets (see receiver/messages.py)."""
    found = (f"{prefix}.{n}" for n in itertools.count(1))
    return (s for s in found if xxhash.xxh3_64_intdigest(s.encode()) % of == number)


def private_kb(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", text)[1])  # type: ignore[index]


@pytest.mark.fault("F14")
def test_a_packer_that_stands_still(start: Gateways, store: Store) -> None:
    """Its senders wait and then get 0000; the other packer's notice nothing; memory is bounded."""
    own = start(builder=QUICK, fastjmix="packers = 2\n" + SMALL_LANES)
    sent = Sent(own)
    stuck, free = (studies_of_packer(n, 2, "1.2.826.14") for n in range(2))
    own.wait_for("http_listening")
    names = {"receiver-0", "packer-0", "packer-1", "uploader", "api", "ledger"}
    until(lambda: set(own.children()) == names, "the children have their names")
    pids = own.children()
    sent.send(next(free), 1)
    before = private_kb(pids["receiver-0"])
    os.kill(pids["packer-0"], signal.SIGSTOP)
    waiting = instances(next(stuck), 4, 3_000_000)
    threads = []
    for uid, data in waiting.items():
        modality = Modality(lambda: own.dicom_port, sent.ledger, timeout=120)
        patience = {"seconds": 2 * PATIENCE + by_form(0, 60)}
        threads.append(threading.Thread(target=modality.send, args=({uid: data},), kwargs=patience))
        threads[-1].start()
    ends = time.monotonic() + by_form(2.0, 60.0)
    while time.monotonic() < ends:  # the time that it stands still is the fault itself
        sent.send(next(free), 1)
        time.sleep(0.05)
    assert private_kb(pids["receiver-0"]) - before < 20_000
    assert not sent.ledger.acknowledged & waiting.keys()
    os.kill(pids["packer-0"], signal.SIGCONT)
    for thread in threads:
        thread.join(PATIENCE)
    assert sent.ledger.acknowledged >= waiting.keys()
    assert own.children() == pids
    settle(own, store, sent.ledger)


@pytest.mark.fault("F14")
@pytest.mark.parametrize(
    ("size", "why"), [(20_000, "no status from the packer"), (24 << 20, "no room in the lane")]
)
def test_a_packer_that_stands_still_for_too_long(
    start: Gateways, store: Store, size: int, why: str
) -> None:
    """Two minutes are one second here. The lane stays taken until the packer lets go of it."""
    own = start(
        builder=QUICK,
        fastjmix=SMALL_LANES,
        endpoint="max_associations = 1",
        first="from fastjmix.receiver import upper_layer; upper_layer.GRANT_SECS = 1.0",
    )
    data = wire.data_set(pixels=os.urandom(size))
    packer = until(lambda: own.children().get("packer-0"), "the packer has its name")
    os.kill(packer, signal.SIGSTOP)
    with Peer(own.dicom_port) as peer:
        peer.associate()
        pdvs = wire.pdvs(1, data, False, [16_000] * (len(data) // 16_000 + 1))
        asked = wire.p_data(wire.pdvs(1, wire.store_rq("1.2.3.9"), True) + pdvs)
        sender = threading.Thread(target=send_until_closed, args=(peer, asked))
        sender.start()
        assert peer.pdu()[0] == 7  # A-ABORT
        sender.join(PATIENCE)
    own.wait_for(f"association_ended .*{why}")

    def asks() -> int:
        with Peer(own.dicom_port) as other:
            return other.associate()[0]

    assert asks() == 3  # A-ASSOCIATE-RJ: the packer may still be looking at the lane
    os.kill(packer, signal.SIGCONT)
    until(lambda: asks() == 2, "the lane is given back")
    sent = Sent(own)
    until(lambda: asks() == 2, "the lane is free")
    sent.send("1.2.826.14.9", 1)
    assert own.children()["packer-0"] == packer
    assert own.stop() == 0
    found = [images(p) for state in ("outbox", "sent") for p in own.envelopes(state)]
    whole = {uid: len(got) for one in found for uid, got in one.items()}
    assert whole.pop("1.2.3.9", None) in (None, *([len(data)] if size < 1 << 20 else []))
    assert len(whole) == 1


def send_until_closed(peer: Peer, data: bytes) -> None:
    with contextlib.suppress(OSError):
        peer.send(data)


# -- out of memory -------------------------------------------------------------------------------


def is_empty(members: Path) -> bool:
    """True of a control group without members, and where there is no such file."""
    return not (members.exists() and members.read_text())


@contextlib.contextmanager
def memory_group(name: str) -> Iterator[tuple[Path, str, Callable[[], int]] | None]:
    """A memory cgroup: its directory, the name of its limit, and its count of OOM kills."""
    for root, limit, counter in (
        (Path("/sys/fs/cgroup"), "memory.max", "memory.events"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.oom_control"),
    ):
        group = root / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if not (group / limit).exists():
                continue

            def kills(file: Path = group / counter) -> int:
                return int(re.search(r"oom_kill (\d+)", file.read_text())[1])  # type: ignore[index]

            yield group, limit, kills
            return
        finally:
            members_of = group / "cgroup.procs"  # not there: that place is no cgroup file system
            until(
                partial(is_empty, members_of),
                "an empty group",
            )
            group.rmdir()
    yield None


@pytest.mark.fault("F15")
def test_a_packer_killed_for_want_of_memory(start: Gateways, store: Store) -> None:
    own = start(builder=QUICK)
    sent = Sent(own)
    sent.send("1.2.826.15.1", 2)
    packer = own.children()["packer-0"]
    with memory_group(f"fastjmix-test-{os.getpid()}") as found:
        if found is None:
            # The kernel sends SIGKILL then; here somebody else does.
            print("no memory cgroup can be made here: the packer gets its SIGKILL from this test")
            os.kill(packer, signal.SIGKILL)
        else:
            group, limit, kills = found
            (group / "cgroup.procs").write_text(str(packer))
            (group / limit).write_text(str(1 << 17))
            sent.send("1.2.826.15.2", 4, LARGE)
            until(lambda: kills() > 0, "an OOM kill")
        own.wait_for("child_died child=packer-0 how=SIGKILL")
        own.wait_for("child_restarted child=packer-0")
        sent.send("1.2.826.15.3", 2)
        assert b"fastjmix_children_restarted_total 1.0" in get(f"{own.http}/metrics")[2]
        settle(own, store, sent.ledger)
