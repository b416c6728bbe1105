"""Knows the envelopes of outbox/, and puts each into the queues of its upstreams.

Guaranteed: an envelope is put into a queue once for each of its upstreams, until it is forgotten,
or the upstream is removed from the configuration. One with an upstream that is not configured stays
in outbox/, and is logged; a configuration that has the upstream again takes it. The others of its
upstreams get it meanwhile. The gauge outbox_envelopes is what is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from fastjmix import log
from fastjmix.ipc.metrics import Metrics
from fastjmix.spool import Ticket
from fastjmix.uploader.queue import RANKS, Key, Waiting, key_of
from fastjmix.uploader.target import Target, Targets


class Found(NamedTuple):
    """An envelope as it was read from outbox/: the upstreams that have to get it, and those of them
    for which it is on hold."""

    id: str
    ticket: Ticket
    pending: tuple[str, ...]
    held: frozenset[str] = frozenset()


class Share(NamedTuple):
    """An envelope for several upstreams, by their names: those to whose queues it was given, and
    those of them where it has not ended."""

    placed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


class Held(NamedTuple):
    """An envelope on hold: the targets for which it is, and the rank of its priority."""

    targets: tuple[Target, ...]
    rank: int


class Backlog:
    """The envelopes of outbox/.

    `known` are those whose tickets were read. `stale` are those of them whose tickets are to be
    read again, as they go to several upstreams and some of these have changed. `held` are those
    that a person has put on hold. `unrouted` have an upstream that is not configured. `unreadable`
    are not known, and wait until a person has corrected their tickets. For `orphans` a process
    waits, though their upstream was removed. `added` is called when envelopes came, `left` when
    some left.
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
        self.stale: set[Key] = set()
        self.held: dict[Key, Held] = {}
        self.unrouted: set[Key] = set()
        self.unreadable: set[Key] = set()
        self.orphans: list[Waiting] = []
        self._shares: dict[Key, Share] = {}
        self._tried: set[Key] = set()
        self._same: dict[Share, Share] = {}

    def add(self, found: Sequence[Found], *, maybe_stored: bool) -> None:
        """Adds new envelopes, and those that are `stale`. `maybe_stored`: they were there when this
        process began."""
        unknown: dict[str, list[str]] = {}
        for one in found:
            key = key_of(one.id)
            self.known.add(key)
            self.stale.discard(key)
            tried = key in self._tried
            self._tried.discard(key)
            for name in one.pending:
                if key in self._shares and name in self._shares[key].placed:
                    continue  # its ticket was read before
                target = self._targets.of(one.ticket.pipeline, name)
                if target is None and _waits(one) and not maybe_stored:
                    self.orphans.append(Waiting(key, 0, tried, one.ticket.origin))
                    break
                if target is None:
                    self.unrouted.add(key)
                    unknown.setdefault(name, []).append(one.id)
                    continue
                self._place(key, target, one, maybe_stored=maybe_stored or tried)
        self._log_unknown(unknown)
        self._count()
        self._added()

    def _place(self, key: Key, target: Target, one: Found, *, maybe_stored: bool) -> None:
        """Puts an envelope into the queue of a target, or holds it."""
        ticket, name = one.ticket, target.upstream.name
        rank = RANKS.index(ticket.priority)
        if len(ticket.upstreams) > 1:
            placed, left = self._shares.get(key, Share())
            self._share(key, Share((*placed, name), (*left, name)))
        if name in one.held:
            before = self.held[key].targets if key in self.held else ()
            self.held[key] = Held((*before, target), rank)
            return
        origin = ticket.origin if _waits(one) else None
        target.queue.add(key, origin, maybe_stored=maybe_stored, rank=rank)

    def _share(self, key: Key, share: Share) -> None:
        """Keeps one value for all envelopes with the same upstreams."""
        self._shares[key] = self._same.setdefault(share, share)

    def _log_unknown(self, unknown: dict[str, list[str]]) -> None:
        for upstream, ids in unknown.items():
            log.get().error(
                "upstream_unknown",
                upstream=upstream,
                envelope=ids[0],
                count=len(ids),
                hint="configure an upstream of that name; until then they stay in outbox/",
            )

    def waits_for(self, key: Key, target: Target) -> bool:
        """Returns whether an envelope has to go to a target."""
        if key not in self.known:
            return False
        share = self._shares.get(key)
        return share is None or target.upstream.name in share.left

    def waits_elsewhere(self, key: Key, target: Target) -> tuple[str, ...]:
        """Returns the other upstreams that have to get an envelope, as far as they are known."""
        share = self._shares.get(key)
        return () if share is None else _without(share.left, (target.upstream.name,))

    def hold(self, key: Key, targets: Iterable[Target], rank: int) -> tuple[Target, ...]:
        """Takes a known envelope out of the queues of targets.

        Returns those for which it was not on hold, and which have to get it.
        """
        before = self.held[key].targets if key in self.held else ()
        new = tuple(one for one in targets if self.waits_for(key, one) and one not in before)
        if new:
            self.held[key] = Held((*before, *new), rank)
        for target in new:
            target.queue.remove(key)
        return new

    def release(self, key: Key, targets: Iterable[Target] | None = None) -> None:
        """Puts an envelope whose hold has ended into its queues again; `targets` None: all."""
        if (held := self.held.pop(key, None)) is None:
            return
        freed = held.targets if targets is None else tuple(targets)
        for target in held.targets:
            if target in freed:
                target.queue.put_back(key, held.rank)
        self._keep_held(key, held, freed)
        self._added()

    def is_shared(self, key: Key) -> bool:
        """Returns whether an envelope goes to several upstreams."""
        return key in self._shares

    def keep_held(self, key: Key, names: Collection[str]) -> None:
        """Releases an envelope for all upstreams but these."""
        if (held := self.held.get(key)) is not None:
            freed = [one for one in held.targets if one.upstream.name not in names]
            if freed:
                self.release(key, freed)

    def _keep_held(self, key: Key, held: Held, gone: Sequence[Target]) -> None:
        if left := tuple(one for one in held.targets if one not in gone):
            self.held[key] = Held(left, held.rank)

    def replace(self, old: Target, new: Target) -> None:
        """Puts the envelopes on hold that went to one target to another."""
        for key, (targets, rank) in self.held.items():
            if old in targets:
                self.held[key] = Held(tuple(new if one is old else one for one in targets), rank)

    def reroute(self, *targets: Target) -> None:
        """Forgets where the envelopes of removed targets go, and those without an upstream. The
        next listing of outbox/ reads their tickets again."""
        keys = {key for target in targets for key in target.queue.take_all()}
        keys |= {key for key, held in self.held.items() if set(held.targets) & set(targets)}
        gone = {one.upstream.name for one in targets}
        for key in keys:
            if (held := self.held.pop(key, None)) is not None:
                self._keep_held(key, held, targets)
            if (share := self._shares.get(key)) is not None:
                anew = gone & set(share.left)
                self._share(key, Share(_without(share.placed, anew), _without(share.left, anew)))
        keys |= self.unrouted
        self._tried |= keys
        self.stale |= keys & self._shares.keys() & self.known
        self.known -= keys - self._shares.keys()
        self.unrouted.clear()

    def end(self, key: Key, *names: str) -> None:
        """Notes that an envelope for several upstreams has ended at some, and stays for others."""
        if (share := self._shares.get(key)) is not None:
            self._share(key, Share(share.placed, _without(share.left, names)))

    def forget(self, *keys: Key) -> None:
        """Forgets envelopes that have left. Their places in a queue are passed over."""
        for gone in (self.known, self.unrouted, self.stale):
            gone.difference_update(keys)
        for key in keys:
            self.held.pop(key, None)
            self._shares.pop(key, None)
        self._count()
        self._left()

    def _count(self) -> None:
        self._metrics.set("outbox_envelopes", len(self.known) + len(self.unreadable))
        self._metrics.set("outbox_unrouted", len(self.unrouted))


def _waits(one: Found) -> bool:
    """Returns whether a process waits for what the first of its upstreams answers."""
    return one.ticket.awaited and one.pending == one.ticket.upstreams[:1]


def _without(names: tuple[str, ...], gone: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in gone)
