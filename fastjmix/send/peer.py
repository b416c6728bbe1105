"""Whom we call, and the two ways in which that can be hopeless."""

from __future__ import annotations

from dataclasses import dataclass

from fastjmix.errors import FastjmixError, PeerError


class NoAssociation(PeerError):
    """No association could be established. The message says why, in words."""

    exit_code = 3


class UsageError(FastjmixError):
    """The caller's: a path that does not exist, no sendable file, an AE title that is none."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom we call, as whom, and how long (seconds) each step may take."""

    host: str
    port: int
    called: str = "JMIX_RECEIVER"
    calling: str = "FASTJMIX"
    timeout: float = 60.0

    def __post_init__(self) -> None:
        for title in (self.called, self.calling):
            printable = title.isascii() and title.isprintable() and "\\" not in title
            if not (1 <= len(title) <= 16 and title.strip() and printable):
                raise UsageError(f"AE title {title!r}: must be 1 to 16 ASCII characters, no \\")
        if not 1 <= self.port <= 65535:
            raise UsageError(f"port {self.port}: must be 1 to 65535")

    def __str__(self) -> str:
        return f"{self.called} at {self.host}:{self.port}"
