"""Holds what all listeners of the process use: the spool, its index, links and limits."""

from __future__ import annotations

import asyncio
from typing import BinaryIO, Final

from fastjmix.api.node_state import NodeState
from fastjmix.api.outcomes import PendingOutcomes
from fastjmix.api.study_index import StudyIndex
from fastjmix.config import Config
from fastjmix.httpd import limits
from fastjmix.httpd.archive_checks import Checks
from fastjmix.httpd.receiving import UploadSlots
from fastjmix.httpd.responses import HttpError
from fastjmix.ipc.channels import Channels
from fastjmix.jmix.ids import canonical_id
from fastjmix.spool import FreeSpace, Spool
from fastjmix.spool.calling_aes import CallingAEs

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
        self.uploads = UploadSlots(limits.MAX_UPLOADS)
        self.checks = Checks()
        self.stopping = asyncio.Event()
        self.state = NodeState(
            spool, channels.metrics, self.room, self.stopping, config.runtime.queue_alarm_secs
        )

    def open_archive(self, envelope_id: str) -> BinaryIO:
        """Opens an envelope's archive, which stays whole however it is moved.

        Raises HttpError 404, 500. An id becomes a file name only when it is a UUID.
        """
        if (known := canonical_id(envelope_id)) is not None:
            try:
                found = self.spool.open_served(known)
            except OSError as problem:
                raise HttpError(500, f"the envelope cannot be read: {problem.strerror}") from None
            if found is not None:
                return found
        raise HttpError(404, "no envelope with this id is here")
