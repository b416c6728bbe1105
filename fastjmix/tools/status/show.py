"""Shows a status as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastjmix.control.node_status import (
    AdvisedError,
    DiskFacts,
    EnvelopeParts,
    LedgerFacts,
    NodeFacts,
    NodeStatus,
    RateSeries,
    RejectionFacts,
)
from fastjmix.errors import printable
from fastjmix.ipc.board_rows import SupervisorRow, UpstreamRow
from fastjmix.spool.at_upstreams import in_words
from fastjmix.spool.selection import EnvelopeFacts
from fastjmix.tools.plain_text import age, many, moment, size, table


def lines(status: NodeStatus) -> Iterator[str]:
    """Yields the lines of a status: what is wrong first."""
    yield from _node(status["node"])
    yield from _envelopes(status["envelopes"])
    yield from _upstreams(status["upstreams"], status["node"]["now"])
    yield from _associations(status)
    yield from _rates(status["rates"])
    yield from _disk(status["disk"])
    yield from _ledger(status["ledger"])
    yield from _rejections(status["rejections"])
    yield from _errors(status["errors"])


def _node(node: NodeFacts) -> Iterator[str]:
    about = f"fastjmix {node['version']}"
    if node["pid"] is not None and node["started"] is not None:
        about += f", pid {node['pid']}, up {age(node['now'] - node['started'])}"
    yield printable(f"{node['name'] or 'node'}: {node['state']} ({about}, {moment(node['now'])})")
    yield from _configuration(node["configuration"])
    for kind in ("reasons", "warnings"):
        for text in node[kind]:
            yield printable(f"  {'!' if kind == 'reasons' else 'warning:'} {text}")


def _configuration(row: SupervisorRow | None) -> Iterator[str]:
    """Yields by which configuration the node goes, and every fault of the one that it refused."""
    if row is None:
        return
    since = moment(row["configured_at"])
    yield printable(f"configuration: generation {row['generation']}, since {since}")
    refused = row["refused"]
    if refused is not None:
        yield printable(f"  ! refused at {moment(refused['at'])}, so the one before it stays:")
        yield from (printable(f"    {fault}") for fault in refused["faults"])


def _envelopes(envelopes: EnvelopeParts) -> Iterator[str]:
    yield "envelopes"
    found = [
        ("building", envelopes["building"]),
        ("outbox", envelopes["outbox"]),
        ("held", envelopes["held"]),
        ("rejected", envelopes["rejected"]),
        ("sent", envelopes["sent"]),
    ]
    yield from table(
        [
            (f"  {state}", _or(one["count"]), size(one["bytes"]), age(one["oldest_secs"]))
            for state, one in found
        ],
        ("  state", "number", "size", "oldest"),
    )
    yield from (f"  {line}" for line in envelope_table(envelopes["listed"]))


def envelope_table(rows: Sequence[EnvelopeFacts]) -> Iterator[str]:
    """Yields the lines of a table of envelopes; none without any."""
    head = ("id", "state", "age", "instances", "size", "from", "to", "study", "reason")
    yield from table(
        [
            (
                row["id"],
                row["state"],
                age(row["age_secs"]),
                _or(row["instances"]),
                size(row["bytes"]),
                row["calling_ae"] or "-",
                in_words(row["at_upstreams"]) or row["upstream"] or "-",
                row["study"] or "-",
                row["reason"] or "-",
            )
            for row in rows
        ],
        head,
    )


def _upstreams(upstreams: Sequence[UpstreamRow], now: float) -> Iterator[str]:
    if upstreams:
        yield "upstreams"
    for one in upstreams:
        about = f"  {one['name']}: {one['state']} since {moment(one['since'])}"
        about += (
            f", {many(one['waiting'], 'envelope')} waiting, {one['running']} being sent,"
            f" {one['held']} held by a person"
        )
        if one["next_try"]:
            about += f", next try in {age(max(0.0, one['next_try'] - now))}"
        yield printable(about)
        most = one.get("max_envelope_bytes")
        if most is not None:
            yield f"    takes envelopes of {most} bytes at most (max_envelope_bytes): see its 413"
        answer = one["last_answer"]
        if one["reason"] and (answer is None or answer["reason"] != one["reason"]):
            yield printable(f"    {one['reason']}")
        if answer is not None:
            status = f"HTTP {answer['status']}" if answer["status"] else "no answer"
            said = f"; it said: {answer['answer']}" if answer.get("answer") else ""
            told = f"    {moment(answer['at'])} {status} {answer['reason']}".rstrip()
            yield printable(told + said)


def _associations(status: NodeStatus) -> Iterator[str]:
    lanes = status["lanes"]
    if not lanes["total"]:
        return
    yield f"associations: {lanes['leased']} of {lanes['total']}, {lanes['stalled']} stalled"
    rows = [
        (
            f"  {one['calling_ae']}",
            one["peer"],
            f"{one['mb_per_second']:.1f} MB/s",
            size(one["bytes"]),
            one["instances"],
            age(status["node"]["now"] - one["began"]) if one["began"] else "-",
            one["waits_for"],
        )
        for one in status["associations"]
    ]
    yield from table(
        rows, ("  calling AE", "peer", "speed", "bytes", "instances", "age", "waits for")
    )


def _rates(rates: RateSeries | None) -> Iterator[str]:
    if rates is None:
        return
    secs = rates["step_secs"]
    instances, envelopes = sum(rates["received_instances"]), sum(rates["delivered_envelopes"])
    received = many(int(instances), "instance")
    if discarded := sum(rates["discarded_instances"]):
        received += f", of which rules discarded {int(discarded)}"
    yield _rate("received", rates["received_mb"], secs, received)
    yield _rate("delivered", rates["delivered_mb"], secs, many(int(envelopes), "envelope"))


def _rate(name: str, megabytes: Sequence[float], step_secs: float, number: str) -> str:
    latest = megabytes[-12:]
    speed = sum(latest) / (step_secs * len(latest)) if latest else 0.0
    return (
        f"{name}: {speed:.1f} MB/s in the last minute; in the last hour"
        f" {size(sum(megabytes) * 1e6)}, {number}"
    )


def _disk(disk: DiskFacts | None) -> Iterator[str]:
    if disk is None:
        yield "disk: cannot be read"
        return
    text = f"disk: {size(disk['free_bytes'])} of {size(disk['total_bytes'])} free"
    if disk.get("soft_mark_bytes") is not None:
        text += f", marks {size(disk['soft_mark_bytes'])} and {size(disk['hard_mark_bytes'])}"
    yield text


def _ledger(ledger: LedgerFacts) -> Iterator[str]:
    why = f": {ledger['why']}" if ledger.get("why") else ""
    yield printable(f"ledger: {ledger.get('state', 'begins')}, {size(ledger.get('bytes'))}{why}")


def _rejections(rejections: Sequence[RejectionFacts]) -> Iterator[str]:
    if rejections:
        yield "associations that were rejected, the latest first"
    rows = [
        (f"  {moment(r['last'])}", many(r["times"], "time"), r["calling_ae"], r["peer"],
         r["called_ae"], r["why"])
        for r in rejections
    ]  # fmt: skip
    yield from table(rows, ("  last", "how often", "calling AE", "peer", "called AE", "why"))


def _errors(errors: Sequence[AdvisedError]) -> Iterator[str]:
    if errors:
        yield "errors"
    for one in errors:
        times = f" ({one['times']} times)" if one["times"] > 1 else ""
        yield printable(f"  {moment(one['last'])} {one['process']} {one['text']}{times}")
        yield f"    {one['what_to_do']}"


def _or(value: object) -> object:
    return "-" if value is None else value
