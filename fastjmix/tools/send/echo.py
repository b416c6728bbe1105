"""C-ECHO: whether an acceptor answers, how fast, and what it says of itself (PS3.7 §9.1.5)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import mean
from typing import Any

from fastjmix.dicom.requests import VERIFICATION, Accepted
from fastjmix.tools.send.association import IMPLICIT_LITTLE, Association, Lost
from fastjmix.tools.send.other_servers import speaks_tls
from fastjmix.tools.send.peer import NoAssociation, Peer, Unanswered
from fastjmix.tools.send.report import describe


@dataclass(frozen=True, slots=True)
class Echo:
    """The answers to C-ECHO requests over one association; times are seconds."""

    peer: Peer
    answer: Accepted
    association_secs: float
    statuses: tuple[int, ...]
    round_trip_secs: tuple[float, ...]

    @property
    def status(self) -> int:
        """The first status that is not 0x0000; 0 where all are."""
        return next(filter(None, self.statuses), 0)

    @property
    def exit_code(self) -> int:
        """0 where every status is 0x0000, else 1."""
        return int(self.status != 0)

    def summary(self) -> dict[str, Any]:
        """Returns the answers for JSON."""
        return {
            "host": self.peer.host,
            "port": self.peer.port,
            "called_ae": self.peer.called,
            "calling_ae": self.peer.calling,
            "status": f"0x{self.status:04X}",
            "meaning": describe(self.status),
            "implementation_uid": self.answer.implementation_uid,
            "implementation_version": self.answer.implementation_version,
            "max_pdu_bytes": self.answer.announced or None,
            "association_secs": self.association_secs,
            "round_trip_secs": list(self.round_trip_secs),
            "exit_code": self.exit_code,
        }

    def lines(self) -> list[str]:
        """Returns the answers in words, a fact a line; the status first."""
        version = f" ({self.answer.implementation_version})" * bool(
            self.answer.implementation_version
        )
        limit = f"{self.answer.announced} bytes" if self.answer.announced else "no limit"
        return [
            f"{self.peer}: 0x{self.status:04X} {describe(self.status)}",
            f"implementation  {self.answer.implementation_uid or 'not named'}{version}",
            f"maximum PDU     {limit}",
            f"association     {_millis(self.association_secs)}",
            f"round trip      {self._round_trip()}",
        ]

    def _round_trip(self) -> str:
        times = self.round_trip_secs
        if len(times) == 1:
            return _millis(times[0])
        return (
            f"{_millis(mean(times))} on average of {len(times)},"
            f" {_millis(min(times))} to {_millis(max(times))}"
        )


def echo(peer: Peer, count: int = 1) -> Echo:
    """Sends `count` C-ECHO requests, one after the other, over an association of its own.

    Raises NoAssociation, also when Verification is not accepted or an answer does not come.
    """
    started = time.perf_counter()
    association = _associated(peer)
    association_secs = time.perf_counter() - started
    if not association.accepted:
        association.release()
        raise NoAssociation(f"{peer} does not accept the Verification SOP class")
    statuses, secs = [], []
    try:
        for number in range(1, count + 1):
            started = time.perf_counter()
            statuses.append(association.echo(number))
            secs.append(time.perf_counter() - started)
    except Lost as how:
        association.abort()
        raise NoAssociation(f"{peer} did not answer the C-ECHO: {how}") from None
    association.release()
    return Echo(peer, association.answer, association_secs, tuple(statuses), tuple(secs))


def _associated(peer: Peer) -> Association:
    """Opens the association. Raises NoAssociation, which names TLS where that is the reason."""
    try:
        return Association(peer, [(VERIFICATION, IMPLICIT_LITTLE)])
    except Unanswered as problem:
        if speaks_tls(peer.host, peer.port, peer.timeout):
            raise NoAssociation(
                f"{peer} speaks TLS, and this command does not",
                "Call the port without TLS, or put stunnel between.",
            ) from problem
        raise


def _millis(secs: float) -> str:
    return f"{1000 * secs:.1f} ms"
