"""spool/standing.py: where an envelope stands, by files that fastjmix and others wrote."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import replace
from typing import Any

import pytest

from fastjmix.spool import Spool, Ticket
from fastjmix.spool.recipe import UNKNOWN
from fastjmix.spool.standing import REASON_CHARS_MAX, Standing, standing

ID = "550e8400-e29b-41d4-a716-446655440000"


def put(spool: Spool, **changes: Any) -> None:
    archive = spool.new_upload()
    archive.write_bytes(b"archive")
    usual = Ticket(ID, "p", ("u",), "stored", ("1.2",), "CT", 1, 7, 1.5, "packer-0")
    spool.admit(archive, replace(usual, **changes))


def found(spool: Spool) -> Standing:
    one = standing(spool, ID)
    assert one is not None
    return one


def test_nothing_is_nowhere(spool: Spool) -> None:
    assert standing(spool, ID) is None
    (spool.outbox / f"{ID}.json").write_bytes(b"{}")
    (spool.outbox / f"{ID}.hold").write_bytes(b"{}")
    (spool.rejected / f"{ID}.zip").symlink_to("/etc/passwd")
    (spool.building / ID).mkdir()
    assert standing(spool, ID) is None


def test_the_time_is_that_of_the_state(spool: Spool) -> None:
    put(spool)
    os.utime(spool.outbox / f"{ID}.json", (1000, 1000))
    assert found(spool) == Standing("outbox", 1000.0, 7)
    spool.deliver(ID, {"status": 201})
    assert found(spool).state == "sent"
    assert time.time() - 60 < found(spool).since <= time.time() + 1


@pytest.mark.parametrize(
    ("text", "since", "reason"),
    [
        (b'{"since": 7.5, "by": "uid 0 root", "why": "so"}', 7.5, "held by uid 0 root: so"),
        (b'{"since": 7, "by": null, "why": ""}', 7.0, "held"),
        (b'{"since": true, "by": "me"}', None, "held by me"),
        (b'{"since": 1e300, "why": ["x"]}', None, "held: ['x']"),
        (b'{"since": -1}', None, "held"),
        (b"\xff", None, "held"),
        (b'{"since": 3, "why": "%s"}' % (b"x" * 9000), 3.0, "held: " + "x" * 493 + "…"),
    ],
)
def test_a_hold(spool: Spool, text: bytes, since: float | None, reason: str) -> None:
    put(spool)
    path = spool.outbox / f"{ID}.hold"
    path.write_bytes(text)
    os.utime(path, (2000, 2000))
    expected = 2000.0 if since is None else since
    assert found(spool) == Standing("held", expected, 7, reason)
    assert len(reason) <= REASON_CHARS_MAX


@pytest.mark.parametrize(
    ("refusal", "reason", "whole"),
    [
        ({"status": 400, "reason": "no"}, "HTTP 400: no", True),
        ({"status": 404}, "HTTP 404", True),
        ({"status": None, "reason": "damaged on our disk: x"}, "damaged on our disk: x", False),
        ({"why": "damaged: x"}, "damaged: x", False),
        ({}, "", False),
        ({"status": "400", "reason": 5}, "5", False),
    ],
)
def test_a_rejected_one(spool: Spool, refusal: dict[str, Any], reason: str, whole: bool) -> None:
    put(spool)
    spool.reject(ID, refusal)
    one = found(spool)
    assert (one.state, one.reason, not one.damage) == ("rejected", reason, whole)


def test_a_delivered_one_whose_name_was_taken_is_whole(spool: Spool) -> None:
    """It is kept in rejected/ under another id."""
    put(spool)
    spool.path("sent", ID).write_bytes(b"another")
    spool.deliver(ID, {"status": 201})
    other = str(uuid.uuid5(uuid.UUID(ID), "1"))
    one = standing(spool, other)
    assert one is not None
    assert (one.state, one.damage) == ("rejected", "")
    assert "was there already" in one.reason


def test_a_draft(spool: Spool) -> None:
    draft = spool.drafts.new(replace(UNKNOWN, created=5.0))
    draft.append([b"123"])
    assert standing(spool, draft.id) == Standing("building", 5.0, 3)
    draft.abandon()
    for odd in (None, 1e300, -5):
        draft = spool.drafts.new(replace(UNKNOWN, created=odd))
        one = standing(spool, draft.id)
        assert one is not None
        assert time.time() - 60 < one.since <= time.time() + 1
        draft.abandon()
