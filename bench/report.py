"""The papers of a run: RESULTS.md and results.svg, both from results.json and notes.toml alone.

Guaranteed: nothing here measures; every goal stands in the table, measured or not, met or not.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from bench.rounds import OURS, Goal, Row, row_from

NOTES: Final = Path(__file__).with_name("notes.toml")
VERDICT: Final = {True: "met", False: "**not met**", None: "not measured"}

UNKNOWN: Final = "not described: bench/notes.toml is of another run"

WIDTH: Final = 860
LABEL: Final = 290
BAR: Final = 15
INK: Final = {"ours": "#1565c0", "floor": "#9e9e9e", "peer": "#ef8e19"}


APART: Final = "Measured apart from the other rows, on "


def note(row: Row, held: Mapping[str, Any], path: Path = NOTES) -> str:
    """Returns the note on a row's goals, if it was written of this very run: another commit,
    machine or date has other numbers."""
    result = tomllib.loads(path.read_text()) if path.exists() else {}
    run, own = result.get("run", {}), result.get(row.name, {})
    here = {**held["machine"], "date": _date(row, held)}
    described = {**run, "date": own.get("date", run.get("date"))}
    same = bool(run) and all(here.get(name) == value for name, value in described.items())
    return str(own.get("bound", UNKNOWN)) if same else UNKNOWN


def _date(row: Row, held: Mapping[str, Any]) -> str:
    """When the row was measured: with the others, or apart."""
    apart = (one for one in row.remarks if one.startswith(APART))
    return next(apart, f"{APART}{held['date']}.").removeprefix(APART).removesuffix(".")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _goal(row: Row, goal: Goal) -> str:
    sign = "≤" if goal.sense == "at most" else "≥"
    measured = goal.reason if goal.value is None else f"{_number(goal.value)} {goal.unit}"
    limit = f"{sign} {goal.limit:g} {goal.unit}"
    return f"| {row.name} | {row.title} | {limit} {goal.text} | {measured} | {VERDICT[goal.met]} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def markdown(held: Mapping[str, Any]) -> str:
    """RESULTS.md."""
    rows = [row_from(row) for row in held["rows"]]
    machine = held["machine"]
    versions = ", ".join(f"{name} {text}" for name, text in machine["versions"].items() if text)
    goals = [goal for row in rows for goal in row.goals]
    met = sum(goal.met is True for goal in goals)
    lines = [
        "# Results",
        "",
        f"Made by `{machine['command']}` ({held['form']} form) on {held['date']}; "
        "not edited by hand.",
        f"{met} of {len(goals)} goals were met, {sum(g.met is False for g in goals)} were not met, "
        f"and {sum(g.met is None for g in goals)} were not measured.",
        "",
        "| machine | |",
        "|---|---|",
        f"| CPU | {machine['processors']} × {machine['cpu']} |",
        f"| memory | {machine['memory']} |",
        f"| kernel, file system | Linux {machine['kernel']}, {machine['file_system']} |",
        f"| commit | {machine['commit']} |",
        f"| versions | {_cell(versions)} |",
        "",
        "Receivers of a row are measured in turns (A B C, A B C, …) over loopback; the medians are",
        "compared. Before each run the earlier output is removed and `sync` is called. Each timed",
        "run follows an untimed one of the same receiver, unless that is slow by design, so that",
        "each finds memory and disk as it left them itself (bench/rounds.py says why). After each",
        "run the envelopes are opened and compared with what was sent. Durability is `page-cache`",
        "where a row does not say otherwise. Absolute times belong to this machine; ratios to what",
        "ran beside them.",
        "",
        "## Goals",
        "",
        "| | work | goal | measured | |",
        "|---|---|---|---|---|",
        *(_goal(row, goal) for row in rows for goal in row.goals),
    ]
    lines += [f"| {row.name} | {row.title} | – | {_cell(row.failed['row'])} | **failed** |"
              for row in rows if "row" in row.failed]  # fmt: skip
    missed = [row for row in rows if any(goal.met is False for goal in row.goals)]
    if missed:
        lines += ["", "### Bounds of the goals that were not met", ""]
        for row in missed:
            lines.append(f"- **{row.name}**: {note(row, held)}")
    lines += ["", "![time against each peer and the floors](results.svg)", "", "## Rows"]
    for row in rows:
        lines += _details(row)
    if held.get("parts"):
        lines += [
            "",
            "## Parts",
            "",
            "With pytest-benchmark; the floor of each group beside it.",
            "",
        ]
        lines += ["| group | part | median | of the group's floor |", "|---|---|---|---|"]
        lines += _parts(held["parts"])
    if held.get("parts_failed"):
        lines += ["", f"The parts were not all measured: {held['parts_failed']}"]
    return "\n".join(lines) + "\n"


def _details(row: Row) -> list[str]:
    lines = ["", f"### {row.name}: {row.title}", ""]
    if row.times:
        ours = row.median(OURS)
        lines += [f"| | median, {row.unit} | least | most | fastjmix is |", "|---|---|---|---|---|"]
        for name, values in row.times.items():
            middle = row.median(name)
            ratio = f"{ours / middle:.2f} ×" if ours and middle and name != OURS else ""
            spread = f"{_number(min(values))} | {_number(max(values))}"
            lines.append(f"| {name} | {_number(middle)} | {spread} | {ratio} |")
    lines += [f"- {name}: not measured: {_cell(why)}" for name, why in row.failed.items()]
    if row.remarks:
        lines += ["", *row.remarks]
    if row.commands:
        lines += ["", "<details><summary>commands</summary>", ""]
        lines += [f"- {name}: `{_cell(command)}`" for name, command in row.commands.items()]
        lines += ["", "</details>"]
    return lines


def _parts(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    floors = {part["group"]: part["median"] for part in parts if "floor" in part["name"]}
    lines = []
    for part in parts:
        floor = floors.get(part["group"])
        ratio = f"{part['median'] / floor:.2f} ×" if floor else ""
        lines.append(
            f"| {part['group']} | {part['name']} | {part['median'] * 1e6:.1f} µs | {ratio} |"
        )
    return lines


def svg(held: Mapping[str, Any]) -> str:
    """A bar a contestant, a block a row, each on a scale of its own."""
    parts: list[str] = []
    y = 44
    for row in (row_from(row) for row in held["rows"]):
        bars = [(name, row.median(name) or 0.0) for name in row.times]
        if not bars:
            continue
        parts.append(
            f'<text class="head" x="10" y="{y}">{escape(row.name)}: {escape(row.title)}</text>'
        )
        y += 8
        # A receiver that is far slower than the others must not press them into a line.
        values = sorted(value for _, value in bars)
        scale = min(values[-1], 4 * (values[len(values) // 2] or 1)) or 1.0
        for name, value in bars:
            kind = "ours" if name.startswith(OURS) or row.unit == "MB" else (
                "floor" if name.startswith("floor") else "peer"
            )  # fmt: skip
            length = (WIDTH - LABEL - 130) * min(1.0, value / scale)
            cut = " ▸" if value > scale else ""
            parts.append(
                f'<text x="{LABEL - 8}" y="{y + 11}" text-anchor="end">{escape(name)}</text>'
                f'<rect x="{LABEL}" y="{y}" width="{max(length, 1):.1f}" height="{BAR - 3}" '
                f'fill="{INK[kind]}"/>'
                f'<text x="{LABEL + length + 6:.1f}" y="{y + 11}">{_number(value)} '
                f"{row.unit}{cut}</text>"
            )
            y += BAR
        y += 26
    style = (
        "text{font:11px sans-serif;fill:#222}.head{font:bold 12px sans-serif}"
        "@media(prefers-color-scheme:dark){text{fill:#ddd}}"
    )
    legend = "fastjmix blue, peers orange, floors grey; ▸: longer than drawn. Medians."
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" '
        f'height="{y}"><style>{style}</style><text x="10" y="20">{legend}</text>'
        + "\n".join(parts)
        + "</svg>\n"
    )


def write(held: Mapping[str, Any], into: Path) -> None:
    """Both papers into a directory."""
    (into / "RESULTS.md").write_text(markdown(held))
    (into / "results.svg").write_text(svg(held))
