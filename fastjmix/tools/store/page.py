"""The store's list as a page for a person: HTML without scripts, made on the server.

Guaranteed: all text from an envelope is escaped, and the page may load nothing (its
Content-Security-Policy), so that an envelope's author cannot run anything in a reader's browser.
Still wrong: a browser sends no bearer token, so only programs get this page from a store with one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from fastjmix.tools.store.index import Held

HTML: Final = "text/html"

SHOWN_STUDIES: Final = 3
"""Studies of an envelope that a row names; it says how many more there are."""

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_head: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>JMIX envelopes</title>
<style>
body { font: 16px/1.5 sans-serif; margin: 2em; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .2em 1em .2em 0; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
</style>
<h1>JMIX envelopes</h1>
"""


def list_page(collection: str, entries: list[Held], later: str | None) -> web.Response:
    """Returns the page with a row for each envelope. `later`: the URL of the next page."""
    text = [_head]
    if entries:
        titles = ("Envelope", "Studies", "Instances", "Bytes", "Stored (UTC)")
        text.append("<table>\n<tr>" + "".join(f"<th>{title}</th>" for title in titles) + "</tr>\n")
        text += [_row(collection, held) for held in entries]
        text.append("</table>\n")
    else:
        text.append("<p>There is none here.</p>\n")
    if later is not None:
        text.append(f'<p><a rel="next" href="{escape(later)}">Older envelopes</a></p>\n')
    headers = {"Content-Security-Policy": POLICY}
    return web.Response(text="".join(text), content_type=HTML, charset="utf-8", headers=headers)


def _row(collection: str, held: Held) -> str:
    url = escape(f"{collection}/{held.id}")
    studies = [escape(study) for study in held.studies[:SHOWN_STUDIES]]
    if len(held.studies) > SHOWN_STUDIES:
        studies.append(f"and {len(held.studies) - SHOWN_STUDIES} more")
    stored = datetime.fromtimestamp(held.stored_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return (
        f'<tr><td><a href="{url}">{escape(held.id)}</a> '
        f'(<a href="{url}/manifest">manifest</a>)</td>'
        f"<td>{'<br>'.join(studies)}</td>"
        f'<td class="number">{held.instances}</td>'
        f'<td class="number">{held.size_bytes}</td>'
        f"<td>{stored}</td></tr>\n"
    )
