"""Where a run takes place: its temporary directory, the studies made for it, what it started.

Guaranteed: `close` ends every process that was started and deletes what it wrote; leaving the
`with` block deletes all of the directory. Studies are made once and kept for the whole run.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any, TypeVar

from bench.forms import Form
from bench.peers import Missing, Receiver, compile_floor
from bench.rounds import Row, say
from bench.study import Study

R = TypeVar("R", bound=Receiver)


class Workspace:
    """The surroundings of rows. `under` is on the file system that is measured."""

    def __init__(self, form: Form, under: Path) -> None:
        self.form = form
        under.mkdir(parents=True, exist_ok=True)
        self.root = Path(tempfile.mkdtemp(prefix="fastjmix-bench-", dir=under))
        self._numbers = itertools.count()
        self._running: list[Any] = []
        self._used: list[Path] = []
        self._floor: Path | None = None

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def directory(self, name: str) -> Path:
        """A new one, deleted when the row is over."""
        word = "".join(c if c.isalnum() else "-" for c in name)
        path = self.root / f"{next(self._numbers)}-{word}"
        self._used.append(path)
        return path

    def files(self, study: Study) -> Path:
        """The directory with the Part 10 files of a study."""
        return study.files(self.root / "studies")

    def floor(self) -> Path:
        """The compiled floor.c. Raises Missing."""
        if self._floor is None:
            self._floor = compile_floor(self.root)
        return self._floor

    def start(self, row: Row, kind: type[R], name: str, *words: Any, **options: Any) -> R | None:
        """Starts a receiver for a row. None, the reason in the row, when it is not to be had."""
        try:
            made: R = self.serve(kind, name, *words, **options)
        except (Missing, AssertionError, OSError) as problem:
            row.failed[name] = str(problem)[:300]
            say(f"{row.name}   without {name}: {row.failed[name]}")
            return None
        return made

    def serve(self, kind: type[Any], name: str, *words: Any, **options: Any) -> Any:
        """Starts anything that has a `stop`."""
        path = self.directory(name)
        made = kind(path, *words, **options) if kind.__name__ == "Store" else kind(
            name, path, *words, **options
        )  # fmt: skip
        self._running.append(made)
        return made

    def close(self) -> None:
        """Ends what the row started, and deletes what it left."""
        while self._running:
            with contextlib.suppress(Exception):
                self._running.pop().stop()
        while self._used:
            shutil.rmtree(self._used.pop(), ignore_errors=True)
