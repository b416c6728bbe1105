"""tools/store/directory.py: what is arriving, what a start finds, and what it leaves alone."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fastjmix.errors import PlatformError, SpoolError
from fastjmix.jmix.write.tarball import DIALECTS
from fastjmix.tools import store
from fastjmix.tools.store import index
from tests.support.disks import Strace
from tests.support.encrypted import RECIPIENT, STRANGER, encrypted_envelope
from tests.support.envelopes import ID, STUDY, envelope
from tests.support.gateway import Store, run_command, running, until
from tests.support.stores import Client, left_behind, serving, with_store

OTHER = "550e8400-e29b-41d4-a716-446655440001"


def ask(port: int, method: str, path: str = "", body: bytes | None = None) -> tuple[int, Any, str]:
    """Returns (status, body as JSON where it is, Retry-After)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/zip"} if body is not None else {}
        connection.request(method, f"/api/jmix{path}", body, headers)
        answer = connection.getresponse()
        data = answer.read()
        is_json = answer.headers.get_content_type() == "application/json"
        result = json.loads(data) if is_json and data else data
        return answer.status, result, answer.headers.get("Retry-After", "")


# -- arriving --------------------------------------------------------------------------------------


@pytest.mark.fault("F93")
@pytest.mark.parametrize("slow", [1, 2], ids=["its data", "its name"])
def test_what_is_arriving_is_not_stored_yet(tmp_path: Path, slow: int) -> None:
    """The disk takes its time over the file, or over the directory: the id is neither stored nor
    unknown until both are done, whoever asks in whatever way."""
    data = envelope(ID)
    first: list[int] = []
    with running(Store(tmp_path)) as own:
        delay = f"inject=fsync:delay_enter=2000000:when={slow}"
        options = ("-e", "trace=fsync", "-e", delay)
        with Strace(tmp_path / "calls", *options, pids=[own.child.pid]):
            post = threading.Thread(target=lambda: first.append(ask(own.port, "POST", "", data)[0]))
            post.start()
            until(lambda: ask(own.port, "GET", f"/{ID}")[0] == 503, "it is arriving")
            status, reported, later = ask(own.port, "POST", "", data)
            assert (status, later) == (503, "1"), reported
            for path in (f"/{ID}", f"/{ID}/manifest", f"/{ID.upper()}/manifest"):
                assert ask(own.port, "GET", path)[::2] == (503, "1")
            assert first == []
            post.join(30)
        assert first == [201]
        assert ask(own.port, "GET", f"/{ID}/manifest")[0] == 200
        assert ask(own.port, "POST", "", data)[0] == 409


@pytest.mark.fault("F93")
def test_a_store_that_failed_knows_nothing_of_the_id(tmp_path: Path) -> None:
    """The directory cannot be synced: no 201, and nothing that a later 409 could rest on."""
    data = envelope(ID)
    with running(Store(tmp_path)) as own:
        options = ("-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=2")
        with Strace(tmp_path / "calls", *options, pids=[own.child.pid]):
            assert ask(own.port, "POST", "", data)[0] == 500
        assert ask(own.port, "GET", f"/{ID}/manifest")[0] == 404
        assert ask(own.port, "POST", "", data)[0] == 201


@pytest.mark.fault("F93")
def test_stored_already_is_said_of_what_can_be_fetched(tmp_path: Path) -> None:
    """Whoever hears 409 deletes its own copy: a file that a person took away is stored anew."""
    data = envelope(ID)

    async def test(client: Client) -> None:
        assert (await client.post(data))[0] == 201
        assert (await client.post(data))[0] == 409
        path = tmp_path / "store" / f"{ID}.zip"
        path.unlink()
        assert (await client.ask("GET", f"/{ID}/manifest"))[0] == 404
        assert (await client.post(data))[0] == 201
        path.write_bytes(b"not what was stored")
        assert (await client.post(data))[0] == 201
        assert path.read_bytes() == data
        assert [one.name for one in path.parent.glob("*.damaged")] == [f"{ID}.damaged"]
        path.unlink()
        os.mkfifo(path)
        status, reported, headers = await client.post(data)
        assert (status, headers["Retry-After"]) == (503, "60"), reported
        assert (await client.post(envelope(OTHER)))[0] == 201  # nobody else waits

    with_store(tmp_path, test)


@pytest.mark.fault("F93")
def test_a_file_that_was_put_there_by_hand_is_stored(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        (tmp_path / "store" / f"{ID}.zip").write_bytes(envelope(ID))
        assert (await client.post(envelope(ID)))[0] == 409
        assert (await client.ask("GET", f"/{ID}/manifest"))[0] == 200
        assert (await client.ask("GET", f"?studyInstanceUid={STUDY}"))[0] == 200

    with_store(tmp_path, test)


# -- keys ------------------------------------------------------------------------------------------


@pytest.mark.fault("F99")
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("key", [None, STRANGER], ids=["no key", "another key"])
def test_a_start_without_the_key_changes_nothing(tmp_path: Path, dialect: str, key: Any) -> None:
    data = encrypted_envelope(dialect, ID)
    place = tmp_path / "store"
    before: dict[str, int] = {}

    async def stored(client: Client) -> None:
        assert (await client.post(data))[0] == 201
        assert (await client.post(envelope(OTHER)))[0] == 201
        before.update({one.name: one.stat().st_mtime_ns for one in place.glob("*.zip")})

    async def without(client: Client) -> None:
        assert (await client.ask("GET", f"/{ID}"))[1] == data
        assert (await client.ask("GET", f"/{ID}/manifest"))[1]["id"] == ID
        assert (await client.ask("GET", f"?studyInstanceUid={STUDY}"))[2]["ETag"].find(OTHER) == 1
        status, _, _ = await client.post(data)
        assert status == 400  # it cannot be checked, so it is not taken

    async def again(client: Client) -> None:
        _, listed, _ = await client.ask("GET", headers={"Accept": "application/json"})
        assert {one["id"] for one in listed["jmixEnvelopes"]} == {ID, OTHER}
        assert all(one["studyInstanceUids"] == [STUDY] for one in listed["jmixEnvelopes"])
        assert (await client.post(data))[0] == 409

    with_store(tmp_path, stored, key=RECIPIENT)
    with_store(tmp_path, without, key=key)
    assert {one.name: one.stat().st_mtime_ns for one in place.glob("*.zip")} == before
    assert list(place.glob("*.damaged")) == []
    with_store(tmp_path, again, key=RECIPIENT)


@pytest.mark.fault("F99")
def test_the_key_is_asked_for_in_one_line(tmp_path: Path) -> None:
    place = tmp_path / "store"
    place.mkdir()
    for number in range(5):
        one = f"550e8400-e29b-41d4-a716-44665544000{number}"
        (place / f"{one}.zip").write_bytes(encrypted_envelope("php", one))
    with running(Store(tmp_path)) as own:
        own.stop()
        warnings = [line for line in own.lines if " warn" in line]
        assert len(warnings) == 1, warnings
        for word in ("envelopes_without_their_key", "count=5", "--decryption-key"):
            assert word in warnings[0]
    assert len(list(place.glob("*.zip"))) == 5


@pytest.mark.fault("F99")
def test_damage_is_found_without_the_key(tmp_path: Path) -> None:
    """Checks without the key find a changed manifest and a changed ciphertext."""
    place = tmp_path / "store"
    place.mkdir()
    data = bytearray(encrypted_envelope("php", ID))
    data[data.index(b"payload.encrypted") + 40] ^= 1
    (place / f"{ID}.zip").write_bytes(data)

    async def test(client: Client) -> None:
        assert (await client.ask("GET", f"/{ID}"))[0] == 404

    with_store(tmp_path, test)
    assert [one.name for one in place.glob("*.damaged")] == [f"{ID}.damaged"]


# -- names and files of others ---------------------------------------------------------------------


@pytest.mark.fault("F99")
def test_what_others_left_in_the_directory_stays_and_ends_no_start(tmp_path: Path) -> None:
    place = tmp_path / "store"
    incoming = place / "incoming"
    incoming.mkdir(parents=True)
    names = iter(f"550e8400-e29b-41d4-a716-4466554401{n:02}.zip" for n in range(20))
    secret = tmp_path / "secret.zip"
    secret.write_bytes(envelope(OTHER))
    for folder in (place, incoming):
        (folder / next(names)).mkdir()
        os.mkfifo(folder / next(names))
        (folder / next(names)).symlink_to(secret)
        (folder / next(names)).symlink_to("nowhere")
        (folder / "notes.txt").write_text("mine")
        (folder / "study.zip").write_bytes(envelope())
        (folder / f"{ID.upper()}.zip").write_bytes(envelope(ID))
        (folder / f"{ID}.zip.bak").write_bytes(envelope(ID))
        (folder / "a folder").mkdir()
        (folder / "a folder" / "inside").write_text("mine")
        (folder / b"\xff.zip".decode("utf-8", "surrogateescape")).write_bytes(b"mine")
    leftover = incoming / next(names)
    leftover.write_bytes(b"PK, half of it")
    before = sorted(str(one) for one in tmp_path.rglob("*") if one != leftover)
    with running(Store(tmp_path)) as own:
        assert ask(own.port, "POST", "", envelope(ID))[0] == 201
        own.stop()
        log = own.log()
    left = sorted(str(one) for one in tmp_path.rglob("*"))
    assert [name for name in before if name not in left] == []
    assert not leftover.exists()
    assert secret.read_bytes()
    assert "Traceback" not in log
    for word in ("foreign_names_left", "envelopes_unreadable", "is not a regular file"):
        assert word in log
    assert len([line for line in own.lines if " warn" in line]) <= 3


@pytest.mark.fault("F99")
@pytest.mark.parametrize("taken", [".", "incoming", ".lock"])
def test_a_directory_that_cannot_be_used_is_not_blamed_on_the_port(
    tmp_path: Path, taken: str
) -> None:
    place = tmp_path / "store"
    if taken == ".lock":
        (place / taken).mkdir(parents=True)
    else:
        (place / taken).parent.mkdir(parents=True, exist_ok=True)
        (place / taken).write_text("a file")
    done = run_command("store", "--port", "0", "--dir", place)
    assert done.returncode == 2
    assert f"{place / taken}: the directory cannot be used" in done.stderr
    assert "listening" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.fault("F99")
def test_a_file_that_may_not_be_read_ends_no_start(tmp_path: Path) -> None:
    """EIO from the disk, as strace gives it; root reads whatever its mode is."""

    async def before(client: Client) -> None:
        assert (await client.post(envelope(ID)))[0] == 201

    with_store(tmp_path, before)
    path = tmp_path / "store" / f"{ID}.zip"
    inject = ("-qq", "-f", "-P", str(path), "-e", "trace=read,pread64", "-o", "/dev/null")
    code = (
        "import asyncio, sys, pathlib\n"
        "from fastjmix import log; from fastjmix.tools import store\n"
        "log.setup('info', None, 'store')\n"
        "async def main():\n"
        "    runner, port = await store.start('127.0.0.1', 0, pathlib.Path(sys.argv[1]))\n"
        "    await runner.cleanup()\n"
        "asyncio.run(main())\n"
    )
    done = run_python(code, str(path.parent), tracer=("-e", "inject=read:error=EIO", *inject))
    assert done.returncode == 0, done.stderr
    assert "envelopes_unreadable" in done.stderr
    assert path.exists()
    assert list(path.parent.glob("*.damaged")) == []


def run_python(code: str, *arguments: str, tracer: tuple[str, ...]) -> Any:
    command = ["strace", *tracer, sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.fault("F99")
def test_what_was_damaged_before_is_not_replaced(tmp_path: Path) -> None:
    place = tmp_path / "store"
    for number in range(3):
        place.mkdir(exist_ok=True)
        (place / f"{ID}.zip").write_bytes(b"damaged %d" % number)

        async def nothing(_: Client) -> None:
            pass

        with_store(tmp_path, nothing)
    kept = {one.name: one.read_bytes() for one in place.glob("*.damaged")}
    assert kept == {
        f"{ID}.damaged": b"damaged 0",
        f"{ID}.2.damaged": b"damaged 1",
        f"{ID}.3.damaged": b"damaged 2",
    }


@pytest.mark.fault("F99")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_damaged_files_of_one_id(tmp_path: Path, off: int) -> None:
    place = tmp_path / "store"
    place.mkdir()
    count = index.DAMAGED_MAX - 1 + off
    names = [f"{ID}.damaged", *(f"{ID}.{n}.damaged" for n in range(2, count + 1))][:count]
    for name in names:
        (place / name).write_bytes(b"before")
    (place / f"{ID}.zip").write_bytes(b"now")

    async def test(client: Client) -> None:
        assert (await client.ask("GET", f"/{ID}"))[0] == 404

    with_store(tmp_path, test)
    assert [(place / name).read_bytes() for name in names] == [b"before"] * count
    assert (place / f"{ID}.zip").exists() == (off > 0)


@pytest.mark.fault("F99")
def test_a_kill_between_two_names_leaves_one_envelope(tmp_path: Path) -> None:
    """link(2) gave the new name, and the old one is there, too: the next start ends that."""
    place = tmp_path / "store"
    (place / "incoming").mkdir(parents=True)
    old = place / "incoming" / f"{OTHER}.zip"
    old.write_bytes(envelope(ID))
    os.link(old, place / f"{ID}.zip")

    async def test(client: Client) -> None:
        assert (await client.ask("GET", f"/{ID}/manifest"))[0] == 200

    with_store(tmp_path, test)
    assert left_behind(tmp_path) == []


def test_a_directory_is_given_back_when_the_port_is_taken(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path / "store") as client:
            with pytest.raises(PlatformError, match="in use"):
                await store.start("127.0.0.1", client.port, tmp_path / "second")
            with pytest.raises(SpoolError, match="another store"):
                await store.start("127.0.0.1", 0, tmp_path / "store")
            runner, _ = await store.start("127.0.0.1", 0, tmp_path / "second")
            await runner.cleanup()

    asyncio.run(test())
