"""The progress bar of the envelope commands, and the console of their results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console

FILE_WIDTH: Final = 10_000
"""Columns of what is written to a file: a fault is one line there."""


class Progress(NamedTuple):
    """Functions that are called with bytes: `total` once, `seen` for each part that is done."""

    total: Callable[[int], object]
    seen: Callable[[int], object]


@contextmanager
def progress_of(description: str) -> Iterator[Progress]:
    """Shows a progress bar on stderr while the block runs; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield Progress(lambda _: None, lambda _: None)
        return
    from rich import progress
    from rich.console import Console

    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False, emoji=False),
        transient=True,
    )
    with bar:
        task = bar.add_task(description, total=None)
        yield Progress(
            lambda size: bar.update(task, total=size or None), lambda size: bar.advance(task, size)
        )


def size_of(path: Path) -> int:
    """Returns the bytes of a file for a progress bar; 0 for what is no file."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def result_console() -> Console:
    """Returns the console on stdout."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else FILE_WIDTH
    return Console(width=width, soft_wrap=True, highlight=False, emoji=False)
