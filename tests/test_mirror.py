"""tests/ mirrors fastjmix/: a module has its own test file, or modules.toml says what tests it.

fastjmix/a/b.py has tests/a/test_b.py. Below a further folder, fastjmix/a/b/c.py has
tests/a/test_c.py or tests/a/test_b_c.py. A package with code of its own counts as a module.
"""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "fastjmix"
TABLE = tomllib.loads((TESTS / "modules.toml").read_text("utf-8"))["together"]


def modules() -> dict[str, Path]:
    """Returns the modules by their dotted names below fastjmix."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__")
        if path.stem != "__init__" or has_code(path):
            found[name.rstrip(".") or "fastjmix"] = path
    return found


def has_code(path: Path) -> bool:
    defined = (ast.FunctionDef, ast.ClassDef)
    return any(isinstance(node, defined) for node in ast.parse(path.read_text("utf-8")).body)


def own_tests(name: str) -> list[Path]:
    """Returns the test files that a module of this name has."""
    *folders, leaf = name.split(".")
    top = TESTS.joinpath(*folders[:1])
    if not folders and (PACKAGE / leaf).is_dir():
        top = TESTS / leaf
    names = [f"test_{leaf}.py", f"test_{'_'.join([*folders[1:], leaf])}.py"]
    return [path for path in map(top.joinpath, dict.fromkeys(names)) if path.exists()]


def test_a_module_has_its_own_test_file_or_a_line_in_the_table() -> None:
    without = {name for name in modules() if not own_tests(name)}
    listed = {name for group in TABLE for name in group["modules"]}
    assert without - listed == set(), "no test file, and no line in tests/modules.toml"
    assert listed - without == set(), "in tests/modules.toml, and no module without a test file"


def test_a_module_is_in_the_table_once() -> None:
    counts = Counter(name for group in TABLE for name in group["modules"])
    assert [name for name, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("group", TABLE, ids=lambda group: group["modules"][0])
def test_a_group_has_tests_and_a_reason(group: dict[str, list[str]]) -> None:
    assert group["modules"] == sorted(group["modules"])
    assert str(group["reason"]).endswith(".")
    assert group["tests"]
    assert [name for name in group["tests"] if not (TESTS / name).exists()] == []


def test_code_that_tests_run_elsewhere_names_modules_that_exist() -> None:
    """mypy reads no code in a string: what a child process or a gateway runs first."""
    wrong = []
    for path in sorted(TESTS.rglob("*.py")):
        text = path.read_text("utf-8")
        for module, names in re.findall(r"from (fastjmix[.\w]*) import ([\w, ]+)", text):
            for name in (one.split(" as ")[0].strip() for one in names.split(",")):
                held = importlib.import_module(module)
                if name and not hasattr(held, name) and not is_module(f"{module}.{name}"):
                    wrong.append((path.name, module, name))
    assert wrong == []


def is_module(name: str) -> bool:
    path = TESTS.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()
