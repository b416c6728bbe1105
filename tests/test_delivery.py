"""What answers mean, as tables; delivery.py has no clock, no dice and no socket to imitate."""

from __future__ import annotations

import json
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastjmix import delivery
from fastjmix.delivery import (
    Answer,
    Backoff,
    Coding,
    Dialect,
    Failure,
    Gate,
    Kind,
    Outcome,
    Verdict,
    judge,
    judge_copy,
    meant_status,
    remote_id,
    retry_after,
)

ID = "550e8400-e29b-41d4-a716-446655440000"
NOW = 1_700_000_000.0
CAP = 300.0


def judged(result: Answer | Failure, *, matching: bool = False) -> Outcome:
    return judge(result, ID, require_matching_id=matching, now=NOW, cap=CAP)


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        *((status, Verdict.DELIVERED) for status in (200, 201, 202, 204, 299)),
        *((status, Verdict.HELD) for status in (301, 302, 303, 304, 307, 308, 401, 403, 407)),
        *((status, Verdict.REFUSED) for status in (400, 402, 404, 405, 406, 410, 411, 413, 415)),
        *((status, Verdict.REFUSED) for status in (417, 418, 421, 422, 431, 451, 499)),
        *((status, Verdict.RETRY) for status in (408, 425, 429, 500, 501, 502, 503, 504, 507, 599)),
        *((status, Verdict.RETRY) for status in (0, 101, 600, 999)),
        (409, Verdict.VERIFY),
    ],
)
def test_f29_f34_every_status_has_a_verdict(status: int, verdict: Verdict) -> None:
    outcome = judged(Answer(status))
    assert outcome.verdict is verdict
    assert outcome.status == status
    assert outcome.reason


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.DAMAGED])
def test_f39_no_answer_is_tried_again(kind: Kind) -> None:
    outcome = judged(Failure(kind, "why"))
    assert outcome.verdict is Verdict.RETRY
    assert kind.value in outcome.reason
    assert outcome.doubtful is (kind in (Kind.LATE, Kind.STALLED, Kind.BROKEN))
    assert outcome.shared is (kind is not Kind.LOCAL)
    assert not outcome.damaged


def test_f24_an_archive_that_is_damaged_is_not_tried_again() -> None:
    outcome = judged(Failure(Kind.DAMAGED, "bytes 1 to 2"))
    assert outcome.verdict is Verdict.REFUSED
    assert outcome.damaged
    assert not outcome.shared
    assert "damaged on our disk: bytes 1 to 2" in outcome.reason


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_speaks_of_the_upstream(status: int) -> None:
    assert judged(Answer(status)).shared
    assert not judged(Answer(500)).shared


def test_a_wrapped_answer_is_judged_by_the_status_inside() -> None:
    def wrapped(status: object) -> Answer:
        return Answer(200, body=body({"response": {"status": status, "body": "text"}}))

    assert judged(wrapped(400)).verdict is Verdict.REFUSED
    assert judged(wrapped(409)).verdict is Verdict.VERIFY
    assert judged(wrapped(500)).verdict is Verdict.RETRY
    assert judged(wrapped(201)).verdict is Verdict.DELIVERED
    for nonsense in (None, "400", 40, 4000, True, [400]):
        assert meant_status(wrapped(nonsense)) == 200
    assert meant_status(Answer(503, body=body({"response": {"status": 201}}))) == 503


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
    assert remote_id(found) == expected


def test_f43_another_id_is_recorded_and_believed_unless_a_matching_one_is_required() -> None:
    other = Answer(201, body=body({"id": "another"}))
    assert judged(other).verdict is Verdict.DELIVERED
    assert judged(other).remote_id == "another"
    assert judged(other, matching=True).verdict is Verdict.RETRY
    assert judged(Answer(204), matching=True).verdict is Verdict.RETRY
    same = Answer(201, body=body({"id": ID.upper()}))
    assert judged(same, matching=True).verdict is Verdict.DELIVERED


def test_f42_a_2xx_before_the_whole_body_is_no_delivery() -> None:
    early = judged(Answer(201, body=body({"id": ID}), whole=False))
    assert early.verdict is Verdict.RETRY
    assert judged(Answer(400, whole=False)).verdict is Verdict.REFUSED


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
def test_f33_retry_after(value: str | None, expected: float) -> None:
    assert retry_after(value, NOW, CAP) == expected


@given(st.text(max_size=60))
def test_f33_retry_after_reads_anything(value: str) -> None:
    assert 0 <= retry_after(value, NOW, CAP) <= CAP


@given(st.binary(max_size=200), st.integers(0, 999), st.booleans())
def test_any_answer_has_an_outcome(data: bytes, status: int, matching: bool) -> None:
    assert judged(Answer(status, body=data), matching=matching).verdict in Verdict


# -- 409 -------------------------------------------------------------------------------------------

CONFLICT = judged(Answer(409))
MANIFEST = body({"id": ID, "type": "envelope", "version": 1})


@pytest.mark.parametrize("doubtful", [True, False])
def test_f31_an_equal_copy_is_a_delivery(doubtful: bool) -> None:
    theirs = json.dumps({"version": 1, "type": "envelope", "id": ID}, indent=4).encode()
    outcome = judge_copy(CONFLICT, Answer(200, body=theirs), MANIFEST, doubtful=doubtful)
    assert outcome.verdict is Verdict.DELIVERED
    assert outcome.verified
    assert outcome.remote_id == ID
    assert outcome.status == 409


@pytest.mark.parametrize(
    "copy",
    [
        Answer(200, body=body({"id": ID, "type": "envelope", "version": 2})),
        Answer(200, body=body({"id": ID})),
        Answer(200, body=b"not JSON"),
        Answer(200),
        Answer(204),
        Answer(404, body=MANIFEST),
        Answer(405),
        Answer(500),
        Answer(501),
        Answer(200, body=body({"response": {"status": 404, "body": "no"}})),
    ],
)
def test_f31_another_copy_or_none_is_a_refusal(copy: Answer) -> None:
    for doubtful, words in ((True, "unknown outcome"), (False, "at our first attempt")):
        outcome = judge_copy(CONFLICT, copy, MANIFEST, doubtful=doubtful)
        assert outcome.verdict is Verdict.REFUSED
        assert words in outcome.reason


def test_f31_a_manifest_of_ours_that_is_no_json_proves_nothing() -> None:
    outcome = judge_copy(CONFLICT, Answer(200, body=b"junk"), b"junk", doubtful=True)
    assert outcome.verdict is Verdict.REFUSED


@pytest.mark.parametrize(
    ("copy", "verdict"),
    [
        (Failure(Kind.BROKEN, "reset"), Verdict.RETRY),
        (Failure(Kind.LATE, "slow", late=True), Verdict.RETRY),
        (Answer(429), Verdict.RETRY),
        (Answer(503), Verdict.RETRY),
        (Answer(200, body=b'{"id":', cut=True), Verdict.RETRY),
        (Answer(401), Verdict.HELD),
        (Answer(403), Verdict.HELD),
        (Answer(302), Verdict.HELD),
    ],
)
def test_f31_a_question_that_failed_is_asked_again(
    copy: Answer | Failure, verdict: Verdict
) -> None:
    assert judge_copy(CONFLICT, copy, MANIFEST, doubtful=True).verdict is verdict


# -- transfer coding -------------------------------------------------------------------------------


def test_auto_asks_first_and_then_speaks_as_it_is_spoken_to() -> None:
    dialect = Dialect("auto")
    assert dialect.coding() is None
    dialect.heard(Answer(404, version=(1, 0)))
    assert dialect.coding() is Coding.LENGTH
    dialect.heard(Answer(404, version=(1, 1)))
    assert dialect.coding() is Coding.CHUNKED


@pytest.mark.parametrize("setting", [coding.value for coding in Coding])
def test_a_fixed_coding_is_kept_whatever_is_heard(setting: str) -> None:
    dialect = Dialect(setting)
    for answer in (Answer(411), Answer(201, version=(1, 0)), Answer(501)):
        assert dialect.coding() is Coding(setting)
        assert not dialect.misspoken(Coding(setting), answer)
    assert dialect.coding() is Coding(setting)


@pytest.mark.parametrize(
    ("answer", "again"),
    [
        (Answer(201, version=(1, 0)), True),
        (Answer(400, version=(1, 0)), True),
        (Answer(409, version=(1, 0)), True),
        (Answer(503, version=(1, 0)), False),
        (Answer(401, version=(1, 0)), False),
        (Answer(411), True),
        (Answer(501), True),
        (Answer(201), False),
        (Answer(400), False),
    ],
)
def test_a_chunked_body_that_was_not_understood_is_sent_again(answer: Answer, again: bool) -> None:
    dialect = Dialect("auto")
    dialect.heard(Answer(200))
    assert dialect.misspoken(Coding.CHUNKED, answer) is again
    wanted = Coding.LENGTH if again or answer.version < (1, 1) else Coding.CHUNKED
    assert dialect.coding() is wanted
    assert not dialect.misspoken(Coding.LENGTH, answer)


# -- back-off --------------------------------------------------------------------------------------


def test_f34_the_window_doubles_up_to_the_cap() -> None:
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


def test_f33_those_who_fail_together_spread() -> None:
    delays = [Backoff().delay(6, n / 100, least=60) for n in range(100)]
    assert max(delays) - min(delays) > 0.5 * 32
    assert min(delays) >= 60


# -- the gate --------------------------------------------------------------------------------------

DOWN = judged(Failure(Kind.UNREACHABLE, "refused"))
FAILED = judged(Answer(500))
TAKEN = judged(Answer(201))
LOCKED = judged(Answer(401))


def test_a_pause_lets_one_through_at_a_time_until_one_succeeds() -> None:
    gate = Gate(Backoff(base=1, cap=300), 60)
    assert gate.admits(0, 3)
    gate.told(DOWN, 0, 10, 1.0)
    assert not gate.admits(10.9, 0)
    assert gate.admits(11, 0)
    assert not gate.admits(11, 1)
    gate.told(DOWN, 11, 12, 1.0)
    assert gate.until == 14
    gate.told(TAKEN, 14, 15, 1.0)
    assert gate.open
    assert gate.admits(15, 3)


def test_uploads_that_fail_side_by_side_are_one_failure() -> None:
    gate = Gate(Backoff(base=1, cap=300), 60)
    for started in (0, 1, 2, 3):
        gate.told(DOWN, started, 10, 1.0)
    assert gate.until == 11


def test_one_bad_envelope_does_not_pause_the_upstream_but_many_do() -> None:
    gate = Gate(Backoff(), 60)
    for now in range(3):
        gate.told(FAILED, now, now, 1.0)
    assert gate.open
    gate.told(FAILED, 3, 3, 1.0)
    assert not gate.open
    gate.told(judged(Answer(400)), 4, 5, 1.0)  # an upstream that refuses one envelope works
    assert gate.open


def test_f30_a_hold_lasts_until_the_upstream_takes_us() -> None:
    gate = Gate(Backoff(), 60)
    gate.told(LOCKED, 0, 0, 0.5)
    assert gate.held is LOCKED
    assert not gate.admits(59, 0)
    assert gate.admits(60, 0)
    assert not gate.admits(60, 1)
    gate.told(DOWN, 60, 61, 0.0)
    assert gate.held is LOCKED
    gate.told(TAKEN, 70, 71, 0.0)
    assert gate.open


def test_f33_retry_after_pauses_the_upstream() -> None:
    gate = Gate(Backoff(), 60)
    gate.told(judged(Answer(503, headers={"retry-after": "120"})), 0, 1, 0.0)
    assert gate.until == 121


# -- what is kept ----------------------------------------------------------------------------------


def test_a_receipt_and_a_refusal_are_json_and_bounded() -> None:
    headers = {"content-type": "text/html", "set-cookie": "secret", "server": "s" * 9000}
    answer = Answer(400, headers=headers, body=b"\xff" + b"x" * 60_000)
    kept = delivery.refusal(judged(answer), url="http://u/api/jmix", attempts=2, at=NOW)
    assert kept["status"] == 400
    assert kept["headers"] == {"content-type": "text/html", "server": "s" * 1024}
    assert len(kept["body"]) == delivery.EXCERPT_BYTES_MAX
    json.dumps(kept)
    kept = delivery.receipt(
        judged(Answer(201, body=body({"id": ID}))), url="http://u", attempts=1, at=NOW
    )
    assert kept["remote_id"] == ID
    assert kept["verified"] is False
    json.dumps(kept)


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (TAKEN, "delivered"),
        (judged(Answer(422)), "refused"),
        (LOCKED, "failed"),
        (DOWN, "failed"),
        (judged(Failure(Kind.LATE, "slow", late=True)), "timeout"),
    ],
)
def test_the_word_for_whoever_waits(outcome: Outcome, word: str) -> None:
    told = json.loads(delivery.report(outcome, ID))
    assert told["id"] == ID
    assert told["outcome"] == word
    assert told["status"] == outcome.status
    assert told["detail"]
