"""Instances that were sent, answered 0000, and delivered: the oracle of the fault tests.

Ledger       every instance that was sent, and those whose response was 0000
Modality     a sender on a plain socket that keeps what was not answered 0000, and sends it again
drain        waits until nothing is on its way; check(…) then compares the three
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import strange, wire
from tests.support.gateway import PATIENCE, Gateway, Peer, Store, images, until

PIXELS = random.Random(42).randbytes(8 << 20)
"""Noise that data sets take their pixels from."""


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def instances(
    study: str, count: int, size: int = 3000, rng: random.Random | None = None
) -> dict[str, bytes]:
    """SOP Instance UID → data set, of one study; the UIDs begin with the study's."""
    rng = rng or random.Random(study)
    found = {}
    for number in range(1, count + 1):
        uid = f"{study}.{number}"
        at = rng.randrange(len(PIXELS) - size)
        found[uid] = wire.data_set(
            uid, study=study, series=f"{study}.0", number=number, pixels=PIXELS[at : at + size]
        )
    return found


@dataclass
class Ledger:
    """Digests of what was sent, and the UIDs that were answered 0000. For any number of threads."""

    sent: dict[str, bytes] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)

    def sending(self, uid: str, data: bytes) -> None:
        self.sent.setdefault(uid, digest(data))

    def answered(self, uid: str) -> None:
        self.acknowledged.add(uid)


class Modality:
    """Sends over one association at a time; what fails is sent again over the next.

    `port` is asked before each association: a gateway that was started again has another one.
    """

    def __init__(
        self,
        port: Callable[[], int],
        ledger: Ledger,
        calling: str = "MODALITY",
        timeout: float = 15,
    ) -> None:
        self._port = port
        self._ledger = ledger
        self._calling = calling.encode()
        self._timeout = timeout
        self.statuses: list[int] = []
        self.failures = 0

    def send(
        self,
        data: dict[str, bytes],
        *,
        seconds: float = PATIENCE,
        stop: threading.Event | None = None,
        pause: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Until each was answered 0000. AssertionError when time is up first.

        `stop` ends it early; `pause` gives seconds of rest between two instances.
        """
        left = dict(data)
        deadline = time.monotonic() + seconds
        stop = stop or threading.Event()
        while left and not stop.is_set():
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(left)} instances not accepted within {seconds} s")
            try:
                self._associate_and_send(left, stop, pause)
            except (OSError, EOFError, AssertionError):
                self.failures += 1
                stop.wait(0.05)

    def _associate_and_send(
        self, left: dict[str, bytes], stop: threading.Event, pause: Callable[[], float]
    ) -> None:
        with Peer(self._port(), self._timeout) as peer:
            kind, body = peer.associate(*strange.contexts(), calling=self._calling)
            if kind != 2:
                raise ConnectionError(f"not accepted: {body!r}")
            for uid in list(left):
                if stop.wait(pause()):
                    return
                self._ledger.sending(uid, left[uid])
                status = peer.store(left[uid], uid, strange.context_of(left[uid]))
                self.statuses.append(status)
                if status == 0:
                    self._ledger.answered(uid)
                    del left[uid]
            peer.release()


def drained(own: Gateway) -> bool:
    """Nothing is being packed, nothing waits for the upstream."""
    return not any((own.spool / "building").iterdir()) and not own.envelopes("outbox")


def drain(own: Gateway, seconds: float = PATIENCE) -> None:
    until(lambda: drained(own), "everything delivered", seconds)


@dataclass
class Account:
    """The result of `check`; printed as the result of a soak."""

    sent: int
    acknowledged: int
    delivered: int
    lost: list[str]
    duplicated_ids: list[str]
    differing: list[str]
    phantoms: list[str]
    rejected: list[str]
    undelivered: list[str]

    @property
    def clean(self) -> bool:
        return not (
            self.lost
            or self.duplicated_ids
            or self.differing
            or self.phantoms
            or self.rejected
            or self.undelivered
        )

    def __str__(self) -> str:
        rows = [
            ("instances sent", self.sent),
            ("acknowledged (0000)", self.acknowledged),
            ("delivered", self.delivered),
            ("lost", len(self.lost)),
            ("duplicated ids", len(self.duplicated_ids)),
            ("bytes differing", len(self.differing)),
            ("never sent, but there", len(self.phantoms)),
            ("envelopes rejected", len(self.rejected)),
            ("envelopes not delivered", len(self.undelivered)),
        ]
        return "\n".join(f"{what:<24}{count:>10}" for what, count in rows)


def account(
    ledger: Ledger,
    own: Gateway,
    held: Callable[[str], Path],
    posted: Collection[str] = (),
    upstream: Iterable[Path] = (),
) -> Account:
    """Compares what was sent and acknowledged with what is in sent/ and at the upstream.

    `held(id)` is the upstream's copy of an envelope; `posted` are ids that came over HTTP;
    `upstream` are all that it holds, where sent/ may have had to make room. Reads every archive
    (and so its CRCs).
    """
    delivered: dict[str, int] = {}
    differing, doubled, phantoms, undelivered = [], [], [], []
    copies = set(upstream)
    for archive in own.envelopes("sent"):
        copy = held(archive.stem)
        if not copy.exists():
            undelivered.append(archive.stem)
            continue
        if not same(archive, copy):
            doubled.append(archive.stem)  # one id, two contents
        copies.add(copy)
    for copy in sorted(copies):
        for uid, data in ({} if copy.stem in posted else images(copy)).items():
            delivered[uid] = delivered.get(uid, 0) + 1
            if uid not in ledger.sent:
                phantoms.append(uid)
            elif digest(data) != ledger.sent[uid]:
                differing.append(uid)
    return Account(
        sent=len(ledger.sent),
        acknowledged=len(ledger.acknowledged),
        delivered=len(delivered),
        lost=sorted(ledger.acknowledged - delivered.keys()),
        duplicated_ids=doubled,
        differing=differing,
        phantoms=phantoms,
        rejected=[path.stem for path in own.envelopes("rejected")],
        undelivered=undelivered + [path.stem for path in own.envelopes("outbox")],
    )


def same(one: Path, other: Path) -> bool:
    with one.open("rb") as left, other.open("rb") as right:
        while True:
            parts = left.read(1 << 20), right.read(1 << 20)
            if parts[0] != parts[1]:
                return False
            if not parts[0]:
                return True


def held_by(store: Store) -> Callable[[str], Path]:
    """Where a `fastjmix store` keeps an envelope."""
    return lambda envelope_id: store.directory / f"{envelope_id}.zip"


def settle(own: Gateway, store: Store, ledger: Ledger, posted: Collection[str] = ()) -> Account:
    """Drains and stops the gateway; every promise about what was acknowledged holds."""
    drain(own)
    assert own.stop() == 0
    found = account(ledger, own, held_by(store), posted)
    assert found.clean, f"{found}\n{found!r}"
    assert not any((own.spool / "building").iterdir())
    return found


def all_dead(pids: Iterable[int]) -> bool:
    """No such process, or one that only waits to be reaped."""
    return all(not Path(f"/proc/{pid}/exe").exists() or zombie(pid) for pid in pids)


def zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
