"""A hook's command: real programs, and what they can and cannot do."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from fastjmix.config.tree import Hook
from fastjmix.hooks import command
from fastjmix.hooks.command import ENVIRONMENT, ERR_BYTES_MAX, Commands
from fastjmix.hooks.verdict import OUTPUT_BYTES_MAX, Ended
from tests.support.gateway import until

MIB = 1 << 20


def hook(*argv: str, secs: float = 20.0, memory: int = 512 * MIB) -> Hook:
    return Hook("test", argv, secs, memory, 1)


def shell(script: str, secs: float = 20.0) -> Ended:
    """Runs a script of sh as a hook, for the envelope /x.zip."""
    return Commands().run(hook("/bin/sh", "-c", script, secs=secs), Path("/x.zip"), "id-1", "ct")


def python(code: str, secs: float = 20.0, memory: int = 512 * MIB) -> Ended:
    one = hook(sys.executable, "-ISc", code, secs=secs, memory=memory)
    return Commands().run(one, Path("/x.zip"), "id-1", "ct")


def test_it_gets_the_archive_and_two_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMIX_TOKEN", "s3cret")
    ended = shell('echo "$0|$FASTJMIX_ENVELOPE_ID|$FASTJMIX_PIPELINE"; pwd; env; cat; echo x >&2')
    lines = ended.out.decode().splitlines()
    assert lines[:2] == ["/x.zip|id-1|ct", "/"]
    names = {line.partition("=")[0] for line in lines[2:]}
    of_the_shell = {"PWD", "OLDPWD", "SHLVL", "_"}
    assert names - of_the_shell == {"PATH", "LANG", *ENVIRONMENT}
    assert (ended.code, ended.err, ended.limit) == (0, b"x\n", "")


def test_nothing_in_argv_is_for_a_shell() -> None:
    ended = Commands().run(hook("/bin/echo", "$HOME; exit 3", "*"), Path("/a b.zip"), "i", "p")
    assert ended.out == b"$HOME; exit 3 * /a b.zip\n"


def test_it_has_none_of_our_descriptors(tmp_path: Path) -> None:
    with (tmp_path / "own").open("wb") as own:
        os.set_inheritable(own.fileno(), True)
        ended = python("import os; print(*sorted(os.listdir('/proc/self/fd')))")
    assert len(ended.out.split()) <= 4  # 0, 1, 2, and that of the listing


def test_it_leads_a_session_of_its_own() -> None:
    ended = python("import os; print(os.getsid(0) == os.getpid())")
    assert ended.out == b"True\n"


def test_a_command_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    began = time.monotonic()
    ended = shell(f"sleep 1000 & echo $! > {tmp_path}/child; wait", secs=0.5)
    assert ended.limit == "it took longer than timeout_secs = 0.5"
    assert time.monotonic() - began < 15
    child = int((tmp_path / "child").read_text())
    until(lambda: is_gone(child), "the command's child is killed, too")


def is_gone(pid: int) -> bool:
    """Returns whether a process has ended; one that nobody has waited for has, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_what_a_command_leaves_behind_is_killed_and_not_waited_for(tmp_path: Path) -> None:
    began = time.monotonic()
    ended = shell(f"sleep 1000 & echo $! > {tmp_path}/child; echo '{{}}'")
    assert ended == Ended(0, b"{}\n")
    assert time.monotonic() - began < 15
    child = int((tmp_path / "child").read_text())
    until(lambda: is_gone(child), "what it left is killed")


def test_memory_of_a_command() -> None:
    code = "b = bytearray({}); print('enough')"
    assert python(code.format(8 * MIB), memory=256 * MIB).out == b"enough\n"
    ended = python(code.format(512 * MIB), memory=256 * MIB)
    assert ended.code == 1
    assert b"MemoryError" in ended.err


def test_processor_time_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a limit of the kernel's, which holds without us."""
    monkeypatch.setattr(command, "CPU_GRACE_SECS", 0)
    ended = python("import resource; print(*resource.getrlimit(resource.RLIMIT_CPU))", secs=7)
    assert ended.out == b"7 7\n"


def test_bytes_of_stdout() -> None:
    code = "import sys; sys.stdout.write('x' * {})"
    assert len(python(code.format(OUTPUT_BYTES_MAX)).out) == OUTPUT_BYTES_MAX
    ended = python(code.format(OUTPUT_BYTES_MAX + 1) + "; sys.stdout.flush(); input()")
    assert ended.limit == f"more than {OUTPUT_BYTES_MAX} bytes on stdout"


def test_the_end_of_stderr_is_kept() -> None:
    ended = python(
        "import sys; sys.stderr.write('x' * 1_000_000 + '\\nthe reason\\n'); sys.exit(10)"
    )
    assert len(ended.err) == ERR_BYTES_MAX
    assert ended.err.endswith(b"\nthe reason\n")
    assert ended.code == 10


@pytest.mark.parametrize("argv", [("/nowhere/program",), ("/etc/passwd",), ("/bin/echo", "a\0b")])
def test_a_command_that_cannot_be_started(argv: tuple[str, ...]) -> None:
    assert Commands().run(hook(*argv), Path("/x.zip"), "i", "p").limit.startswith("it cannot be")


def test_stop_kills_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    commands = Commands()
    found: list[Ended] = []
    script = f"touch {tmp_path}/begun; exec sleep 1000"

    def run() -> None:
        found.append(commands.run(hook("/bin/sh", "-c", script, secs=500), Path("/x"), "i", "p"))

    thread = threading.Thread(target=run)
    thread.start()
    until((tmp_path / "begun").exists, "the command runs")
    commands.stop()
    thread.join(20)
    assert found == [Ended(-9)]
    assert commands.run(hook("/bin/true"), Path("/x"), "i", "p").limit == "fastjmix is stopping"
