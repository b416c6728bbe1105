"""Reads an upstream's answer: its status, its id, and whether a JMIX server can have sent it.

Wanted: a 2xx of a proxy, a portal, a login page or a web server's default site is not taken for a
delivery, and an odd answer of a real JMIX server is.
Guaranteed: the body decides, and not its Content-Type, since frameworks send JSON, and empty
bodies, as text/html. A Harmony instance wraps its answers: HTTP 200 with
{"response": {"status": 400, …}} inside; then the inner answer counts. Nothing here raises, does
I/O, or repeats a word of an answer's body but `excerpt` and `in_one_line`.

    a 2xx                              its body must hold
    any, naming our id                 nothing else
    any                                no markup, no error: an object with "error" is not "stored"
    201 202 204                        anything else: empty, or not JSON, will do
    200 203                            a JSON object
    others (205, 206, 207 …)           our id
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson

from fastjmix.config.tree import REDACTED

EXCERPT_BYTES_MAX: Final = 4096
"""Bytes of an answer's body in a receipt or a refusal: enough for an error page's message."""

LINE_CHARS_MAX: Final = 200
"""Characters of an answer in a line of the log: an error message, and not the page around it."""

REMOTE_ID_CHARS_MAX: Final = 200
"""An upstream's id for an envelope is a UUID or a short key; a longer one is not kept."""

_BYTE_ORDER_MARKS: Final = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)

_STORED_STATUSES: Final = frozenset({201, 202, 204})
"""Statuses that prove by themselves that something was taken: no page and no proxy gives them."""

_OBJECT_DUE: Final = frozenset({200, 203})

_FAILED_WORDS: Final = frozenset(
    {"denied", "error", "fail", "failed", "failure", "invalid", "rejected", "unauthorized"}
)

_MISDIRECTED: Final = (
    b"to an https server",  # Go: "Client sent an HTTP request to an HTTPS server."
    b"https port",
    b"invalid host",  # Starlette, and others that know their own names only
    b"invalid http request",  # uvicorn
)
"""Words of a refusal that is sent before the body is read: the URL is at fault."""

_FAILURES: Final = (
    "error",
    "errors",
    "error_code",
    "errorCode",
    "errorMessage",  # of a function behind a gateway that answers 200 in any case
    "errorType",
    "fault",
    "faultstring",
)

_ERROR_STATUS: Final = re.compile(r"[45][0-9]{2}")

_TAG: Final = re.compile(r"<[^<>]*>")


@dataclass(frozen=True, slots=True)
class Answer:
    """An upstream's answer. Header names are lower-case; `body` is cut at a limit.

    `version` is the status line's, (1, 0) or (1, 1). `whole` is False when the answer came while
    the request's body was still flowing; `cut` is True when the answer's own body broke off, and
    `over` when there was more of it than the limit.
    """

    status: int
    version: tuple[int, int] = (1, 1)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = True
    cut: bool = False
    over: bool = False

    @property
    def excerpt(self) -> str:
        """Returns the body's beginning as text."""
        return self.body[:EXCERPT_BYTES_MAX].decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class _Effective:
    """The answer inside any wrapping. `document` is None when the body is not JSON."""

    status: int
    body: bytes
    document: object
    headers: Mapping[str, object]


def _unmarked(body: bytes) -> bytes:
    """Returns the text as UTF-8, without its byte order mark; other bytes count as Latin-1."""
    for mark, coding in _BYTE_ORDER_MARKS:
        if body.startswith(mark):
            return body[len(mark) :].decode(coding, "replace").encode()
    try:
        body.decode()
    except UnicodeDecodeError:
        return body.decode("latin-1").encode()
    return body


def document(body: bytes) -> object:
    """Returns a JSON text's value; None for a text that is not JSON."""
    try:
        return orjson.loads(_unmarked(body))
    except orjson.JSONDecodeError:
        return None


def _unwrapped(answer: Answer) -> _Effective:
    found = document(answer.body)
    outer = _Effective(answer.status, answer.body, found, answer.headers)
    inner = found.get("response") if isinstance(found, dict) else None
    if answer.status // 100 != 2 or not isinstance(inner, dict):
        return outer
    status, body, headers = inner.get("status"), inner.get("body"), inner.get("headers")
    if isinstance(status, bool) or not isinstance(status, int) or not 100 <= status <= 599:
        status = answer.status
    text = body.encode("utf-8", "replace") if isinstance(body, str) else b""
    value = inner.get("json", body if isinstance(body, dict) else document(text))
    if value is None and not text and "status" not in inner:
        return outer  # an object that happens to have this key
    return _Effective(status, text, value, headers if isinstance(headers, dict) else {})


def effective_status(answer: Answer) -> int:
    """Returns the status, or the one inside when a 2xx answer wraps another (Harmony does)."""
    return _unwrapped(answer).status


def effective_document(answer: Answer) -> object:
    """Returns the JSON value of the answer, or of the one that it wraps."""
    return _unwrapped(answer).document


def _id_in(found: object) -> str | None:
    value = found.get("id") if isinstance(found, dict) else None
    return value if isinstance(value, str) and 0 < len(value) <= REMOTE_ID_CHARS_MAX else None


def remote_id(answer: Answer) -> str | None:
    """Finds the upstream's id for the envelope: `id`, `response.json.id`, or Location's end."""
    effective = _unwrapped(answer)
    found = _id_in(document(answer.body)) or _id_in(effective.document)
    if found is not None or effective.status not in _STORED_STATUSES:
        return found
    places = (_header(effective.headers, "location"), answer.headers.get("location", ""))
    for place in places:
        last = place.split("?")[0].split("#")[0].rstrip("/").rpartition("/")[2]
        if is_uuid(last):
            return last
    return None


def _header(headers: Mapping[str, object], name: str) -> str:
    for each, value in headers.items():
        if each.lower() == name and isinstance(value, str):
            return value
    return ""


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def is_uuid(text: str) -> bool:
    """Returns whether it is a UUID in any form that uuid.UUID reads.

    An upstream makes and writes its ids as it likes: in upper case, in braces, without hyphens, or
    as urn:uuid: (RFC 9562 §4). Such an id is kept in a receipt and compared, and never becomes a
    path. Ids of envelopes have one strict form (jmix/ids.py).
    """
    return _uuid(text) is not None


def same_id(theirs: str | None, ours: str) -> bool:
    """Returns whether an upstream's id is ours, whatever its case, braces or urn:uuid:."""
    if theirs is None:
        return False
    return theirs.lower() == ours.lower() or (is_uuid(ours) and _uuid(theirs) == _uuid(ours))


def in_one_line(answer: Answer, secrets: Iterable[str] = ()) -> str | None:
    """Returns the beginning of an answer's body for a log line, of LINE_CHARS_MAX at most; None for
    an empty body.

    Blanks are joined, a page's tags left out, and characters that cannot be printed escaped.
    `secrets` are what this process sends to the upstream: a server may repeat them in its answer.
    """
    text = _unmarked(answer.body).decode("utf-8", "replace")
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    if is_markup(answer):
        text = _TAG.sub(" ", text[:EXCERPT_BYTES_MAX])
    text = " ".join(text.split())
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:LINE_CHARS_MAX])
    return shown[:LINE_CHARS_MAX] or None


# -- answers of other servers ----------------------------------------------------------------------


def is_markup(answer: Answer) -> bool:
    """Returns whether it is an HTML or XML document, whatever its Content-Type."""
    return _markup(_unwrapped(answer))


def is_misdirected(answer: Answer) -> bool:
    """Returns whether a server answers in plain text that the request was not for it."""
    effective = _unwrapped(answer)
    text = _unmarked(effective.body)[:EXCERPT_BYTES_MAX].lower()
    return effective.document is None and any(words in text for words in _MISDIRECTED)


def _markup(effective: _Effective) -> bool:
    if isinstance(effective.document, str):
        text = effective.document.encode("utf-8", "replace")
    elif effective.document is not None:
        return False
    else:
        text = _unmarked(effective.body)
    text = text[:EXCERPT_BYTES_MAX].strip().lower()
    return text.startswith(b"<") or b"<html" in text


def _is_object(effective: _Effective, answer: Answer) -> bool:
    """Returns whether it is a JSON object.

    A body that goes on behind the limit, or broke off, is one when it begins like one.
    """
    if isinstance(effective.document, dict):
        return True
    return (answer.cut or answer.over) and _unmarked(effective.body).lstrip().startswith(b"{")


def _reports_failure(found: object) -> bool:
    """Finds {"error": …}, {"success": false}, {"status": "failed"}, {"code": 401} and the like."""
    if not isinstance(found, dict):
        return False
    if any(found.get(key) for key in _FAILURES):
        return True
    if any(found.get(key) in (False, "false") for key in ("success", "ok", "stored", "accepted")):
        return True
    status = found.get("status")
    if isinstance(status, str) and status.lower() in _FAILED_WORDS:
        return True
    codes = (status, found.get("code"), found.get("statusCode"), found.get("status_code"))
    return any(type(code) in (int, str) and _ERROR_STATUS.fullmatch(str(code)) for code in codes)


def mismatch(answer: Answer, envelope_id: str) -> str | None:
    """Returns why a 2xx cannot be a JMIX server's answer to this envelope; None when it can."""
    effective = _unwrapped(answer)
    if _markup(effective):
        return f"answers {effective.status} with a web page"
    if _reports_failure(effective.document):
        return f"answers {effective.status} with an error inside"
    if same_id(remote_id(answer), envelope_id) or effective.status in _STORED_STATUSES:
        return None
    if effective.status not in _OBJECT_DUE:
        return f"answers {effective.status}, which is no answer to an upload"
    if _is_object(effective, answer):
        return None
    found = "nothing" if not effective.body.strip() else "something else"
    return f"answers {effective.status} with {found} where a JSON object is due"
