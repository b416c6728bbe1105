"""--json of every command, as the tree of commands has them: stdout is one JSON document, however
the command ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from fastjmix.cli.tree import app
from tests.support import gateway
from tests.support.gateway import COMMAND, run_command, run_to_end


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields every command and group of the tree, with its words on the command line."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


TREE: Final = dict(commands(app))
LEAVES: Final = {path: one for path, one in TREE.items() if not hasattr(one, "commands")}
NAMES: Final = pytest.mark.parametrize("path", LEAVES, ids=" ".join)

NEEDED_TOO: Final = {("envelope", "keygen"): ["--signing"], ("send",): ["--echo"]}
"""These commands need more than what they declare as required."""


def plausible(path: tuple[str, ...]) -> list[str]:
    """Returns arguments with which a command begins its work: a value for each that it requires."""
    words = list(NEEDED_TOO.get(path, []))
    for one in LEAVES[path].params:
        if not one.required:
            continue
        least = getattr(one.type, "min", None)
        value = "harmony" if one.name == "profile" else "none" if least is None else str(least)
        words += [one.opts[-1], value] if one.opts[-1].startswith("-") else [value]
    return words


def one_document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Returns the JSON on stdout, which has nothing else on it."""
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_there_are_commands() -> None:
    assert len(LEAVES) >= 13
    assert NEEDED_TOO.keys() <= LEAVES.keys()


@pytest.mark.parametrize("path", TREE, ids=lambda path: " ".join(path) or "fastjmix")
def test_help_is_json_and_an_unknown_option_is(path: tuple[str, ...]) -> None:
    output = one_document(run_command(*path, "--help", "--json"))
    assert "--help" in output["help"]
    for wrong in (["--json", "--no-such-option"], ["--no-such-option=x", "--json"]):
        done = run_command(*path, *wrong)
        assert done.returncode == 2, done.stdout
        output = one_document(done)
        assert output["exit_code"] == 2
        assert "no such option" in output["error"].casefold() or "--json" in output["error"]


@NAMES
def test_every_command_has_json_and_names_what_is_missing(path: tuple[str, ...]) -> None:
    assert any("--json" in one.opts for one in LEAVES[path].params)
    if not any(one.required for one in LEAVES[path].params) and path not in NEEDED_TOO:
        return
    done = run_command(*path, "--json")
    assert done.returncode == 2
    assert one_document(done)["exit_code"] == 2


@NAMES
def test_a_failure_at_work_is_json(path: tuple[str, ...], tmp_path: Path) -> None:
    """Each file that is named is empty; the configuration is the directory "."."""
    (tmp_path / "none").touch()
    done = run_command(*path, *plausible(path), *configured(path), "--json", cwd=tmp_path)
    reported = one_document(done)
    assert reported.get("exit_code", done.returncode) == done.returncode > 0
    assert reported.get("error") or reported["faults"]  # verify: a report


def configured(path: tuple[str, ...]) -> list[str]:
    """Returns the option that names a configuration, if the command has one."""
    return ["-c", "."] if any("--config" in one.opts for one in LEAVES[path].params) else []


INTERRUPT: Final = """
import os, signal, sys
from fastjmix import cli

def interrupt(event, arguments):
    # the first thing that a command needs beyond the command line
    if event == "import" and arguments[0].startswith("fastjmix."):
        os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.addaudithook(interrupt)
cli.main()
"""


@NAMES
def test_an_interrupt_is_json(path: tuple[str, ...], tmp_path: Path) -> None:
    """SIGINT, which is sent as soon as the command is at work."""
    words = [*path, *plausible(path), "--json"]
    done = run_to_end(sys.executable, "-c", INTERRUPT, *words, cwd=tmp_path)
    assert done.returncode == 128 + signal.SIGINT, done.stdout + done.stderr
    reported = one_document(done)
    assert reported["exit_code"] == 128 + signal.SIGINT
    assert "interrupted" in reported["error"]
    assert "Traceback" not in done.stderr


def test_the_top_alone() -> None:
    reported = one_document(run_command("--version", "--json"))
    assert run_command("--version").stdout == f"fastjmix {reported['version']}\n"
    for words in (
        ["--json"],
        ["--json", "check"],
        ["-c", "x.toml", "check", "--json"],
        ["envelope", "--json"],
        ["envelope", "--json", "verify", "x"],
    ):
        done = run_command(*words)
        assert done.returncode == 2
        assert one_document(done)["exit_code"] == 2


def test_run_says_where_it_listens_and_ends(tmp_path: Path) -> None:
    """The same document with `run` and without; SIGTERM adds nothing to it."""
    path = gateway.write_config(tmp_path, upstream=9)
    for words in (["run", "-c", str(path), "--json"], ["-c", str(path), "--json"]):
        with subprocess.Popen(
            [*COMMAND, *words],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stderr is not None
            log = ""
            for line in process.stderr:
                log += line
                if " started " in line:
                    break
            process.send_signal(signal.SIGTERM)
            out, rest = process.communicate(timeout=60)
        assert process.returncode == 0, log + rest
        result = json.loads(out)
        for one in result["listening"]:
            assert f"{one['host']}:{one['port']}" in log
        assert {one["what"] for one in result["listening"]} >= {"dicom"}
