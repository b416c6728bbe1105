"""The house rules that a machine can check: imports run downward, each tool has its room."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fastjmix"

# Higher may import lower; equal ranks may import each other only inside one folder or as ALLOWED.
RANK = {
    "__main__": 90,
    "cli": 80,
    "demo": 70,
    "send_command": 75,
    "envelope": 70,
    "tune": 70,
    "supervisor": 60,
    "children": 58,
    "receiver": 50,
    "packer": 50,
    "uploader": 50,
    "api": 50,
    "vault": 55,
    "store": 50,
    "send": 50,
    "connections": 44,
    "bodyfile": 44,
    "checks": 44,
    "attempt": 47,
    "queues": 46,
    "reports": 47,
    "upstream_memory": 47,
    "reservation": 47,
    "upkeep": 46,
    "arrivals": 47,
    "courier": 45,
    "intact": 42,
    "catalogue": 45,
    "manifests": 46,
    "parts": 46,
    "web": 45,
    "recovery": 45,
    "mending": 46,
    "digesting": 43,
    "packing": 42,
    "twins": 41,
    "conflicts": 43,
    "calling_aes": 41,
    "senders": 44,
    "open_envelopes": 43,
    "spilling": 42,
    "statuses": 42,
    "sealing": 41,
    "aside": 35,
    "heads": 40,
    "instances": 41,
    "health": 42,
    "delivery": 42,
    "answers": 41,
    "upstream_facts": 41,
    "codings": 41,
    "wiring": 40,
    "memory": 40,
    "settings": 40,
    "links": 40,
    "stats": 35,
    "lane": 30,
    "spool": 30,
    "dicom": 30,
    "jmix": 30,
    "_core": 20,
    # from anywhere
    "config": 10,
    "log": 5,
    "log_rates": 5,
    "failpoints": 5,
    "claim": 5,
    "errors": 1,
    "_version": 0,
    "__init__": 0,
}
PROCESSES = {"receiver", "packer", "uploader", "api"}
CONFIG_READS = {"jmix"}  # the configuration names the profiles that exist
DOORS = {("jmix/__init__.py", "envelope")}  # jmix.build is a name, found above when it is used


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Rooms that a module imports, lazily or not; typing-only imports count too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fastjmix"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("fastjmix.")}
    return found - {"__version__"}


def outside(path: Path) -> set[str]:
    """Top-level names of other packages that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names}
    return found - {"fastjmix"}


def test_every_room_has_a_rank() -> None:
    assert {room(p) for p in modules()} <= set(RANK)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downward(path: Path) -> None:
    here = room(path)
    for there in imports(path) - {here}:
        if here == "config" and there in CONFIG_READS:
            continue
        if (str(path.relative_to(PACKAGE)), there) in DOORS:
            continue
        assert RANK[there] <= RANK[here], f"{here} imports {there}"
        assert not (here in PROCESSES and there in PROCESSES), f"{here} imports {there}"
        assert {here, there} != {"dicom", "jmix"}, "dicom and jmix never meet"


def rooms_with(*names: str) -> set[str]:
    return {room(p) for p in modules() if outside(p) & set(names)}


def test_each_tool_has_its_room() -> None:
    network = {"receiver", "supervisor", "links", "api", "store", "web", "connections", "send"}
    # stderr may be systemd's socket, which a log must not wait for
    sockets = network | {"courier", "reports", "demo", "tune", "log"}
    assert rooms_with("socket") <= sockets
    assert rooms_with("aiohttp") <= {
        "courier",
        "api",
        "store",
        "web",
        "connections",
        "manifests",
        "parts",
    }
    assert rooms_with("pynetdicom") <= {"dicom", "send"}
    assert rooms_with("typer", "rich") <= {"cli", "send_command", "demo", "envelope", "tune"}
    assert rooms_with("mmap") <= {"lane", "stats"}
    assert rooms_with("select", "signal", "asyncio", "os") & {"dicom", "jmix"} == set()


def test_fsync_and_rename_live_in_the_spool() -> None:
    """The embedded store has its own directory; a command's output belongs to who called it."""
    for path in modules():
        source = path.read_text()
        calls = [
            w
            for w in ("os.fsync", "os.fdatasync", ".rename(", "os.replace", "os.rename")
            if w in source
        ]
        assert not calls or room(path) in {"spool", "store", "envelope"}, f"{path.name}: {calls}"


def test_rooms_can_be_read_in_one_sitting() -> None:
    assert [p.name for p in modules() if p.stat().st_size > 24 * 1024] == []


def test_importing_the_envelopes_names_is_cheap() -> None:
    costly = "cryptography", "pydicom", "pynetdicom", "rich", "pydantic"
    code = f"import sys, fastjmix.jmix; assert not set({costly}) & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_starts_nothing() -> None:
    code = "import threading, fastjmix, fastjmix.cli; assert threading.active_count() == 1"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_room_speaks_at_its_door() -> None:
    for path in modules():
        assert ast.get_docstring(ast.parse(path.read_text())), path.name
