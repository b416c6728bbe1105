"""How an envelope was routed, as its file says it in each state."""

from __future__ import annotations

import json
from pathlib import Path

from fastjmix.spool import Spool
from fastjmix.spool.routed import UNROUTED, routed
from tests.support.storages import Storage


def test_the_file_of_each_state_says_it(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    spool = Spool(tmp_path, durable=False)
    one = storage.envelope(rule="r", priority="stat", tags=("a",))
    assert routed(spool, one, "outbox") == ("r", "stat", ("a",))
    spool.tag(one, ["of a hook"])
    assert routed(spool, one, "held") == ("r", "stat", ("a", "of a hook"))
    storage.move(one, "outbox", "sent")
    assert routed(spool, one, "sent").rule == "r"
    assert routed(spool, one, "rejected") == UNROUTED
    (tmp_path / "sent" / f"{one}.json").write_text("no ticket")
    assert routed(spool, one, "sent") == UNROUTED


def test_a_draft_has_its_recipe(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    spool = Spool(tmp_path, durable=False)
    draft = storage.draft("1.2.3")
    assert routed(spool, draft, "building") == UNROUTED
    recipe = tmp_path / "building" / draft / "draft.json"
    recipe.write_text(json.dumps({**json.loads(recipe.read_text()), "rule": "r"}))
    assert routed(spool, draft, "building").rule == "r"
    recipe.write_text("[]")
    assert routed(spool, draft, "building") == UNROUTED
