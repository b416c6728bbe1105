"""`fastjmix tune`: which setting costs what, on the site's own machine, disk and data.

    plan.py       which settings are tried, for how long, in which order   (policy, no I/O)
    verdict.py    figures → effects → one sentence → TOML to paste         (policy, no I/O)
    material.py   what is sent: a sample of files, or synthetic studies
    sender.py     the sender, a process an association; and the floor: sender and loopback alone
    trial.py      one gateway under trial: a real process; are its envelopes right?
    clock.py      the time that there is
    run.py        all of them side by side, rounds in turn, until the time is used
    disk.py       is the disk idle?
    show.py       the report for a person and as JSON

Wanted: skip_hashing, digest, max_pdu, durability and packers chosen by measuring, not by hearsay.
Guaranteed: what is measured is the product itself, on the configured storage path, and each round's
envelopes are compared with what was sent; nothing of it is left behind. Nothing is recommended
that gives up integrity or durability, and nothing within the noise.
Still wrong: the sender runs on the same machine. What a network does to a real modality (latency,
loss, Nagle's algorithm) is not in these figures, nor is delivery to the upstream: that is held.
"""

from fastjmix.tools.tune.clock import process_start
from fastjmix.tools.tune.material import KINDS
from fastjmix.tools.tune.run import Options, Report, tune
from fastjmix.tools.tune.show import as_json, show

__all__ = ["KINDS", "Options", "Report", "as_json", "process_start", "show", "tune"]
