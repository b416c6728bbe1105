"""Rounds: everything is sent once through each gateway, and once to the floor, in turn.

Guaranteed: each round has another order, and each measurement begins when the disk is idle or that
was waited for; a trial that fails is left out and named, and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from fastjmix.errors import FastjmixError
from fastjmix.tools.tune import effects, material, plan
from fastjmix.tools.tune.clock import Clock, OutOfTime
from fastjmix.tools.tune.disk import Disk
from fastjmix.tools.tune.effects import Figures
from fastjmix.tools.tune.floor import Floor
from fastjmix.tools.tune.material import Material
from fastjmix.tools.tune.plan import Trial
from fastjmix.tools.tune.sender import Address, Senders
from fastjmix.tools.tune.trial import Gateway, TrialError

WAITING: Final = 0.2
"""So much of the time may be spent on waiting for an idle disk."""

Step = Callable[[str], None]
"""Is called with what is done next."""


class Timing(NamedTuple):
    """One round of one trial: seconds from the first byte to the last response, CPU seconds of the
    gateway, and the latency of each response in seconds."""

    seconds: float
    cpu: float
    latencies: list[float]


@dataclass(slots=True)
class Measurement:
    """One trial (or the floor) and what was measured of it so far."""

    trial: Trial
    gateway: Gateway | None  # None: the floor
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    lasts: float = 0.0  # seconds of a round of it, with its checks

    def add(self, timing: Timing) -> None:
        """Adds a round."""
        self.seconds.append(timing.seconds)
        self.cpu.append(timing.cpu)
        self.latencies += timing.latencies

    def figures(self, sent: Material) -> Figures:
        """Returns what was measured, as figures."""
        return Figures(
            self.trial,
            tuple(self.seconds),
            tuple(self.cpu),
            tuple(self.latencies),
            len(sent.items),
            sent.size,
        )


class Transfer:
    """The senders and the floor, with a part of the sample in memory."""

    def __init__(self, whole: Material, associations: int, max_pdu: int) -> None:
        self.whole = whole
        self._associations, self._max_pdu = associations, max_pdu
        self._processes = ExitStack()
        self.load(plan.LEAST_SHARE)

    def load(self, share: float) -> None:
        """Forks senders, and the floor, with this part of the sample. No thread may run."""
        self.close()
        self.sent = sent = self.part(share)
        sizes = [len(item.data) for item in sent.items]
        self.shares = plan.shares(sizes, self._associations)
        self._senders = self._processes.enter_context(Senders(sent.items, self.shares))
        floor = Floor(sent.items, self.shares, self._max_pdu)
        self._floor = self._processes.enter_context(floor)

    def part(self, share: float) -> Material:
        """Returns this part of the sample: at least an instance for each association."""
        return material.part_of(self.whole, share, self._associations)

    def close(self) -> None:
        """Ends the senders and the floor."""
        self._processes.close()

    def to_floor(self, clock: Clock) -> Timing:
        """Sends everything once to the floor. Raises SenderError, OutOfTime."""
        return self._send(self._floor.address, None, clock)

    def to_gateway(self, gateway: Gateway, trial: Trial, clock: Clock, every_byte: bool) -> Timing:
        """Sends everything once through a gateway, and compares its envelopes.

        Raises SenderError, TrialError, OutOfTime.
        """
        before = gateway.cpu()
        timing = self._send(gateway.address, trial.setting.max_pdu, clock)
        envelopes = gateway.sealed(len(self.sent.items), clock)
        timing = timing._replace(cpu=gateway.cpu() - before)
        gateway.check(envelopes, self.sent.items, every_byte=every_byte)
        gateway.clear()
        return timing

    def _send(self, address: Address, max_pdu: int | None, clock: Clock) -> Timing:
        """Sends everything over all associations. Raises TrialError where the acceptor announces
        another maximum PDU length than `max_pdu`."""
        parts = self._senders.send(address, clock)
        wrong = [part.limit for part in parts if max_pdu is not None and part.limit != max_pdu]
        if wrong:
            raise TrialError(f"it announced PDUs of {wrong[0]} bytes, not {max_pdu}")
        seconds = max(part.end for part in parts) - min(part.start for part in parts)
        return Timing(seconds, 0.0, [latency for part in parts for latency in part.latencies])


class IdleDisk:
    """Waits for an idle disk before each measurement, for a part of the whole time at most."""

    def __init__(self, disk: Disk, clock: Clock) -> None:
        self._disk, self._clock = disk, clock
        self._waited = 0.0
        self.measurements = self.busy = 0

    def wait(self) -> None:
        """Waits while others keep the disk busy, as long as there is time for that."""
        began = time.monotonic()
        spare = min(WAITING * self._clock.seconds - self._waited, self._clock.left())
        self.measurements += 1
        self.busy += not self._disk.wait(max(spare, 0.0))
        self._waited += time.monotonic() - began


class Rounds:
    """Measures trials round by round. `failed`: names of trials that failed, and why."""

    def __init__(self, transfer: Transfer, disk: IdleDisk, clock: Clock, step: Step) -> None:
        self._transfer, self._disk, self._clock, self._step = transfer, disk, clock, step
        self.failed: list[tuple[str, str]] = []

    def run(self, measured: Sequence[Measurement], part: float) -> None:
        """Makes rounds until this part of the time is used, or until a statement is possible."""
        rounds, lasted = 0, sum(one.lasts for one in measured)
        while plan.another(rounds, lasted, self._clock.left(part), settled=_settled(measured)):
            began = time.monotonic()
            for one in plan.in_turn(measured, rounds):
                self._step(f"round {rounds + 1}: {one.trial.name}")
                self._disk.wait()
                try:
                    one.add(self.round(one, every_byte=False))
                except OutOfTime:  # those behind it lack this round: ratios are of both or none
                    return
                except FastjmixError as problem:
                    if one.trial.name == plan.CONFIGURED or one.gateway is None:
                        raise
                    self.failed.append((one.trial.name, problem.message))
                    measured = [other for other in measured if other is not one]
                    one.seconds.clear()
            rounds += 1
            lasted = time.monotonic() - began

    def warm_up(self, one: Measurement) -> None:
        """Makes two rounds that do not count; in the first one every byte is compared."""
        self.round(one, every_byte=True)
        self.round(one, every_byte=False)

    def round(self, one: Measurement, *, every_byte: bool) -> Timing:
        """Sends everything once. Raises FastjmixError, with what the gateway's log says."""
        if one.gateway is None:
            return self._transfer.to_floor(self._clock)
        began = time.monotonic()
        try:
            return self._transfer.to_gateway(one.gateway, one.trial, self._clock, every_byte)
        except OutOfTime:
            raise
        except FastjmixError as problem:
            raise one.gateway.explain(problem) from None
        finally:
            one.lasts = time.monotonic() - began


def _settled(measured: Sequence[Measurement]) -> bool:
    """Returns whether what was measured differs by no more than is worth a line."""
    base, *others = (one for one in measured if one.gateway is not None)
    noise = [effects.effect(base.seconds, one.seconds).noise for one in others]
    return max(noise, default=0.0) <= effects.LEAST_GAIN
