"""Holds, and envelopes that a person has moved back to outbox/, across kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid

import pytest

from fastjmix.spool import Spool, State, Ticket
from fastjmix.spool.holds import Holds
from tests.support.sealed import sealed_envelope

REQUEUE = "from fastjmix.spool import Spool; from pathlib import Path; import sys\n"
REQUEUE += "Spool(Path(sys.argv[1])).requeue(sys.argv[2])"


def in_outbox(spool: Spool, *, ack: str = "stored") -> str:
    envelope_id = str(uuid.uuid4())
    made = spool.new_upload()
    made.write_bytes(sealed_envelope(envelope_id))
    size = made.stat().st_size
    ticket = Ticket(envelope_id, "p", ("store",), ack, ("1.2.3",), "CT1", 1, size, 1.0, "api")
    spool.admit(made, ticket)
    return envelope_id


def test_a_hold_outlives_the_process_and_ends_with_its_envelope(spool: Spool) -> None:
    held, other = in_outbox(spool), in_outbox(spool)
    holds = Holds(spool)
    for one in (held, other):
        holds.put(one, "somebody", "why")
    assert holds.ids() == {held, other}
    for ending in (".zip", ".json"):
        (spool.outbox / f"{other}{ending}").unlink()
    spool.release()
    again = Spool(spool.root)
    again.prepare()
    assert Holds(again).ids() == {held}
    with pytest.raises(FileExistsError):
        Holds(again).put(held, "somebody else", "")
    Holds(again).lift(held)
    assert Holds(again).get(held) is None


@pytest.mark.parametrize(
    "point", ["spool.renamed:kill:1", "spool.renamed:kill:2", "requeue.published:kill:1"]
)
def test_a_kill_inside_a_requeue_leaves_one_whole_envelope(spool: Spool, point: str) -> None:
    envelope_id = in_outbox(spool, ack="uploaded")
    spool.reject(envelope_id, {"reason": "refused", "status": 400})
    before = spool.path("rejected", envelope_id).read_bytes()
    spool.release()
    killed = subprocess.run(
        [sys.executable, "-c", REQUEUE, str(spool.root), envelope_id],
        env={**os.environ, "FASTJMIX_FAILPOINT": point},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    again = Spool(spool.root)
    again.prepare()
    states: tuple[State, ...] = ("outbox", "rejected")
    (state,) = [s for s in states if again.path(s, envelope_id).exists()]
    assert again.path(state, envelope_id).read_bytes() == before
    assert again.ticket(state, envelope_id).id == envelope_id
    if state == "rejected":
        again.requeue(envelope_id)
    assert again.path("outbox", envelope_id).read_bytes() == before
    ticket = again.ticket("outbox", envelope_id)
    assert (ticket.refusal, ticket.ack) == (None, "stored")
    assert not list(again.rejected.iterdir())


def test_a_requeue_replaces_no_other_file(spool: Spool) -> None:
    envelope_id = in_outbox(spool)
    spool.reject(envelope_id, {"reason": "refused", "status": 400})
    foreign = spool.outbox / f"{envelope_id}.zip"
    foreign.write_bytes(b"another")
    with pytest.raises(FileExistsError):
        spool.requeue(envelope_id)
    assert foreign.read_bytes() == b"another"
    assert spool.path("rejected", envelope_id).exists()
