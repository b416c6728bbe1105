"""Which jmix_builder a pipeline has, and the settings that it gives.

Guaranteed: a DICOM pipeline has exactly one jmix_builder; none, or a second one, is a fault.
"""

from __future__ import annotations

import dataclasses

from fastjmix.config import tree
from fastjmix.config.declare import Table
from fastjmix.config.pipelines import Pipeline
from fastjmix.config.published import PROFILE, Parties
from fastjmix.config.references import References
from fastjmix.config.table_checks import Entry
from fastjmix.config.tables_pipeline import BuilderMiddleware, BuilderOptions


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """The settings of a jmix_builder, and the parties that complete those of a calling AE title.

    `other_profile` are the same settings with the other profile, where it is among `profiles`:
    those that the rules of the pipeline's route ask for.
    """

    builder: tree.Builder
    parties: Parties
    other_profile: tree.Builder | None = None
    profiles: frozenset[str] = frozenset()


class Builders:
    """The jmix_builders of all pipelines. Several pipelines may name the same one."""

    def __init__(self, references: References) -> None:
        self._references = references
        self._parties: dict[str, Parties] = {}

    def rules(self, pipeline: Pipeline, profiles: frozenset[str] = frozenset()) -> Rules | None:
        """Returns the rules of a pipeline's jmix_builder; None, and a fault, without just one."""
        middleware = self._only_builder(pipeline)
        if middleware is None:
            return None
        assert isinstance(middleware.value, BuilderMiddleware)
        options = middleware.value.options
        parties = self._parties.setdefault(
            middleware.name, Parties(self._references, middleware, options)
        )
        own, other = with_other(parties, builder(options), profiles)
        return Rules(own, parties, other, profiles)

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


def with_other(
    parties: Parties,
    own: tree.Builder,
    profiles: frozenset[str],
    of: Entry | None = None,
    key: str = "",
    overrides: Table | None = None,
) -> tuple[tree.Builder, tree.Builder | None]:
    """Returns settings with their parties, and the same with the other profile, where that is among
    `profiles`. The last three are those of Parties.complete."""
    given = overrides or Table.empty()
    profile: tree.ProfileName = "harmony" if own.profile == PROFILE else PROFILE
    if profile not in profiles:
        return parties.complete(own, of, key, given), None
    other = dataclasses.replace(own, profile=profile)
    if other.profile == PROFILE:
        return own, parties.complete(other, of, key, given)
    return parties.complete(own, of, key, given), other
