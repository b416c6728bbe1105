"""The embedded store on a port of the system's choice, and a client that asks it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from fastjmix.tools import store

ZIP = {"Content-Type": "application/zip"}
JSON = {"Accept": "application/json"}
Answer = tuple[int, Any, Mapping[str, str]]


class Client:
    """An aiohttp session that knows where the store is."""

    def __init__(self, session: aiohttp.ClientSession, runner: web.AppRunner, port: int) -> None:
        self.session = session
        self.runner = runner
        self.port = port
        self.url = f"http://127.0.0.1:{port}/api/jmix"

    async def ask(self, method: str, path: str = "", **options: Any) -> Answer:
        """(status, body: JSON decoded or bytes, headers)"""
        async with self.session.request(method, self.url + path, **options) as answer:
            body = await answer.read()
            if answer.content_type == "application/json" and body:
                return answer.status, json.loads(body), answer.headers
            return answer.status, body, answer.headers

    async def post(self, data: Any, **headers: str) -> Answer:
        return await self.ask("POST", data=data, headers={**ZIP, **headers})

    async def raw(self, data: bytes) -> bytes:
        """Returns what comes back until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        try:
            async with asyncio.timeout(20):
                return await reader.read()
        finally:
            writer.close()

    async def until_connections(self, count: int) -> None:
        """Until the store has so many connections."""
        server = self.runner.server
        assert server is not None
        async with asyncio.timeout(10):
            while len(server.connections) != count:
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def serving(directory: Path, **options: Any) -> AsyncIterator[Client]:
    runner, port = await store.start("127.0.0.1", 0, directory, **options)
    try:
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            yield Client(session, runner, port)
    finally:
        await runner.cleanup()


def with_store(tmp_path: Path, test: Callable[[Client], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with serving(tmp_path / "store", **options) as client:
            await test(client)

    asyncio.run(main())


def left_behind(tmp_path: Path) -> list[str]:
    """Names in the store's incoming/."""
    return [path.name for path in (tmp_path / "store" / "incoming").iterdir()]


async def curl(*arguments: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--fail", *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out
