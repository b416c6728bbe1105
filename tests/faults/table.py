"""The fault table: what can go wrong, what is promised then, and the tests that show it.

docs/faults.md is written from the promises (rows.toml, by hand) and the markers of the tests:
`@pytest.mark.fault("F16", "F17")` says which rows a test shows. test_table.py fails when the page
is older than either. The page holds no result: `make faults` and .ci/run print one line a row.

    python -m tests.faults.table     writes the page

With pytest, `--fault F16` runs the tests of a row, and `--fault-rows` prints the results by row
(tests/conftest.py).
"""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
PROMISES = TESTS / "faults" / "rows.toml"
PAGE = ROOT / "docs" / "faults.md"

FIRST = tuple(
    f"{letter}{n:02}" for letter, last in (("F", 81), ("S", 28)) for n in range(1, last + 1)
)
"""Rows that stay for good: one whose fault cannot occur here says why. Others follow them."""


@dataclass(frozen=True, slots=True)
class Row:
    """A fault, and what this program promises when it happens.

    `differs`: why the promise is another than one would first ask for. `reason`: why no test
    shows the row; such a row may have none.
    """

    id: str
    fault: str
    promise: str
    differs: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Bug:
    """A fault of ours that was found, and the tests that show it when it comes back."""

    bug: str
    tests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of rows.toml by group, and the bugs."""

    groups: Mapping[str, tuple[Row, ...]]
    bugs: tuple[Bug, ...]

    def rows(self) -> Iterator[Row]:
        """All rows, in the order of the page."""
        for group in self.groups.values():
            yield from group


def table() -> Table:
    """Reads rows.toml. Raises TypeError for a key that a row does not have."""
    found = tomllib.loads(PROMISES.read_text("utf-8"))
    bugs = tuple(Bug(each["bug"], tuple(each["tests"])) for each in found.pop("bugs"))
    groups = {
        name: tuple(Row(key, **row) for key, row in group.items()) for name, group in found.items()
    }
    return Table(groups, bugs)


# -- tests and the rows that they show -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Test:
    """A test function. `id` is as pytest writes it, without parameters: file::class::function."""

    __test__ = False

    id: str
    rows: tuple[str, ...]

    @property
    def name(self) -> str:
        """The function's name."""
        return self.id.rpartition("::")[2]

    @property
    def link(self) -> str:
        """Its title, which leads to its file from docs/."""
        title = self.name.removeprefix("test_").replace("_", " ")
        return f"[{title}](../{self.id.partition('::')[0]})"


def tests_of(source: str, file: str) -> Iterator[Test]:
    """Yields the tests of one file, in its order."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from _functions(node.body, f"{file}::{node.name}")
        else:
            yield from _functions([node], file)


def _functions(body: Iterable[ast.stmt], where: str) -> Iterator[Test]:
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield Test(f"{where}::{node.name}", tuple(_marked(node)))


def _marked(node: ast.FunctionDef) -> Iterator[str]:
    """Yields the arguments of `@pytest.mark.fault(…)`. Raises ValueError unless they are texts."""
    for decorator in node.decorator_list:
        called = isinstance(decorator, ast.Call)
        marker = decorator.func if isinstance(decorator, ast.Call) else decorator
        if ast.unparse(marker) != "pytest.mark.fault":
            continue
        rows = decorator.args if isinstance(decorator, ast.Call) else []
        if not called or not rows:
            raise ValueError(f"{node.name}: the marker names no row")
        for row in rows:
            if not isinstance(row, ast.Constant) or not isinstance(row.value, str):
                raise ValueError(f"{node.name}: a row is named by a text, not {ast.unparse(row)}")
            yield row.value


def all_tests() -> list[Test]:
    """Returns every test of the suite, file by file."""
    return [
        test
        for path in sorted(TESTS.rglob("test_*.py"))
        for test in tests_of(path.read_text("utf-8"), path.relative_to(ROOT).as_posix())
    ]


def by_row(tests: Iterable[Test]) -> dict[str, list[Test]]:
    """Returns the tests of each row that a marker names."""
    found: dict[str, list[Test]] = {}
    for test in tests:
        for row in test.rows:
            found.setdefault(row, []).append(test)
    return found


# -- results ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Recorder:
    """A pytest plugin of the process that the user started: xdist brings it all reports."""

    outcomes: dict[str, str] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps the worst of a test's phases; a worker that died is a failure."""
        known = self.outcomes.get(report.nodeid)
        if report.outcome == "failed" or known is None or (known, report.outcome) == _SKIPS:
            self.outcomes[report.nodeid] = report.outcome

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Prints one line a row."""
        terminalreporter.section("fault rows")
        for line in lines_of_results(table(), all_tests(), self.counted()):
            terminalreporter.line(line)

    def counted(self) -> dict[str, Counter[str]]:
        """Returns how often each test function passed, failed and skipped."""
        counts: dict[str, Counter[str]] = {}
        for node, outcome in self.outcomes.items():
            counts.setdefault(node.split("[", 1)[0], Counter())[outcome] += 1
        return counts

    def summed(self) -> dict[str, str]:
        """Test function → "12 passed", or with the worst first: "1 failed, 11 passed"."""
        return {test: _words(found) for test, found in self.counted().items()}


_SKIPS = ("passed", "skipped")  # its setup passed, and then it skipped itself


def _words(found: Counter[str]) -> str:
    if len(found) == 1 and found.total() == 1:
        return next(iter(found))
    return ", ".join(f"{found[word]} {word}" for word in sorted(found))


def lines_of_results(
    found: Table, tests: Iterable[Test], counted: Mapping[str, Counter[str]]
) -> Iterator[str]:
    """Yields a line for each row of which a test ran: the row, its fault, what its tests said."""
    shown_by = by_row(tests)
    for row in found.rows():
        ran: Counter[str] = Counter()
        for test in shown_by.get(row.id, ()):
            ran += counted.get(test.id, Counter())
        if ran:
            yield f"{row.id:5} {_words(ran):>12}  {row.fault}"


# -- the page --------------------------------------------------------------------------------------

INTRODUCTION = """\
# Faults, and what is promised

<!-- Written by `python -m tests.faults.table` from tests/faults/rows.toml and the tests. -->

One row a fault: what happens, what fastjmix promises then, and the tests that make it happen, most
of them to a real gateway. A test names its rows by a marker, `@pytest.mark.fault("F19")`; the suite
fails when this page and the markers disagree. The meaning of `0x0000` in all of it is in
[durability.md](durability.md); who might want such a thing to happen, in
[SECURITY.md](../SECURITY.md).

`make faults` runs the tests of all rows and prints a line of results for each row; `.ci/run` prints
the same of the whole suite. `make test ARGS='--fault F19'` runs the tests of one row.
`FASTJMIX_NIGHTLY=1` runs the long forms.
"""

HEAD = """\
| row | what goes wrong | what is promised | shown by |
|---|---|---|---|
"""

BUGS = """\
## Found, fixed, and kept fixed

Faults of ours that these tests (or the writing of them) found. The tests named fail without the
fix.

| what was wrong | shown by |
|---|---|
"""


def page(found: Table, tests: Iterable[Test]) -> str:
    """Returns docs/faults.md."""
    tests = list(tests)
    shown_by = by_row(tests)
    text = INTRODUCTION
    for name, group in found.groups.items():
        lines = (line for row in group for line in _lines(row, shown_by.get(row.id, [])))
        text += f"\n## {name}\n\n{HEAD}{''.join(lines)}"
    links: dict[str, list[str]] = {}
    for test in tests:
        links.setdefault(test.name, []).append(test.link)
    bugs = (
        f"| {bug.bug} | {', '.join(link for name in bug.tests for link in links.get(name, []))} |\n"
        for bug in found.bugs
    )
    return f"{text}\n{BUGS}{''.join(bugs)}"


def _lines(row: Row, tests: list[Test]) -> Iterator[str]:
    """Yields one line a test, the row's own words in the first."""
    promise = f"{row.promise} *{row.differs}*" if row.differs else row.promise
    begin = f"| {row.id} | {row.fault} | {promise} "
    if row.reason:
        yield f"{begin}| not run here: {row.reason} |\n"
        begin = "| | | "
    for test in tests:
        yield f"{begin}| {test.link} |\n"
        begin = "| | | "
    if not row.reason and not tests:
        yield f"{begin}| no test |\n"


if __name__ == "__main__":
    PAGE.write_text(page(table(), all_tests()), "utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}")
