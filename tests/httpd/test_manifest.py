"""Row S21: the cost of fetching a manifest. A real store, real sockets."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import urllib.request
import zipfile
from pathlib import Path

import aiohttp
import pytest

from tests.support.envelopes import ID, members
from tests.support.gateway import Store, get, running
from tests.support.stores import ZIP, Client, with_store

BIG = 15 << 20


def with_large_manifest(method: int = zipfile.ZIP_DEFLATED) -> tuple[bytes, bytes]:
    """Returns an archive (deflated: of some 16 KB), and the manifest in it."""
    content = dict(members())
    manifest = content["manifest.json"][:-1] + b', "padding": "' + b"y" * BIG + b'"}'
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", method) as archive:
        for each, data in {**content, "manifest.json": manifest}.items():
            archive.writestr(each, data)
    return body.getvalue(), manifest


def resident_megabytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


@pytest.mark.fault("S21")
def test_a_large_manifest_costs_a_connection_no_memory(tmp_path: Path) -> None:
    """Forty clients request it, and read the first byte of the response."""
    body, manifest = with_large_manifest()
    with running(Store(tmp_path)) as store, contextlib.ExitStack() as peers:
        request = urllib.request.Request(store.url, body, ZIP)
        with urllib.request.urlopen(request, timeout=30) as answered:
            assert answered.status == 201
        url = f"{store.url}/{ID}/manifest"
        assert get(url)[2] == manifest
        before = resident_megabytes(store.child.pid)
        for _ in range(40):
            peer = peers.enter_context(socket.socket())
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.settimeout(30)
            peer.connect(("127.0.0.1", store.port))
            peer.sendall(f"GET /api/jmix/{ID}/manifest HTTP/1.0\r\n\r\n".encode())
            assert peer.recv(1) == b"H"
        assert resident_megabytes(store.child.pid) - before < 200
        assert get(url)[2] == manifest


@pytest.mark.fault("S21")
def test_a_manifest_that_is_damaged_while_it_is_sent_looks_like_no_whole_one(
    tmp_path: Path,
) -> None:
    """It is longer than connection and client hold before the client reads."""
    body, manifest = with_large_manifest(zipfile.ZIP_STORED)

    async def test(client: Client) -> None:
        assert (await client.post(io.BytesIO(body)))[0] == 201
        url = f"{client.url}/{ID}/manifest"
        async with client.session.head(url) as answer:
            assert answer.headers["Content-Length"] == str(len(manifest))
        async with client.session.get(url) as answer:
            os.truncate(tmp_path / "store" / f"{ID}.zip", 10)
            with pytest.raises(aiohttp.ClientError):
                await answer.read()

    with_store(tmp_path, test)
