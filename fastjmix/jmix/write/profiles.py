"""The profiles by name. A profile makes member names and documents of an envelope's contents.

Guaranteed: `get` knows exactly the NAMES that the configuration accepts.
"""

from __future__ import annotations

from typing import Final, Protocol

from fastjmix.jmix.write import harmony, published
from fastjmix.jmix.write.envelope import Contents, Document, Options


class Profile(Protocol):
    """The functions of a profile's module. DOCUMENTS: the names of the members it may write."""

    DOCUMENTS: tuple[bytes, ...]

    def member_name(self, series: int, image: int, sop_instance_uid: str, copy: int) -> bytes:
        """Returns the name of an image's member; no two of an envelope are equal.

        `series` and `image` count from 1; `copy` is the number of instances with this SOP Instance
        UID that the envelope has already.
        """

    def documents(self, contents: Contents, options: Options) -> tuple[Document, ...]:
        """Returns the members that come first in the central directory, the manifest before all.

        Raises EnvelopeError, and OSError where the payload must be read again.
        """


_profiles: Final[dict[str, Profile]] = {harmony.NAME: harmony, published.NAME: published}

NAMES: Final = tuple(_profiles)

DOCUMENTS: Final = frozenset(name for one in _profiles.values() for name in one.DOCUMENTS)
"""The names of all members that are not instances."""


def get(name: str) -> Profile:
    """Returns the profile of that name. Raises KeyError."""
    return _profiles[name]
