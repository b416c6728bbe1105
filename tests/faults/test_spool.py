"""The spool with other files in it: names that are taken, foreign files, the remains of a kill."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastjmix.errors import DamagedTicket, SpoolError
from fastjmix.spool import Retention, Spool, Ticket
from fastjmix.spool.recipe import UNKNOWN
from tests.support import apis, wire
from tests.support.envelopes import envelope
from tests.support.gateway import Gateway, Peer, Store, get, images, running, until
from tests.support.nodes import run
from tests.support.upstreams import Upstream, answer

QUICK = "release_grace_secs = 0.1"


def ticket(envelope_id: str, **changes: object) -> Ticket:
    one = Ticket(
        envelope_id, "dicom_to_jmix", ("u",), "stored", ("1.2",), "CT", 1, 1, 5.0, "packer-0"
    )
    return replace(one, **changes)  # type: ignore[arg-type]


def looks(path: Path) -> object:
    """Describes a file, without following a link or opening one that may wait."""
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode):
        return path.read_bytes()[:4096], path.lstat().st_size
    return path.readlink() if stat.S_ISLNK(mode) else stat.S_IFMT(mode)


def everything(root: Path) -> dict[Path, object]:
    """Returns what is there, but for the socket of a running api."""
    return {path: looks(path) for path in root.rglob("*") if not path.is_socket()}


@pytest.fixture
def durable() -> bool:
    return True


def sealed(spool: Spool, content: bytes = b"member") -> str:
    draft = spool.drafts.new(UNKNOWN)
    draft.append([content])
    draft.commit()
    return draft.seal([], ticket(draft.id)).id


# -- F84: a name that is taken ---------------------------------------------------------------------

RENAMES = """
import os, sys
from pathlib import Path
from fastjmix.spool.rename import rename_new
os.chdir(sys.argv[1])
def refused(source, target):
    try:
        rename_new(Path(source), Path(target))
    except FileExistsError:
        return
    sys.exit(f"{target} was replaced")
for name in ("a", "b"):
    Path(name).write_text(name)
for name in ("d", "e"):
    Path(name).mkdir()
Path("link").symlink_to("nowhere")
os.mkfifo("fifo")
for target in ("b", "d", "link", "fifo"):
    refused("a", target)
refused("d", "e")
refused("d", "b")
rename_new(Path("a"), Path("c"))
rename_new(Path("d"), Path("f"))
os.link("c", "again")  # the first of two steps was taken
rename_new(Path("again"), Path("c"))
assert Path("c").read_text() == "a" and Path("b").read_text() == "b"
assert sorted(os.listdir()) == ["b", "c", "e", "f", "fifo", "link"], os.listdir()
"""


@pytest.mark.fault("F84")
@pytest.mark.parametrize("says", ["", "EINVAL", "ENOSYS"])
def test_a_rename_never_replaces(tmp_path: Path, says: str) -> None:
    """On this file system, and where renameat2(2) has no RENAME_NOREPLACE."""
    work = tmp_path / "work"
    work.mkdir()
    traced = ["-e", "trace=renameat2,link,linkat"]
    traced += ["-e", f"inject=renameat2:error={says}"] if says else []
    command: list[str | Path] = ["strace", "-f", "-o", tmp_path / "trace", *traced]
    command += [sys.executable, "-c", RENAMES, work]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    linked = re.search(r'link(at)?\(.*"a".*"c"', (tmp_path / "trace").read_text())
    assert bool(linked) == bool(says)


OBSTACLES: dict[str, Callable[[Path, Path], object]] = {
    "an archive and its record": lambda z, j: (
        z.write_bytes(b"theirs"),
        j.write_bytes(ticket(j.stem, size_bytes=6, refusal={"status": 400}).dump()),
    ),
    "an archive": lambda z, _: z.write_bytes(b"theirs"),
    "an archive without bytes": lambda z, _: z.touch(),
    "a directory": lambda z, _: z.mkdir(),
    "a FIFO": lambda z, _: os.mkfifo(z),
    "a link to nothing": lambda z, _: z.symlink_to("nowhere"),
    "notes for a record": lambda _, j: j.write_text("my notes"),
    "a directory for a record": lambda _, j: j.mkdir(),
    "a FIFO for a record": lambda _, j: os.mkfifo(j),
    "a link for a record": lambda _, j: j.symlink_to("nowhere"),
}


@pytest.mark.fault("F84")
@pytest.mark.parametrize("state", ["sent", "rejected"])
@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_both_archives_are_kept_when_a_place_is_taken(
    spool: Spool, state: str, obstacle: str
) -> None:
    one = sealed(spool, b"ours")
    directory = spool.root / state
    OBSTACLES[obstacle](directory / f"{one}.zip", directory / f"{one}.json")
    theirs = everything(spool.root / state)
    if state == "sent":
        spool.deliver(one, {"status": 201})
    else:
        spool.reject(one, {"status": 422, "reason": "no"})
    assert not list(spool.outbox.iterdir())
    there = everything(spool.root / state)
    assert {path: there[path] for path in theirs} == theirs
    (kept,) = [p for p in spool.rejected.glob("*.zip") if p.stem != one]
    assert kept.read_bytes() == b"ours"
    said = spool.ticket("rejected", kept.stem)
    assert said.refusal is not None
    assert said.refusal["envelope"] == one
    assert f"{state}/{one}" in said.refusal["why"]
    assert (said.receipt is not None) == (state == "sent")


@pytest.mark.fault("F84")
def test_a_copy_of_what_is_kept_needs_no_second_place(spool: Spool, tmp_path: Path) -> None:
    """A backup of outbox/ is put back and delivered again."""
    one = sealed(spool, b"ours")
    backup = shutil.copytree(spool.outbox, tmp_path / "backup")
    spool.deliver(one, {"status": 201})
    kept = everything(spool.sent)
    shutil.copytree(backup, spool.outbox, dirs_exist_ok=True)
    spool.deliver(one, {"status": 409})
    assert everything(spool.sent) == kept
    assert not list(spool.outbox.iterdir())
    assert not list(spool.rejected.iterdir())


@pytest.mark.fault("F84")
def test_a_step_that_is_done_again_finds_what_it_began(spool: Spool) -> None:
    one, two = sealed(spool, b"ours"), sealed(spool, b"others")
    spool.path("sent", one).mkdir()
    said = ticket(one, size_bytes=4, receipt={})
    for other, begun in ((one, replace(said, id=two)), (two, ticket(two, receipt={}))):
        (spool.sent / f"{other}.json").write_bytes(begun.dump())  # about another, or other bytes
    for again in (one, two):
        spool.deliver(again, {"status": 201})
    assert spool.ticket("sent", two).size_bytes == 6
    assert spool.path("sent", two).read_bytes() == b"others"
    assert [p.read_bytes() for p in spool.rejected.glob("*.zip")] == [b"ours"]


@pytest.mark.fault("F84")
def test_a_receipt_of_another_envelope_finishes_no_delivery(spool: Spool) -> None:
    """Retention was killed between archive and record; later the same id comes with other bytes."""
    one = sealed(spool, b"ours")
    (spool.sent / f"{one}.json").write_bytes(ticket(one, size_bytes=99, receipt={}).dump())
    spool.take_over("uploader")
    assert spool.outbox_listing.ids() == [one]


@pytest.mark.fault("F84")
def test_the_outbox_is_taken_and_the_draft_waits(tmp_path: Path) -> None:
    """The acknowledged envelope is delivered once the other file is gone; no other one waits."""
    with (
        running(Store(tmp_path / "store")) as store,
        running(Gateway(tmp_path / "own", store.port, builder="release_grace_secs = 1")) as own,
    ):
        with Peer(own.dicom_port) as peer:
            peer.associate()
            assert peer.store(wire.data_set()) == 0
            (draft,) = (own.spool / "building").iterdir()
            obstacle = own.spool / "outbox" / f"{draft.name}.zip"
            obstacle.write_bytes(b"theirs")
            peer.release()
        own.wait_for("seal_failed|recovery_failed")
        with Peer(own.dicom_port) as peer:
            peer.associate()
            assert peer.store(wire.data_set("1.2.9", study="1.2.8"), "1.2.9") == 0
            peer.release()
        own.wait_sent(1)
        assert obstacle.read_bytes() == b"theirs"
        obstacle.unlink()
        own.wait_sent(2)
        assert "intake_stopped" not in own.log()


# -- S29: a POST that names an id which is here ----------------------------------------------------

POSTED = "0b8f2c4e-6a1d-4f3b-9e57-8c2d1a0b3f4e"
HERE: dict[str, tuple[str, ...]] = {
    "a draft": (f"building/{POSTED}/envelope.zip",),
    "waiting": (f"outbox/{POSTED}.zip", f"outbox/{POSTED}.json"),
    "on its way to outbox": (f"outbox/{POSTED}.json",),
    "delivered": (f"sent/{POSTED}.zip", f"sent/{POSTED}.json"),
    "delivered, its record only": (f"sent/{POSTED}.json",),
    "refused": (f"rejected/{POSTED}.zip", f"rejected/{POSTED}.json"),
    "refused, its archive only": (f"rejected/{POSTED}.zip",),
    "refused, its record only": (f"rejected/{POSTED}.json",),
}


@pytest.mark.fault("S29")
@pytest.mark.parametrize("here", HERE)
def test_a_post_changes_nothing_that_has_its_id(tmp_path: Path, here: str) -> None:
    listener = replace(apis.LISTENER, upstreams=(apis.UPSTREAM,))
    with apis.running(tmp_path, listener) as gateway:
        for name in HERE[here]:
            path = gateway.spool.root / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"acknowledged images")
        before = everything(gateway.spool.root)
        for written in (POSTED, POSTED.upper()):
            refused = gateway.post(envelope(POSTED).replace(POSTED.encode(), written.encode()))
            assert refused.status in (400, 409), refused.body  # a CRC-32 that is not right
        assert gateway.post(envelope(POSTED)).status == 409
        assert gateway.post(envelope(POSTED.upper())).status == 409
        assert everything(gateway.spool.root) == before


@pytest.mark.fault("S29")
def test_a_file_that_appears_between_the_check_and_the_rename(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check finds no such id, and then another process takes the name."""
    for name in (f"outbox/{POSTED}.json", f"outbox/{POSTED}.zip"):
        with monkeypatch.context() as blind:
            blind.setattr(Spool, "find", lambda *_: None)
            taken = spool.root / name
            taken.write_bytes(b"theirs")
            upload = spool.new_upload()
            upload.write_bytes(b"x")
            before = everything(spool.root)
            with pytest.raises(FileExistsError):
                spool.admit(upload, ticket(POSTED))
            assert everything(spool.root) == before
            upload.unlink()
            taken.unlink()


@pytest.mark.fault("S29")
def test_refused_images_survive_a_post_of_their_id(tmp_path: Path) -> None:
    """Through the whole gateway: C-STORE, refused upstream, then a POST with that id."""
    data = wire.data_set("1.2.3.5", pixels=os.urandom(9000))
    refusing = Upstream(lambda *_: answer(422))

    async def test() -> None:
        async with refusing.open() as store:
            port = int(store.url.split(":")[2].split("/")[0])
            await asyncio.to_thread(send_and_post, port)

    def send_and_post(port: int) -> None:
        settings: dict[str, Any] = {"builder": QUICK, "posts_to": '"jmix_upstream"'}
        with running(Gateway(tmp_path / "own", port, **settings)) as own:
            with Peer(own.dicom_port) as peer:
                peer.associate()
                assert peer.store(data, "1.2.3.5") == 0
                peer.release()
            (kept,) = until(lambda: own.envelopes("rejected"), "it is refused")
            own.wait_for("http_listening")
            request = urllib.request.Request(
                f"{own.http}/jmix/api/jmix",
                envelope(kept.stem),
                {"Content-Type": "application/zip"},
            )
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=30)
            caught.value.close()
            assert caught.value.code == 409
            assert images(kept) == {"1.2.3.5": data}
            assert own.envelopes("rejected") == [kept]

    run(test)


# -- F86: files that are not ours, or cannot be read -----------------------------------------------

VALID = json.loads(ticket(POSTED).dump())
WRONG: dict[str, object] = {
    "format": ["1", 2, None, 1.0e9],
    "id": ["../../etc/x", "x\0", POSTED.upper(), 7, None, "", [POSTED], str(uuid.uuid4())],
    "pipeline": [5, None, ["p"]],
    "upstream": [{}, None],
    "ack": ["", "maybe", ["stored"], None],
    "studies": ["1.2.3", [1], [["1"]], {"a": 1}, None],
    "calling_ae": [5],
    "instances": [-1, 1.5, True, 10**30, "1", [1]],
    "size_bytes": [-1, "1", None, 10**30],
    "sealed_at": ["z", None, -1, 1e300, True, [5]],
    "origin": [None, 7],
    "crc32": [-1, 1 << 32, "x", 1.5],
    "receipt": [5, [], "x"],
    "refusal": [5, [], "x"],
    "more": [1],
}


@pytest.mark.fault("F86")
@pytest.mark.parametrize("key", WRONG)
def test_a_ticket_is_what_we_write_or_is_none(spool: Spool, key: str) -> None:
    record = spool.outbox / f"{POSTED}.json"
    record.write_text(json.dumps(VALID))
    assert spool.ticket("outbox", POSTED).id == POSTED
    for wrong in WRONG[key]:  # type: ignore[attr-defined]
        record.write_text(json.dumps({**VALID, key: wrong}))
        with pytest.raises(DamagedTicket):
            spool.ticket("outbox", POSTED)


def deep() -> dict[str, object]:
    found: dict[str, object] = {}
    for _ in range(400):
        found = {"a": found}
    return found


def put_foreign(root: Path, victim: Path) -> None:
    """Puts into every directory all that a person, a backup or an attacker may leave there."""

    def make(path: Path, text: str = "mine") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    full = {"format": 1, "packer": 0, "pipeline": "p", "upstream": "u", "ack": "stored"}
    full |= {"profile": "harmony", "digest": "sha256", "skip_hashing": False}
    full |= {"skip_listing": False, "calling_ae": "CT", "published": None}
    recipes: list[object] = [{}, {"packer": -1}, {**full, "packer": 10**18}, {**full, "ack": "?"}]
    recipes += [{**full, "replaces": "../outbox"}, {**full, "format": 2}, [], {**full, "digest": 5}]
    for recipe in recipes:
        draft = root / "building" / str(uuid.uuid4())
        make(draft / "draft.json", json.dumps(recipe))
        make(draft / "envelope.zip", "abc")
    for name in ("draft.json", "envelope.zip", "promised"):
        for kind in ("fifo", "directory", "link"):
            draft = root / "building" / str(uuid.uuid4())
            make(draft / "draft.json", json.dumps(full))
            make(draft / "envelope.zip", "abc")
            (draft / name).unlink(missing_ok=True)
            if kind == "fifo":
                os.mkfifo(draft / name)
            elif kind == "directory":
                (draft / name).mkdir()
            else:
                (draft / name).symlink_to(victim)
    (root / "building" / str(uuid.uuid4())).symlink_to(victim.parent)
    (root / "building" / str(uuid.uuid4())).mkdir()
    make(root / "building" / str(uuid.uuid4()))
    for state in ("building", "outbox", "sent", "rejected"):
        for ending in ("zip", "json", "new", "upload", "spill", "draft", "txt"):
            make(root / state / f"notes.{ending}")
            (root / state / f"scan.{ending}").with_name(f"dir.{ending}").mkdir()
            make(root / state / f"dir.{ending}" / "mine")
            for prefix in ("", "packer-0-", "packer-x-", "..-"):
                pipe = root / state / f"{prefix}{uuid.uuid4()}.{ending}"
                os.mkfifo(pipe)
                pipe.with_name(f"{prefix}{uuid.uuid4()}.{ending}").symlink_to("nowhere")
                pipe.with_name(f"{prefix}{uuid.uuid4()}.{ending}").symlink_to(victim)
            make(root / state / f"{str(uuid.uuid4()).upper()}.{ending}")
        Path(os.fsdecode(os.fsencode(root / state) + b"/a\xff.draft")).mkdir()
    for state in ("outbox", "sent", "rejected"):
        for text in ("", "{", "null", "[" * 100_000, json.dumps({**VALID, "refusal": deep()})):
            name = str(uuid.uuid4())
            make(root / state / f"{name}.json", text.replace(POSTED, name))
            make(root / state / f"{name}.zip", "abc")
            make(root / state / f"{uuid.uuid4()}.json", text)
        for key, values in WRONG.items():
            for value in values:  # type: ignore[attr-defined]
                name = str(uuid.uuid4())
                record = {**VALID, "id": name, key: value}
                make(root / state / f"{name}.json", json.dumps(record))
                make(root / state / f"{name}.zip", "abc")
        with (root / state / f"{uuid.uuid4()}.json").open("wb") as file:
            file.truncate(1 << 32)
        place = root / state / f"{uuid.uuid4()}.zip"
        with (
            contextlib.closing(socket.socket(socket.AF_UNIX)) as one,
            contextlib.chdir(root / state),
        ):
            one.bind(place.name)
    make(root / "other" / "my.new")


def bind(name: str) -> None:
    """Makes a socket there, by a relative path: the path of a socket has at most 107 characters."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as one:
        one.bind(name)


def unprivileged(directory: Path) -> str:
    """Returns a Python for which the modes of files hold, even when root runs it."""
    script = directory / "python"
    drop = "setpriv --bounding-set -dac_override,-dac_read_search"
    prefix = f"{drop} " if os.geteuid() == 0 else ""
    script.write_text(f'#!/bin/sh\nexec {prefix}{sys.executable} "$@"\n')
    script.chmod(0o755)
    return str(script)


@pytest.mark.fault("F86")
def test_what_is_not_ours_stays_and_keeps_nobody_back(tmp_path: Path) -> None:
    """One spool with all of it: a start, a delivery, a query, a scrub's listing, a stop."""
    root, victim = tmp_path / "own" / "spool", tmp_path / "elsewhere" / "victim"
    victim.parent.mkdir()
    victim.write_text("victim")
    put_foreign(root, victim)
    before = everything(root)
    with running(Store(tmp_path / "store")) as store:
        settings: dict[str, Any] = {
            "builder": QUICK,
            "storage": "",
            "fastjmix": "retention.max_age_days = 0",
        }
        with running(Gateway(tmp_path / "own", store.port, **settings)) as own:
            with Peer(own.dicom_port) as peer:
                peer.associate()
                assert peer.store(wire.data_set()) == 0
                peer.release()
            store.wait_held(1)
            own.wait_for("envelopes_expired count=1")
            own.wait_for("http_listening")
            query = f"{own.http}/jmix/api/jmix?studyInstanceUid="
            assert get(f"{query}1.2", Accept="application/json")[0] == 404
            ids = {path.stem for path in (*root.glob("sent/*.zip"), *root.glob("outbox/*.zip"))}
            for one in ids:
                with contextlib.suppress(ValueError):
                    uuid.UUID(one)
                    status = get(f"{own.http}/jmix/api/jmix/{one}")[0]
                    assert status in (200, 404, 500), status
            assert get(f"{own.http}/readyz")[0] == 200
            assert own.stop() == 0
            assert "child_died" not in own.log()
            assert "upload_fault" not in own.log()
            assert len([line for line in own.lines if " http_request " not in line]) < 40, own.log()
            assert len([line for line in own.lines if " foreign_files " in line]) == 1, own.log()
            assert len([line for line in own.lines if " ticket_unreadable " in line]) == 1
    after = everything(root)
    assert {path: after.get(path) for path in before} == before
    assert victim.read_text() == "victim"
    assert list(victim.parent.iterdir()) == [victim]


SOON = """
from fastjmix.uploader.retry import Backoff
from fastjmix.uploader.loop import Uploader
from fastjmix.uploader.pace import Pace
begin = Uploader.__init__
pace = Pace(rescan_secs=0.2, backoff=Backoff(0.1, 0.2))
Uploader.__init__ = lambda self, *given, **more: begin(self, *given, **more, pace=pace)
"""
"""Code that makes each minute's retries immediate."""


@pytest.mark.fault("F86")
@pytest.mark.parametrize("bad", ["json", "zip"])
def test_what_cannot_be_read_is_tried_again_when_it_can(tmp_path: Path, bad: str) -> None:
    """The others are delivered meanwhile, and it when its mode is changed, without a restart."""
    python = unprivileged(tmp_path)
    with running(Store(tmp_path / "store")) as store:
        with running(Gateway(tmp_path / "own", 9, builder=QUICK, python=python)) as own:
            for number in range(2):
                with Peer(own.dicom_port) as peer:
                    peer.associate()
                    data = wire.data_set(f"1.2.{number}", study=f"1.3.{number}")
                    assert peer.store(data, f"1.2.{number}") == 0
                    peer.release()
            one = own.wait_sealed(2)[0].stem
            assert own.stop() == 0
        closed = own.spool / "outbox" / f"{one}.{bad}"
        closed.chmod(0)
        settings: dict[str, Any] = {"builder": QUICK, "python": python, "first": SOON}
        with running(Gateway(tmp_path / "own", store.port, **settings)) as own:
            own.wait_for(f"ticket_unreadable envelope={one}|envelope_unreadable envelope={one}")
            store.wait_held(1)
            assert one in {path.stem for path in own.envelopes("outbox")}
            query = f"{own.http}/jmix/api/jmix?studyInstanceUid=1.3."
            own.wait_for("http_listening")
            found = [get(f"{query}{n}", Accept="application/json")[0] for n in range(2)]
            assert sorted(found) in ([200, 200], [200, 404])
            until(lambda: "upload_retry" not in own.log(), "no line for each attempt")
            closed.chmod(0o600)
            store.wait_held(2)
            told_of = [line for line in own.lines if "_unreadable" in line and "uploader" in line]
            assert len(told_of) == 1


@pytest.mark.fault("F86")
@pytest.mark.parametrize("name", [".lock", ".format"])
@pytest.mark.parametrize("kind", ["directory", "fifo", "link", "dangling", "socket"])
def test_what_stands_for_the_lock_is_an_answer(tmp_path: Path, name: str, kind: str) -> None:
    root, elsewhere = tmp_path / "spool", tmp_path / "elsewhere"
    before = Spool(root)
    before.prepare()
    before.release()
    path = root / name
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with contextlib.chdir(root):
            bind(name)
    else:
        if kind == "link":
            elsewhere.write_text("1\n")
        path.symlink_to(elsewhere)
    with pytest.raises(SpoolError, match=name):
        Spool(root).prepare()
    assert elsewhere.exists() == (kind == "link")


# -- F95: what a killed process left, and retention ------------------------------------------------


@pytest.mark.fault("F95")
def test_a_successor_sweeps_what_a_killed_process_left(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"builder": QUICK, "posts_to": '"jmix_upstream"'}
    with running(Gateway(tmp_path / "own", 9, **settings)) as own:
        own.wait_for("http_listening")
        building, sent = own.spool / "building", own.spool / "sent"
        other = building / f"packer-9-{uuid.uuid4()}.upload"  # of a process that may be running
        other.write_bytes(b"x")
        with socket.create_connection(("127.0.0.1", own.http_port)) as posting:
            head = b"POST /jmix/api/jmix HTTP/1.1\r\nHost: localhost\r\n"
            head += b"Content-Type: application/zip\r\nContent-Length: 1000000\r\n\r\n"
            posting.sendall(head + bytes(100_000))
            until(lambda: list(building.glob("api-*.upload")), "the upload is in building/")
            os.kill(own.children()["api"], signal.SIGKILL)
            own.wait_for("http_listening", 2)
        assert list(building.glob("*.upload")) == [other]
        alone, withdrawn = uuid.uuid4(), uuid.uuid4()
        (sent / f"{alone}.json").write_bytes(ticket(str(alone), receipt={}).dump())
        (own.spool / "outbox" / f"{withdrawn}.json").write_bytes(ticket(str(withdrawn)).dump())
        (sent / f"uploader-{uuid.uuid4()}.new").write_bytes(b"{")
        os.kill(own.children()["uploader"], signal.SIGKILL)
        until(lambda: not list(sent.iterdir()), "sent/ is swept")
        until(lambda: not list((own.spool / "outbox").iterdir()), "outbox/ is swept")


@pytest.mark.fault("F95")
def test_a_ticket_of_a_living_process_is_not_swept(spool: Spool) -> None:
    """Between its ticket and its archive an envelope has its id in building/."""
    draft = spool.drafts.new(UNKNOWN)
    posted = str(uuid.uuid4())
    (spool.building / f"api-{posted}.upload").write_bytes(b"x")
    for one in (draft.id, posted):
        (spool.outbox / f"{one}.json").write_bytes(ticket(one).dump())
    spool.take_over("uploader")
    assert {path.stem for path in spool.outbox.iterdir()} == {draft.id, posted}
    assert (spool.building / f"api-{posted}.upload").exists()
    draft.close()


def fill(spool: Spool, count: int) -> list[str]:
    """Fills sent/ with delivered envelopes, the oldest first."""
    found = []
    for number in range(count):
        name = str(uuid.UUID(int=number + 1))
        (spool.sent / f"{name}.zip").write_bytes(b"x" * 10)
        (spool.sent / f"{name}.json").write_bytes(ticket(name, receipt={}).dump())
        os.utime(spool.sent / f"{name}.json", (1000 + number,) * 2)
        found.append(name)
    return found


@pytest.mark.fault("F95")
def test_a_look_at_many_is_taken_in_portions(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastjmix.spool.retention.PORTION", 20)
    monkeypatch.setattr("fastjmix.spool.retention.OLDEST_MAX", 50)
    ids = fill(spool, 300)
    one = Retention(spool, None, 1000)
    assert sum(1 for _ in one.survey()) == 300 // 20
    removed: list[str] = []
    step = one.trim()
    assert len(step.ids) == 20
    assert step.more
    removed = step.ids + one.run()
    assert removed == ids[:200]
    assert sorted(p.stem for p in spool.sent.glob("*.zip")) == ids[200:]
    spool.path("sent", ids[200]).unlink()  # by a person
    assert Retention(spool, None, 985).run() == [ids[201]]


@pytest.mark.fault("F95")
def test_what_cannot_be_deleted_keeps_none_of_the_others(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastjmix.spool.retention.OLDEST_MAX", 5)
    ids = fill(spool, 40)
    for name in ids[:10]:
        (spool.sent / f"{name}.json").write_text("not ours")
        os.utime(spool.sent / f"{name}.json", (10, 10))
    assert Retention(spool, 1.0).run() == ids[10:]
    assert sorted(p.stem for p in spool.sent.glob("*.zip")) == ids[:10]
