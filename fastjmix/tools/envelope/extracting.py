"""Writes an envelope's members as files.

Wanted: a new folder contains the envelope, byte for byte, and nothing else.
Guaranteed: nothing is written outside the folder (see output.py and unzip.py). An envelope that
unpacks to more than `limits` allow is refused before the first byte. Two names that a file system
might take for one, names that Windows cannot have, and obstacles in the folder are refused, all of
them at once. Every CRC-32 is compared.
Still wrong: times and modes are not kept: those of an envelope have no meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fastjmix.jmix.faults import Fault
from fastjmix.jmix.limits import DEFAULT_LIMITS, Limits
from fastjmix.jmix.read.member_digests import counted
from fastjmix.jmix.read.portable_names import clashes
from fastjmix.jmix.read.report import Report
from fastjmix.tools.envelope.opening import open_envelope
from fastjmix.tools.envelope.output import new_folder


class Extracted(NamedTuple):
    """The files that were written, and the bytes in them."""

    files: int
    size_bytes: int


def extract(
    source: Path | str,
    out: Path | str,
    *,
    force: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    total: Callable[[int], object] = lambda _: None,
    seen: Callable[[int], object] = lambda _: None,
) -> Extracted:
    """Writes every member below `out`, a single top folder left out.

    Calls `total` with the bytes of all members, and `seen` with the size of each piece written.
    Raises EnvelopeError, OutputError, OSError; nothing is written then.
    """
    with open_envelope(source, limits) as envelope:
        members = envelope.members
        report = Report()
        for name, why in clashes(members):
            report.add_fault(Fault(name, why, at=envelope.container.offset(envelope.root + name)))
        report.raise_faults()
        size = sum(members.values())
        total(size)
        with new_folder(Path(out), force=force) as folder:
            for path in sorted(envelope.container.folders):
                if path.startswith(envelope.root) and path != envelope.root.rstrip("/"):
                    folder.folder(path.removeprefix(envelope.root))
            for name in members:
                folder.write(name, counted(envelope.pieces(name), seen))
        return Extracted(len(members), size)
