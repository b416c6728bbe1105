"""The fault table: what can go wrong, what is promised then, and the tests that hold us to it.

Wanted: docs/faults.md, written from three things that cannot disagree with it unnoticed: the
promises (faults.toml, by hand), the tests that exist (their names say which rows they carry:
tests of F19, tests of S06, test_f16_f17_…), and what those tests said when they were last run
(docs/faults.json).
Guaranteed: nothing is written but by running this file; faults/test_table.py says when the page is
older than the tests' names. A test that was not run is shown as such, never as passed.
Still wrong: the tests of one parametrised function are summed up; which of them failed is in
pytest's own output only.

    python -m tests.faults.table                       the page again, from names and remembered results
    python -m tests.faults.table --run [pytest's own]  runs the tests of all rows first (make faults)

FASTJMIX_NIGHTLY=1 runs their long forms; each form's last result is remembered. `-k f19` after
--run runs, and replaces the results of, a part.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.nightly import by_form

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
PROMISES = TESTS / "faults" / "rows.toml"
PAGE = ROOT / "docs" / "faults.md"
RESULTS = ROOT / "docs" / "faults.json"

FORMS = ("fast", "nightly")

FIRST = tuple(
    f"{letter}{n:02}" for letter, last in (("F", 81), ("S", 28)) for n in range(1, last + 1)
)
"""Rows that stay for good: one whose fault cannot occur here says why. Others follow them."""

NAMED_AFTER_ROWS = re.compile(r"test((?:_[fs]\d+)+)(?=_|$)")

NIGHT_SECS = 7200
"""What one test may take in its long form, as in `make test-nightly`."""


@dataclass(frozen=True, slots=True)
class Row:
    """A fault, and what this program promises when it happens.

    `differs`: why the promise is another than one would first ask for. `reason`: why no test
    carries the row; such a row may have none.
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
    """What faults.toml says: the rows by group, and the bugs."""

    groups: Mapping[str, tuple[Row, ...]]
    bugs: tuple[Bug, ...]

    def rows(self) -> Iterator[Row]:
        """All rows, in the order of the page."""
        for group in self.groups.values():
            yield from group


def table() -> Table:
    """faults.toml. Raises TypeError for a key that a row does not have."""
    found = tomllib.loads(PROMISES.read_text("utf-8"))
    bugs = tuple(Bug(each["bug"], tuple(each["tests"])) for each in found.pop("bugs"))
    groups = {
        name: tuple(Row(key, **row) for key, row in group.items()) for name, group in found.items()
    }
    return Table(groups, bugs)


# -- tests and the rows they carry -----------------------------------------------------------------


def rows_of(test: str) -> list[str]:
    """The rows that a test's name claims, whether they exist or not: test_f05_s06_x → F05, S06."""
    found = NAMED_AFTER_ROWS.match(test.rpartition("::")[2])
    return found[1].upper().split("_")[1:] if found else []


def collected() -> list[str]:
    """Every test function as pytest finds them, without parameters: file::class::function."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n0", "-p"]
    done = subprocess.run(
        [*command, "no:cacheprovider", str(TESTS)], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"the tests cannot be collected:\n{done.stdout[-4000:]}{done.stderr}")
    return list(dict.fromkeys(_function(line) for line in done.stdout.splitlines() if "::" in line))


def _function(node: str) -> str:
    return node.split("[", 1)[0]


def carriers(tests: Iterable[str]) -> dict[str, list[str]]:
    """Row → the tests that carry it."""
    found: dict[str, list[str]] = {}
    for test in tests:
        for row in rows_of(test):
            found.setdefault(row, []).append(test)
    return found


# -- results ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Recorder:
    """A pytest plugin, in the process that the user started: xdist brings it all reports."""

    outcomes: dict[str, str] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The worst of a test's phases counts; a worker that died is a failure."""
        known = self.outcomes.get(report.nodeid)
        if report.outcome == "failed" or known is None or (known, report.outcome) == _SKIPS:
            self.outcomes[report.nodeid] = report.outcome

    def summed(self) -> dict[str, str]:
        """Test function → "12 passed", or with the worst first: "1 failed, 11 passed"."""
        counts: dict[str, Counter[str]] = {}
        for node, outcome in self.outcomes.items():
            counts.setdefault(_function(node), Counter())[outcome] += 1
        return {test: _words(found) for test, found in counts.items()}


_SKIPS = ("passed", "skipped")  # its setup passed, and then it skipped itself


def _words(found: Counter[str]) -> str:
    if len(found) == 1 and found.total() == 1:
        return next(iter(found))
    return ", ".join(f"{found[word]} {word}" for word in sorted(found))


Results = dict[str, dict[str, dict[str, str]]]
"""Test → form → {"said", "date", "commit"}."""


def remembered() -> Results:
    """docs/faults.json; nothing when there is none yet."""
    found: Results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    return found


def run(tests: list[str], arguments: list[str]) -> tuple[int, dict[str, str]]:
    """Runs these tests (at least one: without, pytest runs all); its exit code, what each said."""
    recorder = Recorder()
    patience = by_form([], ["--timeout", str(NIGHT_SECS)])
    code = pytest.main([*patience, *arguments, *tests], plugins=[recorder])
    return int(code), recorder.summed()


def _commit() -> str:
    """What was tested; with a + when the tree differs from it by more than this page."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ".", ":!docs/faults.*")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def merge(results: Results, said: Mapping[str, str], tests: Iterable[str]) -> Results:
    """What is remembered from now on: of tests that exist, the last result of each form."""
    when = {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "commit": _commit()}
    form = by_form(*FORMS)
    new = {test: {form: {"said": words, **when}} for test, words in said.items()}
    return {
        test: {**results.get(test, {}), **new.get(test, {})}
        for test in sorted(tests)
        if test in results or test in new
    }


# -- the page --------------------------------------------------------------------------------------

INTRODUCTION = """\
# What can go wrong, and what holds

<!-- Written by `make faults` from tests/faults/rows.toml and the tests' results: edit those. -->

One row a fault: what happens, what fastjmix promises then, and the tests that make it happen to a
real gateway and look. A test carries the rows that its name begins with (`tests of F19` carries F19);
the suite fails when this page and the tests' names disagree. What `0x0000` means in all of it is in
[durability.md](durability.md); who might want such a thing to happen, in
[SECURITY.md](../SECURITY.md).

*fast* is the form of `make test`, *nightly* the long one of `make test-nightly`; `make faults` runs
the tests of all rows and writes what they said. "12 passed" sums up a test with parameters; – was
not run.
"""

HEAD = """\
| row | what goes wrong | what is promised | test | fast | nightly |
|---|---|---|---|---|---|
"""

BUGS = """\
## Found, mended, and kept found

Faults of ours that these tests (or the writing of them) brought to light. The tests named fail
without the mending.

| what was wrong | shown by |
|---|---|
"""


def page(found: Table, tests: Iterable[str], results: Results) -> str:
    """docs/faults.md."""
    carrying = carriers(tests)
    newest = _newest(results)
    text = INTRODUCTION + _runs(newest)
    for name, group in found.groups.items():
        lines = (line for row in group for line in _lines(row, carrying, results, newest))
        text += f"\n## {name}\n\n{HEAD}{''.join(lines)}"
    shown = "".join(f"| {b.bug} | {', '.join(map(_code, b.tests))} |\n" for b in found.bugs)
    return f"{text}\n{BUGS}{shown}"


def _newest(results: Results) -> dict[str, tuple[str, str]]:
    """Form → (date, commit) of its last run."""
    newest: dict[str, tuple[str, str]] = {}
    for forms in results.values():
        for form, said in forms.items():
            newest[form] = max(newest.get(form, ("", "")), (said["date"], said["commit"]))
    return newest


def _runs(newest: Mapping[str, tuple[str, str]]) -> str:
    known = (f"{form} {when} at `{commit}`" for form, (when, commit) in sorted(newest.items()))
    told = "; ".join(known) or "never"
    return f"\nLast run: {told}. A result of another run says so.\n"


def _lines(
    row: Row,
    carrying: Mapping[str, list[str]],
    results: Results,
    newest: Mapping[str, tuple[str, str]],
) -> Iterator[str]:
    """One line a test, the row's own words in the first."""
    promise = f"{row.promise} *{row.differs}*" if row.differs else row.promise
    begin = f"| {row.id} | {row.fault} | {promise} "
    tests = carrying.get(row.id, [])
    if row.reason:
        yield f"{begin}| not run here: {row.reason} | | |\n"
        begin = "| | | "
    for test in tests:
        said = (_said(results.get(test, {}).get(form), newest.get(form)) for form in FORMS)
        yield f"{begin}| {_code(test.rpartition('::')[2])} | {' | '.join(said)} |\n"
        begin = "| | | "
    if not row.reason and not tests:
        yield f"{begin}| no test | | |\n"


def _said(result: Mapping[str, str] | None, newest: tuple[str, str] | None) -> str:
    if result is None:
        return "–"
    words = result["said"] if "failed" not in result["said"] else f"**{result['said']}**"
    if (result["date"], result["commit"]) == newest:
        return words
    return f"{words} ({result['date']}, `{result['commit']}`)"


def _code(text: str) -> str:
    return f"`{text}`"


def main(arguments: list[str]) -> int:
    """Writes the page, after running the tests of all rows with --run. pytest's exit code."""
    tests = [test for test in collected() if rows_of(test)]
    code, results = 0, remembered()
    if tests and arguments[:1] == ["--run"]:
        code, said = run(tests, arguments[1:])
        results = merge(results, said, tests)
    else:
        results = {test: results[test] for test in sorted(tests) if test in results}
    lines = ",\n".join(f"{json.dumps(test)}: {json.dumps(said)}" for test, said in results.items())
    RESULTS.write_text(f"{{\n{lines}\n}}\n", "utf-8")
    PAGE.write_text(page(table(), tests, results), "utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
