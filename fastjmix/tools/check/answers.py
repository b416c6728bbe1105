"""The meaning of an upstream's answer to a request for the manifest of an envelope that nobody has.

The request changes nothing, and it is one that the gateway makes itself, after a 409. A JMIX server
answers 404.
"""

from __future__ import annotations

from typing import Final

from fastjmix.config import Upstream
from fastjmix.tools.check.finding import Finding
from fastjmix.uploader.answers import Answer, document
from fastjmix.uploader.outcome import Failure

WHAT: Final = "upstream"

NOT_NOW: Final = frozenset({408, 425, 429})
"""Statuses below 500 with which a server puts a caller off (RFC 9110 §15.5.9, RFC 8470 §5.2, RFC
6585 §4)."""

PAGE: Final = b"<"
"""The first byte of a web page: an API answers JSON, or nothing."""


def judged(upstream: Upstream, where: str, answer: Answer | Failure) -> Finding:
    """Returns what the answer says of address, path and credentials."""
    if isinstance(answer, Failure):
        found = f"{answer.kind.value}: {answer.detail}"
        return Finding("fault", WHAT, where, found, "Ask the upstream's operator; see its log.")
    status, is_page = answer.status, answer.body.lstrip().startswith(PAGE)
    if status in (401, 403, 407):
        return _refused(upstream, where, status)
    if 300 <= status < 400:
        hint = "Redirects are not followed: set the address that it leads to."
        return Finding("fault", WHAT, where, f"{status}, a redirect", hint)
    if (status >= 500 and status != 501) or status in NOT_NOW:
        return Finding("fault", WHAT, where, f"{status}, it cannot serve now", "Try again later.")
    if status == 404 and not is_page:
        kind = " with JSON" if document(answer.body) is not None else ""
        found = f"404{kind} for an envelope that nobody has, as it should be; {_accepted(upstream)}"
        return Finding("ok", WHAT, where, found)
    if is_page:
        found = f"{status} with a web page, where a JMIX server answers 404"
        return Finding("warning", WHAT, where, found, "Check base_path and path_prefix.")
    found = f"{status} for an envelope that nobody has, where a JMIX server answers 404"
    hint = "Check base_path and path_prefix. Whether credentials are accepted is unknown."
    return Finding("warning", WHAT, where, found, hint)


def _accepted(upstream: Upstream) -> str:
    if upstream.credentials is None:
        return "it asks for no credentials to read"
    return "the credentials are not refused"


def _refused(upstream: Upstream, where: str, status: int) -> Finding:
    if upstream.credentials is None:
        hint = "Name credentials in authentication_ref of the backend's options."
        return Finding("fault", WHAT, where, f"{status}, and no credentials are configured", hint)
    method = upstream.credentials.method
    found = f"{status}, the credentials (method {method}) are refused"
    hint = "Have they expired? Set new ones, and start fastjmix again."
    if status == 403:
        found = f"403, the credentials (method {method}) may not read there"
        hint = "Ask the upstream's operator for the right to read and to post envelopes."
    return Finding("fault", WHAT, where, found, hint)
