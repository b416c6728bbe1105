"""`fastjmix outbox split`: parts of an envelope that its upstream has refused with 413."""

from __future__ import annotations

import io
import json
import os
import pwd
import signal
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fastjmix.spool import Spool
from fastjmix.spool.part import alone_with
from tests.support import wire
from tests.support.gateway import Gateway, Peer, images_in, members, run_command, running, until

LIMIT = 130_000
INSTANCES = 7


class Small(ThreadingHTTPServer):
    """An upstream that takes LIMIT bytes at most: the archives that it has, by their ids."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.held: dict[str, bytes] = {}


class _Handler(BaseHTTPRequestHandler):
    server: Small

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if len(body) > LIMIT:
            self._answer(413, {"error": "too large"})
            return
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            name = next(one for one in archive.namelist() if one.endswith("manifest.json"))
            envelope_id = json.loads(archive.read(name))["id"]
        self.server.held[envelope_id] = body
        self._answer(201, {"id": envelope_id})

    def _answer(self, status: int, document: dict[str, str]) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[Small]:
    with Small() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def gateway(directory: Path, upstream: Small) -> Gateway:
    """Starts a gateway that delivers to that upstream."""
    port = int(upstream.server_address[1])
    return Gateway(directory, port, builder="release_grace_secs = 0")


def refused(own: Gateway) -> str:
    """Sends INSTANCES of 40 KB in one association; the id of their envelope, once refused."""
    image = wire.element(0x7FE00010, b"OB", bytes(40_000))
    with Peer(own.dicom_port) as peer:
        peer.associate()
        for number in range(INSTANCES):
            uid = f"1.2.3.{number}"
            assert peer.store(wire.data_set(uid, study="1.2.840.1") + image, uid) == 0
        peer.release()
    return Path(until(lambda: own.envelopes("rejected"), "it is rejected")[0]).stem


def split(own: Gateway, *arguments: object) -> dict[str, Any]:
    done = run_command("outbox", "split", *arguments, "--json", cwd=own.spool.parent)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["exit_code"] == done.returncode, done
    return found


def traced(own: Gateway, envelope_id: str) -> dict[str, Any]:
    done = run_command("trace", envelope_id, "--json", cwd=own.spool.parent)
    (trace,) = json.loads(done.stdout)["traces"]
    (found,) = trace["envelopes"]
    return dict(found)


def check_traces(own: Gateway, whole: str, parts: list[str]) -> None:
    """Checks that the story of the whole names the parts, and that of a part the whole."""
    told = traced(own, whole)
    assert told["split_into"] == parts
    (action,) = told["actions"]
    name = pwd.getpwuid(os.getuid()).pw_name
    assert (action["action"], action["actor"]) == ("split", f"uid {os.getuid()} {name}")
    assert (action["result"], action["envelopes"]) == (f"done: {len(parts)} parts", [whole, *parts])
    shown = run_command("trace", whole, cwd=own.spool.parent).stdout
    assert f"  split into: {', '.join(parts)}\n" in shown
    for part in parts:
        told = traced(own, part)
        assert (told["part_of"], told["tags"]) == (whole, [f"part-of-{whole}"])
        assert (told["rule"], told["priority"]) == ("", "normal")
        for command in (("trace",), ("outbox", "show")):
            lines = run_command(*command, part, cwd=own.spool.parent).stdout.splitlines()
            assert f"  a part of {whole}" in lines
            assert f"  tags: part-of-{whole}" in lines
            assert "  priority: normal" in lines


def test_the_parts_of_a_refused_envelope_are_delivered(tmp_path: Path, upstream: Small) -> None:
    with running(gateway(tmp_path, upstream)) as own:
        whole = refused(own)
        own.wait_for("upstream_limit_learnt .*max_envelope_bytes=")
        facts = own.spool / "upstreams.json"
        until(lambda: facts.exists() and b"refused_bytes" in facts.read_bytes(), "it is kept")
        shown = run_command("status", cwd=tmp_path).stdout
        assert "max_envelope_bytes" in shown

        planned = split(own, whole, "--dry-run")["parts"]
        assert own.envelopes("outbox") == []
        parts = split(own, whole)["parts"]
        assert [one["id"] for one in parts] == [one["id"] for one in planned]
        assert [one["instances"] for one in parts] == [3, 3, 1]
        again = split(own, whole)
        assert again["exit_code"] != 0
        assert "was split already" in json.dumps(again)

        ids = {one["id"] for one in parts}
        until(lambda: ids <= upstream.held.keys(), "every part is delivered")
        until(lambda: len(own.envelopes("sent")) == 3, "they are in sent/")
        ordered = [one["id"] for one in parts]
        until(lambda: traced(own, whole)["split_into"] == ordered, "the ledger says so")
        check_traces(own, whole, ordered)
    assert run_command("ledger", "rebuild", cwd=tmp_path).returncode == 0
    check_traces(own, whole, ordered)
    (own.spool / "ledger" / "ledger.sqlite").unlink()
    assert run_command("ledger", "rebuild", cwd=tmp_path).returncode == 0
    check_traces(own, whole, ordered)
    spool = Spool(own.spool, create=False)
    original = images_in(members(spool.path("rejected", whole)))
    delivered: dict[str, bytes] = {}
    for part in ids:
        found = images_in(members(spool.path("sent", part)))
        assert not found.keys() & delivered.keys()
        delivered |= found
        ticket = spool.ticket("sent", part)
        assert (ticket.tags, ticket.calling_ae) == ((f"part-of-{whole}",), "PEER")
        origin = json.loads((own.spool / "provenance" / f"{part}.json").read_bytes())
        assert {one[0] for one in origin["instances"]} == set(found)
        assert origin["associations"][0]["calling_ae"] == "PEER"
    assert delivered == original
    assert len(original) == INSTANCES
    refusal = spool.ticket("rejected", whole).refusal
    assert refusal is not None
    assert set(refusal["split_into"]) == ids


def test_a_split_that_was_cut_off_is_completed(tmp_path: Path, upstream: Small) -> None:
    with running(gateway(tmp_path, upstream)) as own:
        whole = refused(own)
        own.stop(signal.SIGINT)
    record = own.spool / "rejected" / f"{whole}.json"
    before = record.read_bytes()
    first = split(own, whole, "--max-bytes", 120_000)["parts"]
    assert [one["made"] for one in first] == [True, True, True, True]
    record.write_bytes(before)  # as a kill before the note leaves it
    gone = own.spool / "outbox" / f"{first[1]['id']}.zip"
    gone.unlink()  # and as one between the ticket and the archive of a part
    second = split(own, whole, "--max-bytes", 120_000)["parts"]
    assert [one["made"] for one in second] == [False, True, False, False]
    assert [one["id"] for one in second] == [one["id"] for one in first]
    assert len(own.envelopes("outbox")) == 4
    assert list((own.spool / "building").iterdir()) == []
    shown = json.loads(run_command("outbox", "list", "--json", cwd=tmp_path).stdout)["envelopes"]
    tags = {one["id"]: one["tags"] for one in shown if one["state"] == "outbox"}
    assert tags == {one["id"]: [f"part-of-{whole}"] for one in second}
    with running(gateway(tmp_path, upstream)) as own:
        until(lambda: len(own.envelopes("sent")) == 4, "they are in sent/")
        until(lambda: traced(own, whole)["actions"], "the ledger has found it")
        check_traces(own, whole, [one["id"] for one in second])


def test_one_command_at_a_time_splits_an_envelope(tmp_path: Path, upstream: Small) -> None:
    with running(gateway(tmp_path, upstream)) as own:
        whole = refused(own)
        own.stop(signal.SIGINT)
    with alone_with(Spool(own.spool, create=False), whole):
        found = split(own, whole, "--max-bytes", 120_000)
        assert "another command is splitting it" in json.dumps(found)
        assert own.envelopes("outbox") == []
        split(own, whole, "--max-bytes", 120_000, "--dry-run")
    assert len(split(own, whole, "--max-bytes", 120_000)["parts"]) == 4


def test_what_cannot_be_split(tmp_path: Path, upstream: Small) -> None:
    with running(gateway(tmp_path, upstream)) as own:
        whole = refused(own)
        for arguments, why in (
            ((whole, "--max-bytes", 50_000), "alone has"),
            ((whole, "--max-bytes", 1 << 30), "fits into"),
            (("550e8400-e29b-41d4-a716-446655440000",), "not in rejected/"),
            (("an-id",), "is no id"),
        ):
            found = split(own, *arguments)
            assert found["exit_code"] != 0
            assert why in json.dumps(found)
        assert own.envelopes("outbox") == []
