"""A text as a hostile or broken peer may send it: what a page must show, and not obey."""

from __future__ import annotations

from typing import Final

HOSTILE: Final = (
    "<script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&amp;"
    "\u202egnp.exe\u2066\u200b\x07\u2028" + "A" * 10_000
)
"""HTML, quotes, an entity, a change of direction, invisible characters, a bell, and length."""
