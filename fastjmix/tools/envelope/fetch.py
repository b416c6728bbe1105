"""Fetches an envelope from an HTTP server, into a file without a name.

Wanted: `verify URL` works for a body of any size.
Guaranteed: http and https only, also after a redirect; at most `limit` bytes; ends after `secs`,
whatever the server does (its name's servers, its handshake, a head or a body that trickles); the
token goes to the origin of the URL and to no other; no credential and no query string in a
message.
Still wrong: a transfer that breaks off is not resumed. A fetch that was abandoned may keep its
thread and its connection until the server is silent for SILENCE_SECS, or the process ends.
"""

from __future__ import annotations

import http.client
import queue
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import IO, BinaryIO, Final

from fastjmix._version import __version__
from fastjmix.errors import FastjmixError

PIECE_BYTES: Final = 1 << 20
SILENCE_SECS: Final = 60.0
"""Seconds without a byte after which the connection is closed."""
FETCH_SECS: Final = 4 * 3600.0
"""Default of seconds for the whole fetch: FETCH_BYTES at 5 MB a second."""
FETCH_BYTES: Final = 64 << 30
"""Default limit of bytes fetched: as many as the servers of fastjmix accept."""


class FetchError(FastjmixError):
    """The server or the network failed."""


class UrlError(FastjmixError):
    """The URL or the token cannot be used."""

    exit_code = 2


def is_url(text: str) -> bool:
    """Returns whether a source is a URL."""
    return "://" in text


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https; sends the token within the same origin only."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        refusal = FetchError(f"{shown_url(req.full_url)}: redirects to what is not fetched")
        try:
            parts = _checked(newurl)
        except UrlError:
            raise refusal from None
        if parts.username is not None:
            raise refusal
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and _origin(newurl) != _origin(req.full_url):
            following.remove_header("Authorization")
        return following


def fetch(
    url: str,
    *,
    token: str | None,
    limit: int = FETCH_BYTES,
    secs: float = FETCH_SECS,
    seen: Callable[[int], object] = lambda _: None,
) -> BinaryIO:
    """Returns the body of a GET, as an open file that the caller closes. Calls `seen` with the size
    of each piece.

    Raises UrlError, FetchError, OSError.
    """
    parts = _checked(url)
    if parts.username is not None or parts.password is not None:
        raise UrlError(f"{shown_url(url)}: has a password in it", "Give a token: token=.")
    if token is not None and not _is_header_value(token):
        raise UrlError("the token has characters that no header may have")
    headers = {"Accept": "application/zip", "User-Agent": f"fastjmix/{__version__}"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, headers=headers)
    return _Fetch(request, limit, secs, seen).wait()


class _Fetch:
    """One fetch, in a thread of its own, so that its waits cannot block the caller."""

    def __init__(
        self,
        request: urllib.request.Request,
        limit: int,
        secs: float,
        seen: Callable[[int], object],
    ) -> None:
        self._request = request
        self._limit = limit
        self._secs = secs
        self._seen = seen
        self._ends = time.monotonic() + secs
        self._answers: queue.SimpleQueue[BinaryIO | BaseException] = queue.SimpleQueue()
        self._abandoned = threading.Event()

    def wait(self) -> BinaryIO:
        """Returns the file. Raises FetchError, also when it took too long, OSError."""
        threading.Thread(target=self._run, name="fetch", daemon=True).start()
        try:
            answer = self._answers.get(timeout=self._secs)
        except queue.Empty:
            raise self._too_long() from None
        finally:
            self._abandoned.set()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _too_long(self) -> FetchError:
        return self._error(f"takes longer than {self._secs:g} s", "More are given by secs=.")

    def _error(self, why: object, hint: str = "") -> FetchError:
        return FetchError(f"{shown_url(self._request.full_url)}: {why}", hint)

    def _run(self) -> None:
        found: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115  (it is the answer)
        try:
            opener = urllib.request.build_opener(_SafeRedirects)
            with opener.open(self._request, timeout=SILENCE_SECS) as answer:
                self._copy(answer, found)
        except BaseException as problem:
            found.close()
            self._answers.put(self._explained(problem))
        else:
            self._answers.put(found)

    def _explained(self, problem: BaseException) -> BaseException:
        if isinstance(problem, urllib.error.HTTPError):
            hint = "Give a token: token=." if problem.code in (401, 403) else ""
            return self._error(f"HTTP status {problem.code}", hint)
        if isinstance(problem, (FetchError, OSError)) and not isinstance(
            problem, (urllib.error.URLError, TimeoutError)
        ):
            return problem
        if isinstance(problem, (urllib.error.URLError, http.client.HTTPException, TimeoutError)):
            return self._error(getattr(problem, "reason", problem))
        if isinstance(problem, ValueError):  # a URL with characters that no request may have
            return UrlError(f"{shown_url(self._request.full_url)}: cannot be asked for")
        return problem

    def _copy(self, answer: http.client.HTTPResponse, found: BinaryIO) -> None:
        size = 0
        too_large = self._error(f"is larger than {self._limit} bytes", "More are given by limit=.")
        if answer.length is not None and answer.length > self._limit:
            raise too_large
        while piece := answer.read1(
            PIECE_BYTES
        ):  # returns what has arrived, without waiting for more
            size += len(piece)
            if size > self._limit:
                raise too_large
            if self._abandoned.is_set() or time.monotonic() > self._ends:
                raise self._too_long()
            found.write(piece)
            self._seen(len(piece))
        if answer.length:  # bytes that Content-Length announced and that did not come
            raise self._error(f"broke off, {answer.length} bytes before its end")
        found.seek(0)


def _checked(url: str) -> urllib.parse.SplitResult:
    """Returns the parts of a URL that can be fetched. Raises UrlError."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        raise UrlError(f"{shown_url(url)}: is no URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise UrlError(f"{shown_url(url)}: only http:// and https:// are fetched")
    return parts


def _is_header_value(text: str) -> bool:
    """Returns whether a header may have this value (RFC 9110 §5.5, without what is beyond
    ASCII)."""
    return text.isascii() and text.isprintable()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urllib.parse.urlsplit(url)
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or usual


def shown_url(url: str) -> str:
    """Returns the URL without user, password, query and fragment: each may be a secret."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "the URL"
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))
