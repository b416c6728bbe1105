"""The benchmark's harness works: it measures, it reports, and it cannot be fooled."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree
import zipfile
from array import array
from pathlib import Path
from typing import Any

import pytest

from bench import bench_pipeline, check, forms, machine, report, run
from bench.peers import FastJmix
from bench.rounds import Contestant, Goal, Row, interleave
from bench.sender import at_once, echo, one_each
from bench.study import CT_STUDY, TINY_STUDY

STUDIES = [TINY_STUDY.sized(5).other(copy) for copy in range(3)]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Envelopes of STUDIES, made by a real gateway."""
    receiver = FastJmix("fastjmix", tmp_path_factory.mktemp("bench") / "node", grace=0.1)
    try:
        assert echo(receiver.port, receiver.aet)
        assert machine.memory(receiver.pid)["Pss"] > 10_000_000
        assert machine.cpu(receiver.pid)[0] > 0
        at_once(receiver.port, receiver.aet, STUDIES[:2])
        one_each(receiver.port, receiver.aet, STUDIES[2])
        found = receiver.await_instances(15)
        return [path.rename(path.parents[2] / path.name) for path in found]
    finally:
        receiver.stop()


def test_a_row_is_measured_and_reported_and_nothing_stays(tmp_path: Path) -> None:
    before = machine.family(os.getpid())
    assert run.run(forms.SMOKE, tmp_path / "out", tmp_path / "work", ["P1", "P9"], parts=False)
    held = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["name"] for row in held["rows"]] == ["P1", "P9"]
    for row in held["rows"]:
        assert len(row["times"]["fastjmix"]) == forms.SMOKE.rounds
        assert row["goals"]
        # Floors need headers that are not everywhere; everything else is there in a test.
        assert all(name.startswith("floor") for name in row["failed"]), row["failed"]
    page = (tmp_path / "out" / "RESULTS.md").read_text()
    assert "| P1 | ct, one association, SHA-256 + listing | ≤ 0.75 ×" in page
    assert "pynetdicom" in page
    xml.etree.ElementTree.parse(tmp_path / "out" / "results.svg")
    assert list((tmp_path / "work").iterdir()) == []
    kept = run.earlier(tmp_path / "out", forms.SMOKE, ["P9"])
    assert kept["rows"] == held["rows"][:1]  # the row that is to be measured again is not kept
    assert run.earlier(tmp_path / "out", forms.SHORT, ["P9"]) == {}
    assert run.earlier(tmp_path, forms.SMOKE, ["P9"]) == {}
    assert set(machine.family(before[0])) <= set(before)


def test_every_goal_has_a_row() -> None:
    assert list(bench_pipeline.ROWS) == [f"P{number}" for number in range(1, 13)]


def test_good_envelopes_pass(sealed: list[Path]) -> None:
    check.envelopes(sealed, STUDIES)


def test_a_missing_instance_is_noticed(sealed: list[Path]) -> None:
    with pytest.raises(check.OutputError, match="5 instances are missing"):
        check.envelopes(sealed[:-1], STUDIES)


def test_an_instance_too_many_is_noticed(sealed: list[Path]) -> None:
    with pytest.raises(check.OutputError, match="was not sent, or is there twice"):
        check.envelopes([*sealed, sealed[0]], STUDIES)


def test_a_damaged_byte_is_noticed(sealed: list[Path], tmp_path: Path) -> None:
    data = bytearray(sealed[0].read_bytes())
    data[len(data) // 2] ^= 1
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(data)
    with pytest.raises(check.OutputError, match=r"differs|CRC"):
        check.envelopes([damaged, *sealed[1:]], STUDIES)


@pytest.mark.parametrize("key", ["security", "files"])
def test_wrong_hashes_are_noticed(sealed: list[Path], tmp_path: Path, key: str) -> None:
    damaged = tmp_path / "damaged.zip"
    with zipfile.ZipFile(sealed[0]) as old, zipfile.ZipFile(damaged, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "manifest.json":
                manifest = json.loads(content)
                if key == "security":
                    manifest["security"]["payload_hash"] = "sha256:" + "0" * 64
                else:
                    manifest["files"].pop()
                content = json.dumps(manifest).encode()
            new.writestr(name, content)
    with pytest.raises(check.OutputError, match=r"payload hash|listing"):
        check.envelopes([damaged, *sealed[1:]], STUDIES)


def test_what_fails_does_not_take_the_others_with_it() -> None:
    def wrong() -> None:
        raise check.OutputError("it is not what was sent")

    def nothing() -> None:
        pass

    row = Row("P0", "a test")
    good = Contestant("good", nothing, lambda: 2.0, nothing)
    bad = Contestant("bad", nothing, lambda: 1.0, wrong)
    once = Contestant("once", nothing, lambda: 4.0, nothing, rounds=1)
    interleave(row, [bad, good, once], rounds=3)
    assert row.times == {"good": [2.0] * 3, "once": [4.0]}
    assert row.failed == {"bad": "OutputError: it is not what was sent"}
    row.compare("half", "good", "once", 0.5)
    row.compare("not to be had", "good", "bad", 0.5)
    assert [goal.met for goal in row.goals] == [True, None]
    assert "not what was sent" in row.goals[1].reason


def test_a_goal_is_met_at_its_limit() -> None:
    assert Goal("", 2.0, 2.0, "at least").met
    assert Goal("", 2.0, 2.0, "at most").met
    assert not Goal("", 2.1, 2.0, "at most").met


def test_studies_are_what_pydicom_reads(tmp_path: Path) -> None:
    import pydicom

    study = CT_STUDY.sized(2)
    first = pydicom.dcmread(study.files(tmp_path) / "000000.dcm")
    assert first.SOPInstanceUID == study.instance_uid(0)
    values = array("H", first.PixelData)
    assert (first.Rows, first.Columns, len(values)) == (512, 512, 512 * 512)
    assert max(values) < 4096
    assert study.pixels(0)[0] != study.pixels(1)[0]
    assert len(study.uid) < 64


NOTES = """
[run]
date = "2026-01-01 10:00 UTC"
commit = "abc"
cpu = "A"
processors = 2
[P1]
bound = "0.66 s in this run"
[P2]
date = "2026-01-02 10:00 UTC"
bound = "measured apart"
"""


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({}, "0.66 s in this run"),
        ({"commit": "abd"}, report.UNKNOWN),
        ({"cpu": "B"}, report.UNKNOWN),
        ({"processors": 4}, report.UNKNOWN),
        ({"date": "2026-01-01 10:01 UTC"}, report.UNKNOWN),
    ],
)
def test_a_note_is_printed_for_the_run_that_it_describes(
    tmp_path: Path, changed: dict[str, Any], shown: str
) -> None:
    (tmp_path / "notes.toml").write_text(NOTES)
    machine_facts = {"commit": "abc", "cpu": "A", "processors": 2, "kernel": "6.1"} | changed
    held = {"date": changed.get("date", "2026-01-01 10:00 UTC"), "machine": machine_facts}
    row = Row("P1", "a title", "s")
    assert report.note(row, held, tmp_path / "notes.toml") == shown
    row.remarks.append(f"{report.APART}2026-01-02 10:00 UTC.")
    assert report.note(row, held, tmp_path / "notes.toml") == report.UNKNOWN
    apart = Row("P2", "a title", "s", remarks=list(row.remarks))
    wanted = "measured apart" if not changed or "date" in changed else report.UNKNOWN
    assert report.note(apart, held, tmp_path / "notes.toml") == wanted
    assert report.note(row, held, tmp_path / "none.toml") == report.UNKNOWN


def test_the_notes_describe_the_results_that_are_kept() -> None:
    here = Path(report.__file__).parent
    held = json.loads((here / "results.json").read_text())
    assert report.markdown(held) == (here / "RESULTS.md").read_text()
