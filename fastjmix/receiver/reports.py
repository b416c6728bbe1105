"""Reports to the ledger what became of associations, and of instances that were refused.

Guaranteed: nothing waits here (ipc/events.py). A peer that is rejected or refused ever again, or
that associates and sends no instance, makes EVENTS_A_SECOND events a second at most; the next event
of its kind has the number of those left out before it, as `left_out`.
"""

from __future__ import annotations

from typing import Final

from fastjmix.ipc.events import BoundedEvents, Events
from fastjmix.receiver.connection import Association, Connection
from fastjmix.receiver.measures import Facts

EVENTS_A_SECOND: Final = 50
"""Rejections, refusals, and associations without an instance, of one receiver; as many as
peer_log.py has lines."""

WHY_MAX: Final = 300
"""Characters of a reason: an Error Comment has 64, the words of a rejection some 100."""


class Reports:
    """The reports of one receiver."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._empty = BoundedEvents(events, "association", EVENTS_A_SECOND)
        self._rejections = BoundedEvents(events, "rejection", EVENTS_A_SECOND)
        self._refusals = BoundedEvents(events, "refusal", EVENTS_A_SECOND)

    def association_ended(self, association: Association, how: str, measured: Facts) -> None:
        """Reports an association that has ended; `measured` is Association.facts()."""
        facts = {**measured, **association.origin.as_json(), "how": how}
        if measured["stored"] or measured["refused"]:
            self._events.send("association", **facts)
        else:
            self._empty.send(**facts)

    def rejection(
        self, connection: Connection, why: str, calling_ae: str = "", called_ae: str = ""
    ) -> None:
        """Reports a peer that got no association, for the reason `why`."""
        self._rejections.send(
            calling_ae=calling_ae, called_ae=called_ae, peer=connection.peer, why=why[:WHY_MAX]
        )

    def refusal(
        self, association: Association, status: int, why: str, instance: str, sop_class: str
    ) -> None:
        """Reports an instance that was answered with another status than 0000."""
        head = association.head
        study = head.study_instance_uid.decode("latin-1") if head is not None else ""
        self._refusals.send(
            association=association.origin.id,
            sop_instance_uid=instance,
            sop_class_uid=sop_class,
            study_instance_uid=study,
            status=f"{status:04X}",
            why=why[:WHY_MAX],
        )

    def tick(self) -> None:
        """Sends what the pipe had no space for before."""
        self._events.flush()
