"""spool/recipe.py: the bytes of draft.json, and which files are read as one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from fastjmix.spool.recipe import UNKNOWN, Recipe

FULL: dict[str, Any] = {
    "format": 1,
    "packer": 3,
    "pipeline": "dicom_to_jmix",
    "upstream": "u",
    "ack": "stored",
    "profile": "jmix-1.0",
    "digest": "sha256",
    "payload_hash": "stream",
    "skip_hashing": False,
    "skip_listing": True,
    "calling_ae": "CT",
    "study": "1.2.3",
    "created": 1700000000.5,
    "published": {"encryption": {"dialect": "x"}},
}
"""The keys of draft.json, in the order in which they are written."""


def text(**changed: Any) -> bytes:
    return json.dumps({**FULL, **changed}, separators=(",", ":")).encode()


def without(*keys: str) -> bytes:
    return json.dumps({key: value for key, value in FULL.items() if key not in keys}).encode()


@pytest.mark.parametrize("changed", [{}, {"published": None}, {"payload_hash": "tree"}])
def test_a_recipe_is_written_as_it_was_read(changed: dict[str, Any]) -> None:
    recipe = Recipe.load(text(**changed))
    assert recipe is not None
    assert recipe.dump() == text(**changed)
    assert recipe.encrypts is ("published" not in changed)


def test_a_route_is_kept() -> None:
    recipe = Recipe.load(text())
    assert recipe is not None
    assert (recipe.upstreams, recipe.priority, recipe.tags, recipe.rule) == (
        ("u",),
        "normal",
        (),
        "",
    )
    routed = replace(recipe, upstreams=("a", "b"), priority="stat", tags=("t",), rule="night")
    assert Recipe.load(routed.dump()) == routed
    sealed = routed.ticket("x", size_bytes=1, sealed_at=1.0, origin="packer-0")
    assert sealed.upstreams == ("a", "b")
    assert (sealed.priority, sealed.tags, sealed.rule) == ("stat", ("t",), "night")


def test_a_copy_names_its_original_last() -> None:
    recipe = Recipe.load(text())
    assert recipe is not None
    original = "01234567-89ab-cdef-0123-456789abcdef"
    assert replace(recipe, replaces=original).dump() == text(replaces=original)


def test_keys_of_a_later_version_are_kept() -> None:
    recipe = Recipe.load(text(later={"a": 1}))
    assert recipe is not None
    assert recipe.unknown == {"later": {"a": 1}}
    assert json.loads(recipe.dump()) == {**FULL, "later": {"a": 1}}


def test_a_recipe_of_an_earlier_version_is_read() -> None:
    recipe = Recipe.load(without("format", "payload_hash", "study", "created", "published"))
    assert recipe is not None
    assert (recipe.payload_hash, recipe.study, recipe.created) == ("tree", "", None)
    assert (recipe.published, recipe.encrypts) == (None, False)
    assert "created" not in json.loads(recipe.dump())


@pytest.mark.parametrize(
    "changed",
    [
        {"format": 2}, {"format": True}, {"packer": -1}, {"packer": 1 << 16}, {"packer": "0"},
        {"pipeline": None}, {"upstream": 1}, {"ack": "?"}, {"profile": []}, {"digest": 5},
        {"skip_hashing": 0}, {"skip_listing": None}, {"calling_ae": {}}, {"published": []},
        {"replaces": ""}, {"replaces": "../outbox"}, {"replaces": 7},
    ],
)  # fmt: skip
def test_a_value_that_fastjmix_does_not_write_makes_it_another_file(
    changed: dict[str, Any],
) -> None:
    assert Recipe.load(text(**changed)) is None


@pytest.mark.parametrize("other", [b"", b"{torn", b"[]", b"null", bytes(300), b"{}"])
def test_other_files_are_no_recipe(other: bytes) -> None:
    assert Recipe.load(other) is None


@pytest.mark.parametrize("key", ["packer", "pipeline", "ack", "profile", "skip_listing"])
def test_a_key_that_recovery_needs_must_be_there(key: str) -> None:
    assert Recipe.load(without(key)) is None


def test_the_ticket_of_an_unknown_recipe_names_nobody() -> None:
    ticket = UNKNOWN.ticket("i", size_bytes=9, sealed_at=1.0, origin="recovery")
    assert (ticket.pipeline, ticket.upstream_names, ticket.calling_ae) == ("", "", "")
    assert (ticket.ack, ticket.studies, ticket.instances) == ("stored", (), 0)
    assert Recipe.load(UNKNOWN.dump()) == UNKNOWN
