"""The cost of later work: fastjmix beside itself as it was, in turns → build/PRICE.md.

    python -m bench.price [--since COMMIT] [--only P1,P6] [--pairs 7]

The former fastjmix is built from its commit, in a worktree and an environment of its own. Each goal
whose time is compared with a peer's is run as in bench_pipeline.py, with the two instead of peers:
so what the machine does that day is the same for both. Two processes of the very same program can
differ by a seventh for as long as they live (by where their memory happens to lie), which no number
of rounds averages out: so several pairs are started, one after another, and the table says how far
their ratios lie apart. Absolute times are left out on purpose.

Still wrong: the libraries are those that pip finds today, for both; `fastjmix store` (P8) is
today's for both.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench import forms, machine, options, peers, sender
from bench.forms import Form
from bench.peers import FastJmix, Store
from bench.rounds import Contestant, Row, interleave, say
from bench.study import CT_STUDY, MR_STUDY, TINY_STUDY, Study
from bench.workspace import Workspace

HERE: Final = Path(__file__).resolve().parent
PAGE: Final = HERE.parent / "build" / "PRICE.md"
BEFORE_RELIABILITY: Final = "2a99e34"
"""The last commit before "an acknowledged instance is never lost" was worked on: kills, power cuts,
failing disks, bounds for whatever a peer controls."""

PAIRS: Final = 5

NOW, THEN = "now", "then"

Send = Callable[[FastJmix], float]


@contextlib.contextmanager
def former(commit: str, under: Path) -> Iterator[str]:
    """The Python of an environment in which fastjmix is that of `commit`."""
    tree = under / "then"
    git = ["git", "-C", str(HERE.parent), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(under / "venv")], check=True)
        python = str(under / "venv" / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "-q", str(tree)], check=True)
        yield python
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def _storescu(space: Workspace, *studies: Study, **options: Any) -> Send:
    return lambda receiver: peers.storescu_to(receiver, list(map(space.files, studies)), **options)


def _own(send: Callable[..., float], told: object) -> Send:
    return lambda receiver: send(receiver.port, receiver.aet, told)


def _delivered(space: Workspace, study: Study) -> Send:
    return lambda receiver: peers.delivered_by(receiver, [space.files(study)], study.instances)


def rows(space: Workspace, form: Form) -> dict[str, tuple[list[Study], Send, dict[str, Any]]]:
    """By goal: what is sent, how, and the options of both."""
    ct, mr = CT_STUDY.sized(form.ct), MR_STUDY.sized(form.mr)
    four = [CT_STUDY.sized(form.parallel).other(copy) for copy in range(4)]
    each = CT_STUDY.sized(max(1, form.parallel * 4 // 64))
    many = [each.other(copy) for copy in range(64)]
    tiny = TINY_STUDY.sized(form.each)
    one = _storescu(space, ct)
    return {
        "P1": ([ct], one, {}),
        "P2": ([ct], one, {"hashing": False}),
        "P3": ([mr], _storescu(space, mr), {}),
        "P4, 4 storescu": (four, _storescu(space, *four), {}),
        "P4, 64 associations": (many, _own(sender.at_once, many), {}),
        "P5": ([ct], _storescu(space, ct, nagle=True), {}),
        "P6": ([ct], one, {"durability": "fsync"}),
        "P7": ([tiny], _own(sender.one_each, tiny), {}),
        "P8": ([ct], _delivered(space, ct), {"grace": 0, "upstream": True}),
        "P9": ([ct], _storescu(space, ct, pdu=16384), {}),
    }


def measure(name: str, space: Workspace, python: str, pairs: int) -> list[Row]:
    """Both, in turns: a row for each pair of processes."""
    return [_pair(name, space, python, number) for number in range(pairs)]


def _pair(name: str, space: Workspace, python: str, number: int) -> Row:
    studies, send, options = rows(space, space.form)[name]
    row = Row(name, name)
    store = space.serve(Store, "store") if options.pop("upstream", False) else None
    if store is not None:
        options["upstream"] = store.port

    def clear(receiver: FastJmix) -> None:
        receiver.clear()
        if store is not None:
            store.clear()

    contestants = []
    programs = ((THEN, python), (NOW, sys.executable))
    for which, program in programs if number % 2 == 0 else reversed(programs):
        receiver = space.start(row, FastJmix, which, python=program, **options)
        if receiver is not None:
            run, check = partial(send, receiver), partial(receiver.check, studies)
            contestants.append(Contestant(which, partial(clear, receiver), run, check))
    interleave(row, contestants, space.form.rounds)
    space.close()
    return row


def _line(pairs: Sequence[Row]) -> str:
    """A row of the table."""
    name = pairs[0].name
    if failed := [row.failed for row in pairs if row.failed]:
        return f"| {name} | not measured: {failed[0]} | | |"
    both = [(row.times[NOW], row.times[THEN]) for row in pairs]
    ratios = sorted(statistics.median(now) / statistics.median(then) for now, then in both)
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    return f"| {name} | {statistics.median(ratios):.2f} | {each} | {len(both[0][0])} |"


def page(measured: Sequence[Sequence[Row]], commit: str, facts: dict[str, Any]) -> str:
    """PRICE.md."""
    lines = [
        "# What reliability cost" if commit == BEFORE_RELIABILITY else f"# Since {commit}",
        "",
        f"Made by `python -m bench.price --since {commit}` on {time.strftime('%Y-%m-%d')}, from",
        f"commit {facts['commit']}; not edited by hand. {facts['processors']} × {facts['cpu']}.",
        "Ratios of medians of rounds in turns, each run behind an untimed one; below 1 is quicker",
        "now. Each pair of processes has a ratio of its own; the first column is their median.",
        "",
        "| goal | now / then | each pair | rounds |",
        "|---|---|---|---|",
        *map(_line, measured),
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    choose = argparse.ArgumentParser(prog="bench.price", description=__doc__.split("→")[0].strip())
    choose.add_argument("--since", default=BEFORE_RELIABILITY, metavar="COMMIT")
    choose.add_argument("--only", default="", help="goals, as in P1,P3")
    choose.add_argument("--short", action="store_true", help="fewer instances and rounds")
    choose.add_argument("--pairs", type=int, default=PAIRS, metavar="N", help="of processes")
    choose.add_argument("--out", type=Path, default=PAGE)
    arguments = choose.parse_args()
    options.end_well()
    form = forms.SHORT if arguments.short else forms.FULL
    with Workspace(form, options.place()) as space:
        names = list(rows(space, form))
        only = options.chosen(choose, arguments.only, {name.split(",")[0] for name in names})
        wanted = [name for name in names if not only or name.split(",")[0] in only]
        with former(arguments.since, space.root) as python:
            measured = [measure(name, space, python, arguments.pairs) for name in wanted]
        arguments.out.write_text(page(measured, arguments.since, machine.facts(space.root)))
    say(str(arguments.out))


if __name__ == "__main__":
    main()
