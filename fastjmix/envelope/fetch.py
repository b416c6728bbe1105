"""An envelope from an HTTP server, into a file without a name.

Wanted: `verify URL` judges what the server gives, whatever its size.
Guaranteed: http and https only, also after a redirect; at most `limit` bytes; the token goes to the
origin that was asked and to no other; no credential and no query string in a message.
Still wrong: nothing is resumed: what breaks off is an error.
"""

from __future__ import annotations

import http.client
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import IO, BinaryIO, Final

from fastjmix._version import __version__
from fastjmix.errors import FastjmixError

PIECE_BYTES: Final = 1 << 20
TIMEOUT_SECS: Final = 60.0
"""Without a byte."""


class FetchError(FastjmixError):
    """The server's, or the network's."""


class UrlError(FastjmixError):
    """The caller's."""

    exit_code = 2


def is_url(text: str) -> bool:
    """Is this meant to be fetched?"""
    return "://" in text


class _Careful(urllib.request.HTTPRedirectHandler):
    """Follows to http and https; takes the token along within the same origin only."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        parts = urllib.parse.urlsplit(newurl)
        if parts.scheme not in ("http", "https") or parts.username is not None:
            raise FetchError(f"{shown_url(req.full_url)}: redirects to what is not fetched")
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and _origin(newurl) != _origin(req.full_url):
            following.remove_header("Authorization")
        return following


def fetch(
    url: str, *, token: str | None, limit: int, seen: Callable[[int], object] = lambda _: None
) -> BinaryIO:
    """The body of a GET, as an open file; close it. `seen` hears how many bytes came.

    Raises UrlError, FetchError, OSError.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UrlError(f"{shown_url(url)}: only http:// and https:// are fetched")
    if parts.username is not None or parts.password is not None:
        raise UrlError(f"{shown_url(url)}: has a password in it", "Give a token with --token-file.")
    headers = {"Accept": "application/zip", "User-Agent": f"fastjmix/{__version__}"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, headers=headers)
    opener = urllib.request.build_opener(_Careful)
    found: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115  (it is the answer)
    try:
        with opener.open(request, timeout=TIMEOUT_SECS) as answer:
            _copy(answer, found, limit, url, seen)
    except urllib.error.HTTPError as problem:
        found.close()
        hint = "Give a token with --token-file." if problem.code in (401, 403) else ""
        raise FetchError(f"{shown_url(url)}: HTTP status {problem.code}", hint) from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as problem:
        found.close()
        why = getattr(problem, "reason", problem)
        raise FetchError(f"{shown_url(url)}: {why}") from None
    except BaseException:
        found.close()
        raise
    return found


def _copy(
    answer: http.client.HTTPResponse,
    found: BinaryIO,
    limit: int,
    url: str,
    seen: Callable[[int], object],
) -> None:
    size = 0
    while piece := answer.read(PIECE_BYTES):
        size += len(piece)
        if size > limit:
            raise FetchError(f"{shown_url(url)}: is larger than --max-bytes, {limit}")
        found.write(piece)
        seen(len(piece))
    if answer.length:  # bytes that Content-Length announced and that did not come
        raise FetchError(f"{shown_url(url)}: broke off, {answer.length} bytes before its end")
    found.seek(0)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urllib.parse.urlsplit(url)
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or usual


def shown_url(url: str) -> str:
    """Without user, password, query and fragment: each may be a secret."""
    parts = urllib.parse.urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))
