"""The lanes' protocol as a small model, in every interleaving: nobody sleeps while there is work.

One producer (a receiver) and one consumer (a packer) step through what `_core` does, one access to
the shared memory a step, in the order of its code: marking, publishing, granting, asking for space,
sleeping.
The explorer visits every reachable state of the two, so that "it never happened in the stress test"
becomes "it cannot happen in the model". Steps are sequentially consistent, which the fences of
`must_wake` and the exchanges of `doze` are there to grant where it matters: the store of a mark or
of a counter and the load of "asleep", and the store of "asleep" and the load of a counter.

Each guard of the protocol is then left out in turn, and the explorer must find the sleeper: the
model sees what it is to see.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

PIECES = 3
"""Bytes that the lane holds; the producer has more than that to give."""

TO_GIVE = 5

R, P = 0, 1


@dataclass(frozen=True, slots=True)
class World:
    """Shared memory and eventfds, and where each side is in its code."""

    published: int = 0
    unannounced: int = 0
    taken: int = 0
    ended: bool = False
    done: bool = False
    awaits_space: bool = False
    marked: bool = False  # for the packer
    asleep: tuple[bool, bool] = (False, False)
    event: tuple[bool, bool] = (False, False)  # eventfds
    at: tuple[str, str] = ("give", "look")
    listed: bool = False  # the packer looks at the lane
    seen: int = 0  # what the packer loaded before it acts on it
    complete: bool = False
    progress: bool = False

    def side(self, who: int, place: str, **changes: object) -> World:
        at = (place, self.at[P]) if who == R else (self.at[R], place)
        return replace(self, at=at, **changes)  # type: ignore[arg-type]


def put(pair: tuple[bool, bool], who: int, value: bool) -> tuple[bool, bool]:
    return (value, pair[1]) if who == 0 else (pair[0], value)


def wake(world: World, waker: int, whom: int, then: str) -> World:
    """`must_wake` and the write of the eventfd, as one step: load, exchange, write.

    The exchange lets one of several wakers through; here there is one waker a sleeper.
    """
    if world.asleep[whom]:
        world = replace(world, asleep=put(world.asleep, whom, False))
        world = replace(world, event=put(world.event, whom, True))
    return world.side(waker, then)


@dataclass(frozen=True, slots=True)
class Protocol:
    """Guards that are left out, to see that they are needed."""

    announces_at: int = 2  # pieces that gather before the packer is notified (WAKE)
    announces_end: bool = True  # the end of an instance notifies the packer
    looks_again: bool = True  # both sides look once more after saying that they sleep
    asks_before_it_looks: bool = True  # space is asked for before the last look
    reports_space: bool = True
    grants_before_it_wakes: bool = True


def receiver(world: World, how: Protocol) -> Iterator[World]:
    """lane.pxi `_flush`, `_end`, `request_space`; loop.py `_wait`."""
    full = world.published - world.taken >= PIECES
    match world.at[R]:
        case "give":
            if world.published == TO_GIVE:
                yield world.side(R, "end")
            elif full:
                yield world.side(
                    R, "ask for space" if how.asks_before_it_looks else "doze for space"
                )
            else:
                unannounced = world.unannounced + 1
                place = "mark" if unannounced >= how.announces_at else "give"
                yield world.side(R, place, published=world.published + 1, unannounced=unannounced)
        case "mark":  # mark_pending: the bit, then the fence and "asleep"
            yield world.side(R, "wake packer", marked=True, unannounced=0)
        case "wake packer":
            yield wake(world, R, P, "give")
        case "ask for space":
            yield world.side(R, "doze for space", awaits_space=True)
        case "doze for space":
            place = "look for space" if how.looks_again else "sleep for space"
            yield world.side(R, place, asleep=put(world.asleep, R, True))
        case "look for space":
            yield world.side(R, "sleep for space" if full else "rouse for space")
        case "sleep for space":
            if world.event[R]:
                yield world.side(R, "rouse for space", event=put(world.event, R, False))
        case "rouse for space":
            again = "give" if how.asks_before_it_looks else "ask late"
            yield world.side(R, again, asleep=put(world.asleep, R, False))
        case "ask late":
            yield world.side(R, "give", awaits_space=True)
        case "end":
            yield world.side(R, "end mark" if how.announces_end else "doze", ended=True)
        case "end mark":
            yield world.side(R, "end wake", marked=True)
        case "end wake":
            yield wake(world, R, P, "doze")
        case "doze":
            place = "look for a grant" if how.looks_again else "sleep"
            yield world.side(R, place, asleep=put(world.asleep, R, True))
        case "look for a grant":
            yield world.side(R, "over" if world.done else "sleep")
        case "sleep":
            if world.event[R]:
                yield world.side(R, "rouse", event=put(world.event, R, False))
        case "rouse":
            yield world.side(
                R, "over" if world.done else "doze", asleep=put(world.asleep, R, False)
            )


def packer(world: World, how: Protocol) -> Iterator[World]:
    """intake.pxi `_list_pending_lanes`, `_look`; statuses.py `give`; the packer's loop `_sleep`."""
    match world.at[P]:
        case "look" | "look again":
            again = "" if world.at[P] == "look" else " again"
            yield world.side(
                P, f"read end{again}", listed=world.listed or world.marked, marked=False
            )
        case "read end" | "read end again":  # `ended` is read before the pieces
            again = world.at[P].removeprefix("read end")
            if not world.listed:
                yield world.side(P, "sleep" if again else "doze")
            else:
                yield world.side(P, f"read pieces{again}", complete=world.ended)
        case "read pieces" | "read pieces again":
            again = world.at[P].removeprefix("read pieces")
            yield world.side(P, f"take{again}", seen=world.published)
        case "take" | "take again":
            again = world.at[P].removeprefix("take")
            progress = world.seen > world.taken
            yield world.side(P, f"space{again}", taken=world.seen, progress=progress)
        case "space" | "space again":
            again = world.at[P].removeprefix("space")
            if world.awaits_space and how.reports_space:
                yield world.side(P, "wake for space", awaits_space=False)
            elif world.complete and world.taken == world.seen and not world.done:
                first = "grant" if how.grants_before_it_wakes else "wake for grant"
                yield world.side(P, first)
            elif world.progress:
                yield world.side(P, f"look{again}", progress=False)
            else:
                yield world.side(P, "sleep" if again else "doze")
        case "wake for space":
            yield wake(world, P, R, "rouse")
        case "grant":
            then = "wake for grant" if how.grants_before_it_wakes else "rouse"
            yield world.side(P, then, done=True)
        case "wake for grant":
            yield wake(world, P, R, "rouse" if how.grants_before_it_wakes else "grant")
        case "doze":
            place = "look again" if how.looks_again else "sleep"
            yield world.side(P, place, asleep=put(world.asleep, P, True))
        case "sleep":
            if world.event[P]:
                yield world.side(P, "rouse", event=put(world.event, P, False))
        case "rouse":
            yield world.side(P, "look", asleep=put(world.asleep, P, False), progress=False)


def explore(how: Protocol) -> tuple[int, list[World]]:
    """How many states there are, and those in which nobody can go on and the work is not done."""
    first = World()
    seen, todo, stuck = {first}, deque([first]), []
    while todo:
        world = todo.popleft()
        following = [*receiver(world, how), *packer(world, how)]
        if not following and not (world.done and world.at[R] == "over"):
            stuck.append(world)
        for one in following:
            if one not in seen:
                seen.add(one)
                todo.append(one)
    return len(seen), stuck


def test_nobody_sleeps_while_there_is_work() -> None:
    states, stuck = explore(Protocol())
    print(f"{states} states")
    assert stuck == []
    assert states > 500


LEFT_OUT: list[Callable[[Protocol], Protocol]] = [
    lambda how: replace(how, announces_end=False),
    lambda how: replace(how, looks_again=False),
    lambda how: replace(how, reports_space=False),
    lambda how: replace(how, asks_before_it_looks=False),
    lambda how: replace(how, announces_at=PIECES + 1),
    lambda how: replace(how, grants_before_it_wakes=False),
]


@pytest.mark.parametrize(
    "without",
    LEFT_OUT,
    ids=["end announced", "second look", "space", "ask first", "announced in time", "grant first"],
)
def test_without_one_of_its_guards_somebody_sleeps_for_ever(
    without: Callable[[Protocol], Protocol],
) -> None:
    assert explore(without(Protocol()))[1]


def test_every_state_can_still_come_to_its_end() -> None:
    """No loop in which both only run in circles: from each state the end can be reached."""
    how = Protocol()
    first = World()
    before: dict[World, list[World]] = {first: []}
    todo, ends = deque([first]), []
    while todo:
        world = todo.popleft()
        if world.done and world.at[R] == "over":
            ends.append(world)
        for one in (*receiver(world, how), *packer(world, how)):
            if one not in before:
                before[one] = []
                todo.append(one)
            before[one].append(world)
    reach, todo = set(ends), deque(ends)
    while todo:
        for one in before[todo.popleft()]:
            if one not in reach:
                reach.add(one)
                todo.append(one)
    assert reach == before.keys()
