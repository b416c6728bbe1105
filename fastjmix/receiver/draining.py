"""Ends the intake of one receiver while the supervisor drains, and says when it has ended.

Guaranteed: associations that are open go on to their own end. The receiver answers a demand
(ipc/drain.py) only when none is open, and none can begin any more.
"""

from __future__ import annotations

from fastjmix.ipc.drain import NO_DEMAND, DrainPage, Intake
from fastjmix.receiver.connection import Connection
from fastjmix.receiver.listener import Listener
from fastjmix.receiver.listeners import Listeners
from fastjmix.receiver.states import State
from fastjmix.receiver.upper_layer import UpperLayer


class Draining:
    """Answers the supervisor's demands of the receiver `number`."""

    def __init__(
        self, page: DrainPage, number: int, listeners: Listeners, upper_layer: UpperLayer
    ) -> None:
        self._page = page
        self._number = number
        self._listeners = listeners
        self._upper_layer = upper_layer
        self._demand = NO_DEMAND
        self.lasts = False
        """True while the supervisor drains."""

    def rejects(self, listener: Listener) -> bool:
        """Returns whether a peer that was accepted there gets no association."""
        if self._upper_layer.draining or self._demand.intake is Intake.REJECTED:
            return True
        return self._demand.intake is Intake.WAITING and not listener.outlives

    def look(self) -> None:
        """Begins to do what the supervisor asks, and answers when it is done. To be called when the
        receiver is woken, and while a drain `lasts` at each turn of the loop.
        """
        demand = self._page.demand
        if demand.intake is not self._demand.intake:
            self._listeners.wait(demand.intake is Intake.WAITING)
        self._demand = demand
        self.lasts = demand.intake is not Intake.OPEN
        if not self.lasts or self._page.has_answered(self._number):
            return
        if not any(self._is_awaited(one) for one in self._upper_layer.connections.values()):
            self._page.answer(self._number, demand.number)

    def _is_awaited(self, connection: Connection) -> bool:
        """Returns whether a connection has an association, or is to get one."""
        if connection.state is State.AWAITING_RQ:
            return not self.rejects(connection.listener)
        return connection.state is State.OPEN
