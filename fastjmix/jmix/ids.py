"""Defines an envelope's id: a UUID in one form, lower case with hyphens.

Guaranteed: an id is safe as part of a path and of a URL. Upper case is accepted where a document or
a request names an envelope (RFC 9562 §4), and made lower case at once; braces, missing hyphens and
urn:uuid: are refused. The one looser reader is the uploader's, for ids that an upstream made
(uploader/answers.py).
"""

from __future__ import annotations

import re
from typing import Final

PATTERN: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
"""An id, as str(uuid.UUID(id)) prints it."""

_id: Final = re.compile(PATTERN)


def is_id(text: str) -> bool:
    """Returns True for an id in its one form."""
    return _id.fullmatch(text) is not None


def canonical_id(text: str) -> str | None:
    """Returns an id in lower case, from a text in either case; None for another text."""
    lower = text.lower()
    return lower if is_id(lower) else None
