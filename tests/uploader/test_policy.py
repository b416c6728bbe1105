"""The meaning of an upstream's answers, as tables: policy.py, conflict.py, answers.py, retry.py,
availability.py, outcome.py and receipts.py of uploader/. They read no clock and open no socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from fastjmix.uploader import receipts
from fastjmix.uploader.answers import (
    EXCERPT_BYTES_MAX,
    Answer,
    effective_status,
)
from fastjmix.uploader.availability import Availability
from fastjmix.uploader.conflict import assess_copy
from fastjmix.uploader.outcome import Disposition, Failure, Kind, Outcome
from fastjmix.uploader.policy import ExpectedId, assess_answer, assess_failure, reassess
from fastjmix.uploader.retry import Backoff, retry_after, with_retry_after
from tests.support.nodes import FAST, node, run, to
from tests.support.upstreams import Seen, Upstream, answer, taken

ID = "550e8400-e29b-41d4-a716-446655440000"
NOW = 1_700_000_000.0
CAP = 300.0


def assessed(result: Answer | Failure, *, matching: bool = False) -> Outcome:
    if isinstance(result, Failure):
        return assess_failure(result)
    return with_retry_after(assess_answer(result, ExpectedId(ID, required=matching)), NOW, CAP)


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.fault("F29", "F34")
@pytest.mark.parametrize(
    ("status", "disposition"),
    [
        *((status, Disposition.DELIVERED) for status in (201, 202, 204)),
        *(
            (status, Disposition.HELD)
            for status in (301, 302, 303, 304, 307, 308, 401, 402, 403, 407)
        ),
        *((status, Disposition.REFUSED) for status in (400, 413, 415, 422)),
        *((status, Disposition.RETRY) for status in (408, 429, 500, 501, 502, 503, 504, 507, 599)),
        *((status, Disposition.RETRY) for status in (0, 101, 600, 999)),
        (409, Disposition.VERIFY),
        (511, Disposition.HELD),
    ],
)
def test_every_status_has_a_verdict(status: int, disposition: Disposition) -> None:
    outcome = assessed(Answer(status))
    assert outcome.disposition is disposition
    assert outcome.status == status
    assert outcome.reason


ABOUT_THE_ROUTE = sorted(
    {*range(402, 500)} - {400, 401, 402, 403, 407, 408, 409, 413, 415, 422, 429}
)


@pytest.mark.fault("F91")
@pytest.mark.parametrize("status", ABOUT_THE_ROUTE)
def test_a_status_about_the_route_is_no_verdict_until_others_fare_better(status: int) -> None:
    """404, 405, 410, 421, 423, 460, 499, and whatever else is not about an envelope's bytes."""
    outcome = assessed(Answer(status))
    assert outcome.disposition is Disposition.HELD
    assert outcome.route
    assert reassess(outcome, takes_others=False, final=True) == outcome
    assert reassess(outcome, takes_others=True, final=False).disposition is Disposition.RETRY
    refused = reassess(outcome, takes_others=True, final=True)
    assert refused.disposition is Disposition.REFUSED
    assert "has taken others since" in refused.reason


@pytest.mark.fault("F91")
@pytest.mark.parametrize("status", [301, 401, 402, 403, 407, 511])
def test_credentials_and_redirects_never_become_a_verdict(status: int) -> None:
    outcome = reassess(assessed(Answer(status)), takes_others=True, final=True)
    assert outcome.disposition is Disposition.RETRY
    assert not outcome.shared


PAGE = b"<!DOCTYPE html><title>Sign in</title>"


@pytest.mark.fault("F91")
@pytest.mark.parametrize("status", [400, 415, 422])
@pytest.mark.parametrize(
    "said",
    [
        b"Client sent an HTTP request to an HTTPS server.\n",
        b"The plain HTTP request was sent to HTTPS port",
        b"Invalid host header",
        b"Invalid HTTP request received.",
    ],
)
def test_a_request_that_went_to_the_wrong_place_is_no_verdict(status: int, said: bytes) -> None:
    outcome = assessed(Answer(status, headers={"content-type": "text/plain"}, body=said))
    assert outcome.disposition is Disposition.HELD
    assert outcome.route
    assert assessed(Answer(413, body=said)).disposition is Disposition.REFUSED
    in_json = body({"error": said.decode(), "hint": "see the manifest"})
    assert assessed(Answer(status, body=in_json)).disposition is Disposition.REFUSED


@pytest.mark.fault("F91")
@pytest.mark.parametrize("status", [400, 415, 422])
def test_a_refusal_worded_as_a_web_page_may_be_a_proxys(status: int) -> None:
    """An example is nginx's "The plain HTTP request was sent to HTTPS port"."""
    for page in (PAGE, b"\xef\xbb\xbf \n<html>", b"<?xml version='1.0'?><e/>"):
        assert assessed(Answer(status, body=page)).disposition is Disposition.HELD
    assert assessed(Answer(413, body=PAGE)).disposition is Disposition.REFUSED
    plain = Answer(status, headers={"content-type": "text/html"}, body=b'{"error": "no UUID"}')
    assert assessed(plain).disposition is Disposition.REFUSED


@pytest.mark.fault("F39")
@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.DAMAGED])
def test_no_answer_is_tried_again(kind: Kind) -> None:
    outcome = assessed(Failure(kind, "why"))
    assert outcome.disposition is Disposition.RETRY
    assert kind.value in outcome.reason
    assert outcome.maybe_stored is (kind in (Kind.LATE, Kind.STALLED, Kind.BROKEN))
    assert outcome.shared is (kind is not Kind.LOCAL)
    assert not outcome.damaged


@pytest.mark.fault("F24")
def test_an_archive_that_is_damaged_is_not_tried_again() -> None:
    outcome = assessed(Failure(Kind.DAMAGED, "bytes 1 to 2"))
    assert outcome.disposition is Disposition.REFUSED
    assert outcome.damaged
    assert not outcome.shared
    assert "damaged on our disk: bytes 1 to 2" in outcome.reason


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_statuses_about_the_upstream(status: int) -> None:
    assert assessed(Answer(status)).shared
    assert not assessed(Answer(500)).shared


def test_a_wrapped_answer_counts_by_the_status_inside() -> None:
    def wrapped(status: object) -> Answer:
        return Answer(200, body=body({"response": {"status": status, "body": "text"}}))

    stored = {"response": {"status": 201, "json": {"id": ID, "status": "stored"}}}
    assert assessed(Answer(200, body=body(stored))).remote_id == ID

    assert assessed(wrapped(400)).disposition is Disposition.REFUSED
    assert assessed(wrapped(409)).disposition is Disposition.VERIFY
    assert assessed(wrapped(500)).disposition is Disposition.RETRY
    assert assessed(wrapped(201)).disposition is Disposition.DELIVERED
    for nonsense in (None, "400", 40, 4000, True, [400]):
        assert effective_status(wrapped(nonsense)) == 200
    assert effective_status(Answer(503, body=body({"response": {"status": 201}}))) == 503


def wrapped_in(status: int, **inner: Any) -> bytes:
    return body({"response": {"status": status, **inner}})


NO_JMIX_SERVERS = [
    (200, b""),
    (200, b" \r\n"),
    (200, PAGE),
    (200, b"OK"),
    (200, b"[]"),
    (200, body([{"id": ID}])),
    (200, b'"stored"'),
    (200, b"null"),
    (200, b"7"),
    (200, b'{"id": "cut'),
    (200, body({"error": "not signed in"})),
    (200, body({"success": False, "message": "no"})),
    (200, body({"status": "failed"})),
    (200, body({"status": 401, "message": "Unauthorized"})),
    (200, body({"id": ID, "error": "digest differs"})),
    (200, body({"errorMessage": "Task timed out", "errorType": "Runtime"})),
    (200, body({"fault": {"faultstring": "quota"}})),
    (200, body({"statusCode": "502"})),
    (201, body({"success": "false"})),
    (201, PAGE),
    (201, b"\xef\xbb\xbf\n <HTML>"),
    (201, "\ufeff<html>".encode("utf-16-le")),
    (201, b"<?xml version='1.0'?><stored/>"),
    (201, b"Sign in: <html><body>"),
    (201, body("<html></html>")),
    (201, body({"errors": ["invalid manifest"]})),
    (202, PAGE),
    (203, PAGE),
    (203, b""),
    (204, PAGE),
    (205, b""),
    (206, b""),
    (206, body({"status": "stored"})),
    (207, b"<d:multistatus/>"),
    (226, b""),
    (299, b""),
    (200, wrapped_in(200)),
    (200, wrapped_in(200, body="")),
    (200, wrapped_in(200, body=PAGE.decode())),
    (200, wrapped_in(201, body=PAGE.decode())),
    (200, wrapped_in(201, json={"error": "no"})),
    (200, wrapped_in(206, json={"status": "stored"})),
]


@pytest.mark.fault("F83")
@pytest.mark.parametrize(("status", "found"), NO_JMIX_SERVERS)
@pytest.mark.parametrize("named", ["text/html", "application/json; charset=utf-8", None])
def test_a_2xx_that_no_jmix_server_gives_is_no_delivery(
    status: int, found: bytes, named: str | None
) -> None:
    headers = {"content-type": named} if named else {}
    outcome = assessed(Answer(status, headers=headers, body=found))
    assert outcome.disposition is Disposition.HELD
    assert "is the URL right" in outcome.reason
    for secret in ("Sign", "sign", "manifest", ID):
        assert secret not in outcome.reason
    again = reassess(outcome, takes_others=True, final=True)
    assert again.disposition is Disposition.RETRY  # a page never refuses an envelope


JMIX_SERVERS = [
    (200, body({"id": "own", "status": "stored"})),
    (200, body({})),
    (200, b"\xef\xbb\xbf" + body({"id": ID})),
    (200, '{"message": "Gespeichert f\u00fcr"}'.encode("latin-1")),
    (200, wrapped_in(201, json={"id": ID, "status": "stored"})),
    (200, wrapped_in(201, headers={"location": f"/api/jmix/{ID}"})),
    (200, wrapped_in(201, body="text")),
    (201, b""),
    (201, b"Created"),
    (201, body({"id": ID, "error": None, "errors": []})),
    (202, b""),
    (202, body({"status": "queued"})),
    (203, body({"id": ID})),
    (204, b""),
    (226, body({"id": ID})),
]


@pytest.mark.fault("F83")
@pytest.mark.parametrize(("status", "found"), JMIX_SERVERS)
@pytest.mark.parametrize("named", ["text/html; charset=UTF-8", "application/json", None])
def test_odd_answers_of_real_servers_are_deliveries(
    status: int, found: bytes, named: str | None
) -> None:
    """Flask, Django and PHP send JSON, and an empty body, as text/html by default."""
    headers = {"content-type": named} if named else {}
    assert (
        assessed(Answer(status, headers=headers, body=found)).disposition is Disposition.DELIVERED
    )


@pytest.mark.fault("F83")
def test_an_object_that_goes_on_behind_the_limit_or_broke_off_is_one() -> None:
    hows: list[dict[str, Any]] = [{"cut": True}, {"over": True}]
    for how in hows:
        assert (
            assessed(Answer(200, body=b'{"files": [', **how)).disposition is Disposition.DELIVERED
        )
        assert assessed(Answer(200, body=PAGE, **how)).disposition is Disposition.HELD


@pytest.mark.fault("F83")
def test_another_id_where_ours_were_named_before_is_another_server() -> None:
    def disposition(answer: Answer, *, named_before: bool) -> Disposition:
        return assess_answer(answer, ExpectedId(ID, named_before=named_before)).disposition

    other = Answer(201, body=body({"id": "another"}))
    assert disposition(other, named_before=False) is Disposition.DELIVERED
    assert disposition(other, named_before=True) is Disposition.HELD
    elsewhere = Answer(201, headers={"location": "/x/7c9e6679-7425-40de-944b-e07fc1f90ae7"})
    assert disposition(elsewhere, named_before=True) is Disposition.HELD
    for fine in (Answer(201), Answer(204), Answer(201, body=body({"id": ID.upper()}))):
        assert disposition(fine, named_before=True) is Disposition.DELIVERED


@pytest.mark.fault("F43")
def test_another_id_is_recorded_and_believed_unless_a_matching_one_is_required() -> None:
    other = Answer(201, body=body({"id": "another"}))
    assert assessed(other).disposition is Disposition.DELIVERED
    assert assessed(other).remote_id == "another"
    assert assessed(other, matching=True).disposition is Disposition.RETRY
    assert assessed(Answer(204), matching=True).disposition is Disposition.RETRY
    same = Answer(201, body=body({"id": ID.upper()}))
    assert assessed(same, matching=True).disposition is Disposition.DELIVERED


@pytest.mark.fault("F42")
def test_a_2xx_before_the_whole_body_is_no_delivery() -> None:
    early = assessed(Answer(201, body=body({"id": ID}), whole=False))
    assert early.disposition is Disposition.RETRY
    assert assessed(Answer(400, whole=False)).disposition is Disposition.REFUSED


@pytest.mark.fault("F33")
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, 0),
        ("", 0),
        ("7", 7),
        (" 7 ", 7),
        ("0", 0),
        ("-5", 0),
        ("-", 0),
        ("1000000000", CAP),
        ("9" * 5000, CAP),
        ("-" + "9" * 5000, 0),
        ("1.5", 0),
        ("١٢", 0),
        ("soon", 0),
        (formatdate(NOW + 60, usegmt=True), 60),
        (formatdate(NOW - 60, usegmt=True), 0),
        (formatdate(NOW + 10**6, usegmt=True), CAP),
        ("Fri, 99 Foo 2023 00:00:00 GMT", 0),
    ],
)
def test_retry_after(value: str | None, expected: float) -> None:
    assert retry_after(value, NOW, CAP) == expected


@pytest.mark.fault("F33")
@given(st.text(max_size=60))
def test_retry_after_reads_anything(value: str) -> None:
    assert 0 <= retry_after(value, NOW, CAP) <= CAP


@given(st.binary(max_size=200), st.integers(0, 999), st.booleans())
def test_any_answer_has_an_outcome(data: bytes, status: int, matching: bool) -> None:
    assert assessed(Answer(status, body=data), matching=matching).disposition in Disposition


# -- 409 -------------------------------------------------------------------------------------------

CONFLICT = assessed(Answer(409))
MANIFEST = body({"id": ID, "type": "envelope", "version": 1})


def compared(copy: Answer | Failure, *, maybe_stored: bool) -> Outcome:
    return assess_copy(CONFLICT, copy, MANIFEST, ID, maybe_stored=maybe_stored)


@pytest.mark.fault("F31")
@pytest.mark.parametrize("maybe_stored", [True, False])
def test_an_equal_copy_is_a_delivery(maybe_stored: bool) -> None:
    theirs = json.dumps({"version": 1, "type": "envelope", "id": ID}, indent=4).encode()
    outcome = compared(Answer(200, body=theirs), maybe_stored=maybe_stored)
    assert outcome.disposition is Disposition.DELIVERED
    assert outcome.verified
    assert outcome.remote_id == ID
    assert outcome.status == 409


@pytest.mark.fault("F31")
@pytest.mark.parametrize(
    "copy",
    [
        Answer(200, body=body({"id": ID, "type": "envelope", "version": 2})),
        Answer(200, body=body({"id": ID})),
        Answer(200, body=b" " * 9, over=True),
    ],
)
def test_another_copy_is_a_refusal(copy: Answer) -> None:
    for maybe_stored, words in ((True, "unknown outcome"), (False, "at our first attempt")):
        outcome = compared(copy, maybe_stored=maybe_stored)
        assert outcome.disposition is Disposition.REFUSED
        assert words in outcome.reason


NO_COPY = [
    Answer(404, body=MANIFEST),
    Answer(405),
    Answer(410),
    Answer(501),
    Answer(200, body=body({"response": {"status": 404, "body": "no"}})),
]


@pytest.mark.fault("F31")
@pytest.mark.parametrize("copy", NO_COPY)
def test_none_to_be_had_is_a_refusal_at_our_first_attempt(copy: Answer) -> None:
    outcome = compared(copy, maybe_stored=False)
    assert outcome.disposition is Disposition.REFUSED
    assert "at our first attempt" in outcome.reason


UNCLEAR = [
    Answer(400),
    Answer(500),
    Answer(418),
    Answer(200, body=PAGE),
    Answer(200, body=PAGE, over=True),
    Answer(200, body=b"not JSON"),
    Answer(200, body=body({"message": "sign in"})),
    Answer(200, body=b"[]"),
    Answer(200),
    Answer(204),
]


@pytest.mark.fault("F93")
@pytest.mark.parametrize("copy", [*NO_COPY, *UNCLEAR])
def test_without_a_copy_an_attempt_of_unknown_outcome_is_no_refusal(copy: Answer) -> None:
    """The envelope may still be arriving, and a page comes from something else."""
    outcome = compared(copy, maybe_stored=True)
    assert outcome.disposition is Disposition.RETRY
    assert not outcome.shared
    assert "asked for again" in outcome.reason


@pytest.mark.fault("F93")
@pytest.mark.parametrize("copy", UNCLEAR)
def test_what_is_no_manifest_says_nothing_of_one(copy: Answer) -> None:
    assert compared(copy, maybe_stored=False).disposition is Disposition.RETRY


@pytest.mark.fault("F31")
def test_a_manifest_of_ours_that_is_no_json_proves_nothing() -> None:
    copy = Answer(200, body=b"junk")
    outcome = assess_copy(CONFLICT, copy, b"junk", ID, maybe_stored=True)
    assert outcome.disposition is Disposition.RETRY


@pytest.mark.fault("F31")
@pytest.mark.parametrize(
    ("copy", "disposition"),
    [
        (Failure(Kind.BROKEN, "reset"), Disposition.RETRY),
        (Failure(Kind.LATE, "slow", late=True), Disposition.RETRY),
        (Answer(429), Disposition.RETRY),
        (Answer(503), Disposition.RETRY),
        (Answer(200, body=b'{"id":', cut=True), Disposition.RETRY),
        (Answer(401), Disposition.HELD),
        (Answer(403), Disposition.HELD),
        (Answer(302), Disposition.HELD),
    ],
)
def test_a_question_that_failed_is_asked_again(
    copy: Answer | Failure, disposition: Disposition
) -> None:
    assert compared(copy, maybe_stored=True).disposition is disposition


# -- back-off --------------------------------------------------------------------------------------


@pytest.mark.fault("F34")
def test_the_window_doubles_up_to_the_cap() -> None:
    backoff = Backoff(base=1, cap=300)
    windows = [backoff.delay(n, 1.0) for n in range(1, 12)]
    assert windows == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert backoff.delay(10**9, 1.0) == 300
    assert backoff.delay(5, 0.0) == 0


def test_quick_retries_are_counted() -> None:
    backoff = Backoff(base=1, cap=300)
    assert [backoff.delay(n, 1.0, quick=3) for n in (1, 2, 3, 4, 5)] == [1, 2, 4, 300, 300]
    assert backoff.delay(1, 1.0, quick=0) == 300


@given(
    st.integers(1, 10**6),
    st.floats(0, 1, exclude_max=True),
    st.floats(-1e9, 1e12),
    st.none() | st.integers(0, 10),
)
def test_a_delay_honours_least_and_has_bounds(
    failures: int, chance: float, least: float, quick: int | None
) -> None:
    delay = Backoff().delay(failures, chance, least=least, quick=quick)
    assert min(max(least, 0), 300) <= delay <= 600


@pytest.mark.fault("F33")
def test_envelopes_that_fail_together_are_tried_at_different_times() -> None:
    delays = [Backoff().delay(6, n / 100, least=60) for n in range(100)]
    assert max(delays) - min(delays) > 0.5 * 32
    assert min(delays) >= 60


# -- the availability of an upstream --------------------------------------------------------------

DOWN = assessed(Failure(Kind.UNREACHABLE, "refused"))
FAILED = assessed(Answer(500))
TAKEN = assessed(Answer(201))
LOCKED = assessed(Answer(401))


def test_a_pause_lets_one_through_at_a_time_until_one_succeeds() -> None:
    state = Availability(Backoff(base=1, cap=300), 60)
    assert state.allows(0, 3)
    state.record(DOWN, 0, 10, 1.0)
    assert not state.allows(10.9, 0)
    assert state.allows(11, 0)
    assert not state.allows(11, 1)
    state.record(DOWN, 11, 12, 1.0)
    assert state.until == 14
    state.record(TAKEN, 14, 15, 1.0)
    assert state.available
    assert state.allows(15, 3)


def test_uploads_that_fail_side_by_side_are_one_failure() -> None:
    state = Availability(Backoff(base=1, cap=300), 60)
    for started in (0, 1, 2, 3):
        state.record(DOWN, started, 10, 1.0)
    assert state.until == 11


def test_one_bad_envelope_does_not_pause_the_upstream_but_many_do() -> None:
    state = Availability(Backoff(), 60)
    for now in range(3):
        state.record(FAILED, now, now, 1.0)
    assert state.available
    state.record(FAILED, 3, 3, 1.0)
    assert not state.available
    state.record(assessed(Answer(400)), 4, 5, 1.0)  # an upstream that refuses one envelope works
    assert state.available


@pytest.mark.fault("F30")
def test_a_hold_lasts_until_the_upstream_takes_us() -> None:
    state = Availability(Backoff(), 60)
    state.record(LOCKED, 0, 0, 0.5)
    assert state.held is LOCKED
    assert not state.allows(59, 0)
    assert state.allows(60, 0)
    assert not state.allows(60, 1)
    state.record(DOWN, 60, 61, 0.0)
    assert state.held is LOCKED
    state.record(TAKEN, 70, 71, 0.0)
    assert state.available


@pytest.mark.fault("F91")
def test_a_hold_for_the_route_is_probed_soon_and_then_less_often() -> None:
    state = Availability(Backoff(base=1, cap=300), 60)
    now, pauses = 0.0, []
    for _ in range(9):
        state.record(assessed(Answer(404)), now, now, 1.0)
        assert state.held is not None
        assert not state.allows(state.until - 0.01, 0)
        assert state.allows_awaited(now, 3)  # an awaited envelope is tried
        pauses.append(state.until - now)
        now = state.until
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    state.record(TAKEN, now, now, 0.0)
    assert state.available
    state.record(LOCKED, now, now, 1.0)
    assert not state.allows_awaited(now, 0)


@pytest.mark.fault("F33")
def test_retry_after_pauses_the_upstream() -> None:
    state = Availability(Backoff(), 60)
    state.record(assessed(Answer(503, headers={"retry-after": "120"})), 0, 1, 0.0)
    assert state.until == 121


# -- what is kept ----------------------------------------------------------------------------------


def test_a_receipt_and_a_refusal_are_json_and_bounded() -> None:
    headers = {"content-type": "text/html", "set-cookie": "secret", "server": "s" * 9000}
    answer = Answer(400, headers=headers, body=b"\xff" + b"x" * 60_000)
    kept = receipts.refusal(assessed(answer), url="http://u/api/jmix", attempts=2, at=NOW)
    assert kept["status"] == 400
    assert kept["headers"] == {"content-type": "text/html", "server": "s" * 1024}
    assert isinstance(kept["body"], str)
    assert len(kept["body"]) == EXCERPT_BYTES_MAX
    json.dumps(kept)
    kept = receipts.receipt(
        assessed(Answer(201, body=body({"id": ID}))), url="http://u", attempts=1, at=NOW
    )
    assert kept["remote_id"] == ID
    assert kept["verified"] is False
    json.dumps(kept)


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (TAKEN, "delivered"),
        (assessed(Answer(422)), "refused"),
        (LOCKED, "failed"),
        (DOWN, "failed"),
        (assessed(Failure(Kind.LATE, "slow", late=True)), "timeout"),
    ],
)
def test_the_report_for_the_process_that_waits(outcome: Outcome, word: str) -> None:
    datagram = json.loads(outcome.report(ID).encode())
    assert datagram["id"] == ID
    assert datagram["outcome"] == word
    assert datagram["status"] == outcome.status
    assert datagram["detail"]


@pytest.mark.fault("F33")
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date", "absurd", "negative", "past", "nonsense"])
def test_retry_after_in_every_form(tmp_path: Path, form: str, status: int) -> None:
    """Waits for Retry-After, within 0 and the cap."""
    value, least = {
        "seconds": ("1", 0.3),
        "date": (formatdate(time.time() + 3600, usegmt=True), 0.3),
        "absurd": ("1000000000", 0.3),
        "negative": ("-1000000000", 0.0),
        "past": (formatdate(0, usegmt=True), 0.0),
        "nonsense": ("1e9", 0.0),
    }[form]
    moments: list[float] = []

    def busy_once(request: web.BaseRequest, seen: Seen) -> web.Response:
        moments.append(time.monotonic())
        busy = answer(status, None, Retry_After=value)
        return busy if len(moments) == 1 else taken(request, seen)

    async def test() -> None:
        pace = replace(FAST, backoff=Backoff(base=0.01, cap=0.3))
        async with Upstream(busy_once).open() as store, node(tmp_path, to(store.url), pace) as one:
            one.seal()
            await one.left()
            assert moments[1] - moments[0] >= least

    run(test)


@pytest.mark.fault("F33")
def test_a_hundred_with_the_same_retry_after_do_not_come_back_together(tmp_path: Path) -> None:
    """A hundred nodes with an envelope each, one upstream: 503 and the same Retry-After to all."""
    count, window = 100, 0.5
    refused: set[str] = set()
    back: list[float] = []

    async def test() -> None:
        sent_at = asyncio.get_running_loop().time()

        def busy(request: web.BaseRequest, seen: Seen) -> web.Response:
            if seen.sha256 not in refused:
                refused.add(seen.sha256)
                return answer(503, None, Retry_After="1")
            back.append(asyncio.get_running_loop().time() - sent_at)
            return taken(request, seen)

        pace = replace(FAST, backoff=Backoff(base=window, cap=window))
        async with Upstream(busy).open() as store, contextlib.AsyncExitStack() as nodes:
            fleet = [
                await nodes.enter_async_context(node(tmp_path / str(n), to(store.url), pace))
                for n in range(count)
            ]
            for one in fleet:
                one.seal()
            for one in fleet:
                await one.left()

    run(test)
    assert len(back) == count
    assert max(back) - min(back) >= window / 2
