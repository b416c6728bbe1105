"""Pages of the store's list: `limit` and `cursor` of a request, and the cursor of the next page.

Wanted: a client reads a list of any length in bounded answers, while envelopes come and go.
Guaranteed: an envelope that is there from the first page to the last is listed once. A cursor names
the last envelope of its page, so storing or deleting others moves none. No
answer lists more than PAGE_MAX envelopes.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlencode

from aiohttp import web

from fastjmix.httpd.responses import HttpError
from fastjmix.jmix.ids import PATTERN

if TYPE_CHECKING:
    from fastjmix.tools.store.index import Held

PAGE_MAX: Final = 1000
"""Envelopes of one answer, and its default: some 250 KB of JSON, which is built in milliseconds."""

_cursor: Final = re.compile(rf"(\d{{1,19}})\.({PATTERN})")


@dataclass(frozen=True, slots=True)
class Asked:
    """The page that a request asks for. `after`: (stored_ns, id) of the envelope before it.

    `named`: the request has a limit or a cursor, so that it can only mean a list.
    """

    limit: int
    after: tuple[int, str] | None
    named: bool


class Page(NamedTuple):
    """Envelopes, the newest first. `cursor`: where the next page begins; None after the last."""

    entries: list[Held]
    cursor: str | None


def asked(request: web.Request) -> Asked:
    """Reads `limit` and `cursor`. Raises HttpError 400."""
    limit, cursor = _once(request, "limit"), _once(request, "cursor")
    count = PAGE_MAX
    if limit is not None:
        if not re.fullmatch(r"[0-9]{1,9}", limit) or not 1 <= int(limit) <= PAGE_MAX:
            raise HttpError(400, f"limit must be a number from 1 to {PAGE_MAX}")
        count = int(limit)
    after = None
    if cursor is not None:
        found = _cursor.fullmatch(cursor)
        if found is None:
            raise HttpError(400, "cursor must be one that an answer of this store gave")
        after = int(found[1]), found[2]
    return Asked(count, after, limit is not None or cursor is not None)


def _once(request: web.Request, name: str) -> str | None:
    given = set(request.query.getall(name, []))
    if len(given) > 1:
        raise HttpError(400, f"{name} is given twice, with two values")
    return given.pop() if given else None


def _place(held: Held) -> tuple[int, str]:
    return held.stored_ns, held.id


def page_of(found: Iterable[Held], wanted: Asked) -> Page:
    """Returns the page that is wanted of these envelopes."""
    rest = (held for held in found if wanted.after is None or _place(held) < wanted.after)
    entries = heapq.nlargest(wanted.limit + 1, rest, key=_place)
    if len(entries) <= wanted.limit:
        return Page(entries, None)
    entries.pop()
    return Page(entries, "{}.{}".format(*_place(entries[-1])))


def next_url(path: str, cursor: str, wanted: Asked, study: str | None) -> str:
    """Returns the URL of the next page, relative to the server."""
    query = {} if study is None else {"studyInstanceUid": study}
    if wanted.limit != PAGE_MAX:
        query["limit"] = str(wanted.limit)
    return f"{path}?{urlencode({**query, 'cursor': cursor})}"
