"""docs/faults.md and the tests agree, and every row has a test or a reason."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.faults import table as faults


@pytest.fixture(scope="module")
def table() -> faults.Table:
    return faults.table()


@pytest.fixture(scope="module")
def tests() -> list[faults.Test]:
    return faults.all_tests()


def test_every_row_is_in_the_table_once(table: faults.Table) -> None:
    found = [row.id for row in table.rows()]
    assert len(found) == len(set(found))
    assert [row for row in faults.FIRST if row not in found] == []


def test_every_row_has_words_that_fit_a_table(table: faults.Table) -> None:
    for row in table.rows():
        for text in (row.fault, row.promise, row.differs, row.reason):
            assert text == " ".join(text.split()), f"{row.id}: one line, single spaces"
            assert "|" not in text, f"{row.id}: a bar would end the cell"
        assert row.fault, f"{row.id}: say what goes wrong"
        assert row.promise or row.reason, f"{row.id}: say what is promised"


def test_every_row_has_a_test_or_a_reason(table: faults.Table, tests: list[faults.Test]) -> None:
    shown = faults.by_row(tests)
    assert [row.id for row in table.rows() if row.id not in shown and not row.reason] == []


def test_every_marker_names_rows_that_exist(table: faults.Table, tests: list[faults.Test]) -> None:
    rows = {row.id for row in table.rows()}
    unknown = {test.id: set(test.rows) - rows for test in tests}
    assert {test: rows for test, rows in unknown.items() if rows} == {}


def test_the_tests_of_fixed_bugs_exist(table: faults.Table, tests: list[faults.Test]) -> None:
    names = {test.name for test in tests}
    assert [name for bug in table.bugs for name in bug.tests if name not in names] == []


def test_the_page_lists_the_tests_that_exist(table: faults.Table, tests: list[faults.Test]) -> None:
    assert faults.PAGE.read_text("utf-8") == faults.page(table, tests), (
        "docs/faults.md is older than the tests:"
        " `.venv/bin/python -m tests.faults.table` writes it again"
    )


def test_the_tests_are_those_that_pytest_collects(tests: list[faults.Test]) -> None:
    """Here, and in the folder of the most markers: all would take a minute."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n0"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "tests/faults"],
        cwd=faults.ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    collected = [line.split("[")[0] for line in done.stdout.splitlines() if "::" in line]
    read = [test.id for test in tests if test.id.startswith("tests/faults/")]
    assert sorted(set(collected)) == sorted(read)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("@pytest.mark.fault('F05')\ndef test_a(): 0", [("test_a", ("F05",))]),
        ("class TestThings:\n @pytest.mark.fault('S06')\n def test_b(self): 0",
         [("TestThings::test_b", ("S06",))]),
        ("@pytest.mark.fault('F16', 'F17')\ndef test_c(): 0", [("test_c", ("F16", "F17"))]),
        ("@pytest.mark.fault('F16')\n@pytest.mark.once\n@pytest.mark.fault('F17')\ndef test_d(): 0",
         [("test_d", ("F16", "F17"))]),
        ("@pytest.mark.fault('F99')\ndef test_no_such_row(): 0",
         [("test_no_such_row", ("F99",))]),
        ("@pytest.mark.fault('F5')\ndef test_e(): 0", [("test_e", ("F5",))]),
        ("def test_f05_a_name_says_nothing(): 0", [("test_f05_a_name_says_nothing", ())]),
        ("@pytest.mark.parametrize('fault', ['F05'])\ndef test_g(fault): 0", [("test_g", ())]),
        ("@pytest.mark.fault('F05')\ndef helper(): 0", []),
    ],
)  # fmt: skip
def test_a_marker_says_which_rows(source: str, expected: list[tuple[str, tuple[str, ...]]]) -> None:
    found = [(test.id, test.rows) for test in faults.tests_of(source, "tests/test_a.py")]
    assert found == [(f"tests/test_a.py::{name}", rows) for name, rows in expected]


@pytest.mark.parametrize("marker", ["fault", "fault()", "fault(ROW)", "fault(5)"])
def test_a_marker_without_a_row_is_an_error(marker: str) -> None:
    with pytest.raises(ValueError, match="test_a: "):
        list(faults.tests_of(f"@pytest.mark.{marker}\ndef test_a(): 0", "test_a.py"))


def test_a_row_has_one_line_of_results(table: faults.Table) -> None:
    row = next(iter(table.rows()))
    tests = [faults.Test(f"test_a.py::test_{n}", (row.id,)) for n in range(3)]
    counted = {tests[0].id: Counter(passed=2), tests[1].id: Counter(passed=1, failed=1)}
    lines = list(faults.lines_of_results(table, tests, counted))
    assert [line.split() for line in lines] == [
        [row.id, "1", "failed,", "3", "passed", *row.fault.split()]
    ]


SOME = """
import asyncio, pytest

async def slow(): assert True

@pytest.mark.parametrize("n", range(12))
def test_many(n): pass

def test_bad(): assert False

class TestThings:
    def test_in_a_class(self): asyncio.run(slow())

@pytest.fixture
def broken(): raise OSError

def test_setup(broken): pass

@pytest.mark.parametrize("n", range(2))
def test_half(n): assert n
"""


RECORD = """
import json, sys
import pytest
sys.path.insert(0, sys.argv[1])
from tests.faults.table import Recorder
recorder = Recorder()
pytest.main(["test_some.py", "-n", sys.argv[2], "-c", "pytest.ini"], plugins=[recorder])
print("recorded:" + json.dumps(recorder.summed()))
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_results_are_summed_up_with_and_without_workers(tmp_path: Path, workers: str) -> None:
    """A pytest of its own, over tests that pass, fail, break and are many."""
    (tmp_path / "test_some.py").write_text(SOME)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    command = [sys.executable, "-c", RECORD, str(faults.ROOT), workers]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.rpartition("recorded:")[2]) == {
        "test_some.py::test_many": "12 passed",
        "test_some.py::test_bad": "failed",
        "test_some.py::TestThings::test_in_a_class": "passed",
        "test_some.py::test_setup": "failed",
        "test_some.py::test_half": "1 failed, 1 passed",
    }
