"""Fills a ledger as a node does, and measures insertion, look-ups and the file's size.

    python -m bench.ledger --instances 10000000

Each envelope comes by the files and events of a node: its ticket and provenance are written, the
ledger's writer reads them, and they are deleted again. The rate counts the writer's time only.
Look-ups open the file anew each time, as the API does; words are taken at random from all
envelopes.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from fastjmix.ledger.database import open_for_writing, write_lock
from fastjmix.ledger.queries import Ledger, Search
from fastjmix.ledger.writer import Writer
from fastjmix.spool import AssociationFacts, Provenance, Ticket
from fastjmix.spool.provenance import ArrivedInstance, StudyFacts

PER_ENVELOPE: Final = 500
SERIES: Final = 4
MORNING: Final = 1_700_000_000.0
SAMPLES: Final = 100

FAMILY: Final = ("Müller", "Nguyen", "Yamada", "O'Neil", "García", "Kowalska", "Øster", "Smith")
GIVEN: Final = ("Anna", "Jürgen", "Tarou", "Zoë", "José", "Ewa", "Per", "Mary")

Words = dict[str, list[str]]


@dataclass
class Filled:
    """A ledger that was filled: seconds that its writer took, and words that are in it."""

    ledger: Ledger
    path: Path
    instances: int
    secs: float = 0.0
    words: Words = field(default_factory=dict)

    @property
    def bytes_an_instance(self) -> float:
        """The file's bytes, by the instances in it."""
        return self.path.stat().st_size / self.instances


class Envelopes:
    """Makes envelopes of a hospital: UIDs by device, study and series, or (`scattered`) UIDs of
    which each is a UUID, the worst case for the index."""

    def __init__(self, storage: Path, rng: random.Random, *, scattered: bool) -> None:
        self._storage = storage
        self._rng = rng
        self._scattered = scattered
        for name in ("building", "outbox", "sent", "rejected", "provenance"):
            (storage / name).mkdir(exist_ok=True)

    def make(self, number: int) -> tuple[Provenance, Ticket]:
        """Returns the provenance and the ticket of an envelope."""
        at = MORNING + 60.0 * number
        device = self._rng.randrange(20)
        stem = f"1.2.840.113619.2.55.3.{2831164000 + device}.{int(at * 1000)}"
        series = tuple(f"{stem}.{n}" for n in range(1, SERIES + 1))
        envelope_id = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        patient = self._rng.randrange(100_000)
        name = f"{self._rng.choice(FAMILY)}{patient % 997}^{self._rng.choice(GIVEN)}"
        study = StudyFacts(
            stem, f"A{number:08}", f"P{patient:07}", name, "19700101", "F", "20240101", "CT Thorax",
            ("CT",),
        )  # fmt: skip
        facts = AssociationFacts(
            f"18c5a000000-{number}", f"CT{device}", "FASTJMIX",
            f"10.0.{device}.7:{40000 + number % 20000}", "1.2.840.113619.6.408", "GE_1", at,
        )  # fmt: skip
        rows = tuple(
            ArrivedInstance(
                self._instance(series[n % SERIES], n), n % SERIES, 0, 0, 0,
                round(at + n / 50 + self._rng.random() / 100, 3),
                525_000 + self._rng.randrange(400),
            )
            for n in range(PER_ENVELOPE)
        )  # fmt: skip
        origin = Provenance(
            envelope_id, "dicom", (facts,), study, series, ("1.2.840.10008.5.1.4.1.1.2",),
            ("1.2.840.10008.1.2.1",), rows,
        )  # fmt: skip
        ticket = Ticket(
            envelope_id, "p", (f"upstream{device % 3}",), "stored", (stem,), f"CT{device}",
            PER_ENVELOPE, 525_000 * PER_ENVELOPE, at + 12, "packer-0",
        )  # fmt: skip
        return origin, ticket

    def _instance(self, series: str, number: int) -> str:
        return f"2.25.{self._rng.getrandbits(128)}" if self._scattered else f"{series}.{number}"

    def place(self, origin: Provenance, ticket: Ticket) -> list[Path]:
        """Writes the files of an envelope that was delivered; returns them."""
        files = [
            self._storage / "provenance" / f"{ticket.id}.json",
            self._storage / "sent" / f"{ticket.id}.json",
            self._storage / "sent" / f"{ticket.id}.zip",
        ]
        for path, data in zip(files, (origin.dump(), ticket.dump(), b""), strict=True):
            path.write_bytes(data)
        return files


def events_of(origin: Provenance, ticket: Ticket) -> Iterator[dict[str, Any]]:
    """Yields the events of an envelope from its opening to its delivery."""
    facts, about = (
        origin.associations[0],
        {"envelope": ticket.id, "upstream": ticket.upstream_names},
    )
    at = ticket.sealed_at
    opened = {"study_instance_uid": ticket.studies[0], "pipeline": "p", "association": facts.id}
    yield {
        "kind": "opened", "at": facts.began, "calling_ae": facts.calling_ae,
        **about, **opened,
    }  # fmt: skip
    ended = {"ended": at, "statuses": {"0000": PER_ENVELOPE}}
    yield {"kind": "association", "at": at, **ended, **facts.as_json()}
    yield {"kind": "sealed", "at": at, "envelope": ticket.id}
    yield {
        "kind": "attempt", "at": at + 3, "began": at + 1, "seconds": 2.0, "outcome": "delivered",
        "bytes": ticket.size_bytes, "status": 201, "reason": "", "answer": "", **about,
    }  # fmt: skip
    yield {"kind": "moved", "at": at + 3, "state": "sent", "reason": "delivered", **about}


def fill(
    storage: Path,
    instances: int,
    *,
    scattered: bool = False,
    batch: int = 8,
    progress: Callable[[int, float], None] = lambda *_: None,
) -> Filled:
    """Fills the ledger of a storage directory, `batch` envelopes in a transaction."""
    rng = random.Random(17)
    envelopes = Envelopes(storage, rng, scattered=scattered)
    words: Words = {}
    secs = 0.0
    with write_lock(storage):
        connection = open_for_writing(storage)
        writer = Writer(connection, storage)
        for number in range(0, max(1, instances // PER_ENVELOPE), batch):
            made = [envelopes.make(number + n) for n in range(batch)]
            files = [path for one in made for path in envelopes.place(*one)]
            events = [event for one in made for event in events_of(*one)]
            began = time.perf_counter()
            writer.apply(events)
            secs += time.perf_counter() - began
            for path in files:
                path.unlink()
            if rng.random() < SAMPLES * batch * PER_ENVELOPE / instances:
                note(words, *made[0])
            progress((number + batch) * PER_ENVELOPE, secs)
        count = connection.execute("SELECT total(instances) FROM envelopes").fetchone()[0]
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
    path = storage / "ledger" / "ledger.sqlite"
    return Filled(Ledger(storage), path, int(count), secs, words)


def note(words: Words, origin: Provenance, ticket: Ticket) -> None:
    """Keeps the words by which an envelope is found."""
    found = {
        "study": ticket.studies[0],
        "series": origin.series[1],
        "instance": origin.instances[321].sop_instance_uid,
        "accession": origin.study.accession_number,
        "patient_id": origin.study.patient_id,
        "patient_name": origin.study.patient_name,
        "envelope": ticket.id,
        "envelope prefix": ticket.id[:8],
        "association": origin.associations[0].id,
    }
    for kind, word in found.items():
        words.setdefault(kind, []).append(word)


def searches(filled: Filled) -> dict[str, list[Callable[[], object]]]:
    """Returns look-ups by their names: a page of a search, or a whole story."""
    ledger = filled.ledger
    names = {"study", "series", "instance", "accession", "patient_id", "patient_name"}
    found: dict[str, list[Callable[[], object]]] = {}
    for kind, words in filled.words.items():
        found[f"trace {kind}"] = [partial(ledger.trace, word) for word in words]
        if kind in names:
            found[f"search {kind}"] = [
                partial(ledger.search, _search_by(kind, word)) for word in words
            ]
    last = MORNING + 60.0 * filled.instances / PER_ENVELOPE
    others = {
        "search name prefix": Search(patient_name="yama"),
        "search calling AE": Search(calling_ae="CT7"),
        "search peer": Search(peer="10.0.7.7"),
        "search upstream": Search(upstream="upstream1"),
        "search state": Search(states=("sent",)),
        "search time span": Search(since=last / 2 + MORNING / 2, until=last),
        "search AE, name and time": Search(calling_ae="CT7", patient_name="mu", until=last),
    }
    for name, search in others.items():
        found[name] = [partial(ledger.search, search)] * 20
    found["counts by state"] = [ledger.counts_by_state] * 20
    return found


def _search_by(kind: str, word: str) -> Search:
    given: dict[str, Any] = {kind: word}
    return Search(**given)


def measure(filled: Filled) -> dict[str, list[tuple[float, float]]]:
    """Returns the milliseconds of each look-up, and those of them on the processor, by its name.

    The rest was spent waiting: for the disk, or for other processes.
    """
    times: dict[str, list[tuple[float, float]]] = {}
    for name, questions in searches(filled).items():
        for question in questions:
            began = time.perf_counter(), time.thread_time()
            question()
            spent = time.perf_counter() - began[0], time.thread_time() - began[1]
            times.setdefault(name, []).append((1000 * spent[0], 1000 * spent[1]))
    return times


def main() -> None:
    """Fills a ledger below a directory, and prints what it measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--instances", type=int, default=10_000_000)
    parser.add_argument("--directory", type=Path, default=None, help="of the temporary files")
    parser.add_argument("--scattered", action="store_true", help="each UID is a UUID (2.25.…)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.directory) as directory:

        def progress(done: int, secs: float) -> None:
            if done % 500_000 == 0:
                print(f"{done:>12,} instances, {done / secs:,.0f} a second", file=sys.stderr)

        filled = fill(
            Path(directory), given.instances, scattered=given.scattered, progress=progress
        )
        print(f"instances           {filled.instances:>12,}")
        print(f"inserted a second   {filled.instances / filled.secs:>12,.0f}")
        print(f"bytes of the file   {filled.path.stat().st_size:>12,}")
        print(f"bytes an instance   {filled.bytes_an_instance:>12.1f}")
        print(f"{'look-up':<28}{'median ms':>10}{'worst ms':>10}{'worst on the CPU':>18}")
        for name, times in measure(filled).items():
            wall, busy = zip(*times, strict=True)
            print(f"{name:<28}{statistics.median(wall):>10.1f}{max(wall):>10.1f}{max(busy):>18.1f}")


if __name__ == "__main__":
    main()
