"""The layout, as far as a machine can check it: imports run downward, and each tool has its place.

The rule is derived from the folders. A package (or a module beside them) imports what stands below
it in LAYERS, and itself; those of one layer never import each other. Imports in functions and those
for types count, too. `fastjmix/__init__.py` is the one file that stands apart: importing it imports
the version only, and its three functions are the Python API, whatever they import when called.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fastjmix"

LAYERS = (
    ("__main__",),
    ("cli",),
    ("tools",),
    ("supervisor",),
    ("receiver", "packer", "uploader", "api", "recorder"),
    ("httpd", "ledger", "control", "hooks"),
    ("ipc", "spool"),
    ("config",),
    ("dicom", "jmix", "routing", "transport"),
    ("_core",),
    ("log", "failpoints"),
    ("errors",),
    ("_version",),
)
DEPTH = {name: depth for depth, layer in enumerate(LAYERS) for name in layer}

FILES = (
    "open",
    "fdopen",
    "read_bytes",
    "read_text",
    "write_bytes",
    "write_text",
    "iterdir",
    "stat",
)
SYSTEM = {"os", "io.open", "socket", "select", "signal", "asyncio", "mmap", "shutil", "tempfile"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """Below fastjmix, with dots; "" is fastjmix/__init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in modules()}


def package(module: str) -> str:
    return module.partition(".")[0]


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules of ours that are imported, below fastjmix; "" is fastjmix itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where they lead"
            top, _, module = (node.module or "").partition(".")
            if top != "fastjmix":
                continue
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                yield inner if inner in NAMES or inner == "_core" else module
        elif isinstance(node, ast.Import):
            yield from (a.name[9:] for a in node.names if a.name.split(".")[0] == "fastjmix")


def outside(path: Path) -> set[str]:
    """Top-level names of other packages that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names}
    return found - {"fastjmix"}


def using(*names: str) -> set[str]:
    """Packages, of tools/ their own, that import one of these."""
    found = {name for name, path in NAMES.items() if outside(path) & set(names)}
    return {
        ".".join(name.split(".")[:2]) if name.startswith("tools.") else package(name)
        for name in found
    }


GRAPH = {name: set(imported(ast.parse(path.read_text()))) - {name} for name, path in NAMES.items()}


def test_every_folder_and_module_has_a_layer() -> None:
    assert {package(name) for name in NAMES} - {""} <= set(DEPTH)
    beside = {name for name in NAMES if "." not in name and NAMES[name].name != "__init__.py"}
    assert beside == {"__main__", "_version", "errors", "failpoints"}


@pytest.mark.parametrize("module", sorted(set(NAMES) - {""}))
def test_imports_run_downward(module: str) -> None:
    here = package(module)
    for there in {package(name) for name in GRAPH[module]} - {here, ""}:
        assert DEPTH[there] > DEPTH[here], f"{module} imports {there}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    left = {name: found & set(NAMES) - {""} for name, found in GRAPH.items() if name}
    while free := {name for name, found in left.items() if not found & set(left)}:
        left = {name: found for name, found in left.items() if name not in free}
    assert left == {}, "each of these is in a cycle, or above one"


def test_writing_an_envelope_needs_no_reader() -> None:
    for module, found in GRAPH.items():
        if module.startswith("jmix.write"):
            assert not {name for name in found if name.startswith("jmix.read")}, module


def test_importing_the_package_imports_the_version_only() -> None:
    code = "import sys, fastjmix; print(*[n for n in sys.modules if n.startswith('fastjmix.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["fastjmix._version"]


SANS_IO = [p for p in modules() if package(name_of(p)) in {"dicom", "jmix", "transport"}]


@pytest.mark.parametrize("path", SANS_IO, ids=name_of)
def test_dicom_jmix_and_transport_open_no_file_and_no_socket(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            assert name not in FILES, f"line {node.lineno}"
    assert not outside(path) & SYSTEM


def test_each_tool_has_its_place() -> None:
    # stderr may be systemd's socket, which a log must not wait for
    sockets = {"receiver", "supervisor", "ipc", "api", "httpd", "uploader", "log", "control"}
    tools = {"tools.check", "tools.send", "tools.store", "tools.demo", "tools.tune"}
    assert using("socket") <= sockets | tools
    assert using("aiohttp") <= {"uploader", "api", "httpd", "tools.store", "tools.check"}
    assert using("pynetdicom") <= {"dicom", "tools.send"}
    assert using("click") == {"cli"}
    assert using("rich") <= {"cli", "tools.demo", "tools.envelope", "tools.tune"}
    assert using("mmap") <= {"ipc"}
    assert using("select", "signal", "asyncio", "os") & {"dicom", "jmix"} == set()


def test_fsync_and_rename_live_in_the_spool() -> None:
    """The embedded store has its own directory; a command's output belongs to who called it."""
    for name, path in NAMES.items():
        source = path.read_text()
        calls = [
            w
            for w in ("os.fsync", "os.fdatasync", ".rename(", "os.replace", "os.rename")
            if w in source
        ]
        where = package(name) == "spool" or name.startswith(("tools.store", "tools.envelope"))
        assert not calls or where, f"{name}: {calls}"


def test_modules_can_be_read_in_one_sitting() -> None:
    assert [p.name for p in modules() if p.stat().st_size > 24 * 1024] == []


def test_importing_the_envelopes_names_is_cheap() -> None:
    costly = "cryptography", "pydicom", "pynetdicom", "rich", "pydantic"
    code = f"import sys, fastjmix.jmix; assert not set({costly}) & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_starts_nothing() -> None:
    code = "import threading, fastjmix, fastjmix.cli; assert threading.active_count() == 1"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_module_says_what_it_is_for() -> None:
    for path in modules():
        assert ast.get_docstring(ast.parse(path.read_text())), path.name


def test_every_package_is_in_the_wheel() -> None:
    """pyproject.toml lists them, since the sources of the compiled core stay out."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))
    folders = (path.parent.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("__init__.py"))
    listed = project["tool"]["setuptools"]["packages"]
    assert sorted(".".join(folder.parts) for folder in folders) == sorted(listed)
