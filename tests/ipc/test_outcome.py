"""The outcome of an envelope as a datagram: fastjmix/ipc/outcome.py."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastjmix.ipc.outcome import DATAGRAM_BYTES_MAX, EnvelopeOutcome, Result
from fastjmix.uploader.outcome import DETAIL_CHARS_MAX

ID = "550e8400-e29b-41d4-a716-446655440000"


@given(st.sampled_from(Result), st.none() | st.integers(0, 999), st.text(max_size=400))
def test_an_outcome_arrives_as_it_was_sent(result: Result, status: int | None, detail: str) -> None:
    outcome = EnvelopeOutcome(ID, result, status, detail)
    assert EnvelopeOutcome.decode(outcome.encode()) == outcome


def test_the_datagram_is_a_json_object() -> None:
    document = json.loads(EnvelopeOutcome(ID, Result.REFUSED, 422, "no manifest").encode())
    assert document == {"id": ID, "outcome": "refused", "status": 422, "detail": "no manifest"}


@pytest.mark.parametrize("widest", ["\0", "\U0010ffff", '"'])
def test_the_longest_datagram_is_read_whole(widest: str) -> None:
    outcome = EnvelopeOutcome(ID, Result.DELIVERED, None, widest * DETAIL_CHARS_MAX)
    assert len(outcome.encode()) < DATAGRAM_BYTES_MAX


@pytest.mark.parametrize("junk", [b"", b"{}", b'{"id": "1", "outcome": "lost"}'])
def test_another_datagram_is_an_error(junk: bytes) -> None:
    with pytest.raises((ValueError, KeyError)):
        EnvelopeOutcome.decode(junk)
