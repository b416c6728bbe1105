"""Finds what a person should look at, though the node is ready: the warnings of /readyz.

Guaranteed: each warning is one sentence that says what is wrong, with numbers, and what to do. It
holds no patient's data and no secret, as /readyz asks for no credentials. A look costs little:
envelopes are counted once in a while (spool/tally.py), certificates are read once, and the rest is
in memory. A source that cannot be read is left out; whether the storage can be used is a reason for
not being ready (node_state.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from fastjmix.config import Config
from fastjmix.config.certificates import Expiry, expiries
from fastjmix.errors import printable
from fastjmix.ipc.board_rows import UpstreamRow, ledger_row, supervisor_row, upstream_rows
from fastjmix.ipc.channels import Channels
from fastjmix.spool import FreeSpace
from fastjmix.spool.free_space import Marks
from fastjmix.spool.tally import Tally

NEAR: Final = 2.5
"""Times the soft mark: below this much free space the disk is near its marks. With the defaults a
small disk is that when it is seven eighths full."""

SHOWN_CHARS: Final = 200
"""Characters of a reason that a warning repeats."""

Certificate = tuple[Path, Expiry]
"""A file, and when the certificate in it that counts expires."""


class Notice(NamedTuple):
    """A warning: its kind and its subject, which stay the same while it lasts, and its text."""

    name: str
    subject: str
    text: str


Source = Callable[[], Iterator[Notice]]


class Warnings:
    """The warnings of one node.

    `certificates` are those that were read at the start, or with the latest configuration: the
    processes use these until they get another.
    """

    def __init__(
        self,
        channels: Channels,
        free_space: FreeSpace,
        tally: Tally,
        alarm_secs: float,
        certificates: Sequence[Certificate] = (),
    ) -> None:
        self._channels = channels
        self._free_space = free_space
        self._tally = tally
        self._alarm_secs = alarm_secs
        self._certificates = certificates

    def configure(self, alarm_secs: float, certificates: Sequence[Certificate]) -> None:
        """Goes by another configuration from now on."""
        self._alarm_secs = alarm_secs
        self._certificates = certificates

    def all(self) -> list[str]:
        """Returns the text of every warning. May wait for the disk."""
        return [one.text for one in self.each()]

    def each(self) -> list[Notice]:
        """Returns every warning, those of lost or late images first. May wait for the disk."""
        found: list[Notice] = []
        sources: tuple[Source, ...] = (
            self._rejected,
            self._held,
            self._old,
            self._unrouted,
            self._upstreams,
            self._disk,
            self._certificate_ends,
            self._ledger,
            self._configuration,
        )
        for source in sources:
            with contextlib.suppress(OSError):
                found.extend(source())
        return found

    def _rejected(self) -> Iterator[Notice]:
        count = self._tally.counts()["rejected"]
        if count.count:
            yield Notice(
                "rejected",
                "",
                f"{_are(count.count, 'envelope')} in rejected/, the first {in_words(count.age())}"
                " ago: the .json beside each says why (fastjmix outbox list --rejected); put that "
                "right, then fastjmix outbox requeue",
            )

    def _held(self) -> Iterator[Notice]:
        count = self._tally.counts()["held"]
        if count.count:
            yield Notice(
                "held",
                "",
                f"{_are(count.count, 'envelope')} on hold, the first for {in_words(count.age())}: "
                "fastjmix outbox list --held says by whom and why (or the .hold beside each in "
                "outbox/); fastjmix outbox release --held lets them go",
            )

    def _old(self) -> Iterator[Notice]:
        age = self._tally.counts()["outbox"].age()
        if age > self._alarm_secs:
            yield Notice(
                "queue_is_old",
                "",
                f"the oldest envelope has waited for its upstream for {int(age)} s "
                f"(queue_alarm_secs = {self._alarm_secs:g}): see the upstream's state, and "
                "upload_retry in the log for what it answers",
            )

    def _unrouted(self) -> Iterator[Notice]:
        if count := self._channels.metrics.total("outbox_unrouted"):
            yield Notice(
                "upstream_unknown",
                "",
                f"{_are(count, 'envelope')} for an upstream that is not configured: "
                "upstream_unknown in the log names it; configure one of that name, then fastjmix "
                "reload",
            )

    def _upstreams(self) -> Iterator[Notice]:
        known = upstream_rows(self._channels.board)
        for one in known:
            if one.get("state") in ("paused", "held"):
                yield Notice(f"upstream_{one['state']}", _shown(one.get("name")), _upstream(one))
        held = self._channels.metrics.total("upstreams_held")
        if held and not known:
            yield Notice(
                "upstream_held",
                "",
                f"{_are(held, 'upstream')} on hold: upstream_held in the log says why; correct the "
                "credentials, the URL or the upstream",
            )

    def _disk(self) -> Iterator[Notice]:
        found = self._free_space.measured()
        if found.free < NEAR * found.marks.soft:
            state = space(found.free, found.total, found.marks)
            yield Notice("disk_space", "", f"the storage fills up: {state}; {TO_DO}")
        marks = found.inode_marks
        if marks is not None and found.free_inodes < NEAR * marks.soft:
            yield Notice(
                "disk_inodes",
                "",
                f"the storage runs out of inodes: {found.free_inodes} of {found.total_inodes} are "
                f"free, below {marks.soft} no association is accepted, below {marks.hard} no file "
                f"is made; {TO_DO}",
            )

    def _certificate_ends(self) -> Iterator[Notice]:
        for path, expiry in self._certificates:
            if expiry.soon():
                words = f"{path}: {expiry.words()}: replace it, then fastjmix reload"
                yield Notice("certificate", str(path), words)

    def _configuration(self) -> Iterator[Notice]:
        row = supervisor_row(self._channels.board)
        if row is None:
            return
        if row["refused"] is not None:
            faults = "; ".join(row["refused"]["faults"])
            kept = f"that of generation {row['generation']} stays in force"
            to_do = "put that right, then fastjmix reload"
            text = f"the configuration was refused, {kept}: {printable(faults)}; {to_do}"
            yield Notice("configuration_refused", "", text)
        if row["needs_restart"]:
            keys = ", ".join(row["needs_restart"])
            text = f"changed, and without effect before a restart: {keys}"
            yield Notice("needs_restart", "", text)
        if row["late"]:
            text = f"not by the new configuration yet: {', '.join(row['late'])}"
            yield Notice("configuration_late", "", text)

    def _ledger(self) -> Iterator[Notice]:
        row = ledger_row(self._channels.board)
        if row is not None and row["state"] != "ok":
            yield Notice(
                "ledger",
                "",
                f"the ledger is {_shown(row['state'])}: {_shown(row.get('why'))}; images are taken "
                "and delivered all the same, searches may miss the newest; look at the disk under "
                "ledger/, and at the log",
            )


TO_DO: Final = "free some, give it a larger disk, or shorten retention"


def space(free: int, total: int, marks: Marks) -> str:
    """Returns how much is free, and where the marks are, in GB and percent of the disk."""
    return (
        f"{_share(free, total)} free of {total / 1e9:.1f} GB, below {_share(marks.soft, total)} no "
        f"association is accepted, below {_share(marks.hard, total)} no instance"
    )


def _share(size: int, total: int) -> str:
    return f"{size / 1e9:.1f} GB ({100 * size / max(total, 1):.1f} %)"


def _upstream(row: UpstreamRow) -> str:
    """Returns the warning about an upstream that is paused or held, by its row of the board."""
    name, state = _shown(row.get("name")), row["state"]
    why = _shown(row.get("reason")) or "the log says why"
    waiting = row.get("waiting") or 0
    if state == "held":
        to_do = "correct its credentials, its URL or what answers there"
    else:
        to_do = "see whether it runs and can be reached"
    return (
        f"upstream {name} is {'on hold' if state == 'held' else 'paused'}, {waiting} wait for it: "
        f"{why}; {to_do}; it is tried again by itself, or now with fastjmix outbox retry"
    )


def _shown(text: object) -> str:
    return printable(str(text or "")[:SHOWN_CHARS])


def _are(count: int, thing: str) -> str:
    return f"1 {thing} is" if count == 1 else f"{count} {thing}s are"


def in_words(secs: float) -> str:
    """Returns a time in its largest unit."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if secs >= 2 * size:
            return f"{int(secs / size)} {unit}"
    return f"{int(secs)} s"


def certificates_of(config: Config) -> list[Certificate]:
    """Returns the certificates of a configuration: of each HTTP listener its own or the one of its
    chain that expires first, of each upstream the authority that expires last."""
    listeners = dict.fromkeys(one.cert_file for one in config.http)
    upstreams = [to for one in config.listeners for to in one.every_upstream]
    authorities = dict.fromkeys(one.ca_file for one in upstreams)
    own = [(path, one) for path in listeners if path for one in expiries(path)[:1]]
    return own + [(path, one) for path in authorities if path for one in expiries(path)[-1:]]
