"""Publishes the bytes and inodes that one packer will still take of the disk.

Wanted: what was promised can always be sealed, whichever process writes beside it.
Guaranteed: the gauges hold what open envelopes, their encrypted forms, spilled instances and drafts
in recovery will take beyond what is written. All processes that share the disk read them:
spool/free_space.py subtracts them from what is free.
"""

from __future__ import annotations

from fastjmix.ipc.metrics import Metrics
from fastjmix.packer.open_envelopes import OpenEnvelopes
from fastjmix.packer.recovery_queue import RecoveryQueue
from fastjmix.packer.sealer import Sealer
from fastjmix.packer.spilled_instances import SpilledInstances
from fastjmix.spool import OPEN_INODES


class Reservation:
    """The reservation of one packer."""

    def __init__(
        self,
        metrics: Metrics,
        envelopes: OpenEnvelopes,
        sealer: Sealer,
        recoveries: RecoveryQueue,
        spilled: SpilledInstances,
    ) -> None:
        self._metrics = metrics
        self._open = envelopes
        self._sealer = sealer
        self._recoveries = recoveries
        self._spilled = spilled

    def publish(self) -> None:
        """Sets all gauges."""
        self._metrics.set("bytes_to_encrypt", self._to_encrypt())
        self.publish_bytes()
        unsealed = len(self._open) + self._sealer.encrypting + self._recoveries.count
        self._metrics.set("inodes_reserved", unsealed * OPEN_INODES)

    def publish_bytes(self) -> None:
        """Sets the gauge that each instance changes."""
        size = self._to_encrypt() + self._open.seal_bytes + self._spilled.reserved
        self._metrics.set("bytes_reserved", size)

    def _to_encrypt(self) -> int:
        waiting = self._recoveries.to_encrypt + self._sealer.encrypting_bytes
        return self._open.plain_bytes + waiting
