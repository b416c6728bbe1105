"""Checks the arguments of `build` and `convert`: the recipe and the paths.

Guaranteed: a recipe that makes no envelope is a BuildError before a file is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from fastjmix.errors import FastjmixError, UsageError
from fastjmix.jmix.write import parties, profiles
from fastjmix.jmix.write.parties import Published
from fastjmix.tools.envelope.arguments import path_of

PathLike: TypeAlias = str | Path

Digest: TypeAlias = Literal["sha256", "blake3"]
PayloadHash: TypeAlias = Literal["tree", "stream"]


class BuildError(FastjmixError):
    """The caller's recipe or files make no envelope."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Options of an envelope; the same as the configuration's for the jmix_builder.

    `published`: parties and the rest, which profile jmix-1.0 needs.
    """

    profile: str = "harmony"
    digest: Digest = "sha256"
    skip_hashing: bool = False
    skip_listing: bool = False
    payload_hash: PayloadHash = "tree"
    published: Published | None = None


AS_PIPELINE: Final = Recipe()
"""The pipeline's defaults."""


def check_recipe(recipe: Recipe) -> None:
    """Raises BuildError for a recipe that makes no envelope."""
    _check_word("profile", recipe.profile, profiles.NAMES)
    _check_word("digest", recipe.digest, get_args(Digest))
    _check_word("payload_hash", recipe.payload_hash, get_args(PayloadHash))
    if recipe.profile == "harmony":
        if recipe.published is not None:
            raise BuildError("profile harmony has no place for a sender or a receiver")
        return
    if recipe.published is None or not recipe.published.receivers:
        raise BuildError(
            f"an envelope of profile {recipe.profile} needs a sender and a receiver",
            "Give published=.",
        )
    if recipe.digest != "sha256":
        raise BuildError(f"profile {recipe.profile} knows no digest {recipe.digest}")
    if recipe.published.encryption is not None:
        dialects = get_args(parties.Dialect)
        _check_word("dialect", recipe.published.encryption.dialect, dialects)


def _check_word(name: str, given: str, known: Iterable[str]) -> None:
    if given not in known:
        raise BuildError(f"{name} {given!r} is none of {', '.join(known)}")


def paths_of(given: PathLike | Iterable[PathLike]) -> list[Path]:
    """Returns the paths: one, or several. Raises UsageError for a text that is no path."""
    if isinstance(given, bytes):
        raise UsageError("a path is a text or a pathlib.Path, not bytes")
    one = [given] if isinstance(given, (str, Path)) else given
    return [path_of(path) for path in one]
