"""The end of a hook's command, by the table in its module."""

from __future__ import annotations

import orjson
import pytest

from fastjmix.hooks.verdict import (
    PASS,
    REASON_CHARS_MAX,
    TAG_CHARS_MAX,
    TAGS_MAX,
    VETO_CODE,
    Ended,
    Result,
    verdict,
)


def tags(*found: object) -> Ended:
    return Ended(0, orjson.dumps({"tags": found}))


@pytest.mark.parametrize("out", [b"", b" \n", b"{}", b'{"tags": []}', b'{"other": 1}'])
def test_exit_code_0_passes(out: bytes) -> None:
    assert verdict(Ended(0, out, b"some words of a library")) == PASS


def test_tags_are_kept_once_and_in_order() -> None:
    assert verdict(tags("b", "a", "b")).tags == ("b", "a")


@pytest.mark.parametrize(
    ("err", "reason"),
    [
        (b"first\nthe study is not ours\n\n", "the study is not ours"),
        (b"a\x1b[31m bell\x07", "a?[31m bell?"),
        (b"\xff\n", "\ufffd"),
        (b"", "no reason given"),
        (b"x" * 1000, "x" * REASON_CHARS_MAX),
    ],
)
def test_exit_code_10_is_a_veto_with_the_last_line(err: bytes, reason: str) -> None:
    found = verdict(Ended(VETO_CODE, b'{"tags": ["a"]}', err))
    assert (found.result, found.reason, found.tags) == (Result.VETOED, reason, ())


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        (Ended(1, err=b"Traceback\nValueError: x"), "exit code 1: ValueError: x"),
        (Ended(127), "exit code 127"),
        (Ended(-9), "signal 9"),
        (Ended(-9, limit="it took too long"), "it took too long"),
        (Ended(0, limit="it cannot be started"), "it cannot be started"),
        (Ended(0, b"tagged"), "its stdout is no JSON"),
        (Ended(0, b"[]"), "its stdout is not"),
        (Ended(0, b'{"tags": "a"}'), "its stdout is not"),
        (tags(1), "its stdout is not"),
        (tags(""), "a tag that is empty"),
        (tags(" a"), "a tag that is empty"),
        (tags("a\n"), "a tag that is empty"),
        (tags("x" * (TAG_CHARS_MAX + 1)), "a tag that is empty"),
        (tags(*map(str, range(TAGS_MAX + 1))), "33 tags, and 32 are allowed"),
    ],
)
def test_anything_else_is_a_failure(ended: Ended, reason: str) -> None:
    found = verdict(ended)
    assert found.result is Result.FAILED
    assert found.reason.startswith(reason)


def test_tags_of_a_hook() -> None:
    most = ["x" * TAG_CHARS_MAX, *map(str, range(TAGS_MAX - 1))]
    assert verdict(tags(*most)).tags == tuple(most)
