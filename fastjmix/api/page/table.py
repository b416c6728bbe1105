"""Shows the node's status as tables in HTML, for a browser without JavaScript.

Guaranteed: every text is escaped, control characters and those that change the direction of text
are shown by their numbers, and no text is longer than SHOWN characters. It takes the status as it
is over HTTP (/api/node/status), and shows what is there: no number is needed.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

from fastjmix.spool.at_upstreams import in_words

SHOWN: Final = 200
"""Characters of a text that are shown."""

UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories (Unicode §4.5) that are shown by number: controls, directions, half characters."""

UNITS: Final = ("B", "kB", "MB", "GB", "TB")

STATES: Final = {
    "building": "building",
    "outbox": "waiting",
    "held": "held",
    "rejected": "rejected",
    "sent": "sent",
}

Given = Mapping[str, Any]
Columns = Sequence[tuple[str, str]]

ASSOCIATION: Final[Columns] = (
    ("Calling AE", "calling_ae"),
    ("Called AE", "called_ae"),
    ("Address", "peer"),
    ("MB/s", "mb_per_second"),
    ("Instances", "instances"),
    ("Waits for", "waits_for"),
)
ENVELOPE: Final[Columns] = (
    ("Envelope", "id"),
    ("State", "state"),
    ("Why", "reason"),
    ("Age", "age"),
    ("Study", "study"),
    ("Calling AE", "calling_ae"),
    ("Upstream", "upstream"),
    ("Size", "size"),
)
UPSTREAM: Final[Columns] = (
    ("Name", "name"),
    ("State", "state"),
    ("Why", "reason"),
    ("Waiting", "waiting"),
    ("Held", "held"),
    ("Address", "url"),
)
FAILURE: Final[Columns] = (("Time", "time"), ("Error", "text"), ("What to do", "what_to_do"))


def status_tables(status: Given) -> str:
    """Returns HTML: the node's state, and a table for each part of its status."""
    node = status.get("node", {})
    counts = status.get("envelopes", {})
    listed = [
        {
            **row,
            "age": age(row.get("age_secs")),
            "size": size(row.get("bytes")),
            "upstream": in_words(row.get("at_upstreams", ())) or row.get("upstream"),
        }
        for row in counts.get("listed", ())
    ]
    failures = [{**row, "time": moment(row.get("at"))} for row in status.get("errors", ())]
    return "\n".join(
        [
            f"<h2>{shown(node.get('name'))}: {shown(node.get('state'))}</h2>",
            f"<p>As of {moment(node.get('now'))}. Load the page again for newer numbers.</p>",
            _lines([*node.get("reasons", ()), *node.get("warnings", ())]),
            _table("Associations", ASSOCIATION, status.get("associations", ())),
            _table("Envelopes by state", (("State", "state"), ("Number", "count"), ("Size", "size"),
                                          ("Oldest", "oldest")), _counted(counts)),
            _table("Envelopes", ENVELOPE, listed),
            _table("Upstreams", UPSTREAM, status.get("upstreams", ())),
            f"<p>{_disk(status.get('disk'))}</p>",
            _table("Last errors", FAILURE, failures),
        ]
    )  # fmt: skip


def shown(text: object, most: int = SHOWN) -> str:
    """Returns a text as HTML: escaped, bounded, and isolated from the direction around it."""
    if text is None:
        return ""
    whole = str(text)
    visible = "".join(
        f"⟨U+{ord(one):04X}⟩" if unicodedata.category(one) in UNSEEN else one
        for one in whole[:most]
    )
    left = f"… ({len(whole)} characters)" if len(whole) > most else ""
    return f"<bdi>{escape(visible)}</bdi>{left}"


def size(count: float | None) -> str:
    """Returns bytes in a unit that a person reads; "" for an unknown number."""
    if count is None:
        return ""
    left, unit = float(count), 0
    while left >= 1000 and unit < len(UNITS) - 1:
        left, unit = left / 1000, unit + 1
    return f"{left:.0f} {UNITS[unit]}" if unit == 0 or left >= 100 else f"{left:.1f} {UNITS[unit]}"


def age(secs: float | None) -> str:
    """Returns seconds in words; "" for an unknown number."""
    if secs is None:
        return ""
    whole = max(0, int(secs))
    for unit, below, length in (("d", "h", 86400), ("h", "min", 3600), ("min", "s", 60)):
        if whole >= length:
            smaller = {"h": 3600, "min": 60, "s": 1}[below]
            return f"{whole // length} {unit} {whole % length // smaller} {below}"
    return f"{whole} s"


def moment(at: float | None) -> str:
    """Returns a time in UTC; "" for an unknown one."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at)) if at else ""


def _counted(counts: Given) -> Iterable[Given]:
    for state, name in STATES.items():
        row = counts.get(state) or {}
        yield {
            "state": name,
            "count": row.get("count"),
            "size": size(row.get("bytes")),
            "oldest": age(row.get("oldest_secs")) if row.get("count") else "",
        }


def _disk(disk: Given | None) -> str:
    if not disk:
        return "The disk cannot be read."
    free, total = size(disk.get("free_bytes")), size(disk.get("total_bytes"))
    soft, hard = size(disk.get("soft_mark_bytes")), size(disk.get("hard_mark_bytes"))
    return (
        f"Disk: {free} of {total} free; new associations are rejected below {soft}, images are"
        f" refused below {hard}."
    )


def _lines(lines: Sequence[object]) -> str:
    if not lines:
        return ""
    return "<ul>" + "".join(f"<li>{shown(line, 500)}</li>" for line in lines) + "</ul>"


def _table(caption: str, columns: Columns, rows: Iterable[Given]) -> str:
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title, _ in columns)
    body = "".join(_row(columns, row) for row in rows)
    body = body or f'<tr><td colspan="{len(columns)}">None</td></tr>'
    return (
        f'<h3>{escape(caption)}</h3><div class="scroll" role="region" tabindex="0"'
        f' aria-label="{escape(caption)}, table"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(columns: Columns, row: Given) -> str:
    (_, first), *others = columns
    cells = "".join(f"<td>{shown(row.get(key))}</td>" for _, key in others)
    return f'<tr><th scope="row">{shown(row.get(first))}</th>{cells}</tr>'
