"""Rules in a running node: what is rejected, discarded, sent elsewhere, and decided at the seal.

The senders are DCMTK's storescu, pynetdicom, and plain sockets.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pynetdicom.ae import ApplicationEntity

from fastjmix.ipc.events import BoundedEvents, EventReader, Events, make_pipe
from fastjmix.packer.routes import EVENTS_A_SECOND
from fastjmix.spool import Ticket
from tests.support import wire
from tests.support.dicom_peers import archives, new_uid
from tests.support.gateway import (
    NOT_LISTENING,
    Gateway,
    Gateways,
    Peer,
    Store,
    get,
    images,
    members,
    run_command,
    running,
    until,
    write_config,
)
from tests.support.made_up import write_study
from tests.support.routes import refused, with_rules

SC = "1.2.840.10008.5.1.4.1.1.7"
CONTEXTS = (wire.context(1, wire.CT, wire.EXPLICIT), wire.context(3, SC, wire.EXPLICIT))

SCREEN_SHOTS = f'name = "shots"\nsop_class = "{SC}"\naction = "discard"'
TESTS = (
    'name = "tests"\ncalling_ae = "TEST*"\naction = "reject"\nstatus = 0xA7FE\ncomment = "no tests"'
)


def data_of(
    study: str, uid: str, sop_class: str = wire.CT, described: str = "", size: int = 64
) -> bytes:
    series, pixels = f"{study}.1", bytes(size)
    head = wire.data_set(uid, sop_class=sop_class, study=study, series=series, pixels=pixels)
    if described:
        at = head.index(b"\x10\x00\x10\x00PN")
        head = head[:at] + wire.element(0x00081030, b"LO", described.encode()) + head[at:]
    return head


def send(
    own: Gateway, study: str, sop_class: str = wire.CT, calling: str = "AE1", **more: Any
) -> tuple[int, str]:
    """Sends one instance in an association of its own. Returns its status and its UID."""
    uid = new_uid()
    with Peer(own.dicom_port) as peer:
        assert peer.associate(*CONTEXTS, calling=calling.encode())[0] == 2
        number = 3 if sop_class == SC else 1
        data = data_of(study, uid, sop_class, **more)
        status = peer.store(data, uid, number=number, sop_class=sop_class)
        peer.release()
    return status, uid


def tickets(own: Gateway, study: str, count: int) -> list[Ticket]:
    """Waits for the tickets of a study's envelopes, in the order of their rules' names."""
    until(lambda: len(archives(own, study)) >= count, f"{count} envelopes")
    found = archives(own, study)
    read = [Ticket.read(one.with_suffix(".json"), one.stem) for one in found]
    return sorted(read, key=lambda one: one.rule)


def metric(own: Gateway, begin: str) -> float:
    lines = get(f"{own.http}/metrics")[2].decode().splitlines()
    return sum(float(one.rpartition(" ")[2]) for one in lines if one.startswith(begin))


# -- reject and discard ----------------------------------------------------------------------------


def test_what_is_discarded_gets_success_and_is_kept_nowhere(start: Gateways) -> None:
    own = start(**with_rules(SCREEN_SHOTS))
    study = new_uid()
    kept = send(own, study)[1]
    status, uid = send(own, study, SC)
    assert status == 0
    (ticket,) = tickets(own, study, 1)
    (archive,) = archives(own, study)
    assert list(images(archive)) == [kept]
    assert (ticket.rule, ticket.upstreams) == ("", ("jmix_upstream",))
    line = own.wait_for("instance_discarded")[0]
    assert line
    logged = next(one for one in own.lines if "instance_discarded" in one)
    assert "rule=shots" in logged
    assert uid in logged
    (said,) = refused(own, uid, 1)
    assert (said["status"], said["why"]) == ("0000", "discarded by rule shots")
    assert str(said["association"]).count("-") == 1
    told = run_command("trace", uid, cwd=own.spool.parent).stdout
    assert f"discarded by rule shots (association {said['association']})" in told
    assert metric(own, "fastjmix_instances_discarded_total ") == 1
    shown = 'fastjmix_rule_decisions_total{action="discard",rule="shots"}'
    until(lambda: metric(own, shown) == 1, "the ledger's process counted it")


def test_what_is_rejected_gets_the_rules_status_and_comment(start: Gateways) -> None:
    own = start(**with_rules(TESTS))
    study, uid = new_uid(), new_uid()
    with Peer(own.dicom_port) as peer:
        assert peer.associate(*CONTEXTS, calling=b"TEST_7")[0] == 2
        data = data_of(study, uid)
        peer.send(wire.p_data(wire.pdvs(1, wire.store_rq(uid), True) + wire.pdvs(1, data, False)))
        answer = peer.response()
        peer.release()
    assert int.from_bytes(answer[0x0900], "little") == 0xA7FE
    assert answer[0x0902].rstrip() == b"no tests"
    own.wait_for(f"instance_rejected .*rule=tests .*{uid}")
    own.wait_for(f"instance_refused .*status=A7FEH .*{uid}")
    (said,) = refused(own, uid, 1)
    assert (said["status"], said["why"]) == ("A7FE", "no tests")
    assert metric(own, "fastjmix_instances_rejected_total ") == 1
    assert archives(own, study) == []
    assert send(own, study, calling="OTHER")[0] == 0


def test_an_association_goes_on_after_both(start: Gateways) -> None:
    own = start(**with_rules(SCREEN_SHOTS, 'name = "no"\nmodality = "US"\naction = "reject"'))
    study = new_uid()
    uids = [new_uid() for _ in range(3)]
    with Peer(own.dicom_port) as peer:
        assert peer.associate(*CONTEXTS)[0] == 2
        assert peer.store(data_of(study, uids[0]), uids[0]) == 0
        assert peer.store(data_of(study, uids[1], SC), uids[1], number=3, sop_class=SC) == 0
        ultrasound = data_of(study, uids[2]).replace(b"CS\x02\x00CT", b"CS\x02\x00US")
        assert peer.store(ultrasound, uids[2]) == 0xC000
        assert peer.store(data_of(study, uids[2]), uids[2]) == 0
        peer.release()
    tickets(own, study, 1)
    (archive,) = archives(own, study)
    assert sorted(images(archive)) == sorted([uids[0], uids[2]])


def test_an_instance_larger_than_its_lane_is_discarded_without_a_file(start: Gateways) -> None:
    own = start(**with_rules(SCREEN_SHOTS), fastjmix="lane_bytes = 1048576")
    study = new_uid()
    assert send(own, study, SC, size=6_000_000)[0] == 0
    assert send(own, study, size=6_000_000)[0] == 0
    tickets(own, study, 1)
    (archive,) = archives(own, study)
    assert len(images(archive)) == 1
    written = metric(own, "fastjmix_storage_bytes_total ")
    assert 6_000_000 < written < 13_000_000, "of one instance: its spill, and its member"
    assert not list((own.spool / "building").glob("*.spill"))


def test_decisions_that_the_ledger_learns_of_are_bounded() -> None:
    reading, writing = make_pipe()
    events, reader = (
        BoundedEvents(Events(writing), "decision", EVENTS_A_SECOND),
        EventReader(reading),
    )
    for _ in range(EVENTS_A_SECOND + 7):
        events.send(rule="shots")
    assert len(reader.read()) == EVENTS_A_SECOND


# -- where it goes ---------------------------------------------------------------------------------


def test_instances_of_a_study_under_different_rules_are_different_envelopes(
    start: Gateways,
) -> None:
    own = start(
        **with_rules(
            f'name = "a"\nsop_class = "{SC}"\nbackends = "second"\n'
            'priority = "bulk"\ntags = ["x", "y"]',
            'name = "b"\ncalling_ae = "B?"\npriority = "stat"',
        )
    )
    study = new_uid()
    uids = [new_uid() for _ in range(4)]
    with Peer(own.dicom_port) as peer, Peer(own.dicom_port) as other:
        assert peer.associate(*CONTEXTS, calling=b"A1")[0] == 2
        assert other.associate(*CONTEXTS, calling=b"B1")[0] == 2
        assert peer.store(data_of(study, uids[0]), uids[0]) == 0
        assert peer.store(data_of(study, uids[1], SC), uids[1], number=3, sop_class=SC) == 0
        assert other.store(data_of(study, uids[2]), uids[2]) == 0
        assert peer.store(data_of(study, uids[3]), uids[3]) == 0
        peer.release()
        other.release()
    plain, of_a, of_b = tickets(own, study, 3)
    assert (plain.rule, plain.upstreams, plain.priority) == ("", ("jmix_upstream",), "normal")
    assert (of_a.upstreams, of_a.priority, of_a.tags) == (("second",), "bulk", ("x", "y"))
    assert (of_b.rule, of_b.priority, of_b.tags) == ("b", "stat", ())
    held = {one.stem: sorted(images(one)) for one in archives(own, study)}
    assert held[plain.id] == sorted([uids[0], uids[3]])
    assert held[of_a.id] == [uids[1]]
    assert held[of_b.id] == [uids[2]]
    own.wait_for("envelope_sealed .*rule=a ")
    shown = run_command("outbox", "show", of_a.id, "-c", "config.toml", cwd=own.spool.parent)
    assert "  rule: a\n" in shown.stdout


def test_an_envelope_is_delivered_to_the_backends_of_its_rule_alone(
    start: Gateways, upstream: Store, tmp_path: Path
) -> None:
    with running(Store(tmp_path / "second")) as other:
        rule = 'name = "away"\ncalling_ae = "AWAY"\nbackends = "second"'
        both = 'name = "both"\ncalling_ae = "BOTH"\nbackends = ["second", "jmix_upstream"]'
        own = start(upstream.port, **with_rules(rule, both, second=other.port))
        usual, away, shared = new_uid(), new_uid(), new_uid()
        send(own, usual)
        send(own, away, calling="AWAY")
        send(own, shared, calling="BOTH")
        own.wait_sent(3)
        for store, study, elsewhere in ((upstream, usual, away), (other, away, usual)):
            base = f"http://127.0.0.1:{store.port}/api/jmix?studyInstanceUid="
            assert get(base + study)[0] == 200
            assert get(base + elsewhere)[0] == 404
            assert get(base + shared)[0] == 200


def test_the_envelope_decides_at_the_seal(start: Gateways) -> None:
    own = start(
        **with_rules(
            'name = "trial"\nstudy_description = "*trial*"\nbackends = ["jmix_upstream", "second"]',
            'name = "large"\nmin_bytes = 5000\npriority = "bulk"',
            'name = "b"\ncalling_ae = "B1"\ntags = "b"',
        )
    )
    studies = [new_uid() for _ in range(4)]
    send(own, studies[0], described="Head TRIAL 7")
    send(own, studies[1], size=6000, calling="B1")
    send(own, studies[2], calling="B1")
    send(own, studies[3])
    trial, large, plain, none = (tickets(own, one, 1)[0] for one in studies)
    assert (trial.rule, trial.upstreams) == ("trial", ("jmix_upstream", "second"))
    assert (large.rule, large.priority, large.tags) == ("large", "bulk", ())
    assert (plain.rule, plain.priority, plain.tags) == ("b", "normal", ("b",))
    assert (none.rule, none.upstreams) == ("", ("jmix_upstream",))


def test_a_rule_chooses_the_profile(start: Gateways) -> None:
    parties = 'sender.id = "org:a"\nreceivers = [{ id = "org:b", contact = "c@example.org" }]'
    own = start(
        **with_rules(
            'name = "partner"\ncalling_ae = "PARTNER"\nprofile = "jmix-1.0"',
            builder=f"release_grace_secs = 0.2\n{parties}",
        )
    )
    mine, theirs = new_uid(), new_uid()
    send(own, mine, calling="AE1")
    send(own, theirs, calling="PARTNER")
    tickets(own, mine, 1)
    tickets(own, theirs, 1)
    harmony, published = (members(archives(own, one)[0]) for one in (mine, theirs))
    sender = json.loads(published["manifest.json"])["sender"]
    assert sender["id"] == "org:a"
    assert "sender" not in json.loads(harmony["manifest.json"])


# -- a packer dies ---------------------------------------------------------------------------------


@pytest.mark.fault("F160")
@pytest.mark.parametrize("point", ["packer.synced", "seal.written", "seal.published"])
def test_a_packer_that_dies_between_append_and_seal_decides_alike(
    start: Gateways, point: str
) -> None:
    own = start(
        at=f"{point}:kill:1",
        **with_rules(
            SCREEN_SHOTS,
            'name = "never"\nmax_study_age_days = 1\nbackends = "second"',
            'name = "head"\nstudy_description = "*head*"\nbackends = "second"\ntags = "h"',
            'name = "rest"\npriority = "bulk"',
        ),
    )
    study, uid = new_uid(), new_uid()
    with Peer(own.dicom_port) as peer:
        assert peer.associate(*CONTEXTS)[0] == 2
        data = data_of(study, uid, described="CT head")
        assert peer.store(data, uid) == 0
        peer.release()
    own.wait_for("packer-.*died|process_died|child_died|restarted")
    ticket = tickets(own, study, 1)[0]
    assert (ticket.rule, ticket.upstreams, ticket.tags) == ("head", ("second",), ("h",))
    assert list(images(archives(own, study)[0])) == [uid]


@pytest.mark.fault("F161")
@pytest.mark.parametrize(("fault", "statuses"), [("kill", (0, 0xA700)), ("raise", (0xC0FF,))])
def test_a_packer_that_fails_after_its_decision_decides_again(
    start: Gateways, fault: str, statuses: tuple[int, ...]
) -> None:
    own = start(at=f"packer.decided:{fault}:1", **with_rules(SCREEN_SHOTS))
    study = new_uid()
    assert send(own, study, SC)[0] in statuses
    status, uid = send(own, study, SC)
    assert status == 0
    assert refused(own, uid, 1)
    assert archives(own, study) == []


@pytest.mark.fault("F160")
def test_a_draft_goes_by_the_rules_that_it_began_with(start: Gateways, tmp_path: Path) -> None:
    """A node that is killed, and starts again with other rules."""
    own = start(
        name="own",
        **with_rules('name = "head"\nstudy_description = "*head*"\npriority = "stat"',
                     builder="release_grace_secs = 60"),
    )  # fmt: skip
    study = new_uid()
    assert send(own, study, described="CT head")[0] == 0
    own.child.kill()
    own.child.wait()
    again = start(name="own", **with_rules('name = "other"\npriority = "bulk"'))
    again.wait_for("envelope_recovered .*rule=head")
    (ticket,) = tickets(again, study, 1)
    assert (ticket.rule, ticket.priority) == ("head", "stat")


# -- a new configuration ---------------------------------------------------------------------------


def reload(own: Gateway, **parts: Any) -> None:
    write_config(own.spool.parent, NOT_LISTENING, **parts)
    done = run_command("reload", "-c", "config.toml", cwd=own.spool.parent)
    assert done.returncode == 0, done.stderr


def test_new_rules_are_for_associations_that_begin_after_them(start: Gateways) -> None:
    own = start(**with_rules(SCREEN_SHOTS))
    study, (first, second, third) = new_uid(), [new_uid() for _ in range(3)]
    with Peer(own.dicom_port) as before:
        assert before.associate(*CONTEXTS)[0] == 2
        assert before.store(data_of(study, first, SC), first, number=3, sop_class=SC) == 0
        reload(own, **with_rules('name = "shots"\npriority = "bulk"'))
        assert before.store(data_of(study, second, SC), second, number=3, sop_class=SC) == 0
        assert send(own, study, SC)[0] == 0
        assert before.store(data_of(study, third), third) == 0
        before.release()
    plain, of_new = tickets(own, study, 2)
    assert (plain.rule, of_new.rule, of_new.priority) == ("", "shots", "bulk")
    held = {one.stem: list(images(one)) for one in archives(own, study)}
    assert held[plain.id] == [third]
    assert len(held[of_new.id]) == 1
    assert len(refused(own, study, 2)) == 2


def test_new_backends_are_for_associations_that_begin_after_them(start: Gateways) -> None:
    """Also of a study whose envelope is still open."""
    own = start(builder="quiet_secs = 3600\nrelease_grace_secs = 2")
    study = new_uid()
    assert send(own, study)[0] == 0
    reload(own, **with_rules('name = "none"\nmodality = "US"', backends='"second"'))
    assert send(own, study)[0] == 0
    both = tickets(own, study, 2)
    assert sorted(one.upstreams for one in both) == [("jmix_upstream",), ("second",)]


# -- other people's senders ------------------------------------------------------------------------


def storescu(own: Gateway, calling: str, *files: Path) -> str:
    """Runs DCMTK's storescu; returns what it says."""
    command = ["storescu", "-v", "-aec", "JMIX_RECEIVER", "-aet", calling, "127.0.0.1"]
    done = subprocess.run(
        [*command, str(own.dicom_port), *files],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stderr + done.stdout


def test_dcmtk_and_pynetdicom_see_the_answers(start: Gateways, tmp_path: Path) -> None:
    discard = 'name = "old"\nmodality = "CT"\ncalling_ae = "PY*"\naction = "discard"'
    own = start(**with_rules(TESTS, discard))
    study = write_study(tmp_path / "study", "A^B", 2)
    files = sorted((tmp_path / "study").iterdir())
    assert storescu(own, "CT9", *files).count("(Success)") == 2
    assert "OutOfResources" in storescu(own, "TEST1", files[0])
    entity = ApplicationEntity(ae_title="PYNET")
    entity.add_requested_context(dcmread(files[0]).SOPClassUID, wire.EXPLICIT)
    association: Any = entity.associate("127.0.0.1", own.dicom_port, ae_title="JMIX_RECEIVER")
    assert association.send_c_store(files[0]).Status == 0
    association.release()
    own.wait_for("instance_discarded .*rule=old")
    tickets(own, study, 1)
    assert [len(images(one)) for one in archives(own, study)] == [2]
