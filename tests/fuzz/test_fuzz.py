"""The fuzz targets: each for a while under sanitizers, their corpus under the ordinary core.

A silent run is believed because of the controls: the same driver, flags and runtime find deliberate
faults behind a word of which they are told the half.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fastjmix._core
from tests.fuzz import build, run
from tests.support.nightly import NIGHTLY, by_form

FAST_SECS = 60
"""Seconds that CI spends on each target."""

NIGHTLY_RUNS = {"pdu": 1_000_000, "associate": 1_000_000, "command": 10_000_000, "head": 5_000_000}
"""A million at least; the quick ones have time for more."""

NIGHTLY_SECS = 5400
"""By when the million must have been reached; it takes about ten minutes."""

LEAST_RUNS = 5_000
"""Executions in a run of FAST_SECS: the slowest target makes about 100,000 on an idle core."""

CORPUS_BYTES = 200_000
"""Bytes that are kept in the repository."""

SECS = by_form(FAST_SECS, NIGHTLY_SECS)


@pytest.mark.once
@pytest.mark.timeout(build.BUILD_SECS + SECS + run.START_SECS + 120)
@pytest.mark.parametrize("name", run.TARGETS)
def test_fuzzing_finds_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if NIGHTLY:
        options = [f"-runs={NIGHTLY_RUNS[name]}", f"-max_total_time={NIGHTLY_SECS}", "-seed=0"]
    else:
        options = [f"-max_total_time={FAST_SECS}", "-seed=1"]
    # New inputs go into the first directory: the tree stays as it is.
    outcome = run.run(name, options, [tmp_path, run.CORPUS / name], SECS)
    with capsys.disabled():
        print(f"\n{name}: {outcome.executions} executions")
    if outcome.found is not None:
        small = run.shrink(name, outcome.found)
        found = build.OUT / f"found-{name}"
        found.write_bytes(small)
        pytest.fail(
            f"{outcome.output[-4000:]}\nshrunk, in {found}:\n{base64.b64encode(small).decode()}"
        )
    assert outcome.executions >= by_form(LEAST_RUNS, NIGHTLY_RUNS[name])


@pytest.mark.parametrize("name", run.TARGETS)
def test_the_corpus_holds_under_the_ordinary_core(name: str) -> None:
    one = run.load_target(name)
    inputs = sorted((run.CORPUS / name).iterdir())
    assert inputs
    for path in inputs:
        one(path.read_bytes())


def test_the_corpus_stays_small() -> None:
    assert sum(p.stat().st_size for p in run.CORPUS.rglob("*") if p.is_file()) < CORPUS_BYTES


@pytest.mark.timeout(build.BUILD_SECS + run.START_SECS + 120)
@pytest.mark.parametrize(
    ("fault", "word", "report"),
    [
        ("behind_the_heap", b"HEAP", "AddressSanitizer: heap-buffer-overflow"),
        ("behind_the_input", b"READ", "AddressSanitizer: heap-buffer-overflow"),
        ("poisoned", b"LANE", "AddressSanitizer: use-after-poison"),
        ("undefined", b"BITS", "shift exponent 77 is too large"),
        ("greedy", b"SIZE", "out-of-memory (malloc("),
        ("raising", b"FAIL", "AssertionError: the invariant"),
    ],
)
def test_a_deliberate_fault_is_found(fault: str, word: bytes, report: str, tmp_path: Path) -> None:
    (tmp_path / "seed").write_bytes(word[:2])
    options = ["-max_total_time=60", "-seed=1"]
    outcome = run.run(f"control.{fault}", options, [tmp_path], 60)
    assert outcome.found is not None, outcome.output[-2000:]
    assert outcome.found.startswith(word)
    assert report in outcome.output
    assert run.shrink(f"control.{fault}", outcome.found) == word


ONE_BEHIND_EACH = """
import json
from tests.fuzz import run
one = run.load_target("control.behind_the_input")
inputs = [b"READ" + bytes(more) for more in range(64)]
print(json.dumps([len(data) for data in inputs if not run.fails(one, data)]))
"""


@pytest.mark.timeout(build.BUILD_SECS + run.START_SECS)
def test_a_read_behind_an_input_of_any_length_is_found() -> None:
    """An array with space to grow would hide it, unless the input happens to fill that, too."""
    build.build()
    done = subprocess.run(
        [sys.executable, "-c", ONE_BEHIND_EACH],
        env=run.environment(":symbolize=0"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        timeout=run.START_SECS, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == []


def test_a_run_that_fuzzes_nothing_fails() -> None:
    with pytest.raises(RuntimeError, match="nothing was fuzzed"):
        run.run("nothing", ["-runs=1"], [], 10)
    with pytest.raises(RuntimeError, match="built without __asan_report_load1"):
        build.check(Path(fastjmix._core.__file__))
