"""Learns from an upstream's answers whose ids it gives, and which bodies it reads.

Wanted: an upstream that reads Content-Length only (WSGI, CGI, many a small server) never makes us
believe that it has a chunked body, of which it read nothing.
Guaranteed, with transfer_encoding = "auto": a body goes by its length until an answer to such a
body has named our id over HTTP/1.1, in this run. Then one envelope at its first attempt goes
chunked, as a trial. Only an answer that names its id, or its manifest fetched and equal, makes the
trial a proof; anything else ends it, and there is no other for TRIAL_PAUSE_SECS. An answer that
confirms nothing, HTTP/1.0, or bodies that break off lose the proof. With a setting by name, that
setting is used. No I/O here, and no clock: `now` is Unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from fastjmix.uploader.size_limit import SizeLimit

TRIAL_PAUSE_SECS: Final = 30 * 86400.0
"""Seconds between two trials. Each may leave an empty entry in an upstream that cannot read it, and
the use of a proof (a body whose length need not be known) is worth little."""

UNCLEAR_MAX: Final = 2
"""Chunked bodies in a row without a clear answer that lose the proof. One may be the line's fault,
and each of these envelopes goes by its length next time anyway."""

_REFUTED_AT: Final = "doubted_at"
"""Name in the file: when a chunked body was last not confirmed."""


class Coding(Enum):
    """Ways to show where a body ends (RFC 9112 §6)."""

    CHUNKED = "chunked"
    LENGTH = "content-length"


class UpstreamFacts:
    """Facts about one upstream.

    `setting` is Upstream.transfer_encoding, `known` the result of `dump`. `size_limit` is how large
    an envelope may be.
    """

    def __init__(self, setting: str, known: Mapping[str, object] | None = None) -> None:
        self.fixed = None if setting == "auto" else Coding(setting)
        known = known or {}
        self.names_ours = known.get("names_ours") is True
        self.takes_chunked = known.get("takes_chunked") is True
        refuted = known.get(_REFUTED_AT)
        self.size_limit = SizeLimit(known)
        self._refuted_at = float(refuted) if isinstance(refuted, int | float) else None
        self._named_now = False
        self._trying = False
        self._unclear = 0

    def dump(self) -> dict[str, object]:
        """Returns the facts that last, as JSON values; {} when there are none."""
        found = {"names_ours": self.names_ours, "takes_chunked": self.takes_chunked}
        facts: dict[str, object] = {name: True for name, value in found.items() if value}
        facts |= self.size_limit.dump()
        return facts if self._refuted_at is None else {**facts, _REFUTED_AT: self._refuted_at}

    # -- before an attempt -------------------------------------------------------------------

    def choose_coding(self, *, first: bool, now: float) -> Coding:
        """Chooses how the next body goes. `first`: nothing of the envelope can have been sent yet.

        When this returns CHUNKED under "auto", the caller records the result: proof, no proof,
        unclear or unsent.
        """
        if self.fixed is not None:
            return self.fixed
        if not first or not self._named_now:
            return Coding.LENGTH
        if self.takes_chunked:
            return Coding.CHUNKED
        rested = self._refuted_at is None or abs(now - self._refuted_at) >= TRIAL_PAUSE_SECS
        if self._trying or not rested:
            return Coding.LENGTH
        self._trying = True
        return Coding.CHUNKED

    # -- after a body by length --------------------------------------------------------------

    def record_answer(self, version: tuple[int, int], *, named: bool, now: float) -> None:
        """Records an answer to a body by length. `named`: it took the envelope, and gave our id."""
        if version < (1, 1):
            self._named_now = False
            if self.takes_chunked:
                self.record_no_proof(now)
        elif named:
            self._named_now = True
        self.names_ours = self.names_ours or named

    # -- after a chunked body ----------------------------------------------------------------

    def record_proof(self) -> None:
        """Records that the upstream has the whole of the body."""
        self._unclear = 0
        if self._trying:
            self._trying = False
            self.takes_chunked = True
            self._refuted_at = None

    def record_unsent(self) -> None:
        """Records that the body did not get there, which proves nothing."""
        self._trying = False

    def record_unclear(self, now: float) -> None:
        """Records that no answer came, or one that may be about anything: 401, 503."""
        self._unclear += 1
        if self._trying or self._unclear >= UNCLEAR_MAX:
            self.record_no_proof(now)

    def record_no_proof(self, now: float) -> None:
        """Records that the body may not have been read."""
        self.takes_chunked = self._trying = False
        self._unclear = 0
        self._refuted_at = now
