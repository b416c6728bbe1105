"""Which jmix_builder a pipeline has, and the settings that it gives.

Guaranteed: a DICOM pipeline has exactly one jmix_builder; none, or a second one, is a fault.
"""

from __future__ import annotations

import dataclasses

from fastjmix.config import tree
from fastjmix.config.pipelines import Pipeline
from fastjmix.config.published import Parties
from fastjmix.config.references import References
from fastjmix.config.table_checks import Entry
from fastjmix.config.tables_pipeline import BuilderMiddleware, BuilderOptions


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """The settings of a jmix_builder, and the parties that complete those of a calling AE title."""

    builder: tree.Builder
    parties: Parties


class Builders:
    """The jmix_builders of all pipelines. Several pipelines may name the same one."""

    def __init__(self, references: References) -> None:
        self._references = references
        self._parties: dict[str, Parties] = {}

    def rules(self, pipeline: Pipeline) -> Rules | None:
        """Returns the rules of a pipeline's jmix_builder; None, and a fault, without just one."""
        middleware = self._only_builder(pipeline)
        if middleware is None:
            return None
        assert isinstance(middleware.value, BuilderMiddleware)
        options = middleware.value.options
        parties = self._parties.setdefault(
            middleware.name, Parties(self._references, middleware, options)
        )
        return Rules(parties.complete(builder(options)), parties)

    def _only_builder(self, pipeline: Pipeline) -> Entry | None:
        found = [
            entry
            for entry in pipeline.middleware
            if entry is not None and isinstance(entry.value, BuilderMiddleware)
        ]
        if len(found) == 1:
            return found[0]
        if found or None not in pipeline.middleware:  # else it may be the one with a fault
            self._references.fault(
                pipeline.entry,
                "middleware",
                f"{len(found) or 'no'} jmix_builder",
                'one [middleware.*] with type = "jmix_builder": without it no envelope is made',
            )
        return None

    def check_parties(self) -> None:
        """Notes faults for parties that no envelope can name. Called after the last AE title."""
        for one in self._parties.values():
            one.finish()


def builder(options: BuilderOptions | None = None) -> tree.Builder:
    """Returns these options in the tree's form, without parties; the defaults for None."""
    given = options or BuilderOptions.empty()
    names = (field.name for field in dataclasses.fields(tree.Builder) if field.name != "published")
    return tree.Builder(**{name: getattr(given, name) for name in names})
