"""docs/faults.md and the tests tell the same story, and every row has a test or a reason."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.faults import table as faults


@pytest.fixture(scope="module")
def table() -> faults.Table:
    return faults.table()


@pytest.fixture(scope="module")
def tests() -> list[str]:
    return faults.collected()


def test_every_row_is_in_the_table_once(table) -> None:
    found = [row.id for row in table.rows()]
    assert len(found) == len(set(found))
    assert [row for row in faults.FIRST if row not in found] == []


def test_every_row_has_words_that_fit_a_table(table) -> None:
    for row in table.rows():
        for text in (row.fault, row.promise, row.differs, row.reason):
            assert text == " ".join(text.split()), f"{row.id}: one line, single spaces"
            assert "|" not in text, f"{row.id}: a bar would end the cell"
        assert row.fault, f"{row.id}: say what goes wrong"
        assert row.promise or row.reason, f"{row.id}: say what is promised"


def test_every_row_has_a_test_or_a_reason(table, tests) -> None:
    carried = faults.carriers(tests)
    assert [row.id for row in table.rows() if row.id not in carried and not row.reason] == []


def test_every_test_named_after_a_row_names_one_that_exists(table, tests) -> None:
    rows = {row.id for row in table.rows()}
    unknown = {test: set(faults.rows_of(test)) - rows for test in tests}
    assert {test: rows for test, rows in unknown.items() if rows} == {}


def test_the_tests_of_mended_bugs_exist(table, tests) -> None:
    names = {test.rpartition("::")[2] for test in tests}
    assert [name for bug in table.bugs for name in bug.tests if name not in names] == []


def test_the_page_lists_the_tests_that_exist(table, tests) -> None:
    wanted = faults.page(table, tests, faults.remembered())
    assert faults.PAGE.read_text("utf-8") == wanted, (
        "docs/faults.md is older than the tests: `make faults` runs them and writes it again;"
        " `.venv/bin/python -m tests.faults.table` writes it with the results that are known"
    )


@pytest.mark.parametrize(
    ("test", "rows"),
    [
        ("tests/test_a.py::test_f05_a_thing", ["F05"]),
        ("tests/test_a.py::TestThings::test_s06", ["S06"]),
        ("tests/test_a.py::test_f16_f17_power_cut", ["F16", "F17"]),
        ("tests/test_a.py::test_f99_no_such_row", ["F99"]),
        ("tests/test_a.py::test_f5_no_such_row", ["F5"]),
        ("tests/test_f05.py::test_fast_things", []),
        ("tests/test_a.py::test_s3_is_not_offered", ["S3"]),
        ("tests/test_a.py::test_s06x", []),
    ],
)
def test_a_name_says_which_rows(test: str, rows: list[str]) -> None:
    assert faults.rows_of(test) == rows


SOME = """
import asyncio, pytest

async def slow(): assert True

@pytest.mark.parametrize("n", range(12))
def test_f01_many(n): pass

def test_f02_bad(): assert False

class TestThings:
    def test_f03_f04_in_a_class(self): asyncio.run(slow())

@pytest.fixture
def broken(): raise OSError

def test_f05_setup(broken): pass

@pytest.mark.parametrize("n", range(2))
def test_f06_half(n): assert n
"""


SAY = """
import json, sys
sys.path.insert(0, sys.argv[1])
from tests.faults import table as faults
_, said = faults.run(["test_some.py"], ["-n", sys.argv[2], "-c", "pytest.ini"])
print("said:" + json.dumps(said))
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_results_are_summed_up_with_and_without_workers(tmp_path, workers: str) -> None:
    """A pytest of its own, over tests that pass, fail, break and are many."""
    (tmp_path / "test_some.py").write_text(SOME)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    command = [sys.executable, "-c", SAY, str(faults.ROOT), workers]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    said = done.stdout.rpartition("said:")[2]
    assert json.loads(said) == {
        "test_some.py::test_f01_many": "12 passed",
        "test_some.py::test_f02_bad": "failed",
        "test_some.py::TestThings::test_f03_f04_in_a_class": "passed",
        "test_some.py::test_f05_setup": "failed",
        "test_some.py::test_f06_half": "1 failed, 1 passed",
    }
