"""The report: a table, a sentence and TOML for a person; the same as JSON for a program.

Guaranteed: prints only to the console that it is given; names from files and directories are shown
without markup and control characters.
Still wrong: below 100 columns the names of the rows are wrapped.
"""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.table import Table

from fastjmix.tools.plain_text import many
from fastjmix.tools.tune.effects import Effect, Figures, percent
from fastjmix.tools.tune.plan import CONFIGURED, CONTROL
from fastjmix.tools.tune.report import COMBINED, Report


def show(report: Report, console: Console) -> None:
    """Prints the report for a person."""
    sent = report.material
    what = f"{sent.name}: {len(sent.items)} instances, {sent.size / 1e6:.1f} MB in each round"
    how = f"over {many(report.associations, 'association')}"
    where = f"storage below {report.storage}; the upstream is held"
    console.print(_plain(f"{what}, {how}; {where}"), markup=False)
    console.print()
    console.print(_table(report))
    for name, why in report.failed:
        console.print(_plain(f"failed: {name}: {why}"), style="red", markup=False)
    if report.left_out:
        console.print(f"no time for: {'; '.join(report.left_out)}", markup=False)
    for note in report.notes:
        console.print(f"note: {_plain(note)}", markup=False)
    console.print()
    console.print(report.sentence, style="bold", markup=False)
    console.print()
    console.print(_plain(report.toml, keep="\n"), end="", markup=False)


def _table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("setting", overflow="fold")
    for heading in (
        "MB/s",
        "from–to",
        "instances/s",
        "CPU s/GB",
        "p50 ms",
        "p99 ms",
        "time saved",
        "±",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in report.figures:
        table.add_row(*_row(one), *_comparison(_effect(report, one)))
    floor = _row(report.floor)
    table.add_row(*floor[:4], "–", *floor[5:], *_comparison(None), style="dim")
    return table


def _effect(report: Report, one: Figures) -> Effect | None:
    if one.trial.name == CONTROL:
        return report.findings.control
    return report.findings.effects.get(one.trial.setting)


def _row(one: Figures) -> list[str]:
    return [
        one.trial.name,
        f"{one.rate / 1e6:.1f}",
        f"{one.size / max(one.seconds) / 1e6:.0f}–{one.size / min(one.seconds) / 1e6:.0f}",
        f"{one.instance_rate:.0f}",
        f"{one.cpu_per_gb:.2f}",
        f"{one.latency(0.5) * 1e3:.2f}",
        f"{one.latency(0.99) * 1e3:.2f}",
    ]


def _comparison(seen: Effect | None) -> tuple[str, str]:
    return ("", "") if seen is None else (percent(seen.saved), percent(seen.noise))


def as_json(report: Report) -> dict[str, Any]:
    """Returns the report for a program."""
    return {
        "material": {
            "name": report.material.name,
            "instances": len(report.material.items),
            "bytes": report.material.size,
            "left_out": report.material.left_out,
        },
        "associations": report.associations,
        "storage": str(report.storage),
        "upstream": "held",
        "seconds": round(report.seconds, 3),
        "trials": [_trial(report, one) for one in report.figures],
        "sender_and_loopback": _numbers(report.floor),
        "sender_and_loopback_share": round(report.findings.floor, 4),
        "bottleneck": report.sentence,
        "advice": [
            {
                "key": one.factor,
                "value": one.value,
                "recommended": not one.traded,
                "why": one.why,
                "gives_up": one.traded or None,
            }
            for one in report.advice
        ],
        "toml": report.toml,
        "failed": [{"name": name, "why": why} for name, why in report.failed],
        "no_time_for": list(report.left_out),
        "notes": list(report.notes),
        "exit_code": report.exit_code,
    }


def _trial(report: Report, one: Figures) -> dict[str, Any]:
    setting = one.trial.setting
    seen = _effect(report, one)
    return {
        "name": one.trial.name,
        "configured": one.trial.name == CONFIGURED,
        "combined": one.trial.name == COMBINED,
        "setting": {
            "skip_hashing": setting.skip_hashing,
            "digest": setting.digest,
            "max_pdu": setting.max_pdu,
            "durability": setting.durability,
            "packers": setting.packers,
        },
        **_numbers(one),
        "cpu_seconds_per_gb": round(one.cpu_per_gb, 3),
        "time_saved": None if seen is None else round(seen.saved, 4),
        "noise": None if seen is None or math.isinf(seen.noise) else round(seen.noise, 4),
    }


def _numbers(one: Figures) -> dict[str, Any]:
    return {
        "rounds": len(one.seconds),
        "megabytes_per_second": round(one.rate / 1e6, 3),
        "megabytes_per_second_lowest": round(one.size / max(one.seconds) / 1e6, 3),
        "megabytes_per_second_highest": round(one.size / min(one.seconds) / 1e6, 3),
        "instances_per_second": round(one.instance_rate, 3),
        "latency_p50_ms": round(one.latency(0.5) * 1e3, 4),
        "latency_p99_ms": round(one.latency(0.99) * 1e3, 4),
    }


def _plain(text: str, keep: str = "") -> str:
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)
