"""--json of every command: its result or its error is one JSON document on stdout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file

from fastjmix import _core
from fastjmix.jmix import build
from fastjmix.jmix.keys import new_recipient_key
from tests.support import gateway
from tests.support.envelopes import envelope
from tests.support.gateway import COMMAND, run_command
from tests.support.nightly import by_form

ROOT = Path(__file__).parent.parent
CT = str(get_testdata_file("CT_small.dcm"))


def told(*arguments: object, code: int = 0, **more: Any) -> Any:
    """Returns the JSON that a command prints on stdout."""
    done = run_command(*arguments, "--json", **more)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


# -- results ---------------------------------------------------------------------------------------


def test_what_the_envelope_commands_did(tmp_path: Path) -> None:
    e, key, sign = tmp_path / "e.zip", tmp_path / "key.pem", tmp_path / "sign.pem"
    (tmp_path / "notes.txt").write_text("no DICOM")
    made = told("envelope", "build", CT, "-o", e)
    (one,) = made["envelopes"]
    assert (one["path"], one["instances"], one["size_bytes"]) == (str(e), 1, e.stat().st_size)
    assert made["left_out"] == []
    assert told("envelope", "keygen", "--encryption", "-o", key)["public_key"]
    public = told("envelope", "keygen", "--signing", "-o", sign)
    assert set(public) == {"path", "public_key", "fingerprint"}
    parties = ("--profile", "jmix-1.0", "--sender", "a", "--receiver", "b")
    (tmp_path / "key.pub").write_bytes(key_of(key))
    secret = tmp_path / "secret.zip"
    told("envelope", "convert", e, *parties, "--encrypt-for", tmp_path / "key.pub", "-o", secret)
    opened = told("envelope", "decrypt", secret, "--key", key, "-o", tmp_path / "open.zip")
    assert opened["path"] == str(tmp_path / "open.zip")
    assert told("envelope", "extract", e, "-o", tmp_path / "out")["files"] == 3
    assert told("envelope", "inspect", opened["path"])["profile"] == "jmix-1.0"
    assert told("envelope", "verify", opened["path"])["profile"] == "jmix-1.0"


def key_of(path: Path) -> bytes:
    from fastjmix.config import key_files
    from fastjmix.jmix import keys

    return key_files.load(keys.recipient_key, path).public


def test_check_and_a_configuration_that_is_wrong(tmp_path: Path) -> None:
    path = gateway.write_config(tmp_path, upstream=9)
    found = told("check", "-c", path, cwd=tmp_path)
    assert found["configuration"]["proxy"]["name"]
    assert "associations" in found["memory"]
    elsewhere = told("check", "-c", path, code=2, cwd="/")
    assert "[storage.options] path" in elsewhere["error"]
    gateway.write_config(tmp_path, upstream=9, endpoint="max_pduu = 1")
    for command in ("check", "run"):
        wrong = told(command, "-c", path, code=2, cwd=tmp_path)
        assert wrong["exit_code"] == 2
        assert any("max_pduu" in fault for fault in wrong["faults"])


def test_the_store_says_its_url(tmp_path: Path) -> None:
    command = [*COMMAND, "store", "--port", "0", "--dir", str(tmp_path / "s"), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as store:
        assert store.stdout is not None
        document = b""
        while not document.rstrip().endswith(b"}"):
            document += store.stdout.readline()
        assert json.loads(document)["url"].startswith("http://127.0.0.1:")
        store.terminate()


# -- errors ----------------------------------------------------------------------------------------

ERRORS: dict[str, tuple[int, list[str]]] = {
    "no such option": (2, ["check", "--no-such-option"]),
    "no such command": (2, ["no-such-command"]),
    "a missing argument": (2, ["envelope", "verify"]),
    "a wrong value": (2, ["store", "--dir", "s", "--port", "many"]),
    "a wrong choice": (2, ["envelope", "build", CT, "-o", "e.zip", "--profile", "published"]),
    "no such configuration": (2, ["check", "-c", "none.toml"]),
    "no configuration to run": (2, ["run", "-c", "none.toml"]),
    "no configuration to measure": (2, ["tune", "-c", "none.toml"]),
    "no configuration to show": (2, ["demo", "-c", "none.toml"]),
    "no envelope to inspect": (1, ["envelope", "inspect", "none.zip"]),
    "no envelope to verify": (1, ["envelope", "verify", "none.zip"]),
    "no envelope to extract": (1, ["envelope", "extract", "none.zip", "-o", "out"]),
    "no files": (2, ["envelope", "build", "none", "-o", "e.zip"]),
    "a target that is there": (1, ["envelope", "build", CT, "-o", "here.zip"]),
    "no key": (2, ["envelope", "decrypt", "here.zip", "--key", "none", "-o", "e.zip"]),
    "a key that is there": (1, ["envelope", "keygen", "--signing", "-o", "here.zip"]),
    "a file that is called a folder": (2, ["envelope", "keygen", "--signing", "-o", "new/"]),
    "a store that everybody reaches": (2, ["store", "--dir", "s", "--host", "0.0.0.0"]),
    "no peer": (3, ["send", "127.0.0.1", "1", CT]),
    "nothing to send": (2, ["send", "127.0.0.1", "1", "none"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_json_too(tmp_path: Path, name: str) -> None:
    code, arguments = ERRORS[name]
    (tmp_path / "here.zip").write_bytes(envelope())
    done = run_command(*arguments, "--json", cwd=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["error"]
    assert found["exit_code"] == code
    assert found.get("hint") != ""
    assert "fastjmix: " in done.stderr  # and for a person who looks
    plain = run_command(*arguments, cwd=tmp_path)
    assert plain.returncode == code
    assert '"error"' not in plain.stdout


# -- several envelopes, folders --------------------------------------------------------------------


def test_several_envelopes_are_verified(tmp_path: Path) -> None:
    build(CT, tmp_path / "good.zip")
    data = (tmp_path / "good.zip").read_bytes()
    (tmp_path / "bad.zip").write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    names = [str(tmp_path / name) for name in ("bad.zip", "none.zip", "good.zip")]
    found = told("envelope", "verify", *names, code=1)
    assert [(one["source"], one["ok"]) for one in found["envelopes"]] == [
        (names[0], False), (names[1], False), (names[2], True)
    ]  # fmt: skip
    assert found["ok"] is False
    assert found["envelopes"][0]["faults"]
    assert "No such file" in found["envelopes"][1]["error"]
    plain = run_command("envelope", "verify", *names)
    assert plain.returncode == 1
    assert f"{names[0]}: not valid" in plain.stdout
    assert f"{names[2]}: valid: harmony" in plain.stdout
    assert names[1] in plain.stderr
    assert told("envelope", "verify", names[2], names[2])["ok"] is True
    assert told("envelope", "verify", names[2])["ok"] is True


def test_a_slash_makes_a_folder(tmp_path: Path) -> None:
    for command in (["build", CT], ["convert", tmp_path / "e.zip", "--profile", "harmony"]):
        build(CT, tmp_path / "e.zip", force=True)
        folder = tmp_path / str(command[0])
        done = run_command("envelope", *command, "-o", f"{folder}/")
        assert done.returncode == 0, done.stderr
        (made,) = folder.iterdir()
        assert made.suffix == ".zip"
    secret = tmp_path / "key.pem"
    secret.write_bytes(new_recipient_key().pem())
    done = run_command(
        "envelope", "decrypt", tmp_path / "e.zip", "--key", secret, "-o", f"{tmp_path}/new/"
    )
    assert done.returncode == 2
    assert not (tmp_path / "new").exists()


# -- the demonstration, as it is installed ---------------------------------------------------------


MADE_OF = (
    "fastjmix", "pipelines", "config.toml",
    "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE",
)  # fmt: skip
"""A wheel is made of these."""


def sources(target: Path) -> Path:
    """Copies these, and the C that Cython made. Does not ask git: the repository may be an archive,
    or belong to another user."""
    for name in MADE_OF:
        if (ROOT / name).is_dir():
            without = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(ROOT / name, target / name, ignore=without)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    return target


def install_wheel(where: Path, packages: Path) -> None:
    """Builds a wheel, which compiles the core, and installs it."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "-q"]
    wheel: list[str | Path] = [*pip, "wheel", *options, "-w", where, sources(where / "source")]
    built = subprocess.run(wheel, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-2000:]
    (archive,) = where.glob("*.whl")
    install: list[str | Path] = [*pip, "install", "--no-deps", "-q", "--target", packages, archive]
    subprocess.run(install, check=True, capture_output=True)


def install_what_a_wheel_holds(where: Path, packages: Path) -> None:
    """Runs the step of a wheel's build that chooses the files; the core is the compiled one."""
    command: list[str | Path] = [
        sys.executable,
        "setup.py",
        "-q",
        "build_py",
        "--build-lib",
        packages,
    ]
    source = sources(where / "source")
    built = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-2000:]
    core = Path(_core.__file__)
    shutil.copy2(core, packages / "fastjmix" / core.name)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the python of an environment with fastjmix as a wheel has it, with dependencies."""
    where = tmp_path_factory.mktemp("wheel")
    venv.create(where / "venv", with_pip=False, symlinks=True)
    (packages,) = (where / "venv").glob("lib/python*/site-packages")
    by_form(install_what_a_wheel_holds, install_wheel)(where, packages)
    theirs = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "dependencies.pth").write_text(f"import sys; sys.path.append({theirs!r})\n")
    return where / "venv" / "bin" / "python"


@pytest.mark.timeout(600)  # nightly a wheel is compiled
def test_the_demonstration_of_a_wheel(tmp_path: Path, installed: Path) -> None:
    """Without the repository: the configuration is in the wheel."""
    done = subprocess.run(
        [installed, "-m", "fastjmix", "demo", "--json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)["envelopes"]
    stored = {path.stem for path in (tmp_path / "demo" / "store").glob("*.zip")}
    assert stored == {one["id"] for one in found}
    assert len(stored) > 10
    where: list[str | Path] = [installed, "-c", "import fastjmix; print(fastjmix.__file__)"]
    used = subprocess.run(where, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert str(installed.parent.parent) in used
