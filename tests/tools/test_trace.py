"""`fastjmix trace`: a word's story, from the ledger alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastjmix.ledger.reconcile import reconcile
from tests.support.gateway import run_command
from tests.support.storages import MORNING, PATIENT, Storage, association, event


def known(root: Path, **about: Any) -> str:
    """Makes a ledger that knows one envelope with an eventful life; returns its id."""
    storage = Storage(root)
    envelope_id = storage.envelope("1.2.3", "sent", about={**PATIENT, **about})
    with storage.writer() as writer:
        list(reconcile(writer))
        waits = {"peer": 9, "between": 8, "packer": 0, "disk": 2.5}
        writer.apply([association(waits=waits), event("attempt", MORNING + 11, envelope=envelope_id,
                      upstream="up", began=MORNING + 11, seconds=0.5, bytes=3000, outcome="retry",
                      status=503, reason="busy", answer="<html>\x1b[2J")])  # fmt: skip
    return envelope_id


def test_every_kind_of_word_leads_to_the_story(tmp_path: Path) -> None:
    envelope_id = known(tmp_path)
    for word, kind in {
        "1.2.3": "study", "1.2.3.1": "series", "1.2.3.1.0": "instance", "A-2201": "accession",
        "P-77": "patient_id", "yamada": "patient_name", envelope_id: "envelope",
    }.items():  # fmt: skip
        done = run_command("trace", word, "--storage", tmp_path, "--json")
        (found,) = json.loads(done.stdout)["traces"]
        assert (done.returncode, found["kind"]) == (0, kind)
        assert found["envelopes"][0]["id"] == envelope_id


def test_the_story_is_in_order_and_escaped(tmp_path: Path) -> None:
    envelope_id = known(tmp_path, patient_name="Evil\x1b]0;x\x07^\nName", patient_id="P\n1")
    done = run_command("trace", envelope_id, "--instances", "--storage", tmp_path)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "\\x1b" in done.stdout
    assert "patient: P\\n1 Evil" in done.stdout
    places = [done.stdout.index(word) for word in ("opened", "arrived", "sealed", ": busy")]
    assert places == sorted(places)
    assert "1.2.3.1.2" in done.stdout


def test_one_is_singular_and_each_wait_has_its_cause(tmp_path: Path) -> None:
    known(tmp_path)
    told = run_command("trace", "1.2.3", "--storage", tmp_path).stdout
    assert "study 1.2.3: 1 envelope, 1 association\n" in told
    assert "waited 9.0 s for the peer, 8.0 s of these between images, 2.5 s for the disk" in told


def test_a_word_that_nobody_knows_is_exit_code_1(tmp_path: Path) -> None:
    known(tmp_path)
    done = run_command("trace", "P-77", "nobody\x1b", "--storage", tmp_path)
    assert done.returncode == 1
    assert "nobody\\x1b: nothing is known of it" in done.stdout
    assert "patient ID P-77" in done.stdout


def test_no_ledger_is_an_error_that_says_so(tmp_path: Path) -> None:
    done = run_command("trace", "1.2.3", "--storage", tmp_path, "--json")
    assert done.returncode == 1
    assert "ledger" in json.loads(done.stdout)["error"]
