"""spool/states.py, drafts.py and sweep.py: every state, every leftover, every step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastjmix.errors import DamagedTicket, SpoolError
from fastjmix.spool import FreeSpace, Recipe, Retention, Spool, Ticket
from fastjmix.spool.reading import read_small
from fastjmix.spool.recipe import UNKNOWN


def ticket(envelope_id: str, **changes: Any) -> Ticket:
    values: dict[str, Any] = {
        "id": envelope_id,
        "pipeline": "p",
        "upstreams": ("u",),
        "ack": "stored",
        "studies": ("1.2.3",),
        "calling_ae": "CT",
        "instances": 1,
        "size_bytes": 0,
        "sealed_at": 1.5,
        "origin": "packer-0",
    }
    return Ticket(**{**values, **changes})


def sealed(spool: Spool, content: bytes = b"member") -> str:
    draft = spool.drafts.new(UNKNOWN)
    draft.append([content[:2], memoryview(content[2:])])
    draft.commit()
    return draft.seal([b"tail"], ticket(draft.id)).id


def test_a_small_file_needs_no_memory_for_the_largest(tmp_path: Path) -> None:
    """Else a process whose address space is limited has none for a file of some bytes."""
    (tmp_path / "small").write_bytes(b"as it is")
    assert read_small(tmp_path / "small", 1 << 50) == b"as it is"
    assert read_small(tmp_path / "small", 5) == b"as it"


def test_an_envelope_goes_from_building_to_sent(spool: Spool) -> None:
    one = sealed(spool)
    assert spool.outbox_listing.ids() == [one]
    assert spool.path("outbox", one).read_bytes() == b"membertail"
    assert spool.ticket("outbox", one).size_bytes == 10
    assert not list(spool.building.iterdir())
    spool.deliver(one, {"status": 201})
    assert spool.outbox_listing.ids() == []
    assert spool.ticket("sent", one).receipt == {"status": 201}
    assert not list(spool.outbox.iterdir())
    assert spool.find(one) == ("sent", spool.path("sent", one))


def test_refused_and_withdrawn(spool: Spool) -> None:
    one, two = sealed(spool), sealed(spool)
    spool.reject(one, {"status": 400})
    assert spool.ticket("rejected", one).refusal == {"status": 400}
    assert spool.find(one) == ("rejected", spool.path("rejected", one))
    spool.withdraw(two)
    assert spool.find(two) is None
    assert not list(spool.outbox.iterdir())


def test_oldest_first(spool: Spool) -> None:
    ids = [sealed(spool) for _ in range(5)]
    for age, one in enumerate(ids):
        os.utime(spool.path("outbox", one), (age, age))
    assert spool.outbox_listing.ids() == ids


def test_a_failed_append_leaves_no_trace(spool: Spool, tmp_path: Path) -> None:
    draft = spool.drafts.new(UNKNOWN)
    draft.append([b"whole"])
    os.close(draft.descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        draft.append([b"half"])
    assert draft.end == 5
    draft.descriptor = os.open(draft.archive, os.O_RDWR)
    draft.append([b"!"])
    assert draft.archive.read_bytes() == b"whole!"
    draft.abandon()
    assert not list(spool.building.iterdir())


def test_many_buffers_are_written_in_order(spool: Spool) -> None:
    draft = spool.drafts.new(UNKNOWN)
    parts = [b"%04d" % n for n in range(3000)]
    assert draft.append(parts) == 0
    assert draft.append([b"", b"end"]) == 12000
    assert draft.archive.read_bytes() == b"".join(parts) + b"end"


def test_spilled_instances_are_joined(spool: Spool) -> None:
    draft = spool.drafts.new(UNKNOWN)
    draft.append([b"first"])
    spill = spool.drafts.new_spill("packer-0")
    spill.append([b"x" * 100000])
    spill.append([b"y" * 7])
    assert draft.join(b"header", spill) == 5
    spill.drop()
    assert draft.archive.read_bytes() == b"firstheader" + b"x" * 100000 + b"y" * 7
    assert not spill.path.exists()


def start_again(spool: Spool) -> None:
    spool.release()
    spool.prepare()


def recipe(packer: int) -> Recipe:
    return replace(UNKNOWN, packer=packer, pipeline="p", upstreams=("u",), calling_ae="CT")


def test_leftovers_of_a_crash(spool: Spool) -> None:
    """Makes each leftover by hand that the table in spool/__init__.py names."""
    draft = spool.drafts.new(recipe(3))
    draft.append([b"member"])
    draft.close()
    uploading = spool.new_upload()
    uploading.write_bytes(b"half")
    spill = spool.drafts.new_spill("packer-0")
    lonely = str(uuid.uuid4())
    (spool.outbox / f"{lonely}.json").write_bytes(ticket(lonely).dump())
    one, two, three = sealed(spool), sealed(spool), sealed(spool)
    # the receipt was written, the archive had not moved
    (spool.sent / f"{one}.json").write_bytes(ticket(one, size_bytes=10, receipt={}).dump())
    # the archive had moved, the old ticket was still there
    spool.path("outbox", two).rename(spool.path("sent", two))
    (spool.sent / f"{two}.json").write_bytes(ticket(two, receipt={"status": 201}).dump())
    # retention had deleted the archive, and not yet its record
    spool.deliver(three, {"status": 201})
    spool.path("sent", three).unlink()
    (spool.outbox / f"uploader-{uuid.uuid4()}.new").write_bytes(b"{")
    start_again(spool)
    assert not uploading.exists()
    assert not spill.path.exists()
    assert not list(spool.outbox.iterdir())
    assert {found[0] for found in (spool.find(one), spool.find(two)) if found} == {"sent"}
    assert None not in (spool.find(one), spool.find(two))
    (leftover,) = spool.drafts.leftovers()
    assert (leftover.id, leftover.recipe) == (draft.id, recipe(3))
    assert {path.stem for path in spool.sent.iterdir()} == {one, two}


def test_a_draft_without_a_recipe_is_kept_for_a_person(spool: Spool) -> None:
    """It is kept if it may hold instances; a draft that a power cut left empty is deleted."""
    blank, zeros, member = (str(uuid.uuid4()) for _ in range(3))
    for name, recipe_text, archive in (
        (blank, b"", b""),
        (zeros, bytes(300), b""),
        (member, b"{torn", b"PK\3\4member"),
    ):
        (spool.building / name).mkdir()
        (spool.building / name / "draft.json").write_bytes(recipe_text)
        (spool.building / name / "envelope.zip").write_bytes(archive)
        (spool.building / name / "promised").touch()
    (spool.building / f"packer-7-{uuid.uuid4()}.draft").mkdir()
    assert spool.drafts.leftovers() == []  # while others run, it may be one that is being made
    start_again(spool)
    assert not list(spool.building.iterdir())
    assert spool.path("rejected", member).read_bytes() == b"PK\3\4member"
    refusal = spool.ticket("rejected", member).refusal
    assert refusal is not None
    assert "draft.json" in refusal["why"]
    assert len(list(spool.rejected.iterdir())) == 2


def test_a_successor_sweeps_what_its_predecessor_left_unpromised(spool: Spool) -> None:
    mine, other = spool.drafts.new_spill("packer-0"), spool.drafts.new_spill("packer-1")
    drafts = [spool.drafts.new(recipe(number)).leave().directory for number in (0, 1)]
    gone = []
    for number, directory in enumerate(drafts):  # killed between mkdir and rename
        gone.append(spool.building / f"packer-{number}-{uuid.uuid4()}.draft")
        directory.rename(gone[-1])
    (spool.rejected / f"packer-0-{uuid.uuid4()}.new").write_bytes(b"{")
    spool.take_over("packer-0")
    assert not mine.path.exists()
    assert other.path.exists()
    assert [path for path in gone if path.exists()] == gone[1:]
    assert not list(spool.rejected.iterdir())


def test_tickets() -> None:
    one = ticket(str(uuid.uuid4()), studies=("1", "2"), receipt={"status": 201, "id": "b"})
    assert Ticket.load(one.dump(), "x") == one
    for bad in (b"", b"[]", b"{}", b'{"format":1}', b"null", one.dump()[:-9]):
        with pytest.raises(DamagedTicket, match=r"where\.json"):
            Ticket.load(bad, "where.json")


def test_a_ticket_for_one_upstream_is_that_of_earlier_versions() -> None:
    one = ticket(str(uuid.uuid4()))
    written = json.loads(one.dump())
    assert written["upstream"] == "u"
    assert not {"upstreams", "priority", "tags", "rule"} & written.keys()
    several = ticket(one.id, upstreams=("a", "b"), priority="bulk", tags=("t",), rule="night")
    assert Ticket.load(several.dump(), "x") == several
    faulty: tuple[dict[str, Any], ...] = (
        {"upstreams": []},
        {"upstreams": ["a", "a"]},
        {"priority": "now"},
        {"tags": [1]},
    )
    for bad in faulty:
        with pytest.raises(DamagedTicket):
            Ticket.load(json.dumps({**json.loads(several.dump()), **bad}).encode(), "x")


def test_the_lock(spool: Spool) -> None:
    code = (
        "import sys; from pathlib import Path; from fastjmix.spool import Spool;"
        "Spool(Path(sys.argv[1])).prepare()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(spool.root)], capture_output=True, text=True, check=False
    )
    assert "another fastjmix" in done.stderr


def test_a_root_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="cannot be used"):
        Spool(tmp_path / "file" / "spool").prepare()


@pytest.mark.fault("S11")
@pytest.mark.parametrize("name", ["", "building", "outbox", "sent", "rejected"])
def test_a_symbolic_link_is_refused_at_the_start(tmp_path: Path, name: str) -> None:
    Spool(tmp_path / "real").prepare()
    if name:
        (tmp_path / "real" / name).rename(tmp_path / "elsewhere")
        (tmp_path / "real" / name).symlink_to(tmp_path / "elsewhere")
        path, root = tmp_path / "real" / name, tmp_path / "real"
    else:
        path = root = tmp_path / "link"
        root.symlink_to(tmp_path / "real")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SpoolError) as caught:
        Spool(root).prepare()
    assert caught.value.message.startswith(f"{path}: is a symbolic link")
    assert sorted(tmp_path.rglob("*")) == before


def test_modes(spool: Spool) -> None:
    sealed(spool)
    for path in spool.root.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


def test_retention_takes_the_oldest_delivered_only(spool: Spool) -> None:
    ids = [sealed(spool, b"x" * 1000) for _ in range(5)]
    for age, one in enumerate(ids[:4]):
        spool.deliver(one, {})
        os.utime(spool.sent / f"{one}.json", (time.time() - 1000 * (4 - age),) * 2)
    assert Retention(spool).run() == []
    assert Retention(spool, 3500).run() == [ids[0]]
    assert Retention(spool, None, 2100).run() == [ids[1]]
    assert Retention(spool).run(wanted=1) == [ids[2]]
    assert Retention(spool, 0, 0, spared_secs=3600.0).run() == []
    assert Retention(spool, 0, 0).run() == [ids[3]]
    assert Retention(spool, 0, 0).run(wanted=1 << 40) == []
    assert spool.outbox_listing.ids() == [ids[4]]


def test_page_cache_never_syncs(tmp_path: Path) -> None:
    """strace shows that durable spools sync and page-cache ones do not."""
    code = (
        "import sys; from pathlib import Path; from fastjmix.spool import Spool, Ticket;"
        "from fastjmix.spool.recipe import UNKNOWN;"
        "s = Spool(Path(sys.argv[1]), durable=sys.argv[2] == 'True'); s.prepare();"
        "d = s.drafts.new(UNKNOWN); d.append([b'x']); d.commit();"
        "d.seal([b'y'], Ticket(d.id, '', ('',), 'stored', (), '', 1, 0, 0.0, ''));"
        "s.deliver(d.id, {})"
    )
    counts = {}
    for durable in ("True", "False"):
        trace = tmp_path / f"trace-{durable}"
        subprocess.run(
            ["strace", "-f", "-qq", "-o", str(trace), "-e", "trace=fsync,fdatasync,renameat2",
             sys.executable, "-c", code, str(tmp_path / durable), durable],
            check=True,
        )  # fmt: skip
        text = trace.read_text()
        counts[durable] = text.count("sync(")
        if durable == "True":
            lines = [
                line
                for line in text.splitlines()
                if ".json" in line or "zip" in line or "sync(" in line
            ]
            published = next(
                i for i, line in enumerate(lines) if "/outbox/" in line and ".zip" in line
            )
            assert "fsync(" in lines[published + 1]
            assert any("outbox" in line and ".json" in line for line in lines[:published])
    assert counts["False"] == 0
    assert counts["True"] >= 8


def test_free_space(tmp_path: Path) -> None:
    space = FreeSpace(tmp_path)
    free = os.statvfs(tmp_path)
    if free.f_bavail * free.f_frsize > 6 << 30:
        assert not space.low()
        assert not space.exhausted()
    space._free, space._measured_at = 1 << 20, time.monotonic() + 100
    assert space.low()
    assert space.exhausted()


def test_draft_recipe_is_json(spool: Spool) -> None:
    draft = spool.drafts.new(recipe(7))
    assert (draft.directory / "draft.json").read_bytes() == recipe(7).dump()
    assert json.loads(recipe(7).dump())["packer"] == 7
    assert Path(draft.archive).exists()
    draft.abandon()
