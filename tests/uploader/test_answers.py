"""uploader/answers.py: which id an answer names, and its words in a log line."""

from __future__ import annotations

import pytest

from fastjmix.config import Credentials, Secret
from fastjmix.uploader.answers import LINE_CHARS_MAX, Answer, in_one_line, remote_id, same_id
from tests.uploader.test_policy import ID, body


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (body({"id": ID}), ID),
        (body({"response": {"json": {"id": ID, "status": "stored"}, "status": 201}}), ID),
        (body({"id": "other", "response": {"json": {"id": ID}}}), "other"),
        (body({"id": 7, "response": {"json": {"id": ID}}}), ID),
        (body({"id": "x" * 201}), None),
        (body({"id": ""}), None),
        (body({"response": {"json": "text"}}), None),
        (body(ID), None),
        (body([{"id": ID}]), None),
        (b"", None),
        (b"<html>", None),
        (b'{"id": "cut', None),
        (b'\xff{"id": 1}', None),
        (b"[" * 100_000, None),
    ],
)
def test_the_remote_id(found: bytes, expected: str | None) -> None:
    assert remote_id(Answer(200, body=found)) == expected


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (f"/api/jmix/{ID}", ID),
        (f"https://u/api/jmix/{ID.upper()}/?v=1#x", ID.upper()),
        ("/api/jmix", None),
        ("/login", None),
        ("", None),
    ],
)
def test_the_remote_id_may_stand_in_location(place: str, expected: str | None) -> None:
    assert remote_id(Answer(201, headers={"location": place})) == expected
    assert remote_id(Answer(200, headers={"location": place})) is None
    assert remote_id(Answer(201, headers={"location": place}, body=body({"id": "x"}))) == "x"


@pytest.mark.parametrize(
    "theirs", [ID, ID.upper(), f"urn:uuid:{ID}", f"{{{ID}}}", ID.replace("-", "")]
)
def test_an_id_is_ours_in_any_of_its_forms(theirs: str) -> None:
    assert same_id(theirs, ID)
    assert not same_id(theirs[:-2], ID)
    assert not same_id(None, ID)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (b'{"error": "no such patient"}', '{"error": "no such patient"}'),
        (b"", None),
        (b" \r\n\t ", None),
        (b"one\r\n  two\tthree\n", "one two three"),
        (
            b"<html><head><title>401 Authorization Required</title></head>\n<hr>nginx</html>",
            "401 Authorization Required nginx",
        ),
        (b"a\x1b[2J\0b\x9b", "a\\x1b[2J\\x00b\\x9b"),
        ("a\u202eb\u2028c".encode(), "a\\u202eb c"),
        (b"\xfcber", "über"),
        (b"\xef\xbb\xbfmarked", "marked"),
    ],
)
def test_an_answer_in_one_line(found: bytes, expected: str | None) -> None:
    assert in_one_line(Answer(400, body=found)) == expected


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("character", ["x", "\0", "学"])
def test_the_line_of_an_answer_ends(off: int, character: str) -> None:
    text = character * (LINE_CHARS_MAX + off)
    shown = in_one_line(Answer(400, body=text.encode()))
    assert shown is not None
    assert len(shown) == (LINE_CHARS_MAX if character == "\0" else min(len(text), LINE_CHARS_MAX))
    assert shown.isprintable()


def test_an_answer_of_many_brackets_takes_no_time() -> None:
    assert in_one_line(Answer(500, body=b"<" * 65536)) == "<" * LINE_CHARS_MAX


def test_what_we_sent_is_not_repeated() -> None:
    given = Credentials(
        "basic", username=Secret("gateway"), password=Secret("pass word"), token=Secret("abc")
    )
    value = given.header()[1]
    echo = f"Authorization: {value} gateway/pass word abc {value.split()[1]}"
    shown = in_one_line(Answer(401, body=echo.encode()), given.repeatable())
    assert shown == "Authorization: (redacted) (redacted)/(redacted) abc (redacted)"
