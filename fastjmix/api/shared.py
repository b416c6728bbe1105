"""Holds what all listeners of the process use: the spool, its index, links and limits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from fastjmix.api.node_state import NodeState
from fastjmix.api.outcomes import PendingOutcomes
from fastjmix.api.study_index import StudyIndex
from fastjmix.api.warnings import Certificate, Warnings, certificates_of
from fastjmix.config import Config
from fastjmix.httpd import limits
from fastjmix.httpd.archive_checks import Checks
from fastjmix.httpd.slots import Slots
from fastjmix.ipc.channels import Channels
from fastjmix.spool import FreeSpace, Spool
from fastjmix.spool.calling_aes import CallingAEs
from fastjmix.spool.tally import Tally

ORIGIN: Final = "api"
"""This process's name in tickets and in Channels.outcomes."""


class Shared:
    """The parts of the process that its listeners share. Made in the loop that uses them."""

    def __init__(self, config: Config, spool: Spool, channels: Channels) -> None:
        self.spool = spool
        self.channels = channels
        self.live = channels.live
        self.room = FreeSpace.of(config, channels.metrics)
        self.study_index = StudyIndex(spool)
        self.calling_aes = CallingAEs(spool)
        self.outcomes = PendingOutcomes(channels.outcomes[ORIGIN])
        self.uploads = Slots(limits.MAX_UPLOADS, "uploads")
        self.joined = Slots(limits.JOINED_AT_ONCE, "answers of whole studies")
        self.checks = Checks()
        self.stopping = asyncio.Event()
        self.tally = Tally(spool)
        self.state = NodeState(spool, channels.metrics, self.room, channels.drain, self.stopping)
        self.alarm_secs = config.runtime.queue_alarm_secs
        self.certificates: Sequence[Certificate] = certificates_of(config)
        self.warnings = Warnings(
            channels, self.room, self.tally, self.alarm_secs, self.certificates
        )

    def configure(self, config: Config, certificates: Sequence[Certificate]) -> None:
        """Goes by another configuration from now on. `certificates` are those of its files now."""
        self.spool.configure(config)
        self.room.configure(config)
        self.alarm_secs = config.runtime.queue_alarm_secs
        self.certificates = certificates
        self.warnings.configure(self.alarm_secs, certificates)
