"""The encoding of a data set, by its transfer syntax (PS3.5 Annex A, PS3.6 Table A-1).

Reception accepts a transfer syntax if its data sets can be read element by element, and refuses the
presentation context if not.

Guaranteed: `encoding_of` answers for any text; None means a data set without elements.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from fastjmix._core import PIXELS_EITHER, PIXELS_ENCAPSULATED, PIXELS_NATIVE

IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
ENCAPSULATED_UNCOMPRESSED: Final = "1.2.840.10008.1.2.1.98"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG: Final = "1.2.840.10008.1.2.2"
RLE: Final = "1.2.840.10008.1.2.5"
DEFLATED_FRAMES: Final = "1.2.840.10008.1.2.8.1"
PAPYRUS: Final = "1.2.840.10008.1.20"
GE_PRIVATE: Final = "1.2.840.113619.5.2"
"""Implicit VR little endian; only its pixels are big endian."""

DEFLATED_KIND: Final = 3
"""The kind of a deflated data set; inflated it is explicit VR little endian."""


class Encoding(NamedTuple):
    """Kind and pixels as `_core.DataSetReader` takes them."""

    kind: int
    pixels: int


_KNOWN: Final = {
    IMPLICIT_LITTLE: Encoding(0, PIXELS_NATIVE),
    PAPYRUS: Encoding(0, PIXELS_EITHER),
    GE_PRIVATE: Encoding(0, PIXELS_NATIVE),
    EXPLICIT_LITTLE: Encoding(1, PIXELS_NATIVE),
    EXPLICIT_BIG: Encoding(2, PIXELS_NATIVE),
    DEFLATED: Encoding(DEFLATED_KIND, PIXELS_NATIVE),
    # JPIP: Pixel Data Provider URL stands for Pixel Data (PS3.5 §A.6, A.7, A.11, A.12).
    "1.2.840.10008.1.2.4.94": Encoding(1, PIXELS_EITHER),
    "1.2.840.10008.1.2.4.95": Encoding(DEFLATED_KIND, PIXELS_EITHER),
    "1.2.840.10008.1.2.4.204": Encoding(1, PIXELS_EITHER),
    "1.2.840.10008.1.2.4.205": Encoding(DEFLATED_KIND, PIXELS_EITHER),
}
_ENCAPSULATED: Final = frozenset((ENCAPSULATED_UNCOMPRESSED, RLE, DEFLATED_FRAMES))
_COMPRESSED: Final = "1.2.840.10008.1.2.4."
_OTHERWISE: Final = (
    "1.2.840.10008.1.2.6.",  # MIME encapsulation (RFC 2557) and XML
    "1.2.840.10008.1.2.7.",  # SMPTE ST 2110: real-time flows
)


@lru_cache(maxsize=256)
def encoding_of(transfer_syntax: str) -> Encoding | None:
    """Returns how data sets in this transfer syntax are encoded; None: not element by element.

    Private ones are explicit VR little endian, as PS3.5 §A.4 asks of all that are not listed.
    """
    known = _KNOWN.get(transfer_syntax)
    if known is not None:
        return known
    if transfer_syntax.startswith(_OTHERWISE):
        return None
    if transfer_syntax in _ENCAPSULATED or transfer_syntax.startswith(_COMPRESSED):
        return Encoding(1, PIXELS_ENCAPSULATED)
    return Encoding(1, PIXELS_EITHER)


def kind_of(transfer_syntax: str) -> int:
    """Returns the kind alone; for transfer syntaxes without elements that of private ones."""
    encoding = encoding_of(transfer_syntax)
    return 1 if encoding is None else encoding.kind
