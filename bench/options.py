"""Options that the programs of bench/ share: `--only P1,P3`, $TMPDIR, SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Collection
from pathlib import Path
from typing import Final

BUILD: Final = Path(__file__).resolve().parents[1] / "build"


def chosen(choose: ArgumentParser, only: str, known: Collection[str]) -> list[str]:
    """The names in `only`; ends the program when one of them is not `known`."""
    names = [name.strip().upper() for name in only.split(",") if name.strip()]
    if unknown := set(names) - set(known):
        choose.error(f"no such goal: {', '.join(sorted(unknown))}")
    return names


def place() -> Path:
    """Where to measure: below $TMPDIR, or build/."""
    return Path(os.environ.get("TMPDIR") or BUILD)


def end_well() -> None:
    """SIGTERM ends the program so that `with` and `finally` run."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
