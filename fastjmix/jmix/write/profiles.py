"""The profiles by name: how the contents of an envelope become names and documents.

Wanted: a second profile is a second module and one line here.
Guaranteed: `get` knows exactly the names in NAMES, in which the configuration is checked too.
Still wrong: nothing known.
"""

from __future__ import annotations

from typing import Final, Protocol

from fastjmix.jmix.write import harmony, published
from fastjmix.jmix.write.envelope import Contents, Document, Options


class Profile(Protocol):
    """What a profile's module offers. DOCUMENTS: the names of the members it may write."""

    DOCUMENTS: tuple[bytes, ...]

    def member_name(self, series: int, image: int, sop_instance_uid: str, copy: int) -> bytes:
        """The member of an image; no two of an envelope are equal.

        `series` and `image` count from 1; `copy` is how many instances with this SOP Instance UID
        the envelope holds already.
        """

    def documents(self, contents: Contents, options: Options) -> tuple[Document, ...]:
        """The members that stand first in the central directory; the manifest is the first.

        Raises EnvelopeError, and OSError where the payload must be read again.
        """


_profiles: Final[dict[str, Profile]] = {harmony.NAME: harmony, published.NAME: published}

NAMES: Final = tuple(_profiles)

DOCUMENTS: Final = frozenset(name for one in _profiles.values() for name in one.DOCUMENTS)
"""The names of all members that are no instances."""


def get(name: str) -> Profile:
    """The profile of that name. Raises KeyError."""
    return _profiles[name]
