"""The power fails while instances arrive: what was acknowledged is there afterwards, whole."""

from __future__ import annotations

import random
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastjmix.packer.recovery import recover
from fastjmix.spool import Spool
from tests.support.disks import Disk, Ledger, Strace, child, opened, sending, settled, together
from tests.support.gateway import Gateway, Store, running
from tests.support.ledger import drain, same
from tests.support.nightly import by_form
from tests.support.torn import CALLS, Recording, cuts

CUTS = by_form(10, 100)
"""On each of two file systems; half of them while envelopes are uploaded."""

SENDERS = 3
STEADY = "release_grace_secs = 0.05\nmax_envelope_instances = 6\nquiet_secs = 1.0"


class Site:
    """A gateway on a disk of its own; its upstream, if it has one, is another machine."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.disk = Disk(directory / "spool", kind)
        self.own: Gateway | None = None
        self.store: Store | None = None
        self.builder = STEADY

    def start(self) -> Gateway:
        parts: dict[str, Any] = {"builder": self.builder, "storage": "soft_reserve_bytes = 0"}
        upstream = 9 if self.store is None else self.store.port
        self.own = Gateway(self.disk.at.parent, upstream, **parts)
        return self.own

    def goes_live(self) -> None:
        """From now on there is an upstream."""
        assert self.own is not None
        assert self.own.stop() == 0
        self.own.close()
        self.store = Store(self.disk.at.parent.parent / "upstream", "--verify-hashes")
        self.start()

    def cut_while_receiving(self, ledger: Ledger, more: int) -> list[Path]:
        """Senders send; at an acknowledgement nobody chose the power fails, and all processes end.

        The envelopes that are there after a restart: in outbox/, or at the upstream.
        """
        own = self.own or self.start()
        stop = threading.Event()
        ledger.dark = False
        senders = [sending(own, ledger, stop, number) for number in range(SENDERS)]
        ledger.wait_promised(len(ledger.promised) + more)
        with ledger.changed:
            ledger.dark = True
        self.disk.cut()
        stop.set()
        own.close()
        for sender in senders:
            sender.join(30)
        self.disk.unmount()
        self.disk.mount()
        return self.found(self.start())

    def found(self, own: Gateway) -> list[Path]:
        """Returns what a recovered gateway makes of what the disk has kept."""
        archives = settled(own)
        if self.store is None:
            return archives
        drain(own)
        held = sorted(self.store.directory.glob("*.zip"))
        names = {archive.name for archive in held}
        for archive in own.envelopes("sent"):  # its receipt says that the upstream has it
            assert archive.name in names, f"{archive.name} was not delivered"
            assert same(archive, self.store.directory / archive.name), f"{archive.name} differs"
        assert not own.envelopes("rejected")
        return held

    def take_away(self) -> None:
        """Deletes what was checked, so that the small disk is never full."""
        assert self.own is not None
        for state in ("outbox", "sent"):
            for archive in self.own.envelopes(state):
                archive.with_suffix(".json").unlink()
                archive.unlink()
        if self.store is not None:
            for archive in self.store.directory.glob("*.zip"):
                archive.unlink()

    def close(self) -> None:
        for process in (self.own, self.store):
            if process is not None:
                process.close()
                print(process.log()[-6000:])
        self.disk.close()


@pytest.fixture
def site_on(tmp_path: Path) -> Iterator[Callable[[str], Site]]:
    made: list[Site] = []

    def one(kind: str) -> Site:
        made.append(Site(tmp_path / "own", kind))
        return made[0]

    yield one
    for site in made:
        site.close()


def keeps_its_promises(site: Site) -> None:
    ledger, heard = Ledger(), 0
    for number in range(CUTS):
        if number == CUTS // 2:
            site.goes_live()
        archives = site.cut_while_receiving(ledger, random.randint(1, 25))
        ledger.check(archives)
        assert site.own is not None
        assert "member_damaged" not in site.own.log()
        heard += len(ledger.promised)
        ledger.promised.clear()
        site.take_away()
    assert heard >= CUTS


@pytest.mark.fault("F16")
@pytest.mark.once
@pytest.mark.timeout(by_form(120, 3600))
@pytest.mark.usefixtures("seed")
def test_power_cuts_on_ext4(site_on: Callable[[str], Site]) -> None:
    keeps_its_promises(site_on("ext4"))


@pytest.mark.fault("F17")
@pytest.mark.once
@pytest.mark.timeout(by_form(120, 3600))
@pytest.mark.usefixtures("seed")
def test_power_cuts_on_xfs(site_on: Callable[[str], Site]) -> None:
    keeps_its_promises(site_on("xfs"))


def loses_something(site: Site) -> None:
    """The negative control: page-cache promises less, and this is how much less."""
    site.builder += '\ndurability = "page-cache"'
    ledger, lost = Ledger(), 0
    for _ in range(by_form(2, 10)):
        archives = site.cut_while_receiving(ledger, 10)
        try:
            ledger.check(archives)
        except AssertionError as problem:
            assert "acknowledged and lost" in str(problem)  # noqa: PT017
            lost += 1
        ledger.promised.clear()
        site.take_away()
    assert lost


@pytest.mark.fault("F16")
@pytest.mark.usefixtures("seed")
def test_without_syncs_the_same_test_fails_on_ext4(site_on: Callable[[str], Site]) -> None:
    loses_something(site_on("ext4"))


@pytest.mark.fault("F17")
@pytest.mark.usefixtures("seed")
def test_without_syncs_the_same_test_fails_on_xfs(site_on: Callable[[str], Site]) -> None:
    loses_something(site_on("xfs"))


@pytest.mark.fault("F18")
@pytest.mark.once
@pytest.mark.usefixtures("seed")
def test_torn_and_reordered_writes(tmp_path: Path) -> None:
    """Whatever a disk may have written between two barriers: recovery finds what was promised."""
    own, ledger = Gateway(tmp_path / "own", 9, builder=STEADY), Ledger()
    with running(own):
        options = ["-e", f"trace={CALLS}", "-xx", "-s", "65536"]
        with Strace(tmp_path / "trace", *options, pids=[child(own, "packer-0")]) as trace:

            def send(number: int) -> None:
                with opened(own) as peer:
                    for _ in range(4):
                        assert ledger.store(peer, f"1.2.3.{number // 3}", 600) == 0

            together(send, 6)
            settled(own)
    assert lost_in(trace, own.spool, tmp_path / "after", ledger, by_form(6, 200)) == 0
    assert set(ledger.sent) == set(ledger.promised)
    # the negative control: a disk on which fdatasync does nothing
    assert lost_in(trace, own.spool, tmp_path / "lied", ledger, 1, barriers=False) > 0


def lost_in(
    trace: Strace, spool: Path, root: Path, ledger: Ledger, most: int, *, barriers: bool = True
) -> int:
    """Counts the states, `most` at each call, in which the run would have lost a promise."""
    recording = Recording(trace.lines(), spool, barriers=barriers)
    seen = lost = 0
    for disk in recording.states():
        ledger.promised = {uid: ledger.sent[uid] for uid in recording.promised}
        for names, missing, torn in cuts(disk, most):
            one = Spool(root, durable=False)
            one.prepare()
            disk.make(root, names, missing, torn)
            try:
                recovered(one)
            except OSError:
                if barriers:
                    raise
                lost += 1  # a ticket of zeros has the name of the one that is to be written
            try:
                ledger.check(sorted(one.outbox.glob("*.zip")))
            except (AssertionError, ValueError, zipfile.BadZipFile) as problem:
                print(problem)
                lost += 1
            shutil.rmtree(root)
            seen += 1
    assert seen > 50 * most
    return lost


def recovered(spool: Spool) -> None:
    """A start, as supervisor and packer make it."""
    spool.release()
    spool.prepare()
    for leftover in spool.drafts.leftovers():
        fresh = recover(spool, leftover, "packer-0").fresh
        if fresh is not None:
            recover(spool, fresh, "packer-0")
    assert not list(spool.building.iterdir())
    spool.release()
