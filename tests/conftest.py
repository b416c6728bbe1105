"""Where tests keep their files, and the gateway that most of them start.

Files go to a disk: a spool refuses to promise anything in memory (F23). Programs are started with
the default of each signal, and find those that the system's administrator uses.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastjmix.config.file_system import memory_under
from fastjmix.spool import Spool
from tests.faults.table import Recorder
from tests.support import published_rules
from tests.support.gateway import Gateways, Store, running

if memory_under(Path(tempfile.gettempdir())) is not None:
    on_disk = Path(__file__).parent.parent / "build" / "tests"
    on_disk.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(on_disk))


def give_children_the_defaults() -> None:
    """Lets every program that a test starts have the default action of these signals.

    A shell starts what runs in the background with SIGINT and SIGQUIT ignored, nohup with SIGHUP:
    exec(2) leaves that so, and Python then knows no KeyboardInterrupt. A handler is reset by
    exec(2). This one does nothing, so the tests themselves go on ignoring the signal.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


give_children_the_defaults()
os.environ["PATH"] += ":/usr/sbin:/sbin"  # mkfs and losetup, for those who use sudo


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fault rows", "rows of docs/faults.md")
    group.addoption("--fault", action="append", metavar="ROW", help="only the tests of this row")
    group.addoption("--fault-rows", action="store_true", help="print the results by row")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fault-rows") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the tests of the rows that `--fault` names."""
    wanted = {row.upper() for row in config.getoption("--fault") or ()}
    if wanted:
        left_out = [item for item in items if wanted.isdisjoint(rows_of(item))]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def rows_of(item: pytest.Item) -> set[str]:
    """Returns the rows of docs/faults.md that a test shows."""
    return {row for marker in item.iter_markers("fault") for row in marker.args}


def pytest_report_header() -> list[str]:
    where = published_rules.SCHEMAS or "not given: only published_rules.py is asked"
    orthanc = shutil.which("Orthanc") or "not installed: storescp alone is asked"
    return [
        f"published JMIX schemas (FASTJMIX_JMIX_SCHEMAS): {where}",
        f"Orthanc (e2e/test_tolerance.py): {orthanc}",
    ]


@pytest.fixture
def seed() -> int:
    """Returns the seed of `random`, shown when the test fails: FASTJMIX_SEED repeats its choices.

    (Threads and processes still meet at moments of their own.)
    """
    chosen = int(os.environ.get("FASTJMIX_SEED", "0")) or random.SystemRandom().getrandbits(32)
    random.seed(chosen)
    print(f"FASTJMIX_SEED={chosen}")
    return chosen


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A JMIX store that a module's gateways deliver to."""
    with running(Store(tmp_path_factory.mktemp("upstream"))) as store:
        yield store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A JMIX store that checks every digest before it answers 201, for a module's gateways."""
    with running(Store(tmp_path_factory.mktemp("upstream"), "--verify-hashes")) as one:
        yield one


@pytest.fixture
def durable() -> bool:
    """Returns whether `spool` is synced; a module or a package may have a fixture of its own."""
    return False


@pytest.fixture
def spool(tmp_path: Path, durable: bool) -> Iterator[Spool]:
    """A spool of this test, with its lock."""
    one = Spool(tmp_path / "spool", durable=durable)
    one.prepare()
    yield one
    one.release()


@pytest.fixture
def gateway_defaults() -> dict[str, Any]:
    """Arguments with which a module starts gateways; it may have a fixture of its own."""
    return {}


@pytest.fixture
def start(tmp_path: Path, gateway_defaults: dict[str, Any]) -> Iterator[Gateways]:
    """Starts gateways: see Gateways. Ends them, and shows their logs when the test fails."""
    started = Gateways(tmp_path, gateway_defaults)
    yield started
    started.close()
