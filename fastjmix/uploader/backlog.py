"""Knows the envelopes of outbox/, and puts each into the queue of its upstream.

Guaranteed: an envelope is put into a queue once, until it is forgotten, or its upstream is removed
from the configuration. One whose upstream is not configured stays in outbox/, and is logged; a
configuration that has the upstream again takes it. The gauge outbox_envelopes is what is known
here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

from fastjmix import log
from fastjmix.ipc.metrics import Metrics
from fastjmix.spool import Ticket
from fastjmix.uploader.queue import Key, key_of
from fastjmix.uploader.target import Target, Targets


class Backlog:
    """The envelopes of outbox/.

    `known` are those whose tickets were read, and `held` those of them that a person has put on
    hold, with their targets; `unrouted` are those of them whose upstream is not configured, and
    `unreadable` are the others, which wait until a person has corrected their tickets. `added` is
    called when envelopes came, `left` when some left.
    """

    def __init__(
        self,
        targets: Targets,
        metrics: Metrics,
        *,
        added: Callable[[], None],
        left: Callable[[], None],
    ) -> None:
        self._targets = targets
        self._metrics = metrics
        self._added = added
        self._left = left
        self.known: set[Key] = set()
        self.held: dict[Key, Target] = {}
        self.unrouted: set[Key] = set()
        self.unreadable: set[Key] = set()
        self._tried: set[Key] = set()

    def add(
        self, found: Sequence[tuple[str, Ticket]], held: Set[str], *, maybe_stored: bool
    ) -> None:
        """Adds new envelopes. `held`: the ids of those on hold. `maybe_stored`: they were there
        when this process began."""
        unknown: dict[str, list[str]] = {}
        for envelope_id, ticket in found:
            key = key_of(envelope_id)
            self.known.add(key)
            tried = key in self._tried
            self._tried.discard(key)
            target = self._targets.of(ticket)
            if target is not None and envelope_id in held:
                self.held[key] = target
            elif target is not None:
                origin = ticket.origin if ticket.awaited else None
                target.queue.add(key, origin, maybe_stored=maybe_stored or tried)
            else:
                self.unrouted.add(key)
                unknown.setdefault(ticket.upstream_names, []).append(envelope_id)
        for upstream, ids in unknown.items():
            log.get().error(
                "upstream_unknown",
                upstream=upstream,
                envelope=ids[0],
                count=len(ids),
                hint="configure an upstream of that name; until then they stay in outbox/",
            )
        self._count()
        self._added()

    def hold(self, key: Key, ticket: Ticket) -> bool:
        """Takes a known envelope out of its queue.

        Returns False when it is on hold already, or its upstream is not configured.
        """
        target = self._targets.of(ticket)
        if key in self.held or target is None:
            return False
        self.held[key] = target
        target.queue.remove(key)
        return True

    def release(self, key: Key) -> None:
        """Puts an envelope whose hold has ended into its queue again."""
        if (target := self.held.pop(key, None)) is not None:
            target.queue.put_back(key)
            self._added()

    def replace(self, old: Target, new: Target) -> None:
        """Puts the envelopes on hold that went to one target to another."""
        self.held = {key: new if one is old else one for key, one in self.held.items()}

    def reroute(self, *targets: Target) -> None:
        """Forgets where the envelopes of removed targets go, and those without an upstream. The
        next listing of outbox/ reads their tickets again."""
        keys = {key for target in targets for key in target.queue.take_all()}
        keys |= {key for key, target in self.held.items() if target in targets}
        for key in keys:
            self.held.pop(key, None)
        self._tried |= keys
        self.known -= keys | self.unrouted
        self._tried |= self.unrouted
        self.unrouted.clear()

    def forget(self, *keys: Key) -> None:
        """Forgets envelopes that have left. Their places in a queue are passed over."""
        self.known.difference_update(keys)
        self.unrouted.difference_update(keys)
        for key in keys:
            self.held.pop(key, None)
        self._count()
        self._left()

    def _count(self) -> None:
        self._metrics.set("outbox_envelopes", len(self.known) + len(self.unreadable))
