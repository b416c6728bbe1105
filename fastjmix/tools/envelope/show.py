"""Summaries and reports for a person at a terminal, and reports for a program.

Guaranteed: each fault is on one line, to be found with grep; text out of an envelope is shown
without markup and control characters, so that it cannot pass for something else.
Still wrong: all series are shown, however many.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from fastjmix.errors import printable
from fastjmix.jmix.faults import escaped
from fastjmix.jmix.read.report import Finding, Report
from fastjmix.tools.plain_text import many


def size(count: int) -> str:
    """Returns bytes as a person reads them."""
    value, unit = float(count), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{count} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


def tree(summary: Mapping[str, Any], console: Console) -> None:
    """Prints a summary as summary.py returns it."""
    container = summary["container"]
    top = Tree(_line("envelope", summary["id"] or "without an id"))
    where = f"in the top folder {container['top_folder']}" if container["top_folder"] else ""
    top.add(_line("profile", f"{summary['profile']}, version {summary['version']}"))
    top.add(_line(container["kind"], f"{size(container['size_bytes'])} {where}".rstrip()))
    members = many(summary["members"], "member")
    if summary["encryption"] is None:
        count = f"{members}, {many(summary['instances'], 'instance')}"
        top.add(_line("payload", f"{size(summary['payload_bytes'])}; {count}"))
    else:
        top.add(_line("payload", f"encrypted; {members}"))
    for key in ("timestamp", "classification"):
        if summary.get(key):
            top.add(_line(key, summary[key]))
    for role in ("sender", "requester"):
        if role in summary:
            _entity(top, role, summary[role])
    for receiver in summary.get("receivers", ()):
        _entity(top, "receiver", receiver)
    _security(top, summary)
    for key, value in summary.get("extensions", {}).items():
        top.add(_line(escaped(str(key)), value))
    if "patient" in summary:
        top.add(_line("patient", _patient(summary["patient"])))
    for study in summary.get("studies", ()):
        _study(top, study)
    _audit(top, summary["audit"])
    for problem in summary["problems"]:
        top.add(Text(printable(problem), style="red"))
    console.print(top)


def _line(label: str, value: object) -> Text:
    text = Text(f"{label}: ", style="bold")
    text.append(printable(value), style="not bold")
    return text


def _entity(top: Tree, role: str, entity: Mapping[str, Any]) -> None:
    shown = [str(entity[key]) for key in ("id", "name", "contact") if key in entity]
    branch = top.add(_line(role, ", ".join(shown)))
    assertion = entity.get("assertion")
    if assertion:
        until = f", until {assertion['expires_at']}" if assertion["expires_at"] else ""
        branch.add(_line("assertion by", f"{assertion['fingerprint']}{until}"))


def _security(top: Tree, summary: Mapping[str, Any]) -> None:
    top.add(_line("payload hash", summary["payload_hash"] or "none"))
    top.add(_line("signature", summary["signature"] or "none"))
    encryption = summary["encryption"]
    if encryption is None:
        top.add(_line("encryption", "none"))
    else:
        held = encryption["size_bytes"]
        what = f"{encryption['file']}, {size(held)}" if held is not None else "its file is missing"
        top.add(_line("encryption", f"{encryption['algorithm']}: {what}"))


def _patient(patient: Mapping[str, Any]) -> str:
    name = patient.get("name")
    text = name.get("text") if isinstance(name, dict) else name
    shown = [text, patient.get("id"), patient.get("dob"), patient.get("sex")]
    return ", ".join(str(one) for one in shown if one)


def _study(top: Tree, study: Mapping[str, Any]) -> None:
    keys = ("patient_name", "study_date", "study_description", "description", "modality")
    shown = [str(study[key]) for key in keys if key in study]
    branch = top.add(_line("study", ", ".join([str(study["study_uid"]), *shown])))
    for series in study["series"]:
        more = [str(series[key]) for key in ("body_part", "description") if key in series]
        count = "" if series["instances"] is None else many(series["instances"], "instance")
        held = size(series["size_bytes"]) if "size_bytes" in series else ""
        number = f"series {series['series_number']}" if "series_number" in series else "series"
        parts = [str(series.get("series_uid", "")), str(series.get("modality", "")), *more]
        branch.add(_line(number, ", ".join(p for p in [*parts, count, held] if p)))


def _audit(top: Tree, entries: list[Any]) -> None:
    if not entries:
        return
    branch = top.add(Text("audit", style="bold"))
    for entry in entries:
        if isinstance(entry, dict):
            by = entry.get("by")
            who = by.get("id") if isinstance(by, dict) else by
            branch.add(_line(str(entry.get("event")), f"{entry.get('timestamp')} by {who}"))


def verdict(report: Report, name: str, console: Console) -> None:
    """Prints every fault and remark, then the verdict."""
    for fault in report.faults:
        console.print(_finding("fault", fault), style="red", markup=False)
        if fault.hint:
            console.print(f"       {fault.hint}", markup=False)
    if report.more_faults:
        console.print(f"and {many(report.more_faults, 'more fault')}", style="red", markup=False)
    for remark in report.remarks:
        console.print(_finding("remark", remark), markup=False)
    if report.more_remarks:
        console.print(f"and {many(report.more_remarks, 'more remark')}", markup=False)
    for one in report.signatures:
        if one.ok:
            until = f", until {one.expires_at}" if one.expires_at else ""
            line = f"signed  {one.what}: by {one.fingerprint}{until}"
            console.print(printable(line), markup=False)
    if report.ok:
        console.print(printable(f"{name}: {_proved(report)}"), style="green", markup=False)
    else:
        line = f"{name}: not valid: {many(len(report.faults) + report.more_faults, 'fault')}"
        console.print(printable(line), style="bold red", markup=False)


def _finding(kind: str, found: Finding) -> str:
    return printable(f"{kind:7} {found}")


def _proved(report: Report) -> str:
    parts = [
        f"valid: {report.profile} {report.id}",
        many(report.members, "member"),
        f"payload hash {report.payload_hash}",
    ]
    if not report.encrypted or report.decrypted:
        listed = f"{report.hashes} listed hash{'es' if report.hashes != 1 else ''} right"
        parts[2:2] = [many(report.instances, "instance"), listed]
    if report.encrypted:
        parts.append("decrypted" if report.decrypted else "encrypted, not looked into")
    return ", ".join(parts)


def as_json(report: Report, name: str) -> dict[str, Any]:
    """Returns the report for a program."""

    def finding(one: Finding) -> dict[str, Any]:
        return {"where": one.where, "what": one.what, "byte": one.at, "hint": one.hint or None}

    return {
        "source": name,
        "ok": report.ok,
        "id": report.id or None,
        "profile": report.profile or None,
        "studies": list(report.studies),
        "members": report.members,
        "instances": report.instances,
        "bytes_read": report.bytes_read,
        "listed_hashes": report.hashes,
        "payload_hash": report.payload_hash,
        "encrypted": report.encrypted,
        "decrypted": report.decrypted,
        "faults": [finding(one) for one in report.faults],
        "remarks": [finding(one) for one in report.remarks],
        "more_faults": report.more_faults,
        "more_remarks": report.more_remarks,
        "signatures": [one._asdict() for one in report.signatures],
    }
