"""The page's documents and files, as a client without a browser sees them.

tests/e2e/test_page.py looks at the page itself, in a browser.
"""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fastjmix.api.page.files import assets
from fastjmix.api.page.routes import OPEN_PATHS, page_routes
from fastjmix.api.page.table import SHOWN, age, shown, size, status_tables
from fastjmix.config.tree import Credentials, Secret
from fastjmix.httpd.credentials import AccessCheck
from fastjmix.httpd.server import Service, make_runner
from tests.support.apis import LISTENER
from tests.support.gateway import get
from tests.support.hostile import HOSTILE

BASIC = Credentials("basic", username=Secret("admin"), password=Secret("pass:word"))
STUDY = "1.2.840.99.1"
STATUS: Mapping[str, Any] = {
    "node": {"name": "node", "state": "ready", "now": 1.7e9, "reasons": [], "warnings": [HOSTILE]},
    "associations": [{"calling_ae": HOSTILE, "peer": "10.0.0.1:104"}],
    "envelopes": {
        "rejected": {"count": 1, "bytes": 2_500_000, "oldest_secs": 3700},
        "sent": {"count": None, "bytes": None, "oldest_secs": None},
        "listed": [{"id": "e1", "state": "rejected", "study": STUDY, "reason": HOSTILE}],
    },
    "upstreams": [{"name": "pacs", "state": "paused", "reason": HOSTILE, "waiting": 5}],
    "disk": None,
    "errors": [{"at": 1.7e9, "text": HOSTILE, "what_to_do": "Look."}],
}

Answer = tuple[int, Message, bytes]


def asked(
    *requests: tuple[str, Mapping[str, str]], credentials: Credentials | None = None
) -> list[Answer]:
    """Returns the answers of a listener to GETs of paths with headers."""

    async def status() -> Mapping[str, Any]:
        return STATUS

    async def serve() -> list[Answer]:
        settings = replace(LISTENER, credentials=credentials)
        access = AccessCheck(credentials.header() if credentials else None, ("127.0.0.1",))
        routes = page_routes(settings, "/jmix/api/jmix", access, status)
        runner = make_runner(Service(routes, access, OPEN_PATHS), shutdown_secs=0.1)
        await runner.setup()
        try:
            listening = socket.create_server(("127.0.0.1", 0))
            await runner.listen(listening)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            return [await asyncio.to_thread(get, url + path, **more) for path, more in requests]
        finally:
            await runner.cleanup()

    return asyncio.run(serve())


def one(path: str, credentials: Credentials | None = None) -> Answer:
    return asked((path, {}), credentials=credentials)[0]


class Elements(HTMLParser):
    """The elements of a document and their attributes, as a browser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_lets_nothing_in_from_elsewhere() -> None:
    status, headers, body = one("/", BASIC)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = headers["Content-Security-Policy"].split("; ")
    for rule in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "base-uri 'none'",
                 "frame-ancestors 'none'", "require-trusted-types-for 'script'"):  # fmt: skip
        assert rule in policy
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "no-store" in headers["Cache-Control"]
    for tag, attributes in Elements(body.decode()).found:
        assert not {name for name in attributes if name.startswith("on") or name == "style"}, tag
        for name in ("src", "href"):
            value = attributes.get(name) or "/"
            assert value.startswith(("/", "#", "data:")), value
            assert not value.startswith("//")


def test_files_are_served_from_the_package_and_again_only_when_they_changed() -> None:
    files = assets()
    assert {"/page/page.css", "/page/page.js"} < set(files)
    answers = asked(*((path, {}) for path in files), credentials=BASIC)
    for (path, file), (status, headers, body) in zip(files.items(), answers, strict=True):
        assert (status, body) == (200, file.body), path
        assert headers["Content-Type"] == f"{file.content_type}; charset=utf-8"
        assert headers["Cache-Control"] == "no-cache"
    again = [(path, {"If-None-Match": file.etag}) for path, file in files.items()]
    assert {status for status, _, _ in asked(*again, credentials=BASIC)} == {304}
    assert asked(("/page/page.css", {"If-Match": '"other"'}))[0][0] == 412
    assert one("/page/..%2f__init__.py")[0] == 404


def test_the_files_need_nothing_that_is_not_there() -> None:
    """Scripts import by relative names; what they import is in the package."""
    names = {path.removeprefix("/page/") for path in assets()}
    for path, file in assets().items():
        text = file.body.decode()
        if path.endswith(".js"):
            imported = {part.split('"')[0] for part in text.split(' from "./')[1:]}
            assert imported <= names, path
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "eval(",
            "http://",
            "@import",
        ):
            allowed = text.count("http://www.w3.org/2000/svg") if forbidden == "http://" else 0
            assert text.count(forbidden) == allowed, (path, forbidden)


def test_data_is_for_those_who_may_download() -> None:
    right = "Basic " + base64.b64encode(b"admin:pass:word").decode()
    wrong = "Basic " + base64.b64encode(b"admin:other").decode()
    answers = asked(
        ("/", {}), ("/", {"Authorization": wrong}), ("/page/table", {}),
        ("/", {"Authorization": right}), ("/page/table", {"Authorization": right}),
        credentials=BASIC,
    )  # fmt: skip
    assert [status for status, _, _ in answers] == [200, 200, 401, 200, 200]
    assert [STUDY in body.decode() for _, _, body in answers] == [False, False, False, True, True]
    assert answers[2][1]["WWW-Authenticate"].startswith("Basic")
    assert "needs JavaScript" in answers[0][2].decode()
    assert b"pass:word" not in b"".join(body for _, _, body in answers)


def test_without_credentials_data_is_for_this_machine() -> None:
    here, elsewhere, table = asked(
        ("/", {}), ("/", {"Host": "rebound.example"}), ("/page/table", {"Host": "rebound.example"})
    )
    assert STUDY in here[2].decode()
    assert (elsewhere[0], STUDY in elsewhere[2].decode()) == (200, False)
    assert table[0] == 421


def test_the_page_knows_how_credentials_are_sent() -> None:
    key = Credentials("api_key", api_key=Secret("k"), header_name="X-Key")
    for given, scheme, header in ((None, "", ""), (BASIC, "basic", "Authorization"),
                                  (key, "api_key", "X-Key")):  # fmt: skip
        tag, attributes = Elements(one("/", given)[2].decode()).found[0]
        assert tag == "html"
        assert attributes["data-scheme"] == scheme
        assert attributes["data-header"] == header
        assert attributes["data-collection"] == "/jmix/api/jmix"


def test_no_text_of_a_peer_becomes_an_element_of_the_table() -> None:
    text = status_tables(STATUS)
    read = Elements(text)
    assert {tag for tag, _ in read.found}.isdisjoint({"script", "img", "a"})
    assert read.text.count("<script>") == 5
    assert "⟨U+202E⟩" in read.text
    assert not set(text) & {"\u202e", "\x07", "\u2028", "\ud800"}
    assert text.encode()


def test_a_table_shows_what_is_there() -> None:
    text = Elements(status_tables(STATUS)).text
    for part in ("node: ready", "2.5 MB", "1 h 1 min", STUDY, "10.0.0.1:104", "cannot be read"):
        assert part in text
    assert "None" in Elements(status_tables({})).text


@pytest.mark.parametrize("most", [SHOWN - 1, SHOWN, SHOWN + 1])
def test_characters_of_a_text_that_are_shown(most: int) -> None:
    text = Elements(shown("x" * most)).text
    assert text.startswith("x" * min(most, SHOWN))
    assert ("characters" in text) == (most > SHOWN)


@pytest.mark.parametrize(
    ("function", "given", "said"),
    [
        (size, None, ""), (size, 999, "999 B"), (size, 1000, "1.0 kB"), (size, 1.5e15, "1500 TB"),
        (age, None, ""), (age, 59, "59 s"), (age, 60, "1 min 0 s"), (age, 90000, "1 d 1 h"),
    ],
)  # fmt: skip
def test_numbers_in_words(function: Callable[[float | None], str], given: float | None,
                          said: str) -> None:  # fmt: skip
    assert function(given) == said


def test_the_wheel_brings_the_page() -> None:
    """`make dist` builds and runs the wheel; here the table of what belongs to it."""
    import tomllib

    root = Path(__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "fastjmix.api.page" in project["packages"]
    assert project["package-data"]["fastjmix.api.page"] == ["assets/*"]
