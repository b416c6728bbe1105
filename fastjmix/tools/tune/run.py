"""The measurement: gateways side by side, rounds in turn, until the time is used.

Guaranteed: all gateways run at once (an idle one uses no processor) and are measured in turn beside
the floor; the first round of each warms up and is compared byte for byte. It ends within the time
that it was given, starts included (clock.py): the sample is cut so that all settings have time, and
a setting for which there is none even so is left out. Where too few rounds are made nothing is
stated, and where not even one round of the configured setting is, OutOfTime says so. Everything
that was started has ended, and every file is gone, when this returns or raises, by Ctrl-C and
SIGTERM too.
Still wrong: the disk's own cache and a RAID controller's see the same few hundred MB again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from fastjmix.config import Config, ConfigError, load, storage_path
from fastjmix.config.faults import Fault
from fastjmix.config.faults import Findings as Faults
from fastjmix.config.reading import read
from fastjmix.errors import FastjmixError
from fastjmix.tools.tune import effects, material, paste, plan, verdict
from fastjmix.tools.tune.clock import Clock, OutOfTime
from fastjmix.tools.tune.disk import Disk
from fastjmix.tools.tune.effects import Findings
from fastjmix.tools.tune.material import Material
from fastjmix.tools.tune.paste import Places
from fastjmix.tools.tune.plan import Setting, Trial
from fastjmix.tools.tune.report import COMBINED, Options, Report
from fastjmix.tools.tune.rounds import IdleDisk, Measurement, Rounds, Step, Transfer
from fastjmix.tools.tune.trial import Gateway
from fastjmix.tools.tune.verdict import Advice
from fastjmix.tools.tune.wire import LOOPBACK
from fastjmix.tools.tune.workplace import workplace

RESERVED: Final = 0.15
"""This part of the time is kept for measuring what is recommended together."""

STARTING: Final = 0.5
"""In this part of the time all gateways are started and warm; those that are not are left out."""

BESIDE: Final = 1.5
"""A round lasts longer by this than the gateway's part: the floor, and the wait for the disk."""

ALMOST: Final = 0.99
"""Progress says 100 % when everything has ended, and not before."""

Progress = Callable[[str, float], None]
"""Is called with what is done next, and which part of the work is done."""


def tune(path: Path, options: Options, progress: Progress, started: float | None = None) -> Report:
    """Measures the configuration at `path` and settings around it.

    The time counts from `started` (CLOCK_MONOTONIC; None: now). Raises ConfigError, UsageError
    (nothing to send), SpoolError (storage), OutOfTime when the configured setting could not be
    measured in time, TrialError when it itself fails.
    """
    clock = Clock(options.seconds, time.monotonic() if started is None else started)
    config = load(path)
    if not config.dicom:
        wanted = 'an endpoint with service = "dicom_scp": it is what is tuned'
        raise ConfigError([Fault(str(path), "endpoints", "", "none for DICOM", wanted)])
    clock.require("the configuration was being read")
    progress("reading what is to be sent", 0.0)
    sent = _material(options)
    where = places_of(path, config)

    def step(text: str) -> None:
        progress(text, min(ALMOST, clock.spent() / clock.seconds))

    with ExitStack() as stack:
        stack.enter_context(_sigterm_raises())
        storage_path.require_of(config)
        directory = stack.enter_context(workplace(config.storage_dir, sent.size))
        try:
            gateways = _Gateways(config, directory)
            stack.callback(gateways.stop)
            transfer = Transfer(sent, options.associations, base_setting(config).max_pdu)
            stack.callback(transfer.close)
            disk = IdleDisk(Disk(directory), clock)
            report = _Session(config, options, transfer, gateways, disk, clock, step).run(where)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # what was started ends now, undisturbed
    progress("done", 1.0)
    return replace(report, seconds=clock.spent())


def base_setting(config: Config) -> Setting:
    """Returns the configured setting, of the first DICOM listener."""
    listener = config.dicom[0]
    builder = listener.builder
    return Setting(
        builder.skip_hashing,
        builder.digest,
        listener.max_pdu,
        builder.durability,
        config.runtime.packers,
    )


class _Gateways:
    """The gateways that were started, each in a directory of its own."""

    def __init__(self, config: Config, directory: Path) -> None:
        self._config, self._directory = config, directory
        self._started: list[Gateway] = []
        self._upstream = socket.socket()
        self._upstream.bind((LOOPBACK, 0))  # and never listens: every connection is refused

    def start(self, setting: Setting, associations: int) -> Gateway:
        """Starts a gateway; does not wait until it is ready."""
        directory = self._directory / str(len(self._started))
        port = self._upstream.getsockname()[1]
        gateway = Gateway(self._config, setting, directory, port, associations)
        self._started.append(gateway)
        return gateway

    def stop(self) -> None:
        """Kills all gateways and waits until they have ended."""
        for gateway in self._started:
            gateway.kill()
        for gateway in self._started:
            gateway.wait()
        self._upstream.close()


class _Session:
    """One run of `tune`."""

    def __init__(
        self,
        config: Config,
        options: Options,
        transfer: Transfer,
        gateways: _Gateways,
        disk: IdleDisk,
        clock: Clock,
        step: Step,
    ) -> None:
        self._config, self._options = config, options
        self._transfer, self._gateways, self._disk = transfer, gateways, disk
        self._clock, self._step = clock, step
        self._rounds = Rounds(transfer, disk, clock, step)
        self._base = base_setting(config)
        self._left_out: list[str] = []

    def run(self, where: Places) -> Report:
        """Measures everything that there is time for."""
        floor = Measurement(Trial("sender and loopback", self._base), None)
        measured = self._measurements()
        self._rounds.run([floor, *measured], 1 - RESERVED)
        if not (floor.seconds and measured[0].seconds):
            self._clock.require("no round of the configured setting was over")
        sent = self._transfer.sent
        figures = [one.figures(sent) for one in measured if one.seconds]
        found = effects.findings(figures, floor.seconds)
        advice = verdict.advise(found)
        combined, found = self._together(found, advice, measured[0])
        figures += [one.figures(sent) for one in combined]
        advice = verdict.confirmed(found, advice)
        return Report(
            material=sent,
            associations=len(self._transfer.shares),
            storage=self._config.storage_dir,
            figures=tuple(figures),
            floor=floor.figures(sent),
            findings=found,
            advice=tuple(advice),
            toml=paste.toml(advice, where, verdict.nothing(found, advice)),
            failed=tuple(self._rounds.failed),
            left_out=tuple(self._left_out),
            notes=tuple(self._notes()),
            seconds=self._clock.spent(),
        )

    def _together(
        self, found: Findings, advice: Sequence[Advice], configured: Measurement
    ) -> tuple[list[Measurement], Findings]:
        """Measures all that is recommended at once, if there is time. Returns the measurement, if
        there is one, and the findings with it."""
        together = verdict.combination(self._base, advice)
        enough = 2 * (plan.MIN_ROUNDS + 2) * configured.lasts < self._clock.left()
        if together is None or together in found.effects or not enough:
            return [], found
        combined = self._started_and_warm([Trial(COMBINED, together)], 1.0)
        if not combined:
            return [], found
        # Against figures of its own minute: the configured setting is measured again.
        again = Measurement(configured.trial, configured.gateway)
        again.lasts = configured.lasts
        self._rounds.run([again, *combined], 1.0)
        if not (combined[0].seconds and again.seconds):
            return [], found
        seen = effects.effect(again.seconds, combined[0].seconds)
        return combined, replace(found, effects={**found.effects, together: seen})

    def _notes(self) -> Iterator[str]:
        """Yields what a reader of the figures must know."""
        listener = self._config.dicom[0]
        sent, whole, shares = self._transfer.sent, self._transfer.whole, self._transfer.shares
        if sent.left_out:
            yield f"{sent.left_out} files were left out: not sendable, or there twice"
        if len(sent.items) < len(whole.items):
            all_of = f"{len(sent.items)} of {len(whole.items)} instances"
            yield f"{all_of} are sent in each round, so that the settings have time"
        if len(self._config.dicom) > 1:
            yield f"only the first DICOM endpoint, {listener.endpoint}, was measured"
        callers = (listener.calling or {}).values()
        if any(one.builder != listener.builder for one in callers):
            yield "the overrides in aet_table were not measured"
        if listener.ack == "uploaded":
            yield 'ack = "uploaded" waits for the upstream; "stored" was measured'
        if self._disk.busy:
            times = f"in {self._disk.busy} of {self._disk.measurements} measurements"
            yield f"{times} the disk was busy with other work: another run may give other figures"
        if self._options.associations > len(shares):
            yield f"there were instances for {len(shares)} associations only"

    # -- which trials there is time for --------------------------------------------------------

    def _measurements(self) -> list[Measurement]:
        """Starts the configured setting, which shows how many others there is time for, and those.

        Returns them warm, the configured one first.
        """
        first, *others = plan.plan(
            self._base,
            os.cpu_count() or 1,
            any_digest=self._config.dicom[0].builder.published is None,
        )
        began = time.monotonic()
        gateway = self._start(first)
        gateway.ready(self._clock)
        configured = Measurement(first, gateway)
        start_secs = time.monotonic() - began
        self._step("warming up: configured")
        self._rounds.warm_up(configured)
        control = Trial(plan.CONTROL, self._base)
        self._choose_share(configured, start_secs, 2 + len(others))
        left = self._clock.left(1 - RESERVED)
        lasts = configured.lasts * BESIDE
        chosen = plan.fit([first, control, *others], lasts, start_secs, left)
        self._left_out = [trial.name for trial in others[max(len(chosen) - 2, 0) :]]
        return self._affordable([configured, *self._started_and_warm(chosen[1:], STARTING)])

    def _choose_share(self, configured: Measurement, start_secs: float, trials: int) -> None:
        """Sends as much in each round as lets all trials have theirs, from now on."""
        transfer = self._transfer
        whole = configured.lasts * BESIDE * transfer.whole.size / transfer.sent.size
        share = plan.share(trials, whole, start_secs, self._clock.left(1 - RESERVED))
        if transfer.part(share).size <= transfer.sent.size:
            return
        transfer.load(share)
        # Another gateway: for the first one, other instances of its studies would look like those
        # of a modality that comes back for each image (packer/senders.py), and it would wait.
        assert configured.gateway is not None
        configured.gateway.kill()
        configured.gateway = self._start(configured.trial)
        configured.gateway.ready(self._clock)
        self._rounds.warm_up(configured)

    def _affordable(self, measured: list[Measurement]) -> list[Measurement]:
        """Leaves out the last ones, until there is time for MIN_ROUNDS of the others."""
        left = self._clock.left(1 - RESERVED)
        while len(measured) > 1:
            if plan.MIN_ROUNDS * sum(one.lasts for one in measured) <= left:
                break
            self._left_out.insert(0, measured.pop().trial.name)
        return measured

    def _started_and_warm(self, trials: Sequence[Trial], part: float) -> list[Measurement]:
        """Starts gateways for these trials and warms them up. One that fails, or is not ready in
        this part of the time, is noted and left out."""
        soon = self._clock.sooner(part)
        starting = [(trial, self._start(trial)) for trial in trials]
        warm = []
        for trial, gateway in starting:
            self._step(f"warming up: {trial.name}")
            one = Measurement(trial, gateway)
            try:
                gateway.ready(soon)
                soon.require("gateways were still starting")
                self._rounds.warm_up(one)
                warm.append(one)
            except OutOfTime:
                self._left_out.append(trial.name)
                gateway.kill()  # its start would be measured with the others
            except FastjmixError as problem:
                self._rounds.failed.append((trial.name, problem.message))
        return warm

    def _start(self, trial: Trial) -> Gateway:
        # one association more: the last one may not be over when the next begins
        return self._gateways.start(trial.setting, len(self._transfer.shares) + 1)


# -- around it -------------------------------------------------------------------------------------


def _material(options: Options) -> Material:
    if options.directory is not None:
        return material.of_directory(
            options.directory, options.sample_bytes, options.sample_instances
        )
    return material.synthetic(
        options.like, options.sample_bytes, options.sample_instances, options.associations
    )


def places_of(path: Path, config: Config) -> Places:
    """Returns where the site's files have the keys of the first DICOM listener."""
    sources = read(path, Faults(), os.environ).files
    listener = config.dicom[0]
    files = [(source.file, source.tables) for source in sources]
    return paste.places(files, listener.pipeline, listener.endpoint)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Lets SIGTERM raise SystemExit, so that everything is ended and removed first."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
