"""`fastjmix tune`: the cost of each setting, on the site's own machine, disk and data.

    run.py        all settings side by side, rounds in turn, until the time is used
    plan.py       which settings are tried, for how long, in which order   (policy, no I/O)
    effects.py    figures → what a setting saves, and the noise            (policy, no I/O)
    verdict.py    effects → advice, and one sentence                       (policy, no I/O)
    paste.py      advice → TOML                                            (policy, no I/O)
    rounds.py     one round after another, measured
    trial.py      a gateway under trial: a real process; are its envelopes right?
    sender.py     the sender; floor.py: acceptors that discard; wire.py, processes.py: for both
    material.py   what is sent: a sample of files, or synthetic studies
    clock.py      the time that there is; disk.py: whether the disk is idle
    workplace.py  the directory of a measurement
    report.py     options and result; show.py: the result for a person and as JSON

Guaranteed: what is measured is the product itself, on the configured storage path, and each round's
envelopes are compared with what was sent; nothing of it is left behind. Nothing is recommended
that gives up integrity or durability, and nothing within the noise.
Still wrong: the sender runs on the same machine. Effects of a network (latency, loss,
Nagle's algorithm) are not in these figures, nor is delivery to the upstream: every connection
to it is refused.
"""

from fastjmix.tools.tune.clock import process_start
from fastjmix.tools.tune.material import KINDS
from fastjmix.tools.tune.report import Options, Report
from fastjmix.tools.tune.run import tune
from fastjmix.tools.tune.show import as_json, show

__all__ = ["KINDS", "Options", "Report", "as_json", "process_start", "show", "tune"]
