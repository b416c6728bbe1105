"""Makes the HTML documents: the page that the scripts fill, and the one that needs none.

Guaranteed: the page holds no data unless it is given some, and its policy lets nothing in: no
script, style or connection of another origin, no inline script or style, no frame around it, no
HTML made from text (Trusted Types). The values that it names of the listener are no secrets: an
answer of 401 has them, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from string import Template
from typing import Final

from aiohttp import web

from fastjmix._version import __version__
from fastjmix.config import HttpListener

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of both documents, beside those of every response (httpd/responses.py)."""

CLOSED: Final = (
    "<h2>This page needs JavaScript</h2>"
    "<p>Without it, the state of the node is shown as"
    ' <a href="/page/table">tables</a>, for which this listener asks for its credentials. A browser'
    " can give them if they are a user name and a password (Basic). Otherwise use"
    " <code>fastjmix status</code> on the node.</p>"
)

_table: Final = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>fastjmix</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/page/page.css">
</head>
<body>
<header><h1><a href="/">fastjmix</a></h1></header>
<main>
$content
</main>
</body>
</html>
""")


class Shell:
    """The page of one listener. `text` is page.html, `collection` the path of its envelopes."""

    def __init__(self, text: str, settings: HttpListener, collection: str) -> None:
        given = settings.credentials
        self._page = Template(text)
        self._facts = {
            "scheme": "" if given is None else given.method,
            "header": "" if given is None else given.header_name,
            "collection": escape(collection),
            "version": escape(__version__),
        }

    def page(self, static: str = CLOSED) -> web.Response:
        """Returns the page. `static` is the HTML for a browser without JavaScript."""
        return _html(self._page.substitute(self._facts, static=static))


def table_page(content: str) -> web.Response:
    """Returns a document of HTML that is made here, without scripts."""
    return _html(_table.substitute(content=content))


def _html(text: str) -> web.Response:
    return web.Response(text=text, headers=HEADERS, content_type="text/html", charset="utf-8")
