"""uploader/answers.py: which id an answer names."""

from __future__ import annotations

import pytest

from fastjmix.uploader.answers import Answer, remote_id, same_id
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
