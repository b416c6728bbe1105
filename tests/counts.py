"""Counts that tell when the package grows crooked: signs to look at, not limits.

    python tests/counts.py [COMMIT …]      the working tree, and fastjmix/ as it was at each commit

Modules over 400 lines, functions over 40, classes with more than 15 methods, modules without a test
file of their own name, uses of `Any`, sentences that do not begin plainly, modules at the top of
the package, and modules in an import cycle. Imports in functions and those for types count, too.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import tarfile
import tempfile
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINES, FUNCTION, METHODS = 400, 40, 15


@dataclass(frozen=True)
class Module:
    """A module of the package. `name` has dots; `path` is below the tree's root."""

    name: str
    path: Path
    source: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        return self.source.count("\n")


def modules(root: Path) -> list[Module]:
    """The package's modules below `root`."""
    found = []
    for path in sorted((root / "fastjmix").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        source = path.read_text()
        found.append(Module(name, path.relative_to(root), source, ast.parse(source)))
    return found


def long_modules(found: list[Module]) -> Iterator[str]:
    yield from (f"{one.path} {one.lines}" for one in found if one.lines > LINES)


def long_functions(found: list[Module]) -> Iterator[str]:
    for one in found:
        for node in ast.walk(one.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION:
                    yield f"{one.path}:{node.lineno} {node.name} {lines}"


def large_classes(found: list[Module]) -> Iterator[str]:
    for one in found:
        for node in ast.walk(one.tree):
            if isinstance(node, ast.ClassDef):
                inside = (ast.FunctionDef, ast.AsyncFunctionDef)
                methods = sum(isinstance(inner, inside) for inner in node.body)
                if methods > METHODS:
                    yield f"{one.path}:{node.lineno} {node.name} {methods}"


def uses_of_any(found: list[Module]) -> Iterator[str]:
    for one in found:
        for node in ast.walk(one.tree):
            if isinstance(node, ast.Name) and node.id == "Any":
                yield f"{one.path}:{node.lineno}"


STARTS = re.compile(r"(?:^|[.!?] )((?:What|Who|Whoever|Whose|Whatever|That|Of)\b[^.!?]{0,50})")


def odd_sentences(found: list[Module]) -> Iterator[str]:
    """Sentences of docstrings and comments that do not begin with their subject or verb."""
    for one in found:
        for line, text in prose(one):
            yield from (f"{one.path}:{line} {start[1]}" for start in STARTS.finditer(text))


def prose(one: Module) -> Iterator[tuple[int, str]]:
    """Paragraphs of docstrings, and comments: (line, text on one line)."""
    for node in ast.walk(one.tree):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            for paragraph in value.value.split("\n\n"):
                yield value.lineno, " ".join(paragraph.split())
    for token in tokenize.generate_tokens(io.StringIO(one.source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")


def at_the_top(found: list[Module]) -> Iterator[str]:
    for one in found:
        if one.path.parent.name == "fastjmix" and not one.path.name.startswith("__"):
            yield str(one.path)


def untested(root: Path) -> Callable[[list[Module]], Iterator[str]]:
    """Modules for which there is no test file that has their name."""
    names = {path.stem for path in (root / "tests").rglob("test_*.py")}

    def look(found: list[Module]) -> Iterator[str]:
        for one in found:
            if one.path.name != "__init__.py" and f"test_{one.path.stem}" not in names:
                yield str(one.path)

    return look


def in_cycles(found: list[Module]) -> Iterator[str]:
    """Modules that import themselves by way of others, and those that only such ones import."""
    names = {one.name for one in found}
    left = {one.name: imported(one, names) - {one.name} for one in found if one.name != "fastjmix"}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    while free := left.keys() - {other for others in left.values() for other in others}:
        left = {name: others for name, others in left.items() if name not in free}
    yield from sorted(left)


def imported(one: Module, names: set[str]) -> set[str]:
    """Names of the package's modules that `one` imports."""
    found = set()
    for node in ast.walk(one.tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & names) or ({node.module} & names)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & names
    return found


def signs(root: Path) -> dict[str, list[str]]:
    """Each count's name, and what was counted."""
    looks: dict[str, Callable[[list[Module]], Iterator[str]]] = {
        f"modules over {LINES} lines": long_modules,
        f"functions over {FUNCTION} lines": long_functions,
        f"classes over {METHODS} methods": large_classes,
        "modules without a test file of their name": untested(root),
        "uses of Any": uses_of_any,
        "sentences that begin with What, Who, That, Of": odd_sentences,
        "modules at the top": at_the_top,
        "modules in an import cycle": in_cycles,
    }
    found = modules(root)
    return {"modules": [one.name for one in found]} | {
        name: list(look(found)) for name, look in looks.items()
    }


def at(commit: str, under: Path) -> Path:
    """The package and its tests as they were at a commit. Raises CalledProcessError."""
    command = ["git", "archive", commit, "fastjmix", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    target = under / commit.replace("/", "_")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(target, filter="data")
    return target


def main() -> None:
    """Prints the counts; with --list, what was counted in the working tree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commits", nargs="*", metavar="COMMIT")
    parser.add_argument("--list", action="store_true", help="name what was counted")
    given = parser.parse_args()
    now = signs(ROOT)
    with tempfile.TemporaryDirectory() as under:
        then = {commit: signs(at(commit, Path(under))) for commit in given.commits}
    print(f"{'':47}", *(f"{name[:12]:>12}" for name in (*then, "now")))
    for name in now:
        counts = (len(one[name]) for one in (*then.values(), now))
        print(f"{name:47}", *(f"{count:12}" for count in counts))
    if given.list:
        for name in list(now)[1:]:
            print(f"\n{name}:", *now[name], sep="\n  ")


if __name__ == "__main__":
    main()
