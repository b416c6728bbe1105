"""`fastjmix route explain`: what it says beyond the examples of docs/routing.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.config.test_routes import with_rules
from tests.support.configs import written
from tests.support.gateway import run_command
from tests.support.made_up import write_study


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_study(tmp_path / "study", "A^B", 1, elements={"StudyDescription": "Head"})
    (found,) = (tmp_path / "study").iterdir()
    return found


def explained(main: Path, file: Path, *more: str, calling: str = "CT1") -> dict[str, Any]:
    """Returns the only endpoint of the answer in JSON."""
    done = run_command(
        "route", "explain", file, "-c", main, "--calling-ae", calling, *more, "--json"
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["exit_code"] == 0
    (found,) = answer["endpoints"]
    return found  # type: ignore[no-any-return]


def test_the_answer_in_json(tmp_path: Path, file: Path) -> None:
    rules = (
        '{ name = "mr", modality = "MR", action = "reject", status = 0xA700, comment = "no" }',
        '{ name = "large", min_instances = 9, priority = "bulk" }',
        '{ name = "ct", peer = "10.0.0.0/8", backends = "second", tags = "t" }',
    )
    main = written(tmp_path / "node", with_rules(*rules))
    found = explained(main, file, "--peer", "10.1.1.1")
    assert [one["result"] for one in found["rules"]] == ["no match", "at the seal", "applies"]
    assert found["rules"][0]["why"] == "the modality is CT; the rule's is MR"
    assert found["decision"] == {
        "rule": "ct",
        "action": "accept",
        "backends": ["second"],
        "priority": "normal",
        "tags": ["t"],
        "profile": "harmony",
    }
    (open_rule,) = found["decided_at_the_seal"]
    assert (open_rule["rule"], open_rule["priority"]) == ("large", "bulk")
    without = explained(main, file)
    assert without["decision"]["rule"] is None
    assert without["rules"][2]["why"] == "the peer is unknown"


def test_a_rejection_in_json(tmp_path: Path, file: Path) -> None:
    rule = '{ name = "no", modality = "CT", action = "reject", status = 0xA700, comment = "no" }'
    main = written(tmp_path / "node", with_rules(rule))
    decision = explained(main, file)["decision"]
    assert (decision["status"], decision["comment"]) == ("A700", "no")


def test_a_caller_that_is_not_in_aet_table(tmp_path: Path, file: Path) -> None:
    table = "endpoints.dicom_receiver.options.aet_table = { CT1 = {} }"
    main = written(tmp_path / "node", with_rules('{ modality = "CT" }', more=table))
    assert explained(main, file)["accepts_association"] is True
    assert explained(main, file, calling="CT2")["accepts_association"] is False
    done = run_command("route", "explain", file, "-c", main, "--calling-ae", "CT2")
    assert "the association is rejected: CT2 is not in aet_table" in done.stdout


def test_without_a_route_it_says_where_all_goes(tmp_path: Path, file: Path) -> None:
    main = written(tmp_path / "node")
    found = explained(main, file)
    assert (found["route"], found["rules"]) == (None, [])
    assert found["decision"]["backends"] == ["jmix_upstream"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--called-ae", "NOBODY"), "no endpoint is called NOBODY"),
        (("--peer", "hospital"), "no address"),
    ],
)
def test_questions_that_cannot_be_answered(
    tmp_path: Path, file: Path, arguments: tuple[str, str], words: str
) -> None:
    main = written(tmp_path / "node")
    done = run_command("route", "explain", file, "-c", main, "--calling-ae", "A", *arguments)
    assert (done.returncode, words in done.stderr) == (2, True)


def test_files_that_are_no_instance(tmp_path: Path) -> None:
    main = written(tmp_path / "node")
    (tmp_path / "text").write_text("nothing")
    for name, words in {"text": "Part 10", "absent": "No such file"}.items():
        done = run_command("route", "explain", tmp_path / name, "-c", main, "--calling-ae", "A")
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
