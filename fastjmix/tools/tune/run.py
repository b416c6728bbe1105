"""The measurement: gateways side by side, rounds in turn, until the time is used.

Wanted: figures that can be compared, from a machine that other things also use.
Guaranteed: all gateways run at once (an idle one uses no processor) and are measured in turn, each
round in another order, beside the floor, each when the disk is idle or that was waited for; the
first round of each warms up and is compared byte for byte; a trial that fails is left out and
named, and the others go on. It ends within the time that it was given, starts included (clock.py):
the sample is cut so that all settings have time, what there is none for even so is left out, where
too few rounds are made nothing is stated, and where not even one round of the configured setting
is, OutOfTime says so. Everything that was started has ended, and every file is gone, when this
returns or raises, by Ctrl-C and SIGTERM too; what an earlier run could not remove (SIGKILL) is
removed now.
Still wrong: the disk's own cache and a RAID controller's see the same few hundred MB again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from fastjmix.config import Config, ConfigError, load
from fastjmix.config.faults import Fault
from fastjmix.config.faults import Findings as Faults
from fastjmix.config.reading import read
from fastjmix.errors import FastjmixError, SpoolError
from fastjmix.spool import presence
from fastjmix.tools.tune import material, plan, verdict
from fastjmix.tools.tune.clock import Clock, OutOfTime
from fastjmix.tools.tune.disk import Disk
from fastjmix.tools.tune.floor import Floor
from fastjmix.tools.tune.material import Material
from fastjmix.tools.tune.plan import Setting, Trial
from fastjmix.tools.tune.sender import Senders, Sent
from fastjmix.tools.tune.trial import Gateway, TrialError
from fastjmix.tools.tune.verdict import Advice, Figures, Places
from fastjmix.tools.tune.wire import LOOPBACK

PREFIX: Final = "tune-"
COMBINED: Final = "recommended together"
RESERVED: Final = 0.15
"""This part of the time is kept for measuring what is recommended together."""

STARTING: Final = 0.5
"""In this part of the time all gateways are started and warm; those that are not are left out."""

WAITING: Final = 0.2
"""So much of the time may be spent on waiting for an idle disk."""

BESIDE: Final = 1.5
"""A round lasts longer by this than the gateway's part: the floor, and the wait for the disk."""

ALMOST: Final = 0.99
"""Progress says 100 % when everything has ended, and not before."""

Progress = Callable[[str, float], None]
"""Is told what is being done, and which part of the work is."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may choose. `directory` None: synthetic studies of the kind `like`."""

    directory: Path | None = None
    like: str = "ct"
    seconds: float = 60.0
    associations: int = 1
    sample_bytes: int = 128_000_000
    sample_instances: int = 1000


@dataclass(frozen=True, slots=True)
class Report:
    """`figures` begin with the configured setting; `floor` is the bare sender and loopback."""

    material: Material
    associations: int
    storage: Path
    figures: tuple[Figures, ...]
    floor: Figures
    findings: verdict.Findings
    advice: tuple[Advice, ...]
    toml: str
    failed: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...]  # trials for which there was no time
    notes: tuple[str, ...]
    seconds: float

    @property
    def sentence(self) -> str:
        return verdict.sentence(self.findings, complete=not self.left_out)

    @property
    def exit_code(self) -> int:
        return 1 if self.failed else 0


@dataclass(slots=True)
class _Contestant:
    """One trial (or the floor) and what was measured of it so far."""

    trial: Trial
    gateway: Gateway | None  # None: the floor
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    lasts: float = 0.0  # a round of it, with its checks

    def figures(self, sent: Material) -> Figures:
        return Figures(
            self.trial,
            tuple(self.seconds),
            tuple(self.cpu),
            tuple(self.latencies),
            len(sent.items),
            sent.size,
        )


def tune(path: Path, options: Options, progress: Progress, started: float | None = None) -> Report:
    """Measures the configuration at `path` and settings around it.

    The time counts from `started` (CLOCK_MONOTONIC; None: now). Raises ConfigError, UsageError
    (nothing to send), SpoolError (storage), OutOfTime when the configured setting could not be
    measured in time, TrialError when it itself fails.
    """
    clock = Clock(options.seconds, time.monotonic() if started is None else started)
    config = load(path)
    if not config.dicom:
        told = 'an endpoint with service = "dicom_scp": it is what is tuned'
        raise ConfigError([Fault(str(path), "endpoints", "", "none for DICOM", told)])
    clock.require("the configuration was being read")
    progress("reading what is to be sent", 0.0)
    sent = _material(options)
    where = _places(path, config)
    with ExitStack() as stack:
        stack.enter_context(_sigterm_raises())
        presence.require(config.storage_dir, config.create_storage, config.source)
        directory = stack.enter_context(_workplace(config.storage_dir, sent.size))
        try:
            bench = _Bench(config, options, sent, directory, stack, progress, clock)
            report = bench.run(where)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # what was started ends now, undisturbed
    progress("done", 1.0)
    return replace(report, seconds=clock.spent())


def base_setting(config: Config) -> Setting:
    """The configured setting, of the first DICOM listener."""
    listener = config.dicom[0]
    builder = listener.builder
    return Setting(
        builder.skip_hashing,
        builder.digest,
        listener.max_pdu,
        builder.durability,
        config.runtime.packers,
    )


class _Bench:
    """One run of `tune`."""

    def __init__(
        self,
        config: Config,
        options: Options,
        sent: Material,
        directory: Path,
        stack: ExitStack,
        progress: Progress,
        clock: Clock,
    ) -> None:
        self._config, self._options, self._whole = config, options, sent
        self._directory, self._progress, self._clock = directory, progress, clock
        self._disk, self._waited = Disk(directory), 0.0
        self._turns = self._busy_turns = 0
        self._base = base_setting(config)
        self._failed: list[tuple[str, str]] = []
        self._left_out: list[str] = []
        self._gateways: list[Gateway] = []
        stack.callback(self._stop)
        self._peers = stack.enter_context(ExitStack())
        self._send_share(plan.LEAST_SHARE)
        upstream = stack.enter_context(socket.socket())
        upstream.bind((LOOPBACK, 0))  # and never listens
        self._upstream = upstream.getsockname()[1]

    def _send_share(self, share: float) -> None:
        """Forks senders, and the floor, with this part of the sample. Nothing here has threads."""
        self._peers.close()
        self._sent = sent = material.part_of(self._whole, share, self._options.associations)
        sizes = [len(item.data) for item in sent.items]
        self._shares = shares = plan.shares(sizes, self._options.associations)
        self._senders = self._peers.enter_context(Senders(sent.items, shares))
        floor = Floor(sent.items, shares, self._base.max_pdu)
        self._floor = self._peers.enter_context(floor)

    def run(self, where: Places) -> Report:
        """All of it."""
        floor = _Contestant(Trial("sender and loopback", self._base), None)
        contestants = self._contestants()
        self._rounds([floor, *contestants], 1 - RESERVED)
        if not (floor.seconds and contestants[0].seconds):
            self._clock.require("no round of the configured setting was over")
        found = self._findings(contestants, floor)
        advice = verdict.advise(found)
        together = verdict.combination(self._base, advice)
        enough = 2 * (plan.MIN_ROUNDS + 2) * contestants[0].lasts < self._clock.left()
        if together is not None and together not in found.effects and enough:
            trial = Trial(COMBINED, together)
            combined = self._started_and_warm([trial], 1.0)
            if combined:
                # Against figures of its own minute: the configured setting is measured again.
                again = _Contestant(contestants[0].trial, contestants[0].gateway)
                again.lasts = contestants[0].lasts
                self._rounds([again, *combined], 1.0)
                if combined[0].seconds and again.seconds:
                    contestants += [one for one in combined if one.seconds]
                    seen = verdict.effect(again.seconds, combined[0].seconds)
                    found = replace(found, effects={**found.effects, together: seen})
        advice = verdict.confirmed(found, advice)
        return Report(
            material=self._sent,
            associations=len(self._shares),
            storage=self._config.storage_dir,
            figures=tuple(one.figures(self._sent) for one in contestants if one.seconds),
            floor=floor.figures(self._sent),
            findings=found,
            advice=tuple(advice),
            toml=verdict.toml(advice, where, verdict.nothing(found, advice)),
            failed=tuple(self._failed),
            left_out=tuple(self._left_out),
            notes=tuple(self._notes()),
            seconds=self._clock.spent(),
        )

    def _findings(self, contestants: list[_Contestant], floor: _Contestant) -> verdict.Findings:
        measured = [one.figures(self._sent) for one in contestants if one.seconds]
        return verdict.findings(measured, floor.seconds)

    def _notes(self) -> Iterator[str]:
        listener = self._config.dicom[0]
        if self._sent.left_out:
            yield f"{self._sent.left_out} files were left out: not sendable, or there twice"
        if len(self._sent.items) < len(self._whole.items):
            all_of = f"{len(self._sent.items)} of {len(self._whole.items)} instances"
            yield f"{all_of} are sent in each round, so that the settings have time"
        if len(self._config.dicom) > 1:
            yield f"only the first DICOM endpoint, {listener.endpoint}, was measured"
        callers = (listener.calling or {}).values()
        if any(one.builder != listener.builder for one in callers):
            yield "the overrides in aet_table were not measured"
        if listener.ack == "uploaded":
            yield 'ack = "uploaded" waits for the upstream; "stored" was measured'
        if self._busy_turns:
            told = f"in {self._busy_turns} of {self._turns} measurements"
            yield f"{told} the disk was busy with other work: another run may give other figures"
        if self._options.associations > len(self._shares):
            yield f"there were instances for {len(self._shares)} associations only"

    # -- who takes part ------------------------------------------------------------------------

    def _contestants(self) -> list[_Contestant]:
        """The configured setting first; it tells how many others there is time for."""
        first, *others = plan.plan(
            self._base,
            os.cpu_count() or 1,
            any_digest=self._config.dicom[0].builder.published is None,
        )
        began = time.monotonic()
        gateway = self._start(first)
        gateway.ready(self._clock)
        configured = _Contestant(first, gateway)
        start_secs = time.monotonic() - began
        self._progress("warming up: configured", self._done())
        self._round(configured, every_byte=True)
        self._round(configured, every_byte=False)
        control = Trial(plan.CONTROL, self._base)
        self._choose_share(configured, start_secs, 2 + len(others))
        left = self._clock.left(1 - RESERVED)
        lasts = configured.lasts * BESIDE
        chosen = plan.fit([first, control, *others], lasts, start_secs, left)
        self._left_out = [trial.name for trial in others[max(len(chosen) - 2, 0) :]]
        return self._affordable([configured, *self._started_and_warm(chosen[1:], STARTING)])

    def _choose_share(self, configured: _Contestant, start_secs: float, trials: int) -> None:
        """Sends as much in each round as lets all trials have theirs, from now on."""
        whole = configured.lasts * BESIDE * self._whole.size / self._sent.size
        share = plan.share(trials, whole, start_secs, self._clock.left(1 - RESERVED))
        if material.part_of(self._whole, share, self._options.associations).size > self._sent.size:
            self._send_share(share)
            # Another: to the first one, other instances of its studies would look like a modality
            # that comes back for each image (senders.py), and it would wait for the next.
            assert configured.gateway is not None
            configured.gateway.kill()
            configured.gateway = self._start(configured.trial)
            configured.gateway.ready(self._clock)
            self._round(configured, every_byte=True)
            self._round(configured, every_byte=False)

    def _affordable(self, contestants: list[_Contestant]) -> list[_Contestant]:
        """Leaves out the least telling, until there is time for MIN_ROUNDS of the others."""
        left = self._clock.left(1 - RESERVED)
        while len(contestants) > 1:
            if plan.MIN_ROUNDS * sum(one.lasts for one in contestants) <= left:
                break
            self._left_out.insert(0, contestants.pop().trial.name)
        return contestants

    def _started_and_warm(self, trials: list[Trial], part: float) -> list[_Contestant]:
        """Gateways of these trials; what fails, or is not ready in this part of the time, is noted
        and left out."""
        soon = self._clock.sooner(part)
        starting = [_Contestant(trial, self._start(trial)) for trial in trials]
        warm = []
        for one in starting:
            self._progress(f"warming up: {one.trial.name}", self._done())
            assert one.gateway is not None
            try:
                one.gateway.ready(soon)
                soon.require("gateways were still starting")
                self._round(one, every_byte=True)
                self._round(one, every_byte=False)
                warm.append(one)
            except OutOfTime:
                self._left_out.append(one.trial.name)
                one.gateway.kill()  # its start would be measured with the others
            except FastjmixError as problem:
                self._failed.append((one.trial.name, problem.message))
        return warm

    def _start(self, trial: Trial) -> Gateway:
        directory = self._directory / str(len(self._gateways))
        associations = len(self._shares) + 1  # one may not yet be over when the next begins
        gateway = Gateway(self._config, trial.setting, directory, self._upstream, associations)
        self._gateways.append(gateway)
        return gateway

    def _stop(self) -> None:
        for gateway in self._gateways:
            gateway.kill()
        for gateway in self._gateways:
            gateway.wait()

    # -- rounds --------------------------------------------------------------------------------

    def _rounds(self, contestants: list[_Contestant], part: float) -> None:
        """Rounds until this part of the time is used, or until a statement is possible."""
        rounds, lasted = 0, sum(one.lasts for one in contestants)
        while plan.another(rounds, lasted, self._clock.left(part), settled=_settled(contestants)):
            began = time.monotonic()
            for one in plan.in_turn(contestants, rounds):
                self._progress(f"round {rounds + 1}: {one.trial.name}", self._done())
                self._wait_for_the_disk()
                try:
                    result = self._round(one, every_byte=False)
                except OutOfTime:  # those behind it lack this round: ratios are of both or none
                    return
                except FastjmixError as problem:
                    if one.trial.name == plan.CONFIGURED or one.gateway is None:
                        raise
                    self._failed.append((one.trial.name, problem.message))
                    contestants = [other for other in contestants if other is not one]
                    one.seconds.clear()
                    continue
                seconds, cpu, latencies = result
                one.seconds.append(seconds)
                one.cpu.append(cpu)
                one.latencies += latencies
            rounds += 1
            lasted = time.monotonic() - began

    def _round(self, one: _Contestant, *, every_byte: bool) -> tuple[float, float, list[float]]:
        """Sends everything once: seconds, CPU seconds, latencies. Raises FastjmixError."""
        gateway, began = one.gateway, time.monotonic()
        if gateway is None:
            seconds, latencies = _summed(self._senders.send(self._floor.address, self._clock))
            return seconds, 0.0, latencies
        try:
            return self._through(gateway, one.trial, every_byte)
        except OutOfTime:
            raise
        except FastjmixError as problem:
            raise gateway.explain(problem) from None
        finally:
            one.lasts = time.monotonic() - began

    def _wait_for_the_disk(self) -> None:
        """Waits while others keep the disk busy, as long as there is time for that."""
        began = time.monotonic()
        spare = min(WAITING * self._clock.seconds - self._waited, self._clock.left())
        self._turns += 1
        self._busy_turns += not self._disk.wait(max(spare, 0.0))
        self._waited += time.monotonic() - began

    def _through(
        self, gateway: Gateway, trial: Trial, every_byte: bool
    ) -> tuple[float, float, list[float]]:
        before = gateway.cpu()
        parts = self._senders.send(gateway.address, self._clock)
        wrong = [part.limit for part in parts if part.limit != trial.setting.max_pdu]
        if wrong:
            told = f"it announced PDUs of {wrong[0]} bytes, not {trial.setting.max_pdu}"
            raise TrialError(told)
        envelopes = gateway.sealed(len(self._sent.items), self._clock)
        cpu = gateway.cpu() - before
        gateway.check(envelopes, self._sent.items, every_byte=every_byte)
        gateway.clear()
        seconds, latencies = _summed(parts)
        return seconds, cpu, latencies

    def _done(self) -> float:
        return min(ALMOST, self._clock.spent() / self._clock.seconds)


def _settled(contestants: list[_Contestant]) -> bool:
    """Whether what was measured differs by no more than is worth a line."""
    base = next(one for one in contestants if one.gateway is not None)
    others = [one for one in contestants if one is not base and one.gateway is not None]
    noise = [verdict.effect(base.seconds, one.seconds).noise for one in others]
    return max(noise, default=0.0) <= verdict.LEAST_GAIN


def _summed(parts: list[Sent]) -> tuple[float, list[float]]:
    """Of all associations together: from the first byte to the last response."""
    seconds = max(part.end for part in parts) - min(part.start for part in parts)
    return seconds, [latency for part in parts for latency in part.latencies]


# -- around it -------------------------------------------------------------------------------------


def _material(options: Options) -> Material:
    if options.directory is not None:
        return material.of_directory(
            options.directory, options.sample_bytes, options.sample_instances
        )
    return material.synthetic(
        options.like, options.sample_bytes, options.sample_instances, options.associations
    )


def _places(path: Path, config: Config) -> Places:
    sources = read(path, Faults(), os.environ).files
    listener = config.dicom[0]
    files = [(source.file, source.tables) for source in sources]
    return verdict.places(files, listener.pipeline, listener.endpoint)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM ends the process as an exception does: everything is taken down first."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _workplace(storage: Path, size: int) -> Iterator[Path]:
    """A directory below the storage path, locked while it is in use, and removed in the end."""
    made = [one for one in (storage, *storage.parents) if not one.exists()]
    try:
        storage.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(storage)
        free = shutil.disk_usage(storage).free
        if free < 4 * size + (1 << 30):
            hint = "Free some, or send less with --sample-mb."
            raise SpoolError(f"{storage}: {free / 1e9:.1f} GB free is too little to measure", hint)
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=storage))
    except OSError as problem:
        told = f"{storage}: the storage directory cannot be used: {problem.strerror}"
        raise SpoolError(told, "Check [storage.options] path and its permissions.") from None
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)
        with contextlib.suppress(OSError):  # somebody else may have put something there
            for one in made:
                one.rmdir()


def _remove_stale(storage: Path) -> None:
    for directory in storage.glob(f"{PREFIX}*"):
        try:
            lock = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)
