"""Study Instance UIDs in log lines: plain, as a hash, or not at all (`[logging] study_uids`).

A Study Instance UID names no patient, and leads to one wherever studies are listed. A site that
gives its log to others can have the hash: the same study has the same one in each line, in each
process and at each site, so that it can be searched for. A hash is no secret: who knows a UID can
make it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, Literal

StudyUids = Literal["plain", "hashed", "off"]

HASH_CHARS: Final = 16
"""Characters of the SHA-256, in hexadecimal: 64 bits, so that no two studies of a node share one.
`printf %s UID | sha256sum | cut -c1-16` gives the same."""

STUDIES_SHOWN_MAX: Final = 4
"""Studies of one envelope that a line names; a posted envelope may hold thousands."""

UID_CHARS_MAX: Final = 128
"""Characters of a UID in a line: twice what one may have."""

_UID: Final = re.compile(r"[0-9]+(?:\.[0-9]+)+")


def shown(uid: str, how: StudyUids) -> str | None:
    """Returns a Study Instance UID as a line shows it; None where it shows none."""
    if not uid or how == "off":
        return None
    if how == "hashed":
        return sha256(uid.encode("utf-8", "backslashreplace")).hexdigest()[:HASH_CHARS]
    return uid[:UID_CHARS_MAX]


def all_shown(uids: Sequence[str], how: StudyUids) -> str | None:
    """Returns the studies of an envelope: UIDs with commas between them, STUDIES_SHOWN_MAX at most,
    and the number of the others."""
    found = [one for uid in uids[:STUDIES_SHOWN_MAX] if (one := shown(uid, how)) is not None]
    if found and len(uids) > STUDIES_SHOWN_MAX:
        found.append(f"+{len(uids) - STUDIES_SHOWN_MAX}")
    return ",".join(found) or None


def replaced(text: str, how: StudyUids) -> str | None:
    """Returns a text that may hold UIDs anywhere, with each as a line shows it; None where a line
    shows none."""
    if how == "off":
        return None
    return _UID.sub(lambda found: shown(found[0], how) or "", text)
