"""`fastjmix tune`: the policy by itself, the sender against the floor, and the command, tiny."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fastjmix import config
from fastjmix.dicom.dataset import file_meta_prefix
from fastjmix.tools.tune import (
    as_json,
    effects,
    material,
    paste,
    plan,
    rounds,
    run,
    sender,
    show,
    trial,
    verdict,
)
from fastjmix.tools.tune import clock as clocks
from fastjmix.tools.tune.clock import Clock, OutOfTime
from fastjmix.tools.tune.effects import Effect, Figures, Findings
from fastjmix.tools.tune.floor import Floor
from fastjmix.tools.tune.plan import Setting, Trial
from fastjmix.tools.tune.report import Options, Report
from fastjmix.tools.tune.wire import SenderError, message
from tests.support import gateway

BASE = Setting(False, "sha256", 131072, "fsync", 1)
OFF = Setting(True, "sha256", 16384, "page-cache", 2)


def plenty() -> Clock:
    """Returns a clock that begins now: the tests before may have taken any time."""
    return Clock(600, time.monotonic())


def changed(base: Setting = BASE, **values: Any) -> Setting:
    return replace(base, **values)


# -- which trials ----------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=60), st.integers(1, 20))
def test_shares_are_runs_that_cover_everything(sizes: list[int], parts: int) -> None:
    found = plan.shares(sizes, parts)
    assert [index for share in found for index in share] == list(range(len(sizes)))
    assert len(found) == min(parts, len(sizes))
    assert all(found)
    if len(set(sizes)) == 1:
        lengths = [len(share) for share in found]
        assert max(lengths) - min(lengths) <= 1


# -- statistics ------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.01, 10), min_size=plan.MIN_ROUNDS, max_size=20))
def test_the_same_is_never_better_than_itself(seconds: list[float]) -> None:
    seen = effects.effect(seconds, seconds)
    assert not seen.pays
    assert seen.is_free


def test_figures() -> None:
    latencies = tuple(n / 1000 for n in range(100, 0, -1))
    one = Figures(Trial("x", BASE), (2.0, 1.0, 4.0), (0.5, 1.0, 1.5), latencies, 100, 10**9)
    assert one.rate == 5e8
    assert one.instance_rate == 50
    assert one.cpu_per_gb == pytest.approx(1.0)
    assert (one.latency(0.5), one.latency(0.99)) == (0.05, 0.099)


# -- noise -----------------------------------------------------------------------------------------


def figures(name: str, setting: Setting, *seconds: float) -> Figures:
    return Figures(Trial(name, setting), seconds, (1.0,) * len(seconds), (0.1,), 1, 10**6)


def test_the_same_setting_that_differs_from_itself_is_the_noise_of_all() -> None:
    """The second gateway was 40 % slower in every round: then 30 % are no statement either."""
    base = figures("configured", BASE, 1.0, 1.01, 0.99, 1.0, 1.0)
    again = figures(plan.CONTROL, BASE, 1.4, 1.41, 1.39, 1.4, 1.4)
    cached = figures("x", changed(durability="page-cache"), 0.7, 0.71, 0.69, 0.7, 0.7)
    alone = effects.findings([base, cached], [0.2] * 5)
    assert [one.factor for one in verdict.advise(alone)] == ["durability"]
    seen = effects.findings([base, again, cached], [0.2] * 5)
    assert seen.control is not None
    assert seen.control.saved == pytest.approx(-0.4)
    assert seen.effects[cached.trial.setting].noise >= 0.39
    assert verdict.advise(seen) == []
    assert verdict.nothing(seen, []).startswith("no advice: chance alone makes ± 4")
    assert verdict.sentence(seen).startswith("It is too noisy to name a bottleneck")


@pytest.mark.parametrize(
    ("base", "impossible", "saved"),
    [
        (BASE, {"skip_hashing": True}, -0.42),
        (BASE, {"skip_hashing": True, "durability": "page-cache"}, -0.42),
        (OFF, {"durability": "fsync"}, 0.42),
    ],
)
def test_less_work_that_takes_longer_is_noise(
    base: Setting, impossible: dict[str, object], saved: float
) -> None:
    first = figures("configured", base, *[1.0] * 5)
    odd = figures("odd", changed(base, **impossible), *[1.0 - saved] * 5)
    other = figures("other", changed(base, max_pdu=65536), *[0.7] * 5)
    seen = effects.findings([first, odd, other], [0.2] * 5)
    assert all(one.noise > 0.41 for one in seen.effects.values())
    assert verdict.advise(seen) == []
    possible = figures("possible", changed(base, packers=7), *[1.42] * 5)
    seen = effects.findings([first, possible, other], [0.2] * 5)
    assert [one.factor for one in verdict.advise(seen)] == ["max_pdu"]


# -- verdict ---------------------------------------------------------------------------------------


def found(base: Setting = BASE, floor: float = 0.3, **saved: float) -> Findings:
    """Findings of single changes: skip_hashing=0.3 means that the other value saves 30 %."""
    others = {
        "skip_hashing": not base.skip_hashing,
        "digest": "blake3" if base.digest == "sha256" else "sha256",
        "max_pdu": 131072 if base.max_pdu < 131072 else 16384,
        "durability": "fsync" if base.durability == "page-cache" else "page-cache",
        "packers": base.packers * 2,
    }
    effects = {
        changed(base, **{factor: others[factor]}): Effect(gain, 0.02, 5)
        for factor, gain in saved.items()
    }
    return Findings(base, effects, floor)


PLACES = paste.Places("builder", "pipelines/a.toml", "in box", "pipelines/a.toml", "config.toml")


def pasted(text: str) -> dict[str, object]:
    return tomllib.loads(text)


def test_a_setting_that_gives_something_up_is_never_recommended() -> None:
    advice = verdict.advise(found(skip_hashing=0.4, durability=0.3))
    seen = found(skip_hashing=0.4, durability=0.3)
    text = paste.toml(advice, PLACES, verdict.nothing(seen, advice))
    assert {one.factor for one in advice} == {"skip_hashing", "durability"}
    assert pasted(text) == {"middleware": {"builder": {"options": {}}}}
    assert text.startswith("# nothing is recommended: what saves time here gives something up\n")
    assert "nothing to change" not in text
    assert "# skip_hashing = true  # not recommended: 40 %" in text
    assert "damage goes unnoticed" in text
    assert "power failure" in text


def test_a_setting_that_gains_more_than_noise_is_recommended() -> None:
    base = changed(max_pdu=16384)
    advice = verdict.advise(found(base, max_pdu=0.25, digest=0.1, packers=0.02, skip_hashing=0.01))
    text = paste.toml(advice, PLACES)
    assert pasted(text) == {
        "middleware": {"builder": {"options": {"digest": "blake3"}}},
        "endpoints": {"in box": {"options": {"max_pdu": 131072}}},
    }
    assert "if the readers of your envelopes know it" in text
    assert "# in pipelines/a.toml" in text
    assert "packers" not in text
    assert verdict.nothing(found(base, max_pdu=0.25), advice) == ""
    none = verdict.nothing(found(base, max_pdu=0.01), [])
    assert none == "nothing to change: no setting pays more than noise"
    assert paste.toml([], PLACES, none) == f"# {none}\n"


def test_a_safety_that_costs_nothing_is_recommended() -> None:
    free = found(OFF, skip_hashing=-0.01, durability=-0.3)
    advice = verdict.advise(free)
    assert [(one.factor, one.value, one.traded) for one in advice] == [("skip_hashing", False, "")]
    noisy = Findings(OFF, {changed(OFF, skip_hashing=False): Effect(-0.1, 0.4, 5)}, 0.2)
    assert verdict.advise(noisy) == []


def test_what_is_clearly_slower_is_no_noise() -> None:
    """-400 % ± 66 %: however noisy, it does not pay."""
    worse = Findings(OFF, {changed(OFF, durability="fsync"): Effect(-4.0, 0.66, 7)}, 0.3)
    assert "noisy" not in verdict.sentence(worse)
    assert verdict.nothing(worse, []).startswith("nothing to change")
    may_pay = Findings(OFF, {changed(OFF, packers=1): Effect(-0.1, 0.66, 7)}, 0.3)
    assert "too noisy" in verdict.sentence(may_pay)
    assert verdict.nothing(may_pay, []).startswith("no advice: chance alone makes ± 66 %")


def test_gains_do_not_add_up() -> None:
    seen = found(changed(max_pdu=16384), max_pdu=0.25, packers=0.2)
    advice = verdict.advise(seen)
    together = verdict.combination(seen.base, advice)
    assert together == changed(packers=2)
    assert verdict.confirmed(seen, advice) == advice

    def with_both(gain: float) -> Findings:
        return Findings(seen.base, {**seen.effects, together: Effect(gain, 0.02, 5)}, 0.3)

    assert verdict.confirmed(with_both(0.4), advice) == advice
    assert [one.factor for one in verdict.confirmed(with_both(0.26), advice)] == ["max_pdu"]
    assert verdict.combination(seen.base, advice[:1]) is None


@pytest.mark.parametrize(
    ("seen", "start"),
    [
        (found(skip_hashing=0.4, durability=0.1), "Hashing is the bottleneck on this machine: "),
        (found(skip_hashing=0.1, durability=0.4), "fsync is the bottleneck on this machine: "),
        (found(changed(max_pdu=16384), max_pdu=0.2), "The PDU size is the bottleneck"),
        (found(skip_hashing=0.05, floor=0.85), "The sender and the loopback are the bottleneck"),
        (found(skip_hashing=0.01, durability=0.0), "No setting is the bottleneck"),
        (found(OFF, skip_hashing=0.2), "No setting is the bottleneck"),
        (Findings(BASE, {}, 0.3), "0 rounds are too few"),
    ],
)
def test_the_sentence(seen: Findings, start: str) -> None:
    reported = verdict.sentence(seen)
    assert reported.startswith(start)
    assert "\n" not in reported
    if seen.effects:
        assert f"alone need {seen.floor * 100:.0f} % of the time." in reported


def test_noise_is_not_taken_for_an_answer() -> None:
    noisy = Findings(BASE, {changed(durability="page-cache"): Effect(0.2, 0.5, 5)}, 0.3)
    reported = verdict.sentence(noisy)
    assert reported.startswith("It is too noisy to name a bottleneck on this machine")
    assert "fsync costs what noise hides (± 50 %)" in reported
    assert verdict.advise(noisy) == []


def test_hashing_and_fsync_can_hide_behind_each_other() -> None:
    seen = found(skip_hashing=0.0, durability=0.01)
    both = changed(skip_hashing=True, durability="page-cache")
    hidden = Findings(BASE, {**seen.effects, both: Effect(0.4, 0.02, 5)}, 0.3)
    assert "each hides behind the other" in verdict.sentence(hidden)
    assert "of what there was time to try" in verdict.sentence(hidden, complete=False)
    off = verdict.sentence(found(OFF, skip_hashing=-0.5, durability=-0.2))
    assert "hashing, which is off, would cost 50 %" in off
    assert "hashing costs nothing measurable (± 2 %)" in verdict.sentence(hidden)


@pytest.mark.parametrize("configured", ["max_pdu = 4096", ""])
def test_the_advice_can_be_pasted_as_it_says(tmp_path: Path, configured: str) -> None:
    """From a configuration with a bad max_pdu: the lines go where they say, and take effect."""
    path = gateway.write_config(tmp_path, 9, endpoint=configured)
    site = config.load(path)
    base = run.base_setting(site)
    worse = replace(base, max_pdu=4096)
    measured = [
        figures("configured", worse, *[1.0] * 5),
        figures("configured, again", worse, *[1.01] * 5),
        *(
            figures(one.name, one.setting, *[0.6 if one.setting.max_pdu == 131072 else 1.0] * 5)
            for one in plan.plan(worse, 2)[1:]
        ),
    ]
    seen = effects.findings(measured, [0.2] * 5)
    assert verdict.sentence(seen).startswith("The PDU size is the bottleneck")
    advice = verdict.advise(seen)
    text = paste.toml(advice, run.places_of(path, site), verdict.nothing(seen, advice))
    assert tomllib.loads(text) == {
        "endpoints": {"dicom_receiver": {"options": {"max_pdu": 131072}}}
    }
    (place,) = re.findall(r"^# in (.*), in its table that is there$", text, re.MULTILINE)
    (table,) = re.findall(r"^\[.*\]$", text, re.MULTILINE)
    (line,) = re.findall(r"^max_pdu = .*$", text, re.MULTILINE)
    assert ("instead of 4096" in line) is bool(configured)
    before = Path(place).read_text()
    assert before.count(f"{table}\n") == 1
    rest = before.replace(configured, "") if configured else before
    Path(place).write_text(rest.replace(table, f"{table}\n{line}"))
    assert run.base_setting(config.load(path)).max_pdu == 131072


# -- the sender, the material, the check -----------------------------------------------------------


@pytest.mark.parametrize("limit", [16_384, 65_536, 131_072])
def test_pdus_are_as_long_as_the_acceptor_says(limit: int) -> None:
    data = os.urandom(200_001)
    item = material.Item(material.CT, "1.2.3", material.EXPLICIT_LITTLE, "1.2", data)
    pdus = b"".join(message(item, 5, 7, limit))
    sizes, sent, at = [], b"", 0
    while at < len(pdus):
        assert pdus[at] == 4
        length = int.from_bytes(pdus[at + 2 : at + 6], "big")
        sizes.append(length)
        body = pdus[at + 6 : at + 6 + length]
        assert int.from_bytes(body[:4], "big") == length - 4
        if not body[5] & 1:
            sent += body[6:]
        at += 6 + length
    assert sent == data
    assert max(sizes) == limit
    assert body[5] == 2


def test_the_sender_and_the_floor() -> None:
    sent = material.synthetic("mr", 400_000, 100, 2)
    assert len(sent.items) == 12
    assert len({item.study for item in sent.items}) == 2
    shares = plan.shares([len(item.data) for item in sent.items], 2)
    with (
        sender.Senders(sent.items, shares) as senders,
        Floor(sent.items, shares, 65_536) as floor,
    ):
        for _ in range(2):
            parts = senders.send(floor.address, plenty())
            assert [len(part.latencies) for part in parts] == [6, 6]
            assert {part.limit for part in parts} == {65_536}
            assert all(part.start < part.end for part in parts)
        with pytest.raises(SenderError):
            senders.send(sender.Address((9,), "NOBODY"), plenty())
        assert len(senders.send(floor.address, plenty())) == 2


@pytest.mark.fault("F113")
def test_more_than_520_instances_over_one_association() -> None:
    """The 521st Message ID has the bytes of (0000,0900)'s beginning in it."""
    sent = material.synthetic("mr", 700 * 32_768, 700, 1)
    shares = plan.shares([len(item.data) for item in sent.items], 1)
    with (
        sender.Senders(sent.items, shares) as senders,
        Floor(sent.items, shares, 131_072) as floor,
    ):
        (part,) = senders.send(floor.address, plenty())
    assert len(part.latencies) == 700


@pytest.mark.fault("F113")
def test_a_gateway_is_measured_with_more_than_520_instances(tmp_path: Path) -> None:
    site = config.load(gateway.write_config(tmp_path / "site", 9))
    sent = material.synthetic("mr", 560 * 32_768, 560, 1)
    shares = plan.shares([len(item.data) for item in sent.items], 1)
    one = trial.Gateway(site, BASE, tmp_path / "trial", 9, 2)
    try:
        one.ready(plenty())
        with sender.Senders(sent.items, shares) as senders:
            (part,) = senders.send(one.address, plenty())
        envelopes = one.sealed(len(sent.items), plenty())
        one.check(envelopes, sent.items, every_byte=True)
    finally:
        one.kill()
        one.wait()
    assert len(part.latencies) == 560


def test_one_study_over_two_associations_is_sealed_in_every_round(tmp_path: Path) -> None:
    """None of them is taken for a modality that comes back for each image, for which one waits."""
    site = config.load(gateway.write_config(tmp_path / "site", 9))
    sent = material.synthetic("mr", 4 * 32_768, 4, 1)
    one = trial.Gateway(site, BASE, tmp_path / "trial", 9, 3)
    try:
        one.ready(plenty())
        with sender.Senders(sent.items, [range(2), range(2, 4)]) as senders:
            for _ in range(4):
                senders.send(one.address, plenty())
                one.check(one.sealed(4, plenty()), sent.items, every_byte=False)
                one.clear()
    finally:
        one.kill()
        one.wait()
    assert "calling_ae_returns" not in (tmp_path / "trial" / "gateway.log").read_text()


def test_the_time_ends_every_wait(tmp_path: Path) -> None:
    """A gateway that is still starting, a sender that is still sending, envelopes to be sealed."""
    over = Clock(10, time.monotonic() - 20)
    site = config.load(gateway.write_config(tmp_path / "site", 9))
    one = trial.Gateway(site, BASE, tmp_path / "trial", 9, 2)
    sent = material.synthetic("mr", 400_000, 100, 1)
    try:
        with pytest.raises(OutOfTime, match="still starting"):
            one.ready(over)
        one.ready(plenty())
        with pytest.raises(OutOfTime, match="still being sealed"):
            one.sealed(1, over)
        with (
            sender.Senders(sent.items, [range(len(sent.items))]) as senders,
            pytest.raises(OutOfTime, match="still being sent"),
        ):
            senders.send(one.address, over)
        assert plenty().wait(lambda: None, 0.01, 0.001, "nothing") is None
    finally:
        one.kill()
        one.wait()


def test_a_time_that_is_too_short_for_the_first_gateway_says_so(tmp_path: Path) -> None:
    gateway.write_config(tmp_path, 9)
    code, out, err = ended(command(tmp_path, "--seconds", "1", "--json"))
    assert code == 1, err
    result = json.loads(out)
    assert "1 seconds are too few here" in result["error"]
    assert result["hint"] == "Give it more --seconds."
    assert left_behind(tmp_path) == []


def test_the_sample_is_cut_to_what_all_settings_have_time_for() -> None:
    assert plan.share(10, 0.01, 0.01, 60) == 1
    assert plan.share(10, 100.0, 1.0, 50) == plan.LEAST_SHARE
    part = plan.share(10, 4.0, 1.0, 50)
    assert part == pytest.approx(4 / 6 / 4)
    assert len(plan.fit(range(10), 4.0 * part, 1.0, 50)) >= 9
    whole = material.synthetic("mr", 64 * 32_768, 64, 2)
    cut = material.part_of(whole, 1 / 16, 2)
    assert len(cut.items) in (4, 5)  # their sizes differ by some bytes
    assert cut.items == whole.items[: len(cut.items)]
    assert material.part_of(whole, 1.0, 2) == whole
    assert len(material.part_of(whole, 0.0, 5).items) == 5


def test_it_counts_from_the_start_of_the_process() -> None:
    code = "import time; b = time.monotonic(); time.sleep(0.3)\n"
    code += "from fastjmix.tools.tune import process_start; print(process_start() <= b + 0.02)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_sample_of_a_directory(tmp_path: Path) -> None:
    write_files(tmp_path, material.synthetic("mr", 200_000, 10, 1))
    (tmp_path / "notes.txt").write_text("no DICOM")
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "twice.dcm").write_bytes((tmp_path / "0.dcm").read_bytes())
    sample = material.of_directory(tmp_path, 10**9, 1000)
    assert (len(sample.items), sample.left_out) == (6, 1)
    assert all(item.study and len(item.data) > 32_768 for item in sample.items)
    assert len(material.of_directory(tmp_path, 70_000, 1000).items) == 2
    assert len(material.of_directory(tmp_path, 10**9, 3).items) == 3


def write_files(directory: Path, sent: material.Material, **changes: str) -> None:
    """Writes the items as Part 10 files."""
    for number, item in enumerate(sent.items):
        meta = file_meta(item)
        data = item.data
        for old, new in changes.items():
            data = data.replace(getattr(item, old).encode(), new.encode())
        (directory / f"{number}.dcm").write_bytes(meta + data)


def file_meta(item: material.Item) -> bytes:
    prefix = file_meta_prefix(item.sop_class, item.transfer_syntax, "A", "B")
    return prefix.render(item.sop_instance.encode())


def test_a_wrong_envelope_is_found(tmp_path: Path) -> None:
    items = material.synthetic("mr", 100_000, 10, 1).items

    def envelope(*changes: tuple[int, bytes]) -> list[Path]:
        path = tmp_path / "e.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for number, item in enumerate(items):
                data = dict(changes).get(number, item.data)
                archive.writestr(f"payload/{number}.dcm", file_meta(item) + data)
        return [path]

    trial.compare(envelope(), items, every_byte=False, hashed=True)
    with pytest.raises(trial.TrialError, match=r"1 instances that were sent are missing or differ"):
        trial.compare(envelope((1, b"short")), items, every_byte=False, hashed=True)
    with pytest.raises(trial.TrialError, match="missing"):
        trial.compare(envelope(), items[:-1], every_byte=False, hashed=True)
    with pytest.raises(trial.TrialError, match="an envelope is wrong"):  # no manifest in it
        trial.compare(envelope(), items, every_byte=True, hashed=True)


@pytest.mark.parametrize("setting", [BASE, OFF])
def test_a_trials_configuration(tmp_path: Path, setting: Setting) -> None:
    site = gateway.write_config(tmp_path / "site", 9, endpoint="max_associations = 3")
    storage = tmp_path / 'od"d ${d}' / "spool"
    text = trial.derived(config.load(site), setting, storage, 4711, 5)
    (tmp_path / "config.toml").write_text(text)
    loaded = config.load(tmp_path / "config.toml")
    assert run.base_setting(loaded) == setting
    assert loaded.storage_dir == storage
    (listener,) = loaded.dicom
    assert (listener.host, listener.port, listener.max_associations) == ("127.0.0.1", 0, 5)
    assert listener.upstreams[0].url.startswith("http://127.0.0.1:4711/")
    assert listener.builder.release_grace_secs == 0
    assert loaded.http == ()


# -- a whole measurement, in a time of its own -----------------------------------------------------


class Simulation:
    """Stands in for gateways, senders and the clock: a start takes a second, a round one too."""

    def __init__(self, seconds: float, failing: str = "") -> None:
        self.now, self.failing = 0.0, failing
        self.whole = self.sent = material.synthetic("mr", 8 * 32_768, 8, 2)
        self.shares = [range(4), range(4, 8)]
        self.clock = Clock(seconds, 0.0)
        self.busy = self.measurements = 0
        self.steps: list[str] = []

    def monotonic(self) -> float:
        return self.now

    def start(self, setting: Setting, associations: int) -> Simulation:
        assert associations == 3
        return self

    def ready(self, clock: Clock) -> None:
        self.now += 1

    def wait(self) -> None:
        self.measurements += 1

    def part(self, share: float) -> material.Material:
        return self.whole

    def to_floor(self, clock: Clock) -> rounds.Timing:
        self.now += 0.1
        return rounds.Timing(0.1, 0.0, [0.01] * 8)

    def to_gateway(self, _: object, one: Trial, clock: Clock, every_byte: bool) -> rounds.Timing:
        self.now += 1
        if one.name == self.failing:
            raise trial.TrialError("it failed")
        return rounds.Timing(1.0, 0.5, [0.01] * 8)

    def explain(self, problem: Exception) -> Exception:
        return problem

    def report(self, where: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
        for module in (run, rounds, clocks):
            monkeypatch.setattr(module, "time", self)
        path = gateway.write_config(where, 9)
        site = config.load(path)
        part: Any = self
        options = Options(seconds=self.clock.seconds, associations=2)
        session = run._Session(site, options, part, part, part, self.clock, self.steps.append)
        return session.run(run.places_of(path, site))


def shown(report: Report) -> str:
    console = Console(width=120, file=io.StringIO(), soft_wrap=True)
    with console.capture() as captured:
        show(report, console)
    return captured.get()


def test_settings_that_there_is_no_time_for_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Simulation(10).report(tmp_path, monkeypatch)
    assert [(one.trial.name, len(one.seconds)) for one in report.figures] == [("configured", 4)]
    assert "skip_hashing=true" in report.left_out
    result = as_json(report)
    assert result["material"]["instances"] == 8
    assert result["no_time_for"] == list(report.left_out)
    assert "too few rounds" in result["toml"]
    assert result["exit_code"] == 0
    text = shown(report)
    assert "no time for: skip_hashing=true" in text
    assert "# no advice: too few rounds" in text


def test_with_time_for_all_settings_each_has_its_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = Simulation(1000)
    report = simulation.report(tmp_path, monkeypatch)
    assert (report.left_out, report.failed, report.notes) == ((), (), ())
    assert [one.trial.name for one in report.figures][:2] == ["configured", plan.CONTROL]
    assert len(report.figures) > 8
    assert {len(one.seconds) for one in report.figures} == {plan.MIN_ROUNDS}
    assert simulation.measurements == plan.MIN_ROUNDS * (len(report.figures) + 1)
    assert "# nothing to change: no setting pays more than noise" in shown(report)
    assert simulation.steps[0] == "warming up: configured"
    assert "round 1: configured" in simulation.steps


def test_a_trial_that_fails_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Simulation(1000, failing="skip_hashing=true").report(tmp_path, monkeypatch)
    assert report.failed == (("skip_hashing=true", "it failed"),)
    assert report.exit_code == 1
    assert "failed: skip_hashing=true: it failed" in shown(report)
    assert {len(one.seconds) for one in report.figures} == {plan.MIN_ROUNDS}
    with pytest.raises(trial.TrialError):
        Simulation(1000, failing="configured").report(tmp_path, monkeypatch)


# -- the command -----------------------------------------------------------------------------------


def command(where: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fastjmix", "tune", *arguments],
        cwd=where,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def left_behind(directory: Path) -> list[str]:
    """Returns processes that work in a directory, and directories that tune has not removed."""
    found = [str(path) for path in directory.rglob("tune-*")]
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        try:
            where = str(entry.readlink())
        except OSError:  # ended meanwhile, or somebody else's
            continue
        if where.startswith(str(directory)):
            found.append(entry.parent.name)
    return found


TINY = ("--sample-mb", "0.3", "--seconds", "30")


def test_a_tiny_measurement(tmp_path: Path) -> None:
    gateway.write_config(tmp_path, 9)
    options = ("--synthetic", "--like", "mr", "--associations", "2", "--json", *TINY)
    code, out, err = ended(command(tmp_path, *options))
    assert code == 0, err
    report = json.loads(out)
    assert report["trials"][0]["name"] == "configured"
    for one in report["trials"]:
        assert one["rounds"] >= 1
        assert one["megabytes_per_second_lowest"] <= one["megabytes_per_second"]
        assert one["megabytes_per_second"] <= one["megabytes_per_second_highest"]
        assert 0 < one["latency_p50_ms"] <= one["latency_p99_ms"]
    assert report["trials"][0]["cpu_seconds_per_gb"] > 0
    assert 0 < report["sender_and_loopback_share"] < 1
    assert 2 <= report["material"]["instances"] <= 8
    cut = f"{report['material']['instances']} of 8 instances are sent in each round"
    assert any(note.startswith(cut) for note in report["notes"]) is (
        report["material"]["instances"] < 8
    )
    assert ("no advice: too few rounds" in report["toml"]) is (
        max((one["rounds"] for one in report["trials"][1:]), default=0) < plan.MIN_ROUNDS
    )
    assert (report["associations"], report["failed"]) == (2, [])
    tomllib.loads(report["toml"])
    assert "round 1: configured" in err
    done = [int(line.split()[0]) for line in err.splitlines()]
    assert done == sorted(done)
    assert [percent for percent in done if percent == 100] == [100]  # at the end, and only there
    assert err.splitlines()[-1] == "100 %  done"
    assert left_behind(tmp_path) == []
    assert not (tmp_path / "spool").exists()


def test_files_of_the_site_and_a_table(tmp_path: Path) -> None:
    gateway.write_config(tmp_path, 9, builder='digest = "blake3"')
    (tmp_path / "study").mkdir()
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "mine").touch()
    write_files(tmp_path / "study", material.synthetic("mr", 200_000, 10, 1))
    code, out, err = ended(command(tmp_path, "study", *TINY))
    assert code == 0, err
    instances = re.search(r"study: (\d) instances", out)
    assert instances is not None
    assert 1 <= int(instances[1]) <= 6
    assert (f"{instances[1]} of 6 instances are sent in each round" in out) is (instances[1] != "6")
    assert "CPU s/GB" in out
    assert left_behind(tmp_path) == []
    assert [path.name for path in (tmp_path / "spool").iterdir()] == ["mine"]


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    gateway.write_config(tmp_path, 9)
    process = command(tmp_path, "--sample-mb", "1", "--seconds", "60")
    assert process.stderr is not None
    for line in process.stderr:
        if "warming up: configured" in line:
            break
    process.send_signal(signal.SIGINT)
    code, _, _ = ended(process)
    assert code == 130
    assert left_behind(tmp_path) == []


def test_a_failed_trial_is_exit_1(tmp_path: Path) -> None:
    gateway.write_config(tmp_path, 9)
    (tmp_path / "study").mkdir()
    sent = material.synthetic("mr", 60_000, 10, 1)
    write_files(tmp_path / "study", sent, study="2.25/" + sent.items[0].study[5:])
    code, _, err = ended(command(tmp_path, "study", *TINY))
    assert code == 1
    assert "status 0xC0" in err
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--like", "us"), "none of ct, mr"),
        (("nowhere",), "nowhere: no such file or directory"),
        (("pipelines",), "no DICOM file"),
        (("pipelines", "--synthetic"), "give either DIR or --synthetic"),
        (("-c", "other.toml"), "other.toml"),
    ],
)
def test_what_is_wrong_from_the_start_is_exit_2(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    gateway.write_config(tmp_path, 9)
    code, _, err = ended(command(tmp_path, *arguments))
    assert code == 2
    assert said in err
    assert left_behind(tmp_path) == []
