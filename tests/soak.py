"""The mixed load for a chosen time, then the ledger: `make soak SECONDS=600`.

Senders that try again (plain sockets, DCMTK's storescu) feed a gateway before a `fastjmix store`,
while a random process of the gateway is killed every 0.5 to 3 s, now and then all of it. The
upstream knows only Content-Length, and now and then a ticket in outbox/ cannot be read. The mixed
form adds peers that stall, abort and vanish, an upstream that dies and comes back, and (as root) a
disk whose inodes run out. At the end everything is drained, and every instance that was answered
0000 must be at the upstream, byte for byte. Exit 1 when one is not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.support import strange, wire
from tests.support.disks import Disk
from tests.support.gateway import Gateway, Peer, Store, until
from tests.support.hazards import Inodes, LengthOnly, Tickets
from tests.support.ledger import (
    Account,
    Ledger,
    Modality,
    account,
    all_dead,
    drain,
    held_by,
    instances,
)
from tests.support.nightly import by_form

KILL_SECS = (0.5, 3.0)
"""Between two kills."""

DRAIN_SECS = by_form(300.0, 1800.0)
"""For what is left at the end: a child that died often starts again after ten seconds only, and
half an hour of kills leaves tens of thousands of envelopes."""

VICTIMS = ("receiver-0", "receiver-1", "packer-0", "packer-1", "uploader", "api")
STRANGE_PART = 0.3
"""Part of the studies that have instances that are hard to read among them."""

EVERYTHING_PART = 0.1
"""How often it is the supervisor, and with it all of them."""

HAZARD_PART = 0.2
"""How often something is wrong with the spool when a process is killed."""

DISK_BYTES = 40 << 30
INODES_A_SECOND = 200
"""Inodes of the disk of the mixed form; its file is sparse. An envelope takes two inodes."""


class Soak:
    """A gateway that is killed again and again, and started again when all of it is."""

    def __init__(self, directory: Path, seconds: float, seed: int, *, mixed: bool) -> None:
        self.directory = directory
        self.ledger = Ledger()
        self.mixed = mixed
        self.kills: dict[str, int] = {}
        self._random = random.Random(seed)
        self.disk = self._disk(seconds) if mixed and os.geteuid() == 0 else None
        spool = directory / "gateway" / "spool"
        self.tickets, self.inodes = Tickets(spool), Inodes(spool)
        self.store = Store(directory / "upstream")
        self.before_store = LengthOnly(self.store.port)
        self.own = self._start()
        self.ended = threading.Event()
        self.failures: list[BaseException] = []

    def _start(self) -> Gateway:
        return Gateway(
            self.directory / "gateway",
            self.before_store.port,
            fastjmix="receivers = 2\npackers = 2\nlane_bytes = 1048576",
            endpoint="max_associations = 64",
            builder="release_grace_secs = 0.3\nquiet_secs = 5\nmax_envelope_instances = 40",
        )

    def _disk(self, seconds: float) -> Disk:
        """Makes a disk for the spool alone, with few inodes."""
        inodes = str(4000 + int(seconds * INODES_A_SECOND))
        at = self.directory / "gateway" / "spool"
        return Disk(at, "ext4", "-N", inodes, size=DISK_BYTES)

    # -- the killer --------------------------------------------------------------------------

    def kill_at_random(self, until_when: float) -> None:
        while True:
            pause = self._random.uniform(*KILL_SECS)
            if time.monotonic() + pause > until_when:
                return
            time.sleep(pause)  # the load itself
            with self._hazard():
                if self._random.random() < EVERYTHING_PART:
                    self._kill_everything()
                else:
                    self._kill_one(self._random.choice(VICTIMS))
            if self.mixed and self._random.random() < 0.15:
                self._restart_upstream()

    @contextlib.contextmanager
    def _hazard(self) -> Iterator[None]:
        """Makes something wrong with the spool now and then before, while and after a process is
        killed.
        """
        with contextlib.ExitStack() as ending:
            wrong = self._random.random() < HAZARD_PART
            if wrong:
                ending.enter_context(self.tickets.one_unreadable(self._random))
            if wrong and self.disk is not None and self._random.random() < 0.5:
                ending.enter_context(self.inodes.none_free())
            yield
            if wrong:
                time.sleep(self._random.uniform(0.1, 2.0))  # the load meets it

    def _kill_one(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid = self.own.children().get(name)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                self.kills[name] = self.kills.get(name, 0) + 1

    def _kill_everything(self) -> None:
        """The supervisor; its children must follow it, and the next start must work."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children = self.own.children()
            self.own.child.kill()
            self.own.child.wait()
            until(lambda: all_dead(children.values()), "no orphans")
            self.own.close()
            self.own = self._start()
            self.kills["supervisor"] = self.kills.get("supervisor", 0) + 1

    def _restart_upstream(self) -> None:
        port = self.store.port
        self.store.close()
        time.sleep(self._random.uniform(0.2, 2.0))  # an outage
        self.store = Store(self.directory / "upstream", port=port)
        self.kills["upstream"] = self.kills.get("upstream", 0) + 1

    # -- the load ----------------------------------------------------------------------------

    def spawn(self, work: Callable[[random.Random, int], None], number: int) -> threading.Thread:
        def run() -> None:
            try:
                work(random.Random(f"{self._random.random()}"), number)
            except BaseException as problem:
                self.failures.append(problem)

        thread = threading.Thread(target=run, name=f"{work.__name__}-{number}")
        thread.start()
        return thread

    def plain(self, rng: random.Random, number: int) -> None:
        """Studies of 1 to 12 instances over plain sockets, a few larger than their lane; strange
        ones among them (strange.py)."""
        modality = Modality(lambda: self.own.dicom_port, self.ledger, f"PLAIN{number}")
        for study in self._studies(number):
            size = 700_000 if rng.random() < 0.05 else rng.randrange(2_000, 60_000)
            data = instances(study, rng.randrange(1, 13), size, rng)
            if rng.random() < STRANGE_PART:
                data |= strange.instances(study, rng.randrange(1, 4), rng)
            modality.send(data, seconds=DRAIN_SECS, pause=lambda: rng.uniform(0, 0.06))

    def storescu(self, rng: random.Random, number: int) -> None:
        """DCMTK: a directory again and again until every response was 0000 (exit code 0)."""
        for study in self._studies(1000 + number):
            data = instances(study, rng.randrange(2, 20), rng.randrange(2_000, 30_000), rng)
            with tempfile.TemporaryDirectory(dir=self.directory) as folder:
                for uid, one in data.items():
                    self.ledger.sending(uid, one)
                    (Path(folder) / f"{uid}.dcm").write_bytes(part10(uid, one))
                until(partial(self._stored, folder), "storescu succeeds", DRAIN_SECS)
            for uid in data:
                self.ledger.answered(uid)
            self.ended.wait(rng.uniform(0.1, 0.4))

    def _stored(self, folder: str) -> bool:
        command = ["storescu", "+sd", "-to", "5", "-td", "10", "-ta", "10"]
        command += ["-aec", "JMIX_RECEIVER", "127.0.0.1", str(self.own.dicom_port), folder]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        return done.returncode == 0

    def bad(self, rng: random.Random, number: int) -> None:
        """A peer that stalls, aborts, resets or sends slowly, always inside an instance."""
        for study in self._studies(2000 + number):
            uid, data = next(iter(instances(study, 1, 40_000, rng).items()))
            whole = wire.p_data(
                wire.pdvs(1, wire.store_rq(uid), True) + wire.pdvs(1, data, False, [4000] * 20)
            )
            with contextlib.suppress(OSError, EOFError), Peer(self.own.dicom_port, 5) as peer:
                peer.associate(calling=b"BAD")
                self.ledger.sending(uid, data)
                cut = rng.randrange(100, len(whole) - 10)
                for at in range(0, cut, 2000):
                    peer.send(whole[at : min(at + 2000, cut)])
                    if self.ended.wait(rng.uniform(0, 0.05)):
                        break
                end = rng.choice(("stall", "abort", "reset", "fin"))
                if end == "stall":
                    self.ended.wait(rng.uniform(0.5, 3))
                elif end == "abort":
                    peer.send(wire.ABORT)
                elif end == "reset":
                    linger = struct.pack("ii", 1, 0)
                    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.ended.wait(rng.uniform(0.05, 0.3))

    def _studies(self, number: int) -> Iterator[str]:
        count = 0
        while not self.ended.is_set():
            count += 1
            yield f"1.2.826.12.{number}.{count}"

    # -- the end -----------------------------------------------------------------------------

    def finish(self) -> Account:
        """No more kills; senders end their studies, everything is delivered, all stops."""
        drain(self.own, DRAIN_SECS)
        assert self.own.stop() == 0
        everything = self.store.directory.glob("*.zip")
        return account(self.ledger, self.own, held_by(self.store), upstream=everything)

    def close(self) -> None:
        self.ended.set()
        self.own.close()
        self.before_store.close()
        self.store.close()
        if self.disk is not None:
            self.disk.close()


def part10(uid: str, data: bytes) -> bytes:
    """A file for storescu."""
    meta = wire.element(0x00020001, b"OB", b"\0\1") + b"".join(
        wire.element(tag, b"UI", value.encode())
        for tag, value in ((0x00020002, wire.CT), (0x00020003, uid), (0x00020010, wire.EXPLICIT))
    )
    length = wire.element(0x00020000, b"UL", struct.pack("<L", len(meta)))
    return b"\0" * 128 + b"DICM" + length + meta + data


def run(directory: Path, seconds: float, senders: int, *, mixed: bool, seed: int = 0) -> Account:
    """The load for `seconds`, then the ledger. Raises AssertionError when something hangs."""
    seed = seed or random.SystemRandom().randrange(1, 1 << 31)
    print(f"soak: {seconds:g} s, {senders} senders, seed {seed}", flush=True)
    soak = Soak(directory, seconds, seed, mixed=mixed)
    try:
        dcmtk = max(1, senders // 4)
        threads = [soak.spawn(soak.plain, n) for n in range(senders - dcmtk)]
        threads += [soak.spawn(soak.storescu, n) for n in range(dcmtk)]
        threads += [soak.spawn(soak.bad, n) for n in range(senders // 4)] if mixed else []
        soak.kill_at_random(time.monotonic() + seconds)
        soak.ended.set()
        for thread in threads:
            thread.join(DRAIN_SECS)
            assert not thread.is_alive(), f"{thread.name} hangs"
        assert not soak.failures, soak.failures
        print(
            f"soak: kills {soak.kills}; tickets hidden {soak.tickets.hidden}; out of inodes"
            f" {soak.inodes.ran_out}; bodies unread {soak.before_store.unread}",
            flush=True,
        )
        return soak.finish()
    except BaseException:
        print(soak.own.log()[-20000:])
        raise
    finally:
        soak.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--senders", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0, help="0: a new one, which is printed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fastjmix-soak-") as directory:
        found = run(
            Path(directory), options.seconds, options.senders, mixed=True, seed=options.seed
        )
    print(found)
    if not found.clean:
        print(f"soak: FAILED {found!r}")
    return 0 if found.clean else 1


if __name__ == "__main__":
    sys.exit(main())
