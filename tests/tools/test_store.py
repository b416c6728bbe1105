"""store/ and httpd/server.py: the embedded JMIX store over real sockets, aiohttp's client and
curl.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import uuid
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fastjmix.errors import ConfigError, PlatformError, SpoolError
from fastjmix.jmix.limits import Limits
from fastjmix.tools import store
from tests.support.envelopes import ID, STUDY, envelope, members, zipped
from tests.support.stores import JSON, Client, curl, left_behind, with_store

# -- storing -------------------------------------------------------------------------------------


def test_post_then_get(tmp_path: Path) -> None:
    data = envelope(ID)

    async def test(client: Client) -> None:
        status, answer, headers = await client.post(data)
        assert (status, answer) == (201, {"id": ID, "status": "stored"})
        assert headers["Location"] == f"/api/jmix/{ID}"
        assert (tmp_path / "store" / f"{ID}.zip").read_bytes() == data

        status, body, headers = await client.ask("GET", f"/{ID}")
        assert (status, body) == (200, data)
        assert headers["Content-Type"] == "application/zip"
        assert headers["Content-Disposition"] == f'attachment; filename="{ID}.zip"'
        assert headers["Content-Length"] == str(len(data))
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "no-store" in headers["Cache-Control"]
        assert headers["Server"] == "fastjmix"

        status, body, headers = await client.ask("HEAD", f"/{ID}")
        assert (status, body, headers["Content-Length"]) == (200, b"", str(len(data)))

        status, manifest, _ = await client.ask("GET", f"/{ID}/manifest")
        assert (status, manifest["id"], manifest["version"]) == (200, ID, 1)

    with_store(tmp_path, test)
    assert left_behind(tmp_path) == []


def test_chunked_body(tmp_path: Path) -> None:
    data = envelope(ID, image=os.urandom(3 << 20))

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 60_000):
            yield data[at : at + 60_000]

    async def test(client: Client) -> None:
        status, _, _ = await client.post(pieces())
        assert status == 201
        assert (tmp_path / "store" / f"{ID}.zip").read_bytes() == data

    with_store(tmp_path, test)


def test_a_second_post_of_an_id_is_a_conflict(tmp_path: Path) -> None:
    first, second = envelope(ID, image=b"first"), envelope(ID, image=b"other")

    async def test(client: Client) -> None:
        assert (await client.post(first))[0] == 201
        status, answer, _ = await client.post(second)
        assert status == 409
        assert ID in answer["error"]
        assert (await client.ask("GET", f"/{ID}"))[1] == first

    with_store(tmp_path, test)
    assert left_behind(tmp_path) == []


def test_one_of_many_at_once_wins(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        posts = (client.post(envelope(ID, image=bytes([n]) * 100_000)) for n in range(4))
        statuses = sorted(status for status, _, _ in await asyncio.gather(*posts))
        assert statuses[0] == 201
        assert set(statuses[1:]) <= {409, 503}

    with_store(tmp_path, test)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"this is not a zip", "not a ZIP"),
        (b"", "empty"),
        (zipped({"payload/metadata.json": b"{}"}), "manifest.json"),
        (zipped(members(manifest={"id": "7"})), '"id" must be a UUID'),
        (zipped(members() | {"../evil": b""}), "../evil"),
        (zipped({"manifest.json": members()["manifest.json"]}), "payload/metadata.json"),
    ],
)
def test_invalid_envelopes_are_named(tmp_path: Path, body: bytes, word: str) -> None:
    async def test(client: Client) -> None:
        status, answer, _ = await client.post(body)
        assert status == 400
        assert word in answer["error"]

    with_store(tmp_path, test)
    assert left_behind(tmp_path) == []
    assert list((tmp_path / "store").glob("*.zip")) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/gzip"},
        {"Content-Type": "application/x-gzip"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/zip", "Content-Encoding": "gzip"},
        {"Content-Type": "application/zip", "Content-Encoding": "deflate, br"},
    ],
)
def test_only_zip_as_it_is(tmp_path: Path, headers: dict[str, str]) -> None:
    async def test(client: Client) -> None:
        status, answer, _ = await client.ask("POST", data=envelope(), headers=headers)
        assert status == 415
        assert "Content-" in answer["error"]

    with_store(tmp_path, test)


def test_missing_content_type(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        data = envelope()
        skip = ["Content-Type"]
        status, answer, _ = await client.ask("POST", data=data, skip_auto_headers=skip)
        assert (status, answer["error"]) == (415, "Content-Type is missing: send application/zip")

    with_store(tmp_path, test)


@pytest.mark.fault("S13")
@pytest.mark.parametrize("chunked", [False, True])
def test_the_limit_of_a_body(tmp_path: Path, chunked: bool) -> None:
    data = envelope(image=b"x" * 5000)

    async def pieces(body: bytes) -> AsyncIterator[bytes]:
        yield body

    async def test(client: Client) -> None:
        over = envelope(image=b"x" * 5001)
        status, answer, _ = await client.post(pieces(over) if chunked else over)
        assert status == 413
        assert str(len(data)) in answer["error"]
        assert (await client.post(pieces(data) if chunked else data))[0] == 201

    with_store(tmp_path, test, max_body_bytes=len(data))
    assert left_behind(tmp_path) == []


def test_limits_of_an_envelope(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        status, answer, _ = await client.post(envelope())
        assert status == 400
        assert "max_members" in answer["error"]

    with_store(tmp_path, test, limits=Limits(max_members=2))


def test_verify_hashes(tmp_path: Path) -> None:
    entry = {"path": "payload/series_1/image_001.dcm", "hash": "sha256:" + "0" * 64}
    data = zipped(members(manifest={"files": [entry]}))

    async def strict(client: Client) -> None:
        status, answer, _ = await client.post(data)
        assert status == 400
        assert "hash" in answer["error"]

    async def lenient(client: Client) -> None:
        assert (await client.post(data))[0] == 201

    with_store(tmp_path, strict, verify_hashes=True)
    with_store(tmp_path, lenient)


def test_a_body_that_is_cut_short_leaves_nothing(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        head = b"POST /api/jmix HTTP/1.1\r\nHost: x\r\nContent-Type: application/zip\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(head + b"Content-Length: 100000\r\n\r\n" + envelope()[:300])
        await writer.drain()
        writer.write_eof()
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()

    with_store(tmp_path, test)
    assert left_behind(tmp_path) == []


# -- asking --------------------------------------------------------------------------------------


def test_queries(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        old, new, other = (f"550e8400-e29b-41d4-a716-44665544000{n}" for n in (1, 2, 3))
        for envelope_id, study in ((old, STUDY), (new, STUDY), (other, "1.9")):
            assert (await client.post(envelope(envelope_id, study)))[0] == 201
        os.utime(tmp_path / "store" / f"{old}.zip", ns=(1, 1))

        query = f"?studyInstanceUid={STUDY}"
        status, body, headers = await client.ask("GET", query)
        assert status == 200
        assert new in headers["Content-Disposition"]
        assert zipfile.ZipFile(io.BytesIO(body)).testzip() is None
        assert (await client.ask("HEAD", query))[2]["ETag"] == headers["ETag"]

        status, listed, _ = await client.ask("GET", query, headers=JSON)
        assert status == 200
        assert [entry["id"] for entry in listed["jmixEnvelopes"]] == [new, old]
        assert listed["jmixEnvelopes"][0]["studyInstanceUid"] == STUDY
        assert listed["jmixEnvelopes"][0]["instances"] == 1

        _, listed, _ = await client.ask("GET", headers=JSON)
        assert {entry["id"] for entry in listed["jmixEnvelopes"]} == {old, new, other}

        assert (await client.ask("GET"))[0] == 400
        assert (await client.ask("GET", "?studyInstanceUid="))[0] == 400
        assert (await client.ask("GET", "?studyInstanceUid=1&studyInstanceUid=2"))[0] == 400
        assert (await client.ask("GET", "?studyInstanceUid=1.2.3.test"))[0] == 404
        assert (await client.ask("GET", query, headers={"Accept": "text/html"}))[0] == 406

    with_store(tmp_path, test)


@pytest.mark.fault("F141")
def test_all_of_a_study_in_one_zip(tmp_path: Path) -> None:
    """The oldest first, whatever their ids; a study that is not here is none."""
    stored = {str(uuid.UUID(int=number)): b"x" * number for number in (9, 5, 7)}
    query = f"?studyInstanceUid={STUDY}&whole=1"

    async def test(client: Client) -> None:
        for one, image in stored.items():
            assert (await client.post(envelope(one, image=image)))[0] == 201
        status, body, headers = await client.ask("GET", query)
        assert (status, headers["X-Envelopes"]) == (200, "3")
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            found = [(name, archive.read(name)) for name in archive.namelist()]
        assert found == [
            (f"{number}-{one}.zip", envelope(one, image=image))
            for number, (one, image) in enumerate(stored.items(), 1)
        ]
        assert (await client.ask("GET", "?studyInstanceUid=1.9&whole=1"))[0] == 404
        for wrong in ("?whole=1", f"{query}&format=json", f"?studyInstanceUid={STUDY}&whole=0"):
            assert (await client.ask("GET", wrong))[0] == 400
        assert (await client.ask("GET", query, headers=JSON))[0] == 406

    with_store(tmp_path, test)


def test_what_is_not_there(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        for path in (
            f"/{ID}",
            f"/{ID}/manifest",
            "/nonsense",
            "/..%2f..%2fetc",
            "/.lock",
            "/x/y/z",
        ):
            status, answer, _ = await client.ask("GET", path)
            assert (status, list(answer)) == (404, ["error"])
        for method, path in (("DELETE", ""), ("PUT", f"/{ID}"), ("POST", f"/{ID}")):
            status, answer, headers = await client.ask(method, path)
            assert status == 405
            assert "GET" in headers["Allow"]
            assert answer["error"]
        for path in ("", f"/{ID}", f"/{ID}/manifest"):
            status, body, headers = await client.ask("OPTIONS", path)
            assert (status, body) == (204, b"")
            assert ("POST" in headers["Allow"]) == (path == "")
        await client.post(envelope(ID))
        for path, accept in ((f"/{ID}", "application/json"), (f"/{ID}/manifest", "text/html")):
            assert (await client.ask("GET", path, headers={"Accept": accept}))[0] == 406
        assert (await client.ask("GET", f"/{ID.upper()}"))[0] == 200

    with_store(tmp_path, test)


def test_token(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic secret"},
            {"Authorization": "Bearer secret2"},
            {"Authorization": "secret"},
            {"Authorization": "Bearer \u0444"},
        ):
            for method, path in (
                ("GET", ""),
                ("GET", f"/{ID}"),
                ("POST", ""),
                ("GET", "/no/where"),
            ):
                status, answer, found = await client.ask(method, path, headers=headers)
                assert (status, found["WWW-Authenticate"][:6]) == (401, "Bearer")
                assert "Authorization" in answer["error"]
        assert (await client.post(envelope(ID), Authorization="bearer secret"))[0] == 201
        headers = {"Authorization": "Bearer secret"}
        assert (await client.ask("GET", f"/{ID}", headers=headers))[0] == 200

    with_store(tmp_path, test, token="secret")


@pytest.mark.fault("S14")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_beyond_this_machine_it_wants_a_token(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="token"):
        asyncio.run(store.start(host, 0, tmp_path))


# -- the directory -------------------------------------------------------------------------------


def test_restart(tmp_path: Path) -> None:
    async def before(client: Client) -> None:
        assert (await client.post(envelope(ID)))[0] == 201

    async def after(client: Client) -> None:
        assert (await client.ask("GET", f"?studyInstanceUid={STUDY}"))[0] == 200
        assert (await client.post(envelope(ID)))[0] == 409
        _, listed, _ = await client.ask("GET", headers=JSON)
        assert [entry["id"] for entry in listed["jmixEnvelopes"]] == [ID]

    with_store(tmp_path, before)
    place = tmp_path / "store"
    (place / "incoming" / "550e8400-e29b-41d4-a716-446655440007.zip").write_bytes(b"half")
    (place / "550e8400-e29b-41d4-a716-446655440009.zip").write_bytes(envelope())
    (place / "550e8400-e29b-41d4-a716-446655440008.zip").write_bytes(b"damaged")
    (place / "notes.txt").write_text("the operator's own file")
    with_store(tmp_path, after)
    assert left_behind(tmp_path) == []
    assert len(list(place.glob("*.damaged"))) == 2
    assert (place / "notes.txt").exists()
    assert (place.stat().st_mode & 0o777, (place / f"{ID}.zip").stat().st_mode & 0o777) == (
        0o700,
        0o600,
    )


def test_one_store_a_directory(tmp_path: Path) -> None:
    async def test(_: Client) -> None:
        with pytest.raises(SpoolError, match="another store"):
            await store.start("127.0.0.1", 0, tmp_path / "store")

    with_store(tmp_path, test)


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="cannot be used"):
        asyncio.run(store.start("127.0.0.1", 0, tmp_path / "file"))


def test_a_port_in_use(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        with pytest.raises(PlatformError, match="in use"):
            await store.start("127.0.0.1", client.port, tmp_path / "second")
        runner, _ = await store.start(
            "127.0.0.1", 0, tmp_path / "second"
        )  # its lock was given back
        await runner.cleanup()

    with_store(tmp_path, test)


def test_a_process_of_its_own(tmp_path: Path) -> None:
    """run(): says where it listens, serves curl, ends with 0 on SIGTERM."""
    code = (
        "import sys, pathlib; from fastjmix import log; from fastjmix.tools import store;"
        " log.setup('info', None, 'store');"
        "store.run('127.0.0.1', 0, pathlib.Path(sys.argv[1]),"
        " ready=lambda url: print(url, flush=True))"
    )
    (tmp_path / "envelope.zip").write_bytes(envelope(ID))

    async def main() -> None:
        pipe = asyncio.subprocess.PIPE
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(tmp_path / "store"), stdout=pipe, stderr=pipe
        )
        assert server.stdout is not None
        url = (await server.stdout.readline()).decode().strip()
        upload = ("--data-binary", f"@{tmp_path / 'envelope.zip'}")
        assert await curl(url, "-H", "Content-Type: application/zip", *upload) == (
            b'{"id":"%s","status":"stored"}' % ID.encode()
        )
        wanted = await curl(f"{url}?studyInstanceUid={STUDY}", "-o", "-")
        assert wanted == (tmp_path / "envelope.zip").read_bytes()
        server.send_signal(signal.SIGTERM)
        _, logged = await server.communicate()
        assert server.returncode == 0
        for event in (b"store_listening", b"envelope_stored", b"http_request", b"store_stopped"):
            assert event in logged
        assert STUDY.encode() not in logged

    asyncio.run(main())
