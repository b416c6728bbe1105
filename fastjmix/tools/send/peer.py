"""The acceptor to call, and the error when it cannot be called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fastjmix.errors import PeerError, UsageError

MAX_PDU_LEAST: Final = 4096
"""A command set hardly fits into a shorter PDU; DCMTK allows no less either."""

MAX_PDU_MOST: Final = 131_072
"""As much as fastjmix and DCMTK take; a longer PDU is only memory."""


class NoAssociation(PeerError):
    """No association could be established. The message says why."""

    exit_code = 3


class Unanswered(NoAssociation):
    """The peer took the connection, and gave no answer that is one of DICOM."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The acceptor to call, the AE titles, and how long (seconds) each step may take.

    `timeout` is for each write and each answer to an instance; `connect_timeout` for the
    connection and `acse_timeout` for the answer to A-ASSOCIATE-RQ and A-RELEASE-RQ are the same
    unless given. `max_pdu` is announced, and no longer PDU is sent; 0: the peer's maximum counts.
    """

    host: str
    port: int
    called: str = "JMIX_RECEIVER"
    calling: str = "FASTJMIX"
    timeout: float = 60.0
    connect_timeout: float | None = None
    acse_timeout: float | None = None
    max_pdu: int = 0

    def __post_init__(self) -> None:
        for title in (self.called, self.calling):
            printable = title.isascii() and title.isprintable() and "\\" not in title
            if not (1 <= len(title) <= 16 and title.strip() and printable):
                raise UsageError(f"AE title {title!r}: must be 1 to 16 ASCII characters, no \\")
        if not 1 <= self.port <= 65535:
            raise UsageError(f"port {self.port}: must be 1 to 65535")
        if self.max_pdu and not MAX_PDU_LEAST <= self.max_pdu <= MAX_PDU_MOST:
            bounds = f"must be {MAX_PDU_LEAST} to {MAX_PDU_MOST}"
            raise UsageError(f"maximum PDU length {self.max_pdu}: {bounds}")

    def __str__(self) -> str:
        return f"{self.called} at {self.host}:{self.port}"
