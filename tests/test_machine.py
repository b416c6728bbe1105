"""The tests' needs of the machine: its packages, and how they were started."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NEEDS = ROOT / ".ci" / "packages"

STARTS_A_CHILD = """
import os, pathlib, signal, subprocess, sys
import tests.conftest

def ignored():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("SigIgn")).split()[1], 16)

if __name__ == "__main__":
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))  # this process still ignores it
    child = "import sys; sys.path.insert(0, sys.argv[1]); import child; print(child.ignored())"
    subprocess.run([sys.executable, "-c", child, os.path.dirname(__file__)], check=True)
"""


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT"])
def test_children_have_the_defaults_of_ignored_signals(tmp_path: Path, name: str) -> None:
    """`make test &` in a script, and `nohup make test`."""
    (tmp_path / "child.py").write_text(STARTS_A_CHILD)
    command = f'trap \'\' {name}; exec "$0" "$@"'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, tmp_path / "child.py", f"SIG{name}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    asked = {"HUP": 1, "INT": 2, "QUIT": 3}[name]
    assert not int(done.stdout) & 1 << (asked - 1)


# -- .ci/packages ----------------------------------------------------------------------------------


WITHOUT_ASSIGNMENTS = 'while [ "${1#*=}" != "$1" ]; do shift; done; exec "$@"'
"""An env(1) that passes over the variables."""


def packages(at: Path, *arguments: str, user: str = "0", **more: str) -> tuple[int, str, str]:
    """Runs .ci/packages where only the programs in `at` exist; whom `id` names is `user`."""
    for name, text in {"id": f"echo {user}", "cat": 'exec /bin/cat "$@"'}.items():
        program(at, name, text)
    done = subprocess.run(
        ["/bin/sh", NEEDS, *arguments],
        env={"PATH": str(at), **more},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def program(at: Path, name: str, text: str) -> None:
    at.mkdir(exist_ok=True)
    (at / name).write_text(f"#!/bin/sh\n{text}\n")
    (at / name).chmod(0o755)


def test_needed_packages_are_installed_once_by_root(tmp_path: Path) -> None:
    at = tmp_path / "bin"
    program(at, "env", WITHOUT_ASSIGNMENTS)
    program(
        at,
        "apt-get",
        f"""
echo "$*" >> {tmp_path}/log
[ "$1" != install ] || for one in dcmsend clang; do /bin/cp {at}/id {at}/$one; done""",
    )
    code, _, reported = packages(at, "peers", "fuzz")
    assert code == 0, reported
    update, install = (tmp_path / "log").read_text().splitlines()
    assert update == "update -qq"
    assert install.endswith("--no-install-recommends dcmtk clang")
    assert packages(at, "peers", "fuzz") == (0, "", "")
    assert len((tmp_path / "log").read_text().splitlines()) == 2


@pytest.mark.parametrize("lacks", ["apt-get", "sudo", "a password"])
def test_needed_packages_are_named_where_they_cannot_be_installed(
    tmp_path: Path, lacks: str
) -> None:
    at = tmp_path / "bin"
    if lacks != "apt-get":
        program(at, "apt-get", f"echo called > {tmp_path}/called")
    if lacks == "a password":
        program(at, "sudo", "exit 1")
    code, _, reported = packages(at, "peers", user="1000")
    assert code == 1
    assert "dcmsend" in reported
    assert "sudo apt-get install dcmtk" in reported
    assert not (tmp_path / "called").exists()


def test_a_package_that_does_not_bring_its_command_is_named(tmp_path: Path) -> None:
    at = tmp_path / "bin"
    program(at, "env", WITHOUT_ASSIGNMENTS)
    program(at, "apt-get", "exit 0")
    code, _, reported = packages(at, "peers")
    assert code == 1
    assert "dcmtk brought no dcmsend" in reported


def test_the_python_that_is_used(tmp_path: Path) -> None:
    at = tmp_path / "bin"
    program(at, "python3", f'exec {sys.base_prefix}/bin/python3 "$@"')
    assert packages(at, "--python") == (0, "python3\n", "")
    program(at, "python3", "exit 1")
    code, _, reported = packages(at, "--python")
    assert (code, "3.11 or newer" in reported) == (1, True)
    code, _, reported = packages(at, "build", PYTHON="/no/such/python")
    assert (code, "/no/such/python" in reported, "python3-dev" in reported) == (1, True, False)


def test_the_tests_and_ci_use_the_one_list() -> None:
    assert ".ci/packages" in (ROOT / "Makefile").read_text()
    assert ".ci/packages build test cross" in (ROOT / ".ci" / "run").read_text()
    for path in (ROOT / "Makefile", ROOT / ".ci" / "run"):
        assert "apt-get" not in path.read_text()


# -- programs that the tests start -----------------------------------------------------------------

STARTS = {
    "subprocess.run",
    "subprocess.Popen",
    "create_subprocess_exec",
    "as_root",
    "works",
    "dcmtk",
}
"""Functions whose first argument is a command, or names it."""

COME_ALONG = {
    "dcmconv",
    "dcmdump",
    "echoscu",
    "storescp",
    "storescu",
    "umount",
    "chattr",
    "zipinfo",
}
"""Programs of the packages that are asked for by another program of theirs."""

ESSENTIAL = {"/bin/sh", "bash", "chown", "cp", "rm", "setsid", "sha256sum", "unshare", "sh"}
"""Programs that every Debian has."""


def started(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """Returns the programs that the calls in a function name, in place or in a list with a name."""
    lists: dict[str, ast.expr] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List):
            lists.update((ast.unparse(target), node.value) for target in node.targets)
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func)
            if called in STARTS or called.rpartition(".")[2] in STARTS:
                yield from first_word(lists.get(ast.unparse(node.args[0]), node.args[0]))


def first_word(command: ast.expr) -> Iterator[str]:
    if isinstance(command, ast.List) and command.elts:
        yield from first_word(command.elts[0])
    elif isinstance(command, ast.Constant) and isinstance(command.value, str):
        yield command.value


def test_every_program_that_a_test_starts_is_in_the_list() -> None:
    """Else a fresh machine lacks it. tests/counts.py asks git, of a clone."""
    listed = re.findall(r"^(\S+) [a-z0-9 -]+$", NEEDS.read_text(), re.MULTILINE)
    assert {"dcmsend", "mkfs.xfs", "setpriv"} <= set(listed)
    found = {
        (program, module.name)
        for module in (ROOT / "tests").rglob("*.py")
        if module.name != "counts.py"
        for function in ast.walk(ast.parse(module.read_text()))
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for program in started(function)
    }
    assert {"curl", "strace", "storescu"} & {program for program, _ in found}
    known = {*listed, *COME_ALONG, *ESSENTIAL}
    assert sorted(one for one in found if one[0] not in known) == []
