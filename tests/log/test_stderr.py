"""Row F118: the log file is stderr as well."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.gateway import COMMAND, until, write_config

LINES = 200
"""Lines that each process writes: enough for them to meet."""

WRITES = """
import os, sys
from pathlib import Path
from fastjmix import log

def lines(process):
    log.setup("info", Path(sys.argv[1]), process)
    for number in range(int(sys.argv[2])):
        log.get().info(f"line_{number}", of=process)
        if number % 50 == 0:
            os.write(2, f"another {process} {number}\\n".encode())

child = os.fork()
lines("child" if child == 0 else "parent")
if child:
    os.waitpid(child, 0)
"""

ANY_LINE = re.compile(r"\d{4}-\d\d-\d\dT\S+Z \w+ +[\w-]+ \w+")
LINE = re.compile(r"\S+Z info    (child|parent) line_(\d+) of=\1")


def same(at: Path) -> Path:
    return at


def linked(at: Path) -> Path:
    other = at.with_name("link")
    other.symlink_to(at)
    return other


def hard_linked(at: Path) -> Path:
    other = at.with_name("second-name")
    other.hardlink_to(at)
    return other


def device(_: Path) -> Path:
    return Path("/dev/stderr")


@pytest.mark.fault("F118")
@pytest.mark.parametrize("mode", ["wb", "ab"], ids=[">", ">>"])
@pytest.mark.parametrize("name", [same, linked, hard_linked, device])
def test_each_line_is_there_once(tmp_path: Path, name: Callable[[Path], Path], mode: str) -> None:
    file = tmp_path / "log"
    with file.open(mode) as stderr:
        command = [sys.executable, "-c", WRITES, str(name(file)), str(LINES)]
        subprocess.run(command, stderr=stderr, check=True, timeout=60)
    check(file.read_text())


@pytest.mark.fault("F118")
def test_a_pipe_by_its_name(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITES, "/dev/stderr", str(LINES)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    check(done.stderr)


def check(text: str) -> None:
    lines = text.splitlines()
    others = [line for line in lines if line.startswith("another ")]
    found = [match.groups() for line in lines if (match := LINE.fullmatch(line))]
    assert len(others) + len(found) == len(lines), [one for one in lines if not LINE.match(one)][:9]
    assert len(others) == len(set(others)) == 2 * LINES // 50
    wanted = [(process, str(n)) for process in ("child", "parent") for n in range(LINES)]
    assert sorted(found) == sorted(wanted)


@pytest.mark.fault("F118")
def test_another_file_has_every_line_too(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("wb") as stderr:
        command = [sys.executable, "-c", WRITES, str(tmp_path / "log"), str(LINES)]
        subprocess.run(command, stderr=stderr, check=True, timeout=60)
    check((tmp_path / "stderr").read_text())
    assert len((tmp_path / "log").read_text().splitlines()) == 2 * LINES


@pytest.mark.fault("F118")
def test_a_gateway_whose_stderr_is_its_log_file(tmp_path: Path) -> None:
    """`fastjmix run 2>fastjmix.log`, and logging.log_file_path = "fastjmix.log"."""
    config = write_config(tmp_path, 9)
    logging = '[logging]\nlog_to_file = true\nlog_file_path = "fastjmix.log"\n'
    config.write_text(logging + config.read_text())
    file = tmp_path / "fastjmix.log"
    with file.open("wb") as stderr:
        command = [*COMMAND, "run", "-c", "config.toml"]
        child = subprocess.Popen(command, cwd=tmp_path, stdout=stderr, stderr=stderr)
        try:
            until(lambda: " started " in file.read_text() or child.poll(), "it started")
        finally:
            child.terminate()
            assert child.wait(60) == 0
    lines = file.read_text().splitlines()
    assert [line for line in lines if not ANY_LINE.match(line)] == []
    for event in ("started", "stopping", "stopped"):
        assert sum(f" supervisor {event} " in f"{line} " for line in lines) == 1, lines
