"""Row S38: a peer whose every message is a line in the log."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path

import pytest

from fastjmix import log
from fastjmix.log import rates as log_rates
from fastjmix.log.rates import LINES_A_SECOND, LINES_AT_ONCE, WARNINGS_A_SECOND
from tests.support.dicom_peers import message
from tests.support.gateway import Gateway, Peer, running, until


def lines_of(file: Path, event: str) -> list[str]:
    return [line for line in file.read_text().splitlines() if f" {event} " in line + " "]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Makes a log of this process, whose clock the test moves."""
    self_made = tmp_path / "log"
    log.setup("info", self_made, "tested")
    return self_made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(log_rates, "monotonic", lambda: now[0])
    return now


@pytest.mark.fault("S38")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_lines_of_one_event(clock: list[float], file: Path, off: int) -> None:
    for number in range(LINES_AT_ONCE + off):
        log.get().warning("a_mistake", number=number)
    assert len(lines_of(file, "a_mistake")) == min(LINES_AT_ONCE, LINES_AT_ONCE + off)
    counts = lines_of(file, "log_lines_left_out")
    assert len(counts) == max(0, off)
    assert all("of=a_mistake count=1" in line for line in counts)
    log.get().warning("another")
    assert lines_of(file, "another")


@pytest.mark.fault("S38")
@pytest.mark.parametrize(
    ("method", "rate"), [("warning", WARNINGS_A_SECOND), ("info", LINES_A_SECOND)]
)
def test_lines_in_the_long_run(clock: list[float], file: Path, method: str, rate: int) -> None:
    """And every line that was left out is counted once."""
    seconds, each = 40, rate * 2
    write = getattr(log.get(), method)
    for _ in range(LINES_AT_ONCE):
        write("a_mistake")
    for _ in range(seconds):
        clock[0] += 1.0
        for _ in range(each):
            write("a_mistake")
    kept = len(lines_of(file, "a_mistake"))
    assert kept == LINES_AT_ONCE + seconds * rate
    clock[0] += log_rates.COUNT_SECS
    log.get().info("another")  # the next line, of any event, brings the count
    counts = [int(re.findall(r"count=(\d+)", t)[0]) for t in lines_of(file, "log_lines_left_out")]
    assert sum(counts) == LINES_AT_ONCE + seconds * each - kept
    assert len(counts) <= 2 + seconds / log_rates.COUNT_SECS


@pytest.mark.fault("S38")
def test_names_of_events_do_not_gather(clock: list[float], file: Path) -> None:
    rates = log_rates.Rates(lambda *_: None)
    for number in range(log_rates.EVENTS_MAX + 1):
        assert rates.takes("info", f"{number}" + "x" * 100)
    assert rates.takes("info", 7)
    assert len(rates._of) == log_rates.EVENTS_MAX
    assert max(map(len, rates._of)) == log_rates.NAME_CHARS_MAX


@pytest.mark.fault("S38")
def test_refused_instances_do_not_fill_the_log(tmp_path: Path) -> None:
    """One modality has a mistake in each image; its association is still listed."""
    few = "from fastjmix.log import rates as log_rates; log_rates.LINES_AT_ONCE = 50"
    with running(Gateway(tmp_path / "own", 9, first=few)) as own:
        began = time.monotonic()
        with Peer(own.dicom_port) as peer:
            assert peer.associate()[0] == 2
            for number in itertools.count(1):
                peer.send(message(bytes(8), f"1.2.3.{number}"))  # no UIDs in it: C000 or C002
                assert peer.status() & 0xF000 == 0xC000
                if number == 1000:
                    break
        secs = time.monotonic() - began
        until(lambda: any("association_ended" in line for line in own.lines), "it is over")
        refused = sum(" instance_refused " in line for line in own.lines)
        assert 50 <= refused <= 50 + WARNINGS_A_SECOND * (secs + 1)
        assert any("log_lines_left_out of=instance_refused" in line for line in own.lines)
        (ended,) = [line for line in own.lines if " association_ended " in line]
        assert "refused=1000" in ended
