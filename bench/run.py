"""The benchmark as a program: `python -m bench.run [--full] [--only P1,P3] [--out DIR]`.

Writes results.json, RESULTS.md and results.svg (all three after each row, so that an interrupted
run leaves what it has). With --only, what results.json has of the other rows stays, if the program
was the same and the form too. Exit code 1 when a row could not be measured at all: what a goal's
number is decides nothing here. Everything it needs is in one temporary directory below $TMPDIR or
build/, which it removes, as it ends all processes that it started.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench import bench_pipeline, forms, machine, options, report
from bench.forms import Form
from bench.rounds import say
from bench.workspace import Workspace

HERE: Final = Path(__file__).resolve().parent
PARTS: Final = (
    "bench_dicom.py",
    "bench_pdv.py",
    "bench_lane.py",
    "bench_digest.py",
    "bench_archive.py",
    "bench_ledger.py",
)


def measure_parts(form: Form, space: Workspace) -> tuple[list[dict[str, Any]], str]:
    """The pytest-benchmark suites: their medians in seconds, and why some are lacking."""
    say("parts: pytest-benchmark")
    path = space.root / "parts.json"
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-o", "python_files=bench_*.py",
        "-o", "python_functions=bench_*", "--benchmark-min-rounds=5", "--benchmark-warmup=on",
        f"--benchmark-max-time={1.0 if form.name == 'full' else 0.2}",
        "--benchmark-warmup-iterations=3", f"--basetemp={space.root / 'parts'}",
        f"--benchmark-json={path}", *(str(HERE / part) for part in PARTS),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    failed = "" if done.returncode == 0 else done.stdout[-600:]
    if failed:
        say(failed)
    if not path.exists():
        return [], failed or "pytest wrote nothing"
    measured = json.loads(path.read_text())["benchmarks"]
    return [
        {
            "group": one["group"],
            "name": one["name"].removeprefix("bench_"),
            "median": one["stats"]["median"],
        }
        for one in measured
    ], failed


def earlier(out: Path, form: Form, only: Sequence[str]) -> dict[str, Any]:
    """Returns what `out` holds, without the rows of `only`; nothing of another program or form."""
    try:
        held: dict[str, Any] = json.loads((out / "results.json").read_text())
        same = held["machine"]["program"] == machine.program() and held["form"] == form.name
    except (OSError, ValueError, KeyError):
        return {}
    if not same:
        return {}
    held["rows"] = [row for row in held["rows"] if row["name"] not in only]
    return held


def run(form: Form, out: Path, under: Path, only: Sequence[str] = (), parts: bool = True) -> bool:
    """Measures and writes the papers into `out`. True unless a row failed as a whole."""
    out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    held: dict[str, Any] = {"form": form.name, "date": date, "rows": [], "parts": []}
    with Workspace(form, under) as space:
        held["machine"] = machine.facts(space.root)
        if only and (kept := earlier(out, form, only)):
            kept["machine"]["versions"] |= held["machine"]["versions"]
            held |= kept
        if parts:
            held["parts"], held["parts_failed"] = measure_parts(form, space)
        for name in bench_pipeline.ROWS:
            if not only or name in only:
                row = bench_pipeline.measure(name, space)
                if held["date"] != date:
                    row.remarks.append(f"{report.APART}{date}.")
                held["rows"] = sorted([*held["rows"], row.as_json()], key=_place)
                held["seconds"] = round(time.monotonic() - begun, 1)
                (out / "results.json").write_text(json.dumps(held, indent=1, ensure_ascii=False))
                report.write(held, out)
    say(f"{out / 'RESULTS.md'} after {time.monotonic() - begun:.0f} s")
    return not any("row" in row["failed"] for row in held["rows"])


def _place(row: Mapping[str, Any]) -> int:
    """In the order of the goals."""
    return list(bench_pipeline.ROWS).index(row["name"])


def main() -> None:
    choose = argparse.ArgumentParser(prog="bench.run", description="P1 to P12, beside their peers")
    choose.add_argument("--full", action="store_true", help="all instances and rounds")
    choose.add_argument("--only", default="", help="rows, as in P1,P3; others stay as they were")
    choose.add_argument(
        "--no-parts", action="store_true", help="without the pytest-benchmark suites"
    )
    choose.add_argument("--out", type=Path, default=HERE, help="where the results go")
    arguments = choose.parse_args()
    only = options.chosen(choose, arguments.only, bench_pipeline.ROWS)
    options.end_well()
    form = forms.FULL if arguments.full else forms.SHORT
    sys.exit(0 if run(form, arguments.out, options.place(), only, not arguments.no_parts) else 1)


if __name__ == "__main__":
    main()
