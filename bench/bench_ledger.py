"""The ledger: insertion of envelopes, and look-ups. Floor: as many rows by SQLite alone.

`python -m bench.ledger` does the same with ten million instances, which takes minutes.
"""

from __future__ import annotations

import itertools
import sqlite3
from typing import Any

import pytest

from bench.ledger import PER_ENVELOPE, Filled, fill, searches
from fastjmix.ledger.terms import uid_key

INSTANCES = 100_000
KINDS = ("trace study", "trace instance", "search accession", "search patient_name")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    return fill(tmp_path_factory.mktemp("ledger"), INSTANCES)


def bench_insertion(benchmark: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fills an empty ledger with 20 envelopes of 500 instances, files and all."""
    benchmark.group = "10,000 instances into the ledger"

    def insert() -> Filled:
        return fill(tmp_path_factory.mktemp("new"), 20 * PER_ENVELOPE, batch=20)

    assert benchmark(insert).instances == 20 * PER_ENVELOPE


def bench_floor_sqlite(benchmark: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The rows of the index alone, in one transaction."""
    benchmark.group = "10,000 instances into the ledger"
    keys = [uid_key(f"1.2.{n // 125}.{n}") for n in range(20 * PER_ENVELOPE)]

    def insert() -> int:
        connection = sqlite3.connect(tmp_path_factory.mktemp("plain") / "plain.sqlite")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        table = "CREATE TABLE uids (key INTEGER, envelope INTEGER, PRIMARY KEY (key, envelope))"
        connection.execute(f"{table} WITHOUT ROWID")
        with connection:
            rows = ((key, 1) for key in keys)
            connection.executemany("INSERT INTO uids VALUES (?, ?)", rows)
        count = connection.execute("SELECT count(*) FROM uids").fetchone()[0]
        connection.close()
        return int(count)

    assert benchmark(insert) == len(keys)


@pytest.mark.parametrize("kind", KINDS)
def bench_look_up(benchmark: Any, filled: Filled, kind: str) -> None:
    """One question among 100,000 instances: the file is opened anew for each."""
    benchmark.group = "look-up in the ledger"
    questions = itertools.cycle(searches(filled)[kind])
    assert benchmark(lambda: next(questions)()) is not None
