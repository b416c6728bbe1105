"""The ends of an envelope for several upstreams, on the disk: recorded, read, and moved at last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from fastjmix.errors import DamagedTicket
from fastjmix.spool import Ends, Spool, Ticket, ends
from fastjmix.spool.ticket import End
from tests.support.disks import Memory, free

TAKEN: End = {"receipt": {"status": 201}}
REFUSED: End = {"refusal": {"status": 400, "reason": "no"}}


def sealed(spool: Spool, *upstreams: str, ack: str = "stored") -> Ticket:
    archive = spool.new_upload()
    archive.write_bytes(b"PK archive")
    envelope_id = str(uuid.uuid4())
    ticket = Ticket(envelope_id, "p", upstreams, ack, ("1.2",), "CT", 1, 10, 5.0, "packer-0")
    spool.admit(archive, ticket)
    return ticket


def outbox(spool: Spool) -> list[str]:
    return sorted(path.name[36:] for path in spool.outbox.iterdir())


def test_the_last_end_moves_the_envelope(spool: Spool) -> None:
    one, recorded = sealed(spool, "a", "b"), Ends(spool)
    assert recorded.record(one.id, {"b": TAKEN}) == "outbox"
    assert outbox(spool) == [".1.ended", ".json", ".zip"]
    assert ends.pending(one, ends.read(spool, one)) == ("a",)
    assert recorded.record(one.id, {"a": TAKEN}) == "sent"
    assert outbox(spool) == []
    assert spool.ticket("sent", one.id) == replace(
        one, receipt=TAKEN["receipt"], ends={"a": TAKEN, "b": TAKEN}
    )
    assert recorded.record(one.id, {"a": TAKEN}) == "gone"
    with pytest.raises(FileNotFoundError):
        recorded.record(one.id, {"c": TAKEN})


@pytest.mark.fault("F190")
def test_a_requeued_envelope_goes_to_those_that_refused_it(spool: Spool) -> None:
    one, recorded = sealed(spool, "a", "b", "c"), Ends(spool)
    for name, end in (("a", TAKEN), ("b", REFUSED), ("c", REFUSED)):
        recorded.record(one.id, {name: end})
    kept = spool.ticket("rejected", one.id)
    assert kept.refusal == REFUSED["refusal"]
    with pytest.raises(KeyError):
        spool.requeue(one.id, "a")
    spool.requeue(one.id, "c")
    again = spool.ticket("outbox", one.id)
    assert ends.pending(again, ends.read(spool, again)) == ("c",)
    assert recorded.record(one.id, {"c": TAKEN}) == "rejected"
    spool.requeue(one.id)
    again = spool.ticket("outbox", one.id)
    assert ends.pending(again, ends.read(spool, again)) == ("b",)
    assert recorded.record(one.id, {"b": TAKEN}) == "sent"
    assert spool.ticket("sent", one.id).ends == dict.fromkeys("abc", TAKEN)


def test_an_end_of_an_earlier_stay_counts_for_nothing(spool: Spool) -> None:
    one, recorded = sealed(spool, "a", "b"), Ends(spool)
    recorded.record(one.id, {"a": REFUSED})
    left_over = spool.outbox / f"{one.id}.0.ended"
    text = left_over.read_bytes()
    recorded.record(one.id, {"b": REFUSED})
    spool.requeue(one.id)
    left_over.write_bytes(text)
    again = spool.ticket("outbox", one.id)
    assert ends.read(spool, again) == {}
    assert recorded.record(one.id, {"a": TAKEN}) == "outbox"  # the file is replaced
    assert ends.read(spool, again) == {"a": TAKEN}


def test_an_end_that_cannot_be_read_leaves_the_envelope_to_a_person(spool: Spool) -> None:
    one, recorded = sealed(spool, "a", "b"), Ends(spool)
    for text in (b"", b"{}", b'{"format": 1, "receipt": 5}', b"[]"):
        path = spool.outbox / f"{one.id}.0.ended"
        path.write_bytes(text)
        with pytest.raises(DamagedTicket, match=r"0\.ended"):
            ends.read(spool, one)
        with pytest.raises(DamagedTicket):
            recorded.record(one.id, {"b": TAKEN})
    path.unlink()
    assert recorded.record(one.id, {"b": TAKEN}) == "outbox"


def test_only_the_first_is_pending_while_a_process_waits(spool: Spool) -> None:
    one = sealed(spool, "a", "b", "c", ack="uploaded")
    assert ends.pending(one, {}) == ("a",)
    assert ends.pending(one, {"a": TAKEN}) == ("b", "c")
    assert Ends(spool).record(one.id, {"a": REFUSED}, last=True) == "rejected"
    assert spool.ticket("rejected", one.id).ends == {"a": REFUSED}
    spool.requeue(one.id)
    again = spool.ticket("outbox", one.id)
    assert ends.pending(again, ends.read(spool, again)) == ("a", "b", "c")


def test_a_start_deletes_ends_and_holds_without_their_archive(spool: Spool) -> None:
    one = sealed(spool, "a", "b")
    Ends(spool).record(one.id, {"a": TAKEN})
    other = "01234567-89ab-cdef-0123-456789abcdef"
    for name in (f"{other}.0.ended", f"{other}.1.hold"):
        (spool.outbox / name).write_bytes(b"{}")
    spool.take_over("uploader")
    assert not (spool.outbox / f"{other}.0.ended").exists()
    spool.release()
    again = Spool(spool.root)
    again.prepare()
    assert outbox(again) == [".0.ended", ".json", ".zip"]
    again.release()


@pytest.mark.fault("F191")
def test_a_full_disk_loses_no_end_and_holds_no_envelope_that_all_have(tmp_path: Path) -> None:
    """An end that cannot be written is counted when the others come; then there is room again."""
    at = tmp_path / "small"
    at.mkdir()
    disk = Memory(at, 1 << 20)
    try:
        spool = Spool(at / "spool", durable=False)
        spool.prepare()
        one, other = sealed(spool, "a", "b"), sealed(spool, "a", "b")
        recorded = Ends(spool)
        (at / "filler").write_bytes(bytes(free(at)))
        long: End = {"receipt": {"status": 201, "body": "x" * 4000}}
        for name in ("a", "a"):  # it is repeated
            with pytest.raises(OSError, match="No space"):
                recorded.record(one.id, {name: long})
        with pytest.raises(OSError, match="No space"):
            recorded.record(other.id, {"a": REFUSED})
        assert recorded.record(one.id, {"b": long}) == "sent"
        assert not spool.path("outbox", one.id).exists()  # its room is free, as no receipt fits
        assert recorded.record(other.id, {"a": REFUSED}) == "outbox"
        assert ends.read(spool, other) == {"a": REFUSED}
        spool.release()
    finally:
        disk.close()


CODE = """
import sys; from pathlib import Path
from fastjmix.spool import Ends, Spool, ends
spool, one = Spool(Path(sys.argv[1])), sys.argv[2]
ticket = spool.ticket("outbox", one)
assert ends.pending(ticket, ends.read(spool, ticket))
if len(ticket.upstreams) == 1:
    spool.deliver(one, {"status": 201})
else:
    Ends(spool).record(one, {"a": {"receipt": {"status": 201}}})
"""


def calls(spool: Spool, envelope_id: str, trace: Path) -> dict[str, int]:
    """Returns how often the recording of an end changes the disk, by system call."""
    subprocess.run(
        ["strace", "-f", "-qq", "-o", str(trace),
         "-e", "trace=fsync,fdatasync,renameat2,unlink,openat",
         sys.executable, "-c", CODE, str(spool.root), envelope_id],
        check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    text = trace.read_text()
    found = {name: text.count(f" {name}(") for name in ("fsync", "fdatasync", "renameat2")}
    ours = [line for line in text.splitlines() if str(spool.root) in line]
    found["unlink"] = sum(" unlink(" in line for line in ours)
    found["created"] = sum("O_CREAT" in line for line in ours)
    found["ended"] = sum(".ended" in line for line in ours)
    return found


def test_one_upstream_costs_what_it_cost(spool: Spool, tmp_path: Path) -> None:
    """A record, the archive's rename, a sync for each, and the ticket's end: nothing else."""
    one = sealed(spool, "a")
    assert calls(spool, one.id, tmp_path / "one") == {
        "created": 1, "fdatasync": 1, "renameat2": 2, "fsync": 2, "unlink": 1, "ended": 0,
    }  # fmt: skip
    several = sealed(spool, "a", "b")
    recorded = calls(spool, several.id, tmp_path / "several")
    assert (recorded["created"], recorded["renameat2"], recorded["unlink"]) == (1, 1, 0)


def test_the_record_of_several_ends_is_json_that_a_person_can_read(spool: Spool) -> None:
    one = sealed(spool, "a", "b")
    Ends(spool).record(one.id, {"a": TAKEN})
    found = json.loads((spool.outbox / f"{one.id}.0.ended").read_text())
    assert found == {
        "format": 1, "upstream": "a", "origin": "packer-0", "sealed_at": 5.0,
        "receipt": {"status": 201},
    }  # fmt: skip
