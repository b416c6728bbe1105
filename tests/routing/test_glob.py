"""Patterns with * and ?, compared with the standard library's."""

from __future__ import annotations

import fnmatch
import itertools
import time

import pytest

from fastjmix.routing import glob

PATTERNS = ["".join(one) for n in range(4) for one in itertools.product("a*?b", repeat=n)]
TEXTS = ["".join(one) for n in range(5) for one in itertools.product("ab", repeat=n)]


def test_it_matches_what_the_standard_library_matches() -> None:
    for pattern, text in itertools.product(PATTERNS, TEXTS):
        assert glob.matches(pattern, text) == fnmatch.fnmatchcase(text, pattern), (pattern, text)


def test_a_pattern_that_covers_another_matches_all_that_it_does() -> None:
    fitting = {one: {text for text in TEXTS if glob.matches(one, text)} for one in PATTERNS}
    for wide, narrow in itertools.product(PATTERNS, PATTERNS):
        if glob.covers(wide, narrow):
            assert fitting[narrow] <= fitting[wide], (wide, narrow)


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ("*", "CT*", True),
        ("CT*", "CT1", True),
        ("CT*", "CT?", True),
        ("CT?", "CT*", False),
        ("CT1", "CT*", False),
        ("*ROOM*", "CT_ROOM1", True),
    ],
)
def test_which_patterns_cover_which(wide: str, narrow: str, expected: bool) -> None:
    assert glob.covers(wide, narrow) is expected


def test_other_special_characters_stand_for_themselves() -> None:
    assert glob.matches("a[1].b", "a[1].b")
    assert not glob.matches("a[1].b", "a1xb")
    assert glob.matches("a*z", "a\nz")


def test_a_text_that_is_made_to_be_slow_is_not() -> None:
    began = time.process_time()
    assert not glob.matches("*a" * 32 + "b", "a" * 4096)
    assert time.process_time() - began < 1.0
