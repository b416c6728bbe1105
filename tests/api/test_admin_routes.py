"""The routes about the node, over HTTP; the other end of the uploader's passage is the test's."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastjmix.api.admin import uploader
from fastjmix.config import Credentials
from fastjmix.config.tree import Secret
from fastjmix.control.client import ControlClient, NodeRefused
from fastjmix.ipc.actions import (
    DATAGRAM_BYTES_MAX,
    DONE,
    IDS_MAX,
    ActionAnswer,
    ActionRequest,
    Kind,
)
from fastjmix.ledger.reconcile import reconcile
from fastjmix.spool.holds import Holds
from tests.support.apis import LISTENER, Answer, Gateway, running
from tests.support.envelopes import envelope
from tests.support.gateway import until
from tests.support.storages import Storage

NODE = "/api/node"
CREDENTIALS = Credentials(method="bearer", token=Secret("a-token"))
GUARDED = replace(LISTENER, credentials=CREDENTIALS)
KNOWN = {"Authorization": "Bearer a-token", "Content-Type": "application/json"}


def act(one: Gateway, kind: str, body: object, **headers: str) -> Answer:
    sent = {**KNOWN, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return one.ask("POST", f"{NODE}/envelopes/{kind}", json.dumps(body).encode(), sent)


def take(one: Gateway) -> ActionRequest:
    one.answering.settimeout(20)
    return ActionRequest.decode(one.answering.recv(DATAGRAM_BYTES_MAX))


def reply(one: Gateway, request: ActionRequest, result: str = DONE) -> None:
    answer = ActionAnswer(request.number, dict.fromkeys(request.ids, result))
    one.answering.send(answer.encode())


@contextlib.contextmanager
def answered(one: Gateway, batches: int = 1) -> Iterator[list[ActionRequest]]:
    """Answers so many requests as the uploader does; they are in the list afterwards."""
    seen: list[ActionRequest] = []

    def work() -> None:
        for _ in range(batches):
            seen.append(request := take(one))
            reply(one, request)

    thread = threading.Thread(target=work)
    thread.start()
    yield seen
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Gateway]:
    with running(tmp_path, GUARDED) as one:
        yield one


def test_actions_go_to_the_uploader_in_batches(guarded: Gateway) -> None:
    ids = [str(uuid.uuid4()) for _ in range(2 * IDS_MAX + 1)]
    with answered(guarded, 3) as seen:
        told = act(guarded, "hold", {"ids": ids, "why": "under enquiry"}).json
    assert (told["done"], told["failed"], len(told["results"])) == (len(ids), 0, len(ids))
    assert [len(request.ids) for request in seen] == [IDS_MAX, IDS_MAX, 1]
    assert [one for request in seen for one in request.ids] == ids
    assert {(r.kind, r.by, r.why) for r in seen} == {(Kind.HOLD, "http 127.0.0.1", "under enquiry")}


def test_requests_at_once_are_told_apart(guarded: Gateway) -> None:
    ids = [str(uuid.uuid4()) for _ in range(4)]
    found: dict[str, Any] = {}

    def ask(envelope_id: str) -> None:
        found[envelope_id] = act(guarded, "retry", {"ids": [envelope_id]}).json["results"]

    threads = [threading.Thread(target=ask, args=(one,)) for one in ids]
    for thread in threads:
        thread.start()
    requests = [take(guarded) for _ in ids]
    guarded.answering.send(ActionAnswer(0, {}).encode())  # of an earlier process
    for request in reversed(requests):
        reply(guarded, request, f"result of {request.ids[0]}")
    for thread in threads:
        thread.join(20)
    assert found == {one: {one: f"result of {one}"} for one in ids}


def test_an_uploader_that_does_not_answer(
    guarded: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploader, "ANSWER_SECS", 0.2)
    ids = [str(uuid.uuid4()) for _ in range(IDS_MAX + 1)]
    told = act(guarded, "retry", {"ids": ids[:1]})
    assert (told.status, told.headers["Retry-After"]) == (503, "5")
    take(guarded)
    with answered(guarded):
        told = act(guarded, "retry", {"ids": ids})
    assert told.status == 200
    assert (told.json["done"], told.json["failed"]) == (IDS_MAX, 1)
    assert told.json["results"][ids[-1]] == uploader.NOT_KNOWN
    take(guarded)
    while act(guarded, "retry", {"ids": ids[:1]}).json["error"] != "the uploader takes nothing now":
        monkeypatch.setattr(uploader, "ANSWER_SECS", 0.001)  # until the socket is full


FOREIGN: Mapping[str, Mapping[str, str]] = {
    "another site": {"Sec_Fetch_Site": "cross-site"},
    "another host of the site": {"Sec_Fetch_Site": "same-site"},
    "another origin": {"Origin": "https://example.org"},
    "no origin": {"Origin": "null"},
    "no origin at all": {"Origin": "http://["},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
def test_a_page_of_another_site_does_nothing(guarded: Gateway, headers: Mapping[str, str]) -> None:
    told = act(guarded, "retry", {"ids": []}, **headers)
    assert (told.status, told.json["error"]) == (403, "no action for a page of another site")


def test_a_page_of_ours_acts(guarded: Gateway) -> None:
    here = f"http://127.0.0.1:{guarded.ports[0]}"
    told = act(guarded, "retry", {"ids": []}, Origin=here, Sec_Fetch_Site="same-origin")
    assert told.status == 200


def test_what_a_form_can_send_is_no_action(guarded: Gateway) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert act(guarded, "retry", {"ids": []}, Content_Type=kind).status == 415


def test_an_action_needs_credentials(tmp_path: Path) -> None:
    with running(tmp_path, GUARDED, LISTENER) as one:
        assert act(one, "retry", {"ids": []}, Authorization="Bearer wrong").status == 401
        for path in ("status", "events", "envelopes", "trace?word=1", "search"):
            assert one.get(f"{NODE}/{path}").status == 401
        told = one.ask("POST", f"{NODE}/envelopes/retry", b'{"ids": []}', KNOWN, listener=1)
        assert told.status == 403
        assert "fastjmix outbox" in told.json["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b"\xff", b'{"ids": "all"}', b'{"ids": [1]}', b'{"ids": ["../x"]}',
        b'{"all": 1}', b'{"all": true, "state": "lost"}', b'{"all": true, "stdy": "1"}',
        b'{"all": true, "older": "-1"}', b'{"all": true, "older": "nan"}',
        b'{"ids": [], "ae": "x"}',
        b'{"all": true, "ids": []}', b'{"all": true, "why": 1}', b'{"all": true, "dry_run": 1}',
    ],
)  # fmt: skip
def test_a_body_that_says_nothing_clear_is_refused(guarded: Gateway, body: bytes) -> None:
    told = guarded.ask("POST", f"{NODE}/envelopes/requeue", body, KNOWN)
    assert told.status == 400, told.body
    assert told.json["error"]


def test_a_body_that_is_too_large(guarded: Gateway) -> None:
    assert act(guarded, "retry", {"ids": ["x" * (2 << 20)]}).status == 413
    some = [str(uuid.uuid4()) for _ in range(20_001)]
    assert act(guarded, "retry", {"ids": some}).status == 413


def test_conditions_select_what_an_action_takes(guarded: Gateway) -> None:
    storage = Storage(guarded.spool.root)
    waiting = [storage.envelope(f"1.2.{n}", calling_ae=f"CT{n % 2}") for n in range(4)]
    held = storage.envelope("1.2.0")
    Holds(guarded.spool).put(held, "a test", "")
    refused = storage.envelope("1.2.0", "rejected", refusal={"status": 400, "why": "no"})

    def chosen(kind: str, **conditions: str) -> set[str]:
        body = {"all": True, "dry_run": True, **conditions}
        return set(act(guarded, kind, body).json["envelopes"])

    assert chosen("retry") == set(waiting)
    assert chosen("release") == {held}
    assert chosen("requeue") == {refused}
    assert chosen("retry", ae="CT1") == {waiting[1], waiting[3]}
    assert chosen("retry", study="1.2.2") == {waiting[2]}
    assert chosen("retry", upstream="another") == set()
    assert chosen("requeue", older="3600") == set()
    with answered(guarded) as seen:
        assert act(guarded, "requeue", {"all": True, "study": "1.2.0"}).json["done"] == 1
    assert seen[0].ids == (refused,)


def test_an_action_is_for_one_of_several_upstreams(guarded: Gateway) -> None:
    storage = Storage(guarded.spool.root)
    both = storage.envelope("1.2.1", upstreams=("a", "b"))
    storage.envelope("1.2.2")
    Holds(guarded.spool).put(both, "a test", "", 1)
    for body in ({"all": True, "upstream": "b"}, {"ids": [both], "upstream": "b"}):
        with answered(guarded) as seen:
            assert act(guarded, "hold", body).json["done"] == 1
        assert (seen[0].ids, seen[0].upstream) == ((both,), "b")
    with answered(guarded) as seen:
        assert act(guarded, "release", {"all": True}).json["done"] == 1
    assert (seen[0].ids, seen[0].upstream) == ((both,), "")
    assert guarded.ask("GET", f"{NODE}/envelopes?upstream=b", headers=KNOWN).json["envelopes"][0][
        "at_upstreams"
    ] == [
        {"upstream": "a", "state": "waiting", "at": None, "reason": ""},
        {"upstream": "b", "state": "held", "at": None, "reason": ""},
    ]


def test_the_list_has_every_state_and_pages(tmp_path: Path) -> None:
    with running(tmp_path) as one:
        storage = Storage(one.spool.root)
        waiting = [storage.envelope("1.2.3", at=1e9 + n) for n in range(5)]
        one.spool.tag(waiting[4], ["of a hook"])
        draft = storage.draft("1.2.4")
        sent = storage.envelope("1.2.5", "sent")
        broken = storage.envelope("1.2.6", "rejected")
        (one.spool.rejected / f"{broken}.json").write_text("no ticket")

        def listed(query: str) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = []
            cursor = ""
            while True:
                page = one.get(f"{NODE}/envelopes?{query}{cursor}").json
                found += page["envelopes"]
                if page["cursor"] is None:
                    return found
                cursor = f"&cursor={page['cursor']}"

        # The index may have been read while these files were being made.
        def complete() -> bool:
            return {row["id"] for row in listed("limit=2")} == {*waiting, draft, broken}

        until(complete, "all are listed", 30)
        rows = {row["id"]: row for row in listed("limit=2")}
        assert rows[draft]["state"] == "building"
        assert "cannot be read" in rows[broken]["reason"]
        assert [row["id"] for row in listed("state=outbox&limit=2")] == waiting
        assert [row["id"] for row in listed("state=sent")] == [sent]
        row = rows[waiting[0]]
        told = (row["study"], row["calling_ae"], row["upstream"], row["instances"])
        assert told == ("1.2.3", "CT1", "up", 3)
        assert (row["rule"], row["priority"], row["tags"]) == ("", "normal", [])
        one.spool.tag(waiting[4], ["of another"])  # after the index has read the ticket
        rows = {row["id"]: row for row in listed("limit=2")}
        assert rows[waiting[4]]["tags"] == ["of a hook", "of another"]
        for wrong in (
            "limit=0",
            "limit=1001",
            "limit=x",
            "cursor=x",
            "cursor=nan_x",
            "older=x",
            "state=x",
            "s=1",
        ):
            assert one.get(f"{NODE}/envelopes?{wrong}").status == 400, wrong


def test_the_status_lists_what_has_not_arrived(tmp_path: Path) -> None:
    with running(tmp_path) as one:
        storage = Storage(one.spool.root)
        for n in range(150):
            storage.envelope("1.2.3", at=1e9 + n)
        refused = storage.envelope("1.2.4", "rejected", refusal={"status": 400, "why": "no"})
        told = one.get(f"{NODE}/status").json
        counts = {state: told["envelopes"][state]["count"] for state in ("outbox", "rejected")}
        assert counts == {"outbox": 150, "rejected": 1}
        rows = told["envelopes"]["listed"]
        assert len(rows) == 100
        assert (rows[0]["id"], rows[0]["reason"]) == (refused, "HTTP 400: no")
        assert told["node"]["name"] == "test"
        assert told["node"]["state"] == "ready"
        assert told["disk"]["total_bytes"] > told["disk"]["soft_mark_bytes"]
        assert told["errors"] == []
        assert told["rates"]["step_secs"] == 5


def test_a_ledger_that_is_not_there_is_503_or_a_question_that_is_none_400(tmp_path: Path) -> None:
    with running(tmp_path) as one:
        assert one.get(f"{NODE}/trace?word=1.2.3").status == 503
        assert one.get(f"{NODE}/search?study=1.2.3").headers["Retry-After"] == "5"
        for wrong in ("trace", "trace?word=%20", "trace?word=x&y=1", "search?since=later",
                      "search?since=nan", "search?until=1e999", "search?name=x",
                      f"trace?word={'x' * 2000}"):  # fmt: skip
            assert one.get(f"{NODE}/{wrong}").status == 400, wrong


def test_search_and_trace_ask_the_ledger(tmp_path: Path) -> None:
    with running(tmp_path) as one:
        storage = Storage(one.spool.root)
        envelope_id = storage.envelope("1.2.3")
        with storage.writer() as writer:
            list(reconcile(writer))
        for query in ("accession=A-2201", "patient_name=yamada", "instance=1.2.3.1.0",
                      "since=2020-01-01&until=2030-01-01T00:00Z", "state=outbox,held"):  # fmt: skip
            told = one.get(f"{NODE}/search?{query}").json
            assert [row["id"] for row in told["envelopes"]] == [envelope_id], query
        told = one.get(f"{NODE}/trace?word=P-77").json
        assert (told["kind"], told["envelopes"][0]["id"]) == ("patient_id", envelope_id)


def test_the_local_socket_has_the_same_routes(tmp_path: Path) -> None:
    with running(tmp_path, GUARDED) as one:
        until((one.spool.root / "control.sock").exists, "the socket is there")
        client = ControlClient(one.spool.root)
        assert client.get(f"{NODE}/status")["node"]["state"] == "ready"
        envelope_id = str(uuid.uuid4())
        with answered(one) as seen:
            told = client.post(f"{NODE}/envelopes/retry", {"ids": [envelope_id]})
        assert told["results"] == {envelope_id: DONE}
        assert seen[0].by.startswith("uid ")
        with pytest.raises(NodeRefused, match="no state"):
            client.get(f"{NODE}/envelopes?state=x")
        with pytest.raises(NodeRefused):  # the query API is for the listeners
            client.get("/jmix/api/jmix?studyInstanceUid=1")
    assert not (one.spool.root / "control.sock").exists()


def test_an_envelope_that_comes_is_listed_at_the_next_look(tmp_path: Path) -> None:
    with running(tmp_path) as one:
        assert one.get(f"{NODE}/envelopes").json["envelopes"] == []
        one.put(envelope())
        assert len(one.get(f"{NODE}/envelopes").json["envelopes"]) == 1
