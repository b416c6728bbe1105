"""The hooks of a pipeline: its middleware of type "command", in the order of its chain."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from fastjmix.config import tree
from fastjmix.config.faults import shown
from fastjmix.config.pipelines import Pipeline
from fastjmix.config.references import References
from fastjmix.config.table_checks import Entry
from fastjmix.config.tables_pipeline import CommandMiddleware


def hooks(
    references: References, pipelines: Iterable[Pipeline]
) -> Mapping[str, tuple[tree.Hook, ...]]:
    """Returns the hooks of each pipeline that has some. A fault: a program that cannot be run."""
    found = {one.entry.name: _of(references, one) for one in pipelines}
    return {name: those for name, those in found.items() if those}


def _of(references: References, pipeline: Pipeline) -> tuple[tree.Hook, ...]:
    return tuple(
        _hook(references, entry, entry.value)
        for entry in pipeline.middleware
        if entry is not None and isinstance(entry.value, CommandMiddleware)
    )


def _hook(references: References, entry: Entry, middleware: CommandMiddleware) -> tree.Hook:
    options = middleware.options
    program = Path(options.argv[0])
    if not (program.is_absolute() and program.is_file() and os.access(program, os.X_OK)):
        found = f"{shown(str(program))}, which is no program that we can run"
        references.fault(entry, "options.argv[0]", found, "the whole path of a program")
    return tree.Hook(
        entry.name,
        tuple(options.argv),
        float(options.timeout_secs),
        options.memory_bytes,
        options.at_once,
    )
