"""An auditor's proof from the ledger: from whom, when and where to, with a real storescu."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastjmix.ledger.database import LedgerUnavailable
from fastjmix.ledger.queries import Ledger, Search
from fastjmix.ledger.rows import Association, Trace
from fastjmix.spool.provenance import WITHHELD
from tests.support.gateway import Gateway, Gateways, Store, run_command, run_to_end, until
from tests.support.made_up import write_study

QUICK = "release_grace_secs = 0.1"
FACTS = ("calling_ae", "called_ae", "peer", "implementation_uid", "implementation_version")
PATIENT: Any = {"AccessionNumber": "ACC-17", "PatientID": "PID-17", "StudyDescription": "Of Ödön"}
NAME = "Ödön^Ágnes"


@pytest.fixture
def gateway_defaults(store: Store) -> dict[str, Any]:
    return {"upstream": store.port, "builder": QUICK}


def storescu(own: Gateway, directory: Path, *options: str) -> int:
    """Sends all files of a directory over one association; returns the exit code."""
    done = run_to_end(
        "storescu", *options, "--scan-directories", "--recurse", "127.0.0.1", str(own.dicom_port),
        str(directory),
    )  # fmt: skip
    return done.returncode


def told(own: Gateway, study: str, state: str) -> Trace:
    """Waits until the ledger tells of a study in a state, and of the end of its association."""

    def found() -> Trace | None:
        with suppress(LedgerUnavailable):
            trace = Ledger(own.spool).trace(study)
            states = {one.envelope.state for one in trace.envelopes}
            if states == {state} and all(one.ended for one in trace.associations):
                return trace
        return None

    trace: Trace = until(found, f"the ledger has {study} as {state}")
    return trace


def assert_from(one: Association, calling: str, began: float, count: int) -> None:
    assert (one.calling_ae, one.called_ae) == (calling, "JMIX_RECEIVER")
    assert one.peer.startswith("127.0.0.1:")
    assert one.implementation_version.startswith("OFFIS_DCMTK")
    assert one.implementation_uid.startswith("1.2.276.0.7230010")
    assert began <= one.began <= (one.ended or 0) <= time.time()
    assert (one.how, one.stored, one.statuses) == ("released", count, {"0000": count})


def test_the_proof_for_a_study_whose_envelopes_are_gone(
    start: Gateways, store: Store, tmp_path: Path
) -> None:
    own = start(fastjmix="retention = { max_age_days = 0 }")
    studies = {}
    for calling, count in (("CT_ONE", 3), ("MR_TWO", 2)):
        began = time.time()
        study = write_study(tmp_path / calling, NAME, count, **PATIENT)
        assert storescu(own, tmp_path / calling, "-aec", "JMIX_RECEIVER", "-aet", calling) == 0
        studies[study] = calling, count, began
    for study, (calling, count, began) in studies.items():
        trace = told(own, study, "gone")
        (association,), (story,) = trace.associations, trace.envelopes
        assert_from(association, calling, began, count)
        assert len({one.sop_instance_uid for one in story.instances}) == count
        for one in story.instances:
            assert (one.association, one.status, one.kept) == (association.id, "0000", True)
            assert one.arrived is not None
            assert association.began <= one.arrived <= (association.ended or 0)
            assert Ledger(own.spool).trace(one.sop_instance_uid).kind == "instance"
        (attempt,) = story.attempts
        assert (attempt.outcome, attempt.status) == ("delivered", 201)
        assert attempt.upstream == "jmix_upstream"
        assert [(one.state, one.reason) for one in story.moves][-1] == ("gone", "retention")
        kinds = [one.kind for one in trace.steps]
        assert kinds[:2] == ["association", "opened"]
        assert kinds.index("arrived") < kinds.index("sealed") < kinds.index("attempt")
    assert not any((own.spool / "provenance").iterdir())
    found = Ledger(own.spool).search(Search(patient_name="odon", calling_ae="CT_ONE"))
    assert [one.accession_number for one in found.envelopes] == ["ACC-17"]
    done = run_command("trace", next(iter(studies)), cwd=own.spool.parent)
    assert (done.returncode, "CT_ONE" in done.stdout) == (0, True), done.stdout + done.stderr


def test_a_rejection_is_found(start: Gateways, store: Store, tmp_path: Path) -> None:
    own = start()
    write_study(tmp_path / "ct", NAME, 1)
    assert storescu(own, tmp_path / "ct", "-aec", "SOMEBODY", "-aet", "CT_ONE") != 0

    def rejected() -> bool:
        with suppress(LedgerUnavailable):
            found = Ledger(own.spool).recent_rejections()
            return [(one.calling_ae, one.called_ae) for one in found] == [("CT_ONE", "SOMEBODY")]
        return False

    until(rejected, "the ledger has the rejection")
    (rejection,) = Ledger(own.spool).recent_rejections()
    assert rejection.peer.startswith("127.0.0.1:")
    assert rejection.why


# -- rebuilt ---------------------------------------------------------------------------------------


def answers(spool: Path, words: list[str]) -> Iterator[object]:
    """Yields all that a ledger says of envelopes that are on the disk, but for what only events
    know: when an association ended and its figures, and how long an attempt took."""
    ledger = Ledger(spool)
    for word in words:
        trace = ledger.trace(word)
        yield word, trace.kind
        for one in trace.associations:
            yield one.id, one.began, [getattr(one, name) for name in FACTS]
        for story in sorted(trace.envelopes, key=lambda one: one.envelope.id):
            shown = story.envelope.as_json()
            for name in ("at", "since"):  # of the event, or of the first instance and the record
                del shown[name]
            yield shown, story.associations, story.instances
            yield [(one.outcome, one.status, one.upstream, one.bytes) for one in story.attempts]
            yield [one.state for one in story.moves]


def test_a_rebuilt_ledger_gives_the_same_answers(
    start: Gateways, store: Store, tmp_path: Path
) -> None:
    own = start()
    words = []
    for calling, count in (("CT_ONE", 3), ("MR_TWO", 2), ("CT_ONE", 1)):
        files = tmp_path / f"{calling}-{count}"
        study = write_study(files, NAME, count, **PATIENT)
        assert storescu(own, files, "-aec", "JMIX_RECEIVER", "-aet", calling) == 0
        trace = told(own, study, "sent")
        (story,) = trace.envelopes
        words += [study, story.envelope.id, trace.associations[0].id]
        words += [story.instances[0].sop_instance_uid, story.instances[0].series_instance_uid]
    words += ["ACC-17", "PID-17", "odon"]
    assert own.stop() == 0
    live = list(answers(own.spool, words))
    shutil.rmtree(own.spool / "ledger")
    done = run_command("ledger", "rebuild", cwd=own.spool.parent)
    assert done.returncode == 0, done.stderr
    assert list(answers(own.spool, words)) == live


# -- no patient ------------------------------------------------------------------------------------


def test_a_node_that_keeps_no_patient(start: Gateways, store: Store, tmp_path: Path) -> None:
    """First with patients, then without: what the first wrote is cleared, its files too."""
    studies = []
    for setting in ("true", "false"):
        own = start(fastjmix=f"ledger = {{ patient_data = {setting} }}")
        studies.append(write_study(tmp_path / setting, NAME, 2, **PATIENT))
        sent = ("-aec", "JMIX_RECEIVER", "-aet", "CT_ONE")
        assert storescu(own, tmp_path / setting, *sent) == 0
        for study in studies:
            told(own, study, "sent")
        if setting == "true":
            assert len(Ledger(own.spool).trace("odon").envelopes) == 1
        else:
            until(partial(keeps_none, own.spool), "no file has the patient")
        assert own.stop() == 0
    for study in studies:
        (story,) = Ledger(own.spool).trace(study).envelopes
        assert {getattr(story.envelope, name) for name in WITHHELD} == {""}
        assert (len(story.instances), story.envelope.calling_ae) == (2, "CT_ONE")
    assert Ledger(own.spool).trace("odon").kind == ""


def keeps_none(spool: Path) -> bool:
    """Returns whether no file has a word of the patient in plain text."""
    words = [NAME.encode(), *(value.encode() for value in PATIENT.values())]
    files = [*spool.glob("ledger/*"), *spool.glob("provenance/*")]
    return not any(word in path.read_bytes() for path in files for word in words)
