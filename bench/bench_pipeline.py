"""P1 to P12: the goals of the throughput issue, each with its floors and peers in the same run.

Every function `p…` measures one row and states its goals; ROWS lists them. fastjmix runs as its
users run it. The work is done when the last response was read and the association released, except
where a row says otherwise (P8: until the upstream's 201; P11: from the release to outbox/).

Still wrong: 64 associations at once, one association an instance, and the row of one large instance
are sent by bench/sender.py, since storescu cannot; it takes part of a processor, as storescu does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from bench import machine, peers, sender
from bench.forms import Form
from bench.peers import Curl, FastJmix, Floor, Missing, Orthanc, Receiver, Script, Store, StoreScp
from bench.rounds import OURS, Contestant, Row, interleave, say
from bench.study import CT_STUDY, MR_STUDY, SLIVER_STUDY, TINY_STUDY, Study
from bench.workspace import Workspace
from tests.support import gateway

TUNED: Final = "storescp tuned"
FORKED: Final = "storescp --fork tuned"
SHIPPED: Final = "storescp as shipped"
PYNETDICOM: Final = "pynetdicom"
ORTHANC: Final = "Orthanc, TCP_NODELAY=1"
DISCARD: Final = "floor: discard"
WRITE: Final = "floor: write"
HASH: Final = "floor: write + CRC + SHA-256"
LANE: Final = "floor: lane prototype"
RELAY: Final = "floor: lane prototype, no sums"
CURL: Final = "floor: curl, the delivery alone"


def _scu(
    receiver: Receiver | None, studies: Sequence[Study], space: Workspace, **options: object
) -> Contestant | None:
    """A receiver that storescu sends the studies to, one process an association."""
    if receiver is None:
        return None
    rounds = options.pop("rounds", None)
    name = str(options.pop("name", receiver.name))
    return Contestant(
        name,
        receiver.clear,
        lambda: peers.storescu_to(receiver, [space.files(study) for study in studies], **options),
        partial(receiver.check, studies),
        rounds,  # type: ignore[arg-type]
        f"{receiver.command} ← {sender.storescu_command(**options)}",  # type: ignore[arg-type]
    )


def _own(
    receiver: Receiver | None,
    studies: Sequence[Study],
    send: Callable[[int, str], float],
    name: str = "",
    rounds: int | None = None,
) -> Contestant | None:
    """A receiver that bench/sender.py sends to."""
    if receiver is None:
        return None
    return Contestant(
        name or receiver.name,
        receiver.clear,
        lambda: send(receiver.port, receiver.aet),
        partial(receiver.check, studies),
        rounds,
        f"{receiver.command} ← bench/sender.py",
    )


def _run(row: Row, space: Workspace, *contestants: Contestant | None, rounds: int = 0) -> None:
    there = [one for one in contestants if one is not None]
    interleave(row, there, rounds or space.form.rounds)


def _clear(*held: Receiver | Store) -> None:
    for one in held:
        one.clear()


def _half(form: Form) -> int:
    """Rounds of a row that takes long."""
    return (form.rounds + 1) // 2


def p1(row: Row, space: Workspace) -> None:
    """ct, one association, SHA-256 + listing"""
    study = CT_STUDY.sized(space.form.ct)
    start = partial(space.start, row)
    _run(
        row,
        space,
        *(
            _scu(receiver, [study], space)
            for receiver in (
                start(FastJmix, OURS),
                start(StoreScp, TUNED),
                start(Floor, DISCARD, space.floor, "discard"),
                start(Floor, WRITE, space.floor, "write"),
                start(Floor, HASH, space.floor, "hash"),
                start(Floor, LANE, space.floor, "lane"),
            )
        ),
        _scu(start(Script, PYNETDICOM), [study], space, rounds=space.form.slow),
    )
    row.compare("of tuned storescp, which does not hash", OURS, TUNED, 0.75)
    row.compare("of the same work in one C thread", OURS, HASH, 0.8)
    row.compare("of the lane prototype", OURS, LANE, 1.15)


def p2(row: Row, space: Workspace) -> None:
    """ct, one association, skip_hashing + skip_listing"""
    study = CT_STUDY.sized(space.form.ct)
    start = partial(space.start, row)
    receivers = (
        start(FastJmix, OURS, hashing=False),
        start(StoreScp, TUNED),
        start(Floor, DISCARD, space.floor, "discard"),
        start(Floor, WRITE, space.floor, "write"),
        start(Floor, RELAY, space.floor, "relay"),
    )
    _run(row, space, *(_scu(receiver, [study], space) for receiver in receivers))
    row.compare("of tuned storescp", OURS, TUNED, 0.65)
    row.compare("of a C loop that writes", OURS, WRITE, 1.1)


def p3(row: Row, space: Workspace) -> None:
    """mr, one association, SHA-256"""
    study = MR_STUDY.sized(space.form.mr)
    start = partial(space.start, row)
    receivers = (
        start(FastJmix, OURS),
        start(StoreScp, TUNED),
        start(Floor, DISCARD, space.floor, "discard"),
        start(Floor, HASH, space.floor, "hash"),
        start(Floor, LANE, space.floor, "lane"),
    )
    slow = _scu(start(Script, PYNETDICOM), [study], space, rounds=space.form.slow)
    _run(row, space, *(_scu(receiver, [study], space) for receiver in receivers), slow)
    row.compare("of tuned storescp", OURS, TUNED, 0.45)
    row.compare("pynetdicom's rate", PYNETDICOM, OURS, 15, "at least")


def p4(row: Row, space: Workspace) -> None:
    """ct × 4, × 16 and × 64 associations, SHA-256"""
    start = partial(space.start, row)
    ours, forked = start(FastJmix, OURS), start(StoreScp, FORKED, fork=True)
    four = [CT_STUDY.sized(space.form.parallel).other(copy) for copy in range(4)]
    contestants = [_scu(receiver, four, space) for receiver in (ours, forked)]
    slow = _scu(start(Script, PYNETDICOM), four, space, rounds=space.form.slow)
    contestants.append(slow)
    for count in (4, 16, 64):  # the same number of bytes, in more associations
        each = CT_STUDY.sized(max(1, space.form.parallel * 4 // count))
        studies = [each.other(copy) for copy in range(count)]
        send = partial(sender.at_once, studies=studies)
        for receiver in (ours, forked):
            name = f"{receiver.name} × {count}" if receiver else ""
            contestants.append(_own(receiver, studies, send, name))
    _run(row, space, *contestants, rounds=_half(space.form))
    row.compare("of storescp --fork, 4 storescu", OURS, FORKED, 0.9)
    for count in (16, 64):
        text = f"of storescp --fork, {count} associations"
        row.compare(text, f"{OURS} × {count}", f"{FORKED} × {count}", 0.9)
    # The share that 64 associations send of what 4 send: the division has a remainder.
    held = max(1, space.form.parallel * 4 // 64) * 64 / (space.form.parallel * 4)
    text = "rate at 64 associations, of the rate at 4"
    row.compare(text, f"{OURS} × 4", f"{OURS} × 64", 0.9, "at least")
    if row.goals[-1].value is not None:
        row.goals[-1].value *= held  # times became rates
    row.remarks.append(
        f"4 × {space.form.parallel} instances, and as many in all over 16 and 64 associations; "
        "each association has a study of its own. × 4, × 16 and × 64 are sent by bench/sender.py."
    )


def p5(row: Row, space: Workspace) -> None:
    """ct from storescu with Nagle's algorithm on"""
    study = CT_STUDY.sized(space.form.ct)
    ours = space.start(row, FastJmix, OURS)
    shipped = space.start(row, StoreScp, SHIPPED, tuned=False)
    without = f"{OURS}, sender with TCP_NODELAY=1 (P1)"
    _run(
        row,
        space,
        _scu(ours, [study], space, nagle=True),
        _scu(ours, [study], space, name=without),
        _scu(shipped, [study], space, nagle=True, rounds=space.form.slow),
    )
    row.compare("of P1's own time", OURS, without, 1.15)
    row.compare("faster than storescp as shipped", SHIPPED, OURS, 40, "at least")


def p6(row: Row, space: Workspace) -> None:
    """ct, durability fsync"""
    study = CT_STUDY.sized(space.form.ct)
    cached = f"{OURS}, page-cache (P1)"
    _run(
        row,
        space,
        _scu(space.start(row, FastJmix, OURS, durability="fsync"), [study], space),
        _scu(space.start(row, FastJmix, cached), [study], space),
        _scu(space.start(row, StoreScp, TUNED), [study], space),
        _scu(space.start(row, Orthanc, ORTHANC), [study], space, rounds=space.form.slow),
    )
    row.compare("of P1", OURS, cached, 1.5)
    row.compare("faster than Orthanc with TCP_NODELAY=1", ORTHANC, OURS, 4, "at least")


def p7(row: Row, space: Workspace) -> None:
    """one association per instance, 33 KB each"""
    study = TINY_STUDY.sized(space.form.each)
    start = partial(space.start, row)
    send = partial(sender.one_each, study=study)
    slow = start(Script, PYNETDICOM)
    _run(
        row,
        space,
        _own(start(FastJmix, OURS), [study], send),
        _own(start(StoreScp, TUNED), [study], send),
        _own(slow, [study], send, rounds=space.form.slow),
    )
    row.compare("pynetdicom's rate", PYNETDICOM, OURS, 5, "at least")


def p8(row: Row, space: Workspace) -> None:
    """receive + package + upload to `fastjmix store`, ct, until the 201"""
    study = CT_STUDY.sized(space.form.ct)
    store = space.serve(Store, "store")
    ours = space.start(row, FastJmix, OURS, grace=0, upstream=store.port)
    script = space.start(row, Script, "straightforward script", store.url)

    def delivered() -> float:
        assert ours is not None
        return peers.delivered_by(ours, [space.files(study)], study.instances)

    def scripted() -> float:
        assert script is not None
        begun = time.perf_counter()
        peers.storescu_to(script, [space.files(study)])
        answer = script.line().split()
        if answer != [str(study.instances), "201"]:
            raise Missing(f"the script says {answer}")
        return time.perf_counter() - begun

    def packed() -> None:
        assert script is not None
        if len(list(script.out.glob("*.dcm"))) != study.instances:
            raise Missing("the script lost instances")

    contestants: list[Contestant | None] = [None, None]
    if ours is not None:
        clear = partial(_clear, ours, store)
        check = partial(ours.check, [study])
        contestants[0] = Contestant(OURS, clear, delivered, check, command=ours.command)
    if script is not None:
        clear_script = partial(_clear, script, store)
        contestants[1] = Contestant(
            script.name, clear_script, scripted, packed, space.form.slow, script.command
        )
    _run(row, space, *contestants, _curl(row, space, ours, study))
    row.compare("faster than the script", "straightforward script", OURS, 5, "at least")


def _curl(row: Row, space: Workspace, ours: FastJmix | None, study: Study) -> Contestant | None:
    """Shows what the uploader could save: a C program that sends an archive which lies there."""
    curl = space.start(row, Curl, CURL, ours) if ours else None
    if curl is None:
        return None
    return Contestant(CURL, curl.clear, curl.run, partial(curl.check, [study]), None, curl.command)


def p9(row: Row, space: Workspace) -> None:
    """ct in PDUs of 16 KB"""
    study = CT_STUDY.sized(space.form.ct)
    ours, tuned = space.start(row, FastJmix, OURS), space.start(row, StoreScp, TUNED)
    large = f"{OURS}, 128 KB PDUs (P1)"
    _run(
        row,
        space,
        _scu(ours, [study], space, pdu=16384),
        _scu(ours, [study], space, name=large),
        _scu(tuned, [study], space, pdu=16384),
    )
    row.compare("of P1", OURS, large, 1.3)


def p10(row: Row, space: Workspace) -> None:
    """memory: 64 associations open and 16 of them sending; one multi-frame instance"""
    row.unit = "MB"
    ours = space.start(row, FastJmix, OURS)
    if ours is None:
        return
    studies = [CT_STUDY.sized(space.form.sending).other(copy) for copy in range(16)]
    frames = [Study("frames", 1, 1000, 500, frames=mb, copy=mb) for mb in space.form.frames]
    cases: list[tuple[str, list[Study], Callable[[], object]]] = [
        (
            "64 open, 16 sending",
            studies,
            lambda: sender.with_others_open(ours.port, ours.aet, studies, 48),
        )
    ]
    for one in frames:
        name = f"one instance of {one.pixel_bytes // 1_000_000} MB"
        cases.append((name, [one], partial(sender.at_once, ours.port, ours.aet, [one])))
    for name, sent, send in cases:
        ours.clear()
        with machine.Peak(ours.pid) as peak:
            send()
            ours.await_instances(sum(study.instances for study in sent))
        ours.check(sent)
        for key, label in (("own", "own"), ("lanes", "lanes"), ("Rss", "sum of RSS")):
            row.times[f"{name}: {label}"] = [peak.bytes[key] / 1e6]
        say(f"{row.name}   {name}: {peak.bytes}")
        row.require(f"{name}, lanes not counted", f"{name}: own", 250, "MB")
    ours.clear()
    first, last = (f"{cases[i][0]}: own" for i in (1, -1))
    row.compare("of the memory for the small instance", last, first, 1.1)
    row.commands[OURS] = ours.command
    row.remarks.append(
        "own: Pss of all processes but shared memory, at its peak; lanes: memory that the "
        "lanes hold, touched or not; "
        "sum of RSS counts what processes share (program, libraries, lanes) once for each."
    )


def p11(row: Row, space: Workspace) -> None:
    """seal: from the release to outbox/"""
    largest = space.form.seals[-1]
    small = space.form.seals[0]
    big = Study("large", small, space.form.seal_rows, space.form.seal_rows, copy=7)
    work = [SLIVER_STUDY.sized(count) for count in space.form.seals] + [big]

    def seal(receiver: FastJmix, study: Study) -> float:
        released = sender.released_at(receiver.port, receiver.aet, study)
        receiver.await_instances(study.instances)
        return time.perf_counter() - released

    contestants = []
    for durability in ("page-cache", "fsync"):
        receiver = space.start(
            row, FastJmix, durability, durability=durability, grace=0, max_instances=2 * largest
        )
        for study in work if receiver else ():
            assert receiver is not None
            name = f"{durability}, {study.instances} × {study.pixel_bytes} B"
            contestants.append(
                Contestant(
                    name,
                    receiver.clear,
                    partial(seal, receiver, study),
                    partial(receiver.check, [study]),
                    command=receiver.command,
                )
            )
    _run(row, space, *contestants, rounds=_half(space.form))

    def named(durability: str, study: Study) -> str:
        return f"{durability}, {study.instances} × {study.pixel_bytes} B"

    for durability in ("page-cache", "fsync"):
        most, least, heavy = (named(durability, work[i]) for i in (-2, 0, -1))
        row.require(f"{largest} instances, {durability}", most, 1.0, "s")
        factor = largest / small
        text = f"{durability}: {largest} instances, of the time for {small} (linear: {factor:g})"
        row.compare(text, most, least, 1.3 * factor)
        times = big.pixel_bytes // work[0].pixel_bytes
        row.compare(f"{durability}: {times} times the bytes, of the time", heavy, least, 1.5)


def p12(row: Row, space: Workspace) -> None:
    """idle, and the start"""
    row.unit = "s"
    ours = space.start(row, FastJmix, OURS)
    if ours is not None:
        sender.echo(ours.port, ours.aet)
        time.sleep(min(3.0, space.form.idle_secs))  # what an association leaves behind ends first
        before, spent = machine.cpu(ours.pid)
        time.sleep(space.form.idle_secs)
        after, spent_after = machine.cpu(ours.pid)
        row.times["CPU ticks while idle"] = [after - before]
        row.times["CPU while idle"] = [(spent_after - spent) / 1000]
        row.remarks.append(f"Idle for {space.form.idle_secs:g} s; a tick is 10 ms.")
    for number in range(space.form.starts):
        listening = _start(space.directory(f"start-{number}"))
        row.times.setdefault("command to C-ECHO", []).append(listening)
        say(f"{row.name}   listening after {listening:.3f} s")
    row.require("ticks of CPU (measurable: more than one)", "CPU ticks while idle", 1, "ticks")
    row.require("from the command to an accepted C-ECHO", "command to C-ECHO", 1.5, "s")


def _start(directory: Path) -> float:
    """Seconds from the command to an accepted C-ECHO."""
    config = gateway.write_config(directory, peers.NOWHERE)
    port = peers.free_port()
    config.write_text(config.read_text().replace("bind_port = 0", f"bind_port = {port}", 1))
    begun = time.perf_counter()
    process = gateway.Process("run", "-c", "config.toml", cwd=directory)
    try:
        while not sender.echo(port, FastJmix.aet):
            if time.perf_counter() - begun > peers.PATIENCE or process.child.poll() is not None:
                raise Missing("the gateway did not answer a C-ECHO:\n" + process.log()[-500:])
            time.sleep(0.005)
        return time.perf_counter() - begun
    finally:
        process.stop()
        process.close()


ROWS: Final[dict[str, Callable[[Row, Workspace], None]]] = {
    one.__name__.upper(): one for one in (p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, p12)
}


def measure(name: str, space: Workspace) -> Row:
    """One row; whatever happens in it, it is a row, and its processes are gone."""
    function = ROWS[name]
    row = Row(name, (function.__doc__ or "").strip())
    say(f"{name}  {row.title}")
    begun = time.perf_counter()
    try:
        function(row, space)
    except Exception as problem:
        row.failed["row"] = f"{type(problem).__name__}: {problem}"[:300]
        say(f"{name}   failed: {row.failed['row']}")
    finally:
        space.close()
    row.seconds = time.perf_counter() - begun
    for goal in row.goals:
        value = "not measured" if goal.value is None else f"{goal.value:.3g} {goal.unit}"
        say(f"{name}   {value} ({goal.sense} {goal.limit:g}) {goal.text}")
    return row
