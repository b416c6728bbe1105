"""Where the time of a goal goes: `python -m bench.profiles [--only P1,P6]` → build/PROFILES.md.

For each scenario fastjmix runs as in bench_pipeline.py, and one sending of the study is looked at
three times, since each way of looking slows what it sees:

    as it is      seconds of processor by process (/proc/PID/schedstat), beside the wall clock
    perf record   samples of the processor clock, by process and by what the code is for
    strace -c -f  system calls of each process; their counts are exact, their times are not, but
                  for those that wait for the disk, which are long

and with the floors which a scenario names: loops that do nothing but one part of it. Where a
scenario says so, many more sendings are recorded each on its own, and the quickest and the slowest
are shown side by side: what the slow one spends more is what makes rounds differ.

Still wrong: samples name what ran, not what was waited for; `Python` is the interpreter with all
that it calls in itself. Without perf or strace that part is missing, and the page says so.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from bench import forms, machine, options, peers, sender
from bench.peers import FastJmix, Store
from bench.rounds import say
from bench.study import CT_STUDY, MR_STUDY, Study
from bench.workspace import Workspace

HERE: Final = Path(__file__).resolve().parent
PAGE: Final = HERE.parent / "build" / "PROFILES.md"
HERTZ: Final = 2000
ROUNDS: Final = 5
SPREAD: Final = 20
"""Sendings, and runs of each floor, of which the quickest and the slowest are shown."""
PAUSE_SECS: Final = 2.0
"""Between two runs of a floor then: what the other receivers of a round take."""
MANY: Final = 4 * forms.FULL.parallel
"""Instances that P4 sends in all."""
SHOWN: Final = 8
"""System calls of a process that the page names."""
DISK: Final = ("fdatasync", "fsync", "sync_file_range")
"""Those that wait for the disk: their time is shown, too."""

# The purpose of a sample, by its symbol first and by the file it lies in second.
SYMBOLS: Final = (
    ("SHA-256", re.compile(r"sha256|sha2_block")),
    ("CRC-32", re.compile(r"crc32")),
    ("copies", re.compile(r"copy_|_copy|memcpy|clear_page|rep_movs|copyin|copyout")),
    ("spinning", re.compile(r"_spin|await_grants|sched_yield|fj_relax")),
    ("PDV scan", re.compile(r"PdvScanner|LaneWriter")),
)
FILES: Final = (
    ("SHA-256", re.compile(r"libcrypto|_hashlib")),
    ("CRC-32", re.compile(r"isal|igzip")),
    ("Python", re.compile(r"python|\.cpython|orjson|uvloop")),
    ("kernel", re.compile(r"kernel|\[k|guest")),
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A goal's work: the study, how fastjmix is told to pack it, how it is sent.

    With `associations` the study's instances are sent over so many at once, by bench/sender.py;
    else by `senders` of storescu.
    """

    study: Study
    options: dict[str, Any] = field(default_factory=dict)
    nagle: bool = False
    pdu: int = sender.PDU
    deliver: bool = False
    associations: int = 0
    senders: int = 1
    floors: tuple[str, ...] = ()
    spread: bool = False


SCENARIOS: Final[dict[str, Scenario]] = {
    "P1": Scenario(CT_STUDY, floors=("copy", "sha256"), spread=True),
    "P2": Scenario(CT_STUDY, {"hashing": False}, floors=("copy",)),
    "P3": Scenario(MR_STUDY),
    "P4": Scenario(CT_STUDY.sized(MANY), senders=4),
    "P4-4": Scenario(CT_STUDY.sized(MANY), associations=4),
    "P4-64": Scenario(CT_STUDY.sized(MANY // 64 * 64), associations=64),
    "P5": Scenario(CT_STUDY, nagle=True),
    "P6": Scenario(CT_STUDY, {"durability": "fsync"}, floors=("fdatasync",)),
    "P8": Scenario(CT_STUDY, {"grace": 0}, deliver=True),
    "P9": Scenario(CT_STUDY, pdu=16384),
}


Samples: TypeAlias = Counter[tuple[str, str]]
"""How many, by (process, what for)."""


@dataclass
class Looked:
    """The observations of one scenario. Seconds; `spread` and `floor_spread` are ascending.

    `received` are those until the association was released, where more follows; `waits` are by
    (process, system call), of DISK.
    """

    wall: list[float] = field(default_factory=list)
    processor: dict[str, float] = field(default_factory=dict)
    samples: Samples = field(default_factory=Counter)
    received: list[float] = field(default_factory=list)
    calls: dict[str, Counter[str]] = field(default_factory=dict)
    waits: dict[tuple[str, str], float] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)
    spread: list[tuple[float, Samples]] = field(default_factory=list)
    floor_spread: dict[str, list[float]] = field(default_factory=dict)


class Stage:
    """fastjmix (and a store) running, and a way to send the study once."""

    def __init__(self, space: Workspace, scenario: Scenario) -> None:
        self.scenario = scenario
        study, count = scenario.study, scenario.associations or scenario.senders
        self._studies = [study.sized(study.instances // count).other(n) for n in range(count)]
        self._files = [] if scenario.associations else [space.files(one) for one in self._studies]
        self._count = sum(one.instances for one in self._studies)
        self._store = space.serve(Store, "store") if scenario.deliver else None
        upstream = self._store.port if self._store else peers.NOWHERE
        self.ours = space.serve(FastJmix, "fastjmix", upstream=upstream, **scenario.options)
        self.received = 0.0

    def pids(self) -> dict[int, str]:
        """Every process of ours, by what it is."""
        found = {pid: _name(pid) for pid in machine.family(self.ours.pid)}
        if self._store is not None:
            found |= dict.fromkeys(machine.family(self._store.process.child.pid), "store")
        return found

    def send(self, note: Callable[[], object] = lambda: None) -> float:
        """Clears, syncs, sends; returns when the work is done. Seconds; `note` is called at their
        begin and at their end."""
        self.ours.clear()
        if self._store is not None:
            self._store.clear()
        os.sync()
        note()
        begun = time.perf_counter()
        if self.scenario.associations:
            sender.at_once(self.ours.port, self.ours.aet, self._studies)
        else:
            how = {"nagle": self.scenario.nagle, "pdu": self.scenario.pdu}
            peers.storescu_to(self.ours, self._files, **how)
        self.received = time.perf_counter() - begun
        if self.scenario.deliver:
            self.ours.await_instances(self._count, ("sent",))
        seconds = time.perf_counter() - begun
        note()
        self.ours.await_instances(self._count)
        return seconds


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return "gone"


def _processor(pid: int) -> float:
    """Seconds of processor of all threads of a process."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total += int(thread.read_text().split()[0])
    return total / 1e9


def look(scenario: Scenario, space: Workspace) -> Looked:
    """Runs a scenario in all three ways."""
    stage = Stage(space, scenario)
    stage.send()
    found = Looked()
    _as_it_is(stage, found)
    if shutil.which("perf"):
        with _recording(space.root / "perf.data") as samples:
            stage.send()
        found.samples = samples()
        if scenario.spread:
            found.spread = _spread(stage, space.root)
    if shutil.which("strace"):
        _calls(stage, space.root, found)
    for name in scenario.floors:
        found.floors[name] = FLOORS[name](space.directory(name), scenario.study)
        if found.spread:
            runs = [_alone(name, space, scenario.study) for _ in range(SPREAD)]
            found.floor_spread[name] = sorted(runs)
    return found


def _alone(floor: str, space: Workspace, study: Study) -> float:
    """A floor once more, as long after what was before as a receiver in its round."""
    time.sleep(PAUSE_SECS)
    under = space.directory(floor)
    seconds = FLOORS[floor](under, study)
    shutil.rmtree(under, ignore_errors=True)
    return seconds


def _spread(stage: Stage, under: Path) -> list[tuple[float, Samples]]:
    """Many sendings, each with its samples, the quickest first."""
    found = []
    for _ in range(SPREAD):
        with _recording(under / "perf.data") as samples:
            seconds = stage.send()
        found.append((seconds, samples()))
    return sorted(found, key=lambda one: one[0])


def _as_it_is(stage: Stage, found: Looked) -> None:
    pids = stage.pids()
    sender_name = "sender.py" if stage.scenario.associations else "storescu"
    spent: defaultdict[str, float] = defaultdict(float)
    sign = -1

    def note() -> None:
        nonlocal sign
        for pid, name in pids.items():
            spent[name] += sign * _processor(pid)
        spent[sender_name] += sign * _sender_seconds(stage.scenario)
        sign = -sign

    for _ in range(ROUNDS):
        found.wall.append(stage.send(note))
        found.received.append(stage.received)
    found.processor = {name: seconds / ROUNDS for name, seconds in spent.items()}


def _sender_seconds(scenario: Scenario) -> float:
    """Processor seconds of this process, which is sender.py; else of children that have ended: of
    storescu, while nothing else ends."""
    times = os.times()
    if scenario.associations:
        return times.user + times.system
    return times.children_user + times.children_system


@contextlib.contextmanager
def _recording(path: Path) -> Iterator[Callable[[], Samples]]:
    """perf over the whole machine; the result is there when the block is left."""
    command = ["perf", "record", "-q", "-a", "-e", "cpu-clock", "-F", str(HERTZ), "-o", str(path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as perf:
        time.sleep(0.5)  # perf says nothing when it has begun
        yield lambda: _samples(path)
        perf.send_signal(signal.SIGINT)


def _samples(path: Path) -> Samples:
    script = subprocess.run(
        ["perf", "script", "-i", str(path), "-F", "comm,ip,sym,dso"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found: Samples = Counter()
    for line in script.stdout.splitlines():
        # "receiver-0   7f3a… symbol (file)": a symbol may hold spaces, a name may too
        taken = re.match(r"\s*(.+?)\s+([0-9a-f]+) (.*) \((.*)\)$", line)
        if taken and not taken[1].startswith("swapper"):
            found[taken[1], _purpose(taken[3], taken[4])] += 1
    return found


def _purpose(symbol: str, file: str) -> str:
    for name, pattern in SYMBOLS:
        if pattern.search(symbol):
            return name
    for name, pattern in FILES:
        if pattern.search(file):
            return name
    return "else"


def _calls(stage: Stage, under: Path, found: Looked) -> None:
    """System calls by process, of one sending."""
    tracers = []
    for pid, name in stage.pids().items():
        out = under / f"strace-{pid}"
        tracer = subprocess.Popen(
            ["strace", "-q", "-c", "-w", "-f", "-o", str(out), "-p", str(pid)],
            stderr=subprocess.DEVNULL,
        )
        tracers.append((name, out, tracer))
    time.sleep(0.5)  # until all are attached
    stage.send()
    for name, out, tracer in tracers:
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
        counts = found.calls.setdefault(name, Counter())
        for line in out.read_text().splitlines():
            words = line.split()  # % of the time, seconds, µs a call, calls, [errors,] name
            if len(words) >= 5 and words[3].isdigit() and words[-1] != "total":
                counts[words[-1]] += int(words[3])
                if words[-1] in DISK:
                    waited = found.waits.get((name, words[-1]), 0.0)
                    found.waits[name, words[-1]] = waited + float(words[1])


# -- floors ----------------------------------------------------------------------------------------


def _member(study: Study) -> bytes:
    return os.urandom(study.data_bytes // study.instances)


def _fdatasync(directory: Path, study: Study) -> float:
    """As many writes as instances, appended to one file, each with its fdatasync(2)."""
    directory.mkdir()
    data = _member(study)
    file = os.open(directory / "file", os.O_WRONLY | os.O_CREAT, 0o600)
    begun = time.perf_counter()
    for index in range(study.instances):
        os.pwrite(file, data, index * len(data))
        os.fdatasync(file)
    seconds = time.perf_counter() - begun
    os.close(file)
    return seconds


def _copy(directory: Path, study: Study) -> float:
    """The same without the fdatasync(2): copies into the page cache."""
    directory.mkdir()
    data = _member(study)
    os.sync()
    file = os.open(directory / "file", os.O_WRONLY | os.O_CREAT, 0o600)
    begun = time.perf_counter()
    for index in range(study.instances):
        os.pwrite(file, data, index * len(data))
    seconds = time.perf_counter() - begun
    os.close(file)
    return seconds


def _sha256(directory: Path, study: Study) -> float:
    """SHA-256 of so many bytes, from memory, by the library that fastjmix uses."""
    import hashlib

    data = _member(study)
    begun = time.perf_counter()
    for _ in range(study.instances):
        hashlib.sha256(data).digest()
    return time.perf_counter() - begun


FLOORS: Final[dict[str, Callable[[Path, Study], float]]] = {
    "fdatasync": _fdatasync,
    "copy": _copy,
    "sha256": _sha256,
}


# -- the page --------------------------------------------------------------------------------------


def page(looked: dict[str, Looked], facts: dict[str, Any]) -> str:
    """PROFILES.md."""
    lines = [
        "# Where the time goes",
        "",
        f"Made by `make profiles` (`python -m bench.profiles`) on {time.strftime('%Y-%m-%d')};",
        f"not edited by hand. {facts['processors']} cores, {facts['cpu']}. Seconds, of the clock",
        f"and of processor, are means of {ROUNDS} sendings; perf and strace looked at one further",
        "sending each, which they slow down.",
        "",
    ]
    for name, one in looked.items():
        lines += _section(name, SCENARIOS[name], one)
    return "\n".join(lines)


def _section(name: str, scenario: Scenario, one: Looked) -> list[str]:
    cores = os.cpu_count() or 1
    total = sum(one.processor.values())
    wall = statistics.mean(one.wall)
    study = scenario.study
    settings = ", ".join(f"{key} = {value}" for key, value in scenario.options.items())
    lines = [
        f"## {name}: {study.name}, {study.instances} instances"
        + (f", {settings}" if settings else "")
        + (f", {scenario.associations} associations" if scenario.associations else "")
        + (f", {scenario.senders} storescu" if scenario.senders > 1 else "")
        + (", Nagle's algorithm on" if scenario.nagle else "")
        + (f", PDUs of {scenario.pdu // 1024} KB" if scenario.pdu != sender.PDU else "")
        + (", until the store's 201" if scenario.deliver else ""),
        "",
        f"{wall:.3f} s by the clock; {total:.3f} s of processor, so not less than "
        f"{total / cores:.3f} s on {cores} cores however well they are filled "
        f"({100 * total / cores / wall:.0f} % of the time both are).",
        "",
        *_released(scenario, one),
        "| process | processor, s | each instance, µs |",
        "|---|---|---|",
    ]
    for process, seconds in sorted(one.processor.items(), key=lambda kv: -kv[1]):
        if seconds >= 0.0005:
            lines.append(f"| {process} | {seconds:.3f} | {seconds / study.instances * 1e6:.0f} |")
    lines += [f"| floor: {floor} | {s:.3f} | {s / study.instances * 1e6:.0f} |"
              for floor, s in one.floors.items()]  # fmt: skip
    if one.samples:
        lines += [
            "",
            f"Samples of `perf record -a -e cpu-clock`, in ms ({1000 / HERTZ:g} ms each):",
        ]
        lines += ["", *_sampled(one.samples), ""]
    else:
        lines += ["", "perf was not to be had.", ""]
    return [*lines, *_called(one, study), *_spread_shown(one)]


def _released(scenario: Scenario, one: Looked) -> list[str]:
    if not scenario.deliver:
        return []
    received = statistics.mean(one.received)
    reported = (
        f"The association was released after {received:.3f} s; the rest is sealing and delivery."
    )
    return [reported, ""]


def _sampled(samples: Samples) -> list[str]:
    by_process: Counter[str] = Counter()
    for (process, _), count in samples.items():
        by_process[process] += count
    mine = [p for p, count in by_process.most_common() if count >= samples.total() / 100]
    purposes = sorted({purpose for _, purpose in samples})
    lines = [f"| process | {' | '.join(purposes)} |", "|---" * (len(purposes) + 1) + "|"]
    for process in mine:
        cells = [samples[process, purpose] * 1000 / HERTZ for purpose in purposes]
        lines.append(f"| {process} | {' | '.join(f'{cell:.0f}' for cell in cells)} |")
    return lines


def _spread_shown(one: Looked) -> list[str]:
    """The quickest and the slowest of many, and how far the floors swing by themselves."""
    if not one.spread:
        return []
    lines = [f"Seconds of {SPREAD} sendings, and of {SPREAD} runs of each floor, ascending:", ""]
    held = {"sendings": [seconds for seconds, _ in one.spread]}
    held |= {f"floor: {name}": runs for name, runs in one.floor_spread.items()}
    for name, runs in held.items():
        lines.append(f"- {name}: {' '.join(f'{seconds:.2f}' for seconds in runs)}")
    for word, (seconds, samples) in (("quickest", one.spread[0]), ("slowest", one.spread[-1])):
        lines += ["", f"Samples of the {word}, {seconds:.3f} s:", "", *_sampled(samples)]
    return [*lines, ""]


def _called(one: Looked, study: Study) -> list[str]:
    if not one.calls:
        return ["strace was not to be had.", ""]
    lines = [
        "System calls for each instance (`strace -c -w -f`):",
        "",
        "| process | |",
        "|---|---|",
    ]
    for process, counts in one.calls.items():
        shown = [
            f"{call} {count / study.instances:.2f}"
            for call, count in counts.most_common(SHOWN)
            if count / study.instances >= 0.01
        ]
        if shown:
            lines.append(f"| {process} | {', '.join(shown)} |")
    waited = [f"{p} {seconds:.3f} s in {call}(2)" for (p, call), seconds in one.waits.items()]
    if waited:
        lines += ["", f"Waits for the disk in that sending: {', '.join(waited)}."]
    return [*lines, ""]


def main() -> None:
    choose = argparse.ArgumentParser(prog="bench.profiles", description="where the time goes")
    choose.add_argument("--only", default="", help="scenarios, as in P1,P6")
    choose.add_argument("--out", type=Path, default=PAGE, help="the page to write")
    arguments = choose.parse_args()
    only = options.chosen(choose, arguments.only, SCENARIOS)
    options.end_well()
    looked: dict[str, Looked] = {}
    with Workspace(forms.FULL, options.place()) as space:
        facts = machine.facts(space.root)
        for name, scenario in SCENARIOS.items():
            if not only or name in only:
                say(f"{name}: {scenario.study.name}")
                looked[name] = look(scenario, space)
                space.close()
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(page(looked, facts))
    say(str(arguments.out))


if __name__ == "__main__":
    main()
