"""log/outlets.py: a log file that logrotate renames."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastjmix import log
from fastjmix.log.outlets import LogFile
from tests.support.gateway import COMMAND, Gateway, Peer, running, until, write_config

ROOT = Path(__file__).parents[2]
ROUNDS = 5


def table(file: str) -> str:
    return f'\n[logging]\nlog_to_file = true\nlog_file_path = "{file}"\n'


def echo(port: int) -> None:
    with Peer(port) as peer:
        peer.associate()
        peer.release()


# -- one process -----------------------------------------------------------------------------------


def test_a_line_goes_to_the_file_of_the_name(tmp_path: Path) -> None:
    file, before = tmp_path / "log", tmp_path / "log.1"
    log.setup("info", file, "tested")
    log.get().info("one")
    file.rename(before)
    log.get().info("two")
    assert log.get().reopen()
    log.get().info("three")
    assert [" ".join(line.split()[3:]) for line in before.read_text().splitlines()] == [
        "one",
        "two",
    ]
    assert file.read_text().endswith(" three\n")
    assert file.stat().st_mode & 0o777 == 0o600
    open_files = [
        str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if one.is_symlink()
    ]
    assert str(before) not in open_files
    log.setup("info", None, "tested")


def events(file: Path) -> list[str]:
    return [line.split()[3] for line in file.read_text().splitlines()]


def test_the_level_the_form_and_the_file_change_while_lines_are_written(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    log.setup("info", first, "tested")
    held = first.stat().st_ino
    log.get().debug("left_out")
    log.change("debug", first)
    log.get().debug("one")
    log.change("warn", first)
    log.get().info("left_out")
    log.change("info", second)
    log.get().info("two")
    log.change("info", second, "json", "off")
    log.get().info("three", study=log.get().study("1.2.3"))
    log.change("info", None)
    log.get().info("nowhere")
    assert first.stat().st_ino == held
    assert events(first) == ["one"]
    text, in_json = second.read_text().splitlines()
    assert text.split()[2:] == ["tested", "two"]
    found = json.loads(in_json)
    assert (found["process"], found["event"]) == ("tested", "three")
    assert "study" not in found


def test_a_file_that_cannot_be_opened_leaves_the_log_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.touch()
    log.setup("info", file, "tested")
    with pytest.raises(OSError):
        log.change("error", file / "below", "json")
    log.get().info("one")
    assert events(file) == ["one"]
    log.setup("info", None, "tested")


def test_without_a_new_file_the_renamed_one_takes_the_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory was renamed, and a file is in its place."""
    directory = tmp_path / "logs"
    held = LogFile(directory / "log")
    held.open()
    directory.rename(tmp_path / "before")
    directory.write_text("in the way")
    assert not held.reopen()
    held.write(b"one\n")
    directory.unlink()
    held.write(b"two\n")  # not tried again yet
    assert (tmp_path / "before" / "log").read_bytes() == b"one\ntwo\n"
    directory.write_text("in the way")
    monkeypatch.setattr("fastjmix.log.outlets.REOPEN_SECS", 0)
    assert not held.reopen()
    directory.unlink()
    held.write(b"three\n")  # now it is
    held.close()
    assert (directory / "log").read_bytes() == b"three\n"


def test_a_file_that_could_not_be_opened_is_opened_at_once(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.write_text("in the way")
    held = LogFile(directory / "log")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        held.open()
    directory.unlink()
    with pytest.raises(BlockingIOError):
        held.write(b"lost\n")
    assert held.reopen()
    held.write(b"kept\n")
    held.close()
    assert (directory / "log").read_bytes() == b"kept\n"


INTERRUPTED = """
import os, signal, sys, threading
from pathlib import Path
from fastjmix import log
file = Path(sys.argv[1])
log.setup("info", file, "x")
signal.signal(signal.SIGUSR1, lambda *_: log.get().reopen())
own = os.getpid()

def rename():
    for number in range(200):
        file.rename(f"{file}.{number}")
        os.kill(own, signal.SIGUSR1)
        while not file.exists():
            pass

renaming = threading.Thread(target=rename)
renaming.start()
number = 0
while renaming.is_alive():
    log.get().info(f"line_{number}")
    number += 1
print(number)
"""


def test_a_signal_may_interrupt_a_line(tmp_path: Path) -> None:
    """The file is renamed 200 times while lines are written as fast as they can be."""
    first = "from fastjmix.log import rates; rates.LINES_AT_ONCE = 10**9\n"
    command = [sys.executable, "-c", first + INTERRUPTED, str(tmp_path / "log")]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=99,
        check=True,
    )
    lines = [line for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    found = sorted(int(line.rpartition("_")[2]) for line in lines)
    assert found == list(range(int(done.stdout)))


# -- a gateway -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_no_line_of_any_process_is_lost(tmp_path: Path, number: signal.Signals) -> None:
    """logrotate renames the file, and sends a signal, while associations come and go."""
    file = tmp_path / "log"
    with running(Gateway(tmp_path, 9, fastjmix=table(str(file)))) as own:
        own.wait_for("http_listening")
        children = own.children()
        for turn in range(ROUNDS):
            for _ in range(20):
                echo(own.dicom_port)
            file.rename(tmp_path / f"log.{turn}")
            own.child.send_signal(number)
            echo(own.dicom_port)
            own.wait_for("supervisor log_file_reopened", turn + 1)
            opened_by(file, own.child.pid, *children.values())
        own.wait_for("association_ended", ROUNDS * 21)
        assert own.children() == children
        assert own.stop() == 0
        files = [file, *(tmp_path / f"log.{turn}" for turn in range(ROUNDS))]
        kept = [line for one in files for line in one.read_text().splitlines()]
        assert sorted(kept) == sorted(own.lines)
    assert all(len(one.read_text().splitlines()) > 20 for one in files[1:])
    assert {one.stat().st_mode & 0o777 for one in files} == {0o600}


def opened_by(file: Path, *pids: int) -> None:
    """Waits until each of these processes has the file open."""

    def opened(pid: int) -> bool:
        for one in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
                if str(one.readlink()) == str(file):
                    return True
        return False

    until(lambda: all(map(opened, pids)), "each process has opened it")


def test_stderr_that_is_the_file_becomes_the_new_one(tmp_path: Path) -> None:
    """`fastjmix run 2>fastjmix.log` with the same file in the configuration: each line once."""
    config = write_config(tmp_path, 9)
    config.write_text(table("fastjmix.log") + config.read_text())
    file, before = tmp_path / "fastjmix.log", tmp_path / "fastjmix.log.1"
    with file.open("wb") as stderr:
        command = [*COMMAND, "run", "-c", "config.toml"]
        child = subprocess.Popen(command, cwd=tmp_path, stdout=stderr, stderr=stderr)
    try:
        until(lambda: " http_listening " in file.read_text() or child.poll(), "it started")
        file.rename(before)
        child.send_signal(signal.SIGUSR1)
        until(lambda: file.exists() and " log_file_reopened " in file.read_text(), "it followed")
        renamed = before.read_text()
    finally:
        child.terminate()
        assert child.wait(60) == 0
    assert before.read_text() == renamed
    text = file.read_text()
    for event in ("log_file_reopened", "stopping", "stopped"):
        assert sum(f" supervisor {event} " in f"{line} " for line in text.splitlines()) == 1, text


def test_without_a_file_the_signal_changes_nothing(tmp_path: Path) -> None:
    with running(Gateway(tmp_path, 9)) as own:
        children = own.children()
        own.child.send_signal(signal.SIGUSR1)
        for pid in children.values():
            os.kill(pid, signal.SIGUSR1)  # as `systemctl kill` does
        own.child.send_signal(signal.SIGHUP)
        own.wait_for("reload_asked")
        echo(own.dicom_port)
        own.wait_for("association_ended")
        assert own.children() == children
        assert own.stop() == 0
        assert "log_file_reopened" not in own.log()


def test_the_file_for_logrotate_is_as_logrotate_wants_it() -> None:
    """Its parts by hand: what logrotate itself would do is in the tests above."""
    text = (ROOT / "contrib" / "fastjmix.logrotate").read_text()
    body = re.sub(r"(?m)^\s*#.*\n", "", text)
    found = re.fullmatch(r"\s*(/\S+) \{\n(.*)\}\n", body, re.DOTALL)
    assert found is not None
    words = [line.strip() for line in found[2].splitlines()]
    assert {"nocreate", "delaycompress", "missingok"} <= set(words)
    begin, end = words.index("postrotate"), words.index("endscript")
    assert words[begin + 1 : end] == ["systemctl kill --signal=USR1 fastjmix.service"]
    assert "copytruncate" not in words
