"""The output of the demonstration."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from fastjmix.spool import Ticket
from fastjmix.tools import send
from fastjmix.tools.demo.derivation import near

MEMBERS_SHOWN: Final = 12
"""Members of an archive that are listed."""


def heading(console: Console, number: str, title: str, text: str) -> None:
    """Prints the heading of a step."""
    console.print(f"\n[bold cyan]{number}[/]  [bold]{title}[/]: ", end="")
    console.print(text, markup=False)


def show_changes(console: Console, changes: str) -> None:
    """Prints the difference between the given configuration and the derived one."""
    console.print("   its configuration is the one given, with the addresses of this run:")
    for line in changes.splitlines():
        if not line.startswith("@@"):
            style = {"+": "green", "-": "red"}.get(line[0], "")
            bold = " bold" if line.startswith(("+++", "---")) else ""
            console.print(f"   {line}", style=style + bold or None, markup=False)


def show_delivery(
    console: Console, directory: Path, report: send.Report, tickets: Sequence[Ticket]
) -> None:
    """Prints the delivered envelopes, and the members of the largest."""
    instances = sum(ticket.instances for ticket in tickets)
    total = sum(ticket.size_bytes for ticket in tickets)
    heading(
        console,
        "4",
        "Delivered",
        f"{len(tickets)} envelopes, one for each study: {instances} instances, {size(total)}",
    )
    console.print(_table(tickets))
    if instances < len(report.accepted):
        twice = len(report.accepted) - instances
        console.print(
            f"   instances that came twice, with the same bytes, and are kept once: {twice}"
        )
    largest = max(tickets, key=lambda ticket: ticket.instances)
    show_members(console, directory / "store" / f"{largest.id}.zip")
    console.print(f"\nEverything has stopped. The envelopes stay in {near(directory / 'store')}.")


def _table(tickets: Sequence[Ticket]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("   envelope")
    table.add_column("instances", justify="right")
    table.add_column("bytes", justify="right")
    table.add_column("the store's answer")
    for ticket in tickets:
        answer = str((ticket.receipt or {}).get("status", "?"))
        table.add_row(f"   {ticket.id}", str(ticket.instances), str(ticket.size_bytes), answer)
    return table


def show_members(console: Console, archive: Path) -> None:
    """Prints the first members of an archive."""
    heading(console, "5", "Inside", near(archive))
    with zipfile.ZipFile(archive) as envelope:
        members = envelope.infolist()
    for member in members[:MEMBERS_SHOWN]:
        console.print(f"   {member.file_size:>9}  {member.filename}", markup=False)
    if len(members) > MEMBERS_SHOWN:
        console.print(f"              and {len(members) - MEMBERS_SHOWN} more")


def size(count: int) -> str:
    """Returns bytes as a person reads them."""
    return f"{count / 1e6:.1f} MB"
