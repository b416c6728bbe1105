"""api/serving.py over real sockets: an envelope in each state, and all envelopes of a study."""

from __future__ import annotations

import io
import json
import os
import socket
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fastjmix.httpd import limits
from fastjmix.spool import Draft, Retention, Spool, move
from fastjmix.spool.recipe import UNKNOWN
from tests.support.apis import BASE, OTHER, Answer, Gateway, curl, in_thread, running
from tests.support.envelopes import ID, STUDY, envelope

QUERY = f"{BASE}?studyInstanceUid={STUDY}"
LIST = f"{QUERY}&format=json"
WHOLE = f"{QUERY}&whole=1"
REFUSAL = {"status": 400, "reason": "the upstream refuses this envelope"}
DAMAGE = {"status": None, "reason": "damaged on our disk: member 3"}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running(tmp_path) as found:
        yield found


def draft(spool: Spool, study: str = STUDY, created: float | None = None) -> Draft:
    begun = time.time() - 90 if created is None else created
    one = spool.drafts.new(replace(UNKNOWN, study=study, created=begun))
    one.append([b"member"])
    one.commit()
    return one


def hold(spool: Spool, envelope_id: str = ID, text: bytes | None = None) -> None:
    told = {"since": time.time() - 600, "by": "uid 1000 mia", "why": "wrong patient"}
    path = spool.outbox / f"{envelope_id}.hold"
    path.write_bytes(json.dumps(told).encode() if text is None else text)


def requeue(spool: Spool, envelope_id: str) -> None:
    """Moves an envelope from rejected/ back to outbox/."""
    ticket = spool.ticket("rejected", envelope_id)
    move.put(spool, spool.path("rejected", envelope_id), "outbox", ticket)
    (spool.rejected / f"{envelope_id}.json").unlink()


def entries(gateway: Gateway) -> dict[str, dict[str, object]]:
    """Returns the study's list by id; an id that is there twice fails."""
    answer = gateway.get(LIST)
    assert answer.status in (200, 404)
    found = answer.json.get("jmixEnvelopes", [])
    by_id = {entry["id"]: entry for entry in found}
    assert len(by_id) == len(found)
    return by_id


def state_of(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.headers["X-Envelope-State"]


# -- states --------------------------------------------------------------------------------------


@pytest.mark.fault("F140")
def test_each_state_is_in_the_header_and_in_the_list(gateway: Gateway) -> None:
    data = envelope(ID)
    gateway.put(data)
    paths = (QUERY, f"{BASE}/{ID}", f"{BASE}/{ID}/manifest")

    def seen(state: str, reason: str | None) -> None:
        for path in paths:
            assert state_of(gateway.get(path)) == (200, state)
            assert state_of(gateway.ask("HEAD", path)) == (200, state)
        assert gateway.get(paths[1]).body == data
        assert state_of(gateway.get(paths[1], Range="bytes=2-5")) == (206, state)
        entry = entries(gateway)[ID]
        assert (entry["state"], entry["reason"]) == (state, reason)

    seen("outbox", None)
    hold(gateway.spool)
    seen("held", "held by uid 1000 mia: wrong patient")
    age = entries(gateway)[ID]["ageSecs"]
    assert isinstance(age, int)
    assert 600 <= age < 700
    (gateway.spool.outbox / f"{ID}.hold").unlink()
    seen("outbox", None)
    gateway.spool.reject(ID, REFUSAL)
    seen("rejected", "HTTP 400: the upstream refuses this envelope")
    requeue(gateway.spool, ID)
    seen("outbox", None)
    gateway.spool.deliver(ID, {"status": 201})
    seen("sent", None)


def test_the_list_says_how_an_envelope_was_routed(gateway: Gateway) -> None:
    gateway.put(envelope(ID))
    assert not {"rule", "priority", "tags"} & entries(gateway)[ID].keys()
    gateway.spool.tag(ID, ["of a hook"])
    assert entries(gateway)[ID]["tags"] == ["of a hook"]
    assert not {"rule", "priority"} & entries(gateway)[ID].keys()


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'{"since": "now", "why": null}'])
def test_a_hold_that_cannot_be_read_is_one(gateway: Gateway, text: bytes) -> None:
    gateway.put(envelope(ID))
    hold(gateway.spool, text=text)
    entry = entries(gateway)[ID]
    assert (entry["state"], entry["reason"]) == ("held", "held")


def test_a_study_that_is_being_packed_is_answered_with_202(gateway: Gateway) -> None:
    one = draft(gateway.spool)
    for path, about in (
        (QUERY, {"studyInstanceUid": STUDY}),
        (WHOLE, {"studyInstanceUid": STUDY}),
        (f"{BASE}/{one.id}", {"id": one.id}),
        (f"{BASE}/{one.id.upper()}/manifest", {"id": one.id}),
    ):
        answer = gateway.get(path)
        assert state_of(answer) == (202, "building")
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.json == {**about, "state": "building", "ageSecs": answer.json["ageSecs"]}
        assert 90 <= answer.json["ageSecs"] < 200
        assert gateway.ask("HEAD", path).body == b""
    entry = entries(gateway)[one.id]
    assert (entry["state"], entry["sizeBytes"], entry["sealedAt"]) == ("building", 6, None)
    assert entry["instances"] is None
    assert gateway.get(f"{BASE}?studyInstanceUid=1.9").status == 404
    one.seal([b"tail"], gateway.ticket(id=one.id, instances=3))
    assert state_of(gateway.get(QUERY)) == (200, "outbox")
    assert entries(gateway)[one.id]["instances"] == 3


def test_a_draft_that_is_dropped_is_forgotten(gateway: Gateway) -> None:
    one = draft(gateway.spool)
    assert gateway.get(QUERY).status == 202
    left = one.leave()
    gateway.spool.drafts.drop(left)
    assert gateway.get(QUERY).status == 404
    assert gateway.get(f"{BASE}/{one.id}").status == 404


def test_a_copy_of_a_draft_does_not_count_beside_it(gateway: Gateway) -> None:
    older = draft(gateway.spool)
    copy = gateway.spool.drafts.new(replace(UNKNOWN, study=STUDY, replaces=older.id))
    assert list(entries(gateway)) == [older.id]
    gateway.spool.drafts.drop(older.leave())
    assert list(entries(gateway)) == [copy.id]
    copy.abandon()


def test_what_is_sealed_is_given_while_more_is_packed(gateway: Gateway) -> None:
    gateway.put(envelope(ID))
    one = draft(gateway.spool)
    answer = gateway.get(QUERY)
    assert state_of(answer) == (200, "outbox")
    assert answer.headers["X-Envelopes"] == "2"
    assert 'rel="collection"' in answer.headers["Link"]
    assert [entry["state"] for entry in entries(gateway).values()] == ["building", "outbox"]
    assert gateway.get(WHOLE).status == 202
    one.abandon()


@pytest.mark.fault("F140")
@pytest.mark.parametrize("how", ["refusal", "size", "record", "no record"])
def test_a_damaged_envelope_is_listed_and_not_given(gateway: Gateway, how: str) -> None:
    gateway.put(envelope(ID))
    gateway.spool.reject(ID, DAMAGE if how == "refusal" else REFUSAL)
    archive, record = gateway.spool.path("rejected", ID), gateway.spool.rejected / f"{ID}.json"
    gateway.get(QUERY)  # the index knows it
    if how == "size":
        os.truncate(archive, 100)
    elif how == "record":
        record.write_bytes(b"{")
    elif how == "no record":
        record.unlink()
    for path in (QUERY, WHOLE, f"{BASE}/{ID}", f"{BASE}/{ID}/manifest"):
        answer = gateway.get(path)
        assert state_of(answer) == (409, "rejected")
        assert "damaged" in answer.json["error"]
    assert entries(gateway)[ID]["state"] == "rejected"
    # another envelope of the study is given
    gateway.put(envelope(OTHER), id=OTHER, sealed_at=1.0)
    answer = gateway.get(QUERY)
    assert (answer.status, answer.body) == (200, envelope(OTHER))
    whole = gateway.get(WHOLE)
    assert (whole.status, whole.headers["X-Envelopes-Left-Out"]) == (200, "1")
    assert members(whole) == {f"1-{OTHER}.zip": envelope(OTHER)}


def test_a_draft_that_recovery_kept_is_found_by_its_study(gateway: Gateway) -> None:
    one = draft(gateway.spool)
    gateway.spool.drafts.reject(one.leave(), "a member cannot be read")
    entry = entries(gateway)[one.id]
    assert (entry["state"], entry["reason"]) == ("rejected", "damaged: a member cannot be read")
    assert gateway.get(QUERY).status == 409


# -- while they move -----------------------------------------------------------------------------


@pytest.mark.fault("F140")
def test_no_envelope_is_missed_or_listed_twice_while_it_moves(gateway: Gateway) -> None:
    """Each goes from building/ by way of outbox/, rejected/ and outbox/ to sent/."""
    made: list[str] = []
    done = threading.Event()

    def work() -> None:
        try:
            for _ in range(40):
                one = draft(gateway.spool)
                made.append(one.id)
                one.seal([b"tail"], gateway.ticket(id=one.id))
                gateway.spool.reject(one.id, REFUSAL)
                requeue(gateway.spool, one.id)
                gateway.spool.deliver(one.id, {"status": 201})
        finally:
            done.set()

    with in_thread(work):
        rounds = 0
        while not done.is_set():
            before = set(made)
            assert before <= entries(gateway).keys()
            for envelope_id in list(before)[-3:]:
                assert gateway.get(f"{BASE}/{envelope_id}").status in (200, 202)
            rounds += 1
    assert rounds > 3
    assert {entry["state"] for entry in entries(gateway).values()} == {"sent"}


def test_rejected_may_be_missing(gateway: Gateway) -> None:
    gateway.put(envelope(ID))
    gateway.spool.rejected.rmdir()
    assert gateway.get(QUERY).status == 200
    gateway.spool.reject(ID, REFUSAL)
    assert state_of(gateway.get(QUERY)) == (200, "rejected")


# -- all of a study ------------------------------------------------------------------------------


def members(answer: Answer) -> dict[str, bytes]:
    """Returns the members of a ZIP, each compared with its CRC-32."""
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def parts(gateway: Gateway, count: int, size: int = 1000) -> dict[str, bytes]:
    """Puts envelopes of one study, each later than the one before; the members they become."""
    found = {}
    for number in range(1, count + 1):
        one = str(uuid.uuid4())
        found[f"{number}-{one}.zip"] = data = envelope(one, image=os.urandom(size))
        gateway.put(data, id=one, sealed_at=float(number))
    return found


def test_all_of_a_study_in_one_zip(gateway: Gateway, tmp_path: Path) -> None:
    expected = parts(gateway, 3, size=2_500_000)
    first, second, _ = (name[2:-4] for name in expected)
    gateway.spool.deliver(first, {"status": 201})
    gateway.spool.reject(second, REFUSAL)
    answer = gateway.get(WHOLE)
    assert (answer.status, members(answer)) == (200, expected)
    assert list(members(answer)) == list(expected)
    assert answer.headers["Content-Type"] == "application/zip"
    assert answer.headers["X-Envelopes"] == "3"
    assert "X-Envelopes-Left-Out" not in answer.headers
    head = gateway.ask("HEAD", WHOLE)
    assert int(head.headers["Content-Length"]) == len(answer.body)
    assert gateway.get(WHOLE, If_None_Match=head.headers["ETag"]).status == 304
    assert gateway.get(WHOLE, Range="bytes=2400000-2600000").body == answer.body[2400000:2600001]
    # an interrupted download is resumed, and the ZIP is read by another program
    target = tmp_path / "study.zip"
    target.write_bytes(answer.body[:3_000_000])
    curl(f"http://127.0.0.1:{gateway.ports[0]}{WHOLE}", "-C", "-", "-o", str(target))
    assert target.read_bytes() == answer.body


def test_a_study_in_one_envelope_comes_in_the_same_form(gateway: Gateway) -> None:
    expected = parts(gateway, 1)
    assert members(gateway.get(WHOLE)) == expected


@pytest.mark.fault("F141")
def test_envelopes_move_and_are_deleted_while_they_are_sent(gateway: Gateway) -> None:
    expected = parts(gateway, 3, size=20 << 20)
    with socket.create_connection(("127.0.0.1", gateway.ports[0])) as connection:
        connection.sendall(b"GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n" % WHOLE.encode())
        received = bytearray(connection.recv(1000))
        for name in expected:
            gateway.spool.deliver(name[2:-4], {"status": 201})
        Retention(gateway.spool, -1.0).run()
        while piece := connection.recv(1 << 20):
            received += piece
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == expected
    assert gateway.get(WHOLE).status == 404


@pytest.mark.parametrize("more", ["whole=0", "whole=", "whole=1&whole=2", "whole=1&format=json"])
def test_another_whole_is_refused(gateway: Gateway, more: str) -> None:
    parts(gateway, 1)
    answer = gateway.get(f"{QUERY}&{more}")
    assert answer.status == 400
    assert "whole" in answer.json["error"]


def test_whole_needs_a_study_and_a_zip(gateway: Gateway) -> None:
    parts(gateway, 1)
    assert gateway.get(f"{BASE}?whole=1").status == 400
    assert gateway.get(WHOLE, Accept="application/json").status == 406
    assert gateway.get(f"{BASE}?studyInstanceUid=1.9&whole=1").status == 404


@pytest.mark.parametrize(("count", "status"), [(2, 200), (3, 200), (4, 400)])
def test_envelopes_that_one_zip_joins(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, count: int, status: int
) -> None:
    monkeypatch.setattr(limits, "PARTS_MAX", 3)
    parts(gateway, count)
    answer = gateway.get(WHOLE)
    assert answer.status == status
    assert answer.headers["X-Envelopes"] == str(count)
    assert "Link" in answer.headers
    if status == 400:
        assert "one by one" in answer.json["error"]


def test_zips_that_are_joined_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JOINED_AT_ONCE", 1)
    with running(tmp_path) as gateway:
        parts(gateway, 1, size=30 << 20)
        with socket.create_connection(("127.0.0.1", gateway.ports[0])) as connection:
            connection.sendall(b"GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n" % WHOLE.encode())
            assert connection.recv(100)
            answer = gateway.get(WHOLE)
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
            assert gateway.get(QUERY).status == 200
            while connection.recv(1 << 20):
                pass
        assert gateway.get(WHOLE).status == 200
