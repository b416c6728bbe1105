"""Counts the bytes and inodes that one packer will still take, for all processes that share the
disk.

Wanted: what was promised can always be sealed, whoever writes beside it.
Guaranteed: the gauges hold what open envelopes, their encrypted forms, spilled instances and drafts
that are recovered will take beyond what is written; spool/free_space.py subtracts them from what is
free.
"""

from __future__ import annotations

from fastjmix.ipc.metrics import Stats
from fastjmix.packer.open_envelopes import OpenEnvelopes
from fastjmix.packer.recovery_queue import RecoveryQueue
from fastjmix.packer.spills import Spills
from fastjmix.spool import OPEN_INODES


class Reservation:
    """The reservation of one packer. `encrypting`: bytes of the drafts that are being encrypted, by
    their ids.
    """

    def __init__(
        self, stats: Stats, opened: OpenEnvelopes, recoveries: RecoveryQueue, spills: Spills
    ):
        self._stats = stats
        self._open = opened
        self._recoveries = recoveries
        self._spills = spills
        self.encrypting: dict[str, int] = {}

    def tell(self) -> None:
        """Tells the other processes: all of it."""
        self._stats.set("bytes_to_encrypt", self._to_encrypt())
        self.tell_bytes()
        sealing = len(self._open) + len(self.encrypting) + self._recoveries.count
        self._stats.set("inodes_reserved", sealing * OPEN_INODES)

    def tell_bytes(self) -> None:
        """Tells what an instance more has changed."""
        size = self._to_encrypt() + self._open.seal_bytes + self._spills.reserved
        self._stats.set("bytes_reserved", size)

    def _to_encrypt(self) -> int:
        waiting = self._recoveries.to_encrypt + sum(self.encrypting.values())
        return self._open.plain_bytes + waiting
