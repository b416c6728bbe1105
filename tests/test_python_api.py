"""The Python API: open_envelope, verify, build, as a program outside the repository uses them."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file

import fastjmix
import fastjmix.jmix
from fastjmix.cli.hints import OPTIONS, for_shell
from fastjmix.errors import ConfigError, EnvelopeError, FastjmixError, UsageError
from fastjmix.jmix import build, open_envelope, verify
from fastjmix.jmix.keys import new_recipient_key
from fastjmix.jmix.write.parties import Encryption, Entity, Published, Signing
from fastjmix.tools.envelope.converting import convert
from fastjmix.tools.envelope.output import OutputError
from fastjmix.tools.envelope.recipe import BuildError, Recipe
from tests.support.encrypted import encrypted_envelope
from tests.support.envelopes import envelope
from tests.support.gateway import run_command

CT = Path(str(get_testdata_file("CT_small.dcm")))
MR = Path(str(get_testdata_file("MR_small.dcm")))
PACKAGE = Path(fastjmix.__file__).parent


def published(**more: Any) -> Recipe:
    return Recipe("jmix-1.0", published=Published(Entity("a"), (Entity("b"),), **more))


# -- what it raises --------------------------------------------------------------------------------


@pytest.fixture
def good(tmp_path: Path) -> Path:
    build(CT, tmp_path / "good.zip")
    return tmp_path / "good.zip"


def bad_recipes() -> dict[str, Any]:
    unknown: Any = "unknown"
    return {
        "profile": Recipe(unknown),
        "profile with parties": Recipe(unknown, published=published().published),
        "digest": Recipe(digest=unknown),
        "payload_hash": Recipe(payload_hash=unknown),
        "no parties": Recipe("jmix-1.0"),
        "no receiver": Recipe("jmix-1.0", published=Published(Entity("a"), ())),
        "blake3 of jmix-1.0": Recipe("jmix-1.0", "blake3", published=published().published),
        "parties of harmony": Recipe(published=published().published),
        "dialect": published(encryption=Encryption("AAAA", unknown)),
    }


@pytest.mark.parametrize("name", bad_recipes())
def test_a_recipe_that_makes_no_envelope(tmp_path: Path, name: str) -> None:
    with pytest.raises(BuildError):
        build(CT, tmp_path / "e.zip", bad_recipes()[name])
    assert list(tmp_path.iterdir()) == []


def read_missing(good: Path) -> None:
    with open_envelope(good) as found:
        found.open("no")


MISUSES: dict[str, tuple[type[Exception], Callable[[Path, Path], object]]] = {
    "build of nothing": (BuildError, lambda at, _: build([], at / "e.zip")),
    "build of a missing path": (UsageError, lambda at, _: build([CT, at / "no"], at / "e.zip")),
    "build of a missing text": (UsageError, lambda at, _: build(f"{at}/no", at / "e.zip")),
    "build of an empty path": (UsageError, lambda at, _: build("", at / "e.zip")),
    "build of one empty path": (UsageError, lambda at, _: build([""], at / "e.zip")),
    "build of NUL": (UsageError, lambda at, _: build(["a\0b"], at / "e.zip")),
    "build to nowhere": (UsageError, lambda at, _: build(CT, "")),
    "build to NUL": (UsageError, lambda at, _: build(CT, "a\0b")),
    "build over a file": (OutputError, lambda at, good: build(CT, good)),
    "build below a file": (OutputError, lambda at, good: build(CT, good / "e.zip")),
    "build below nothing": (OutputError, lambda at, _: build(CT, at / "no" / "e.zip")),
    "build to a folder that is a file": (OutputError, lambda at, good: build(CT, f"{good}/")),
    "a key that is not there": (
        ConfigError,
        lambda at, _: build(CT, at / "e.zip", published(signing=Signing(f"{at}/no.pem"))),
    ),
    "a recipient that is none": (
        ConfigError,
        lambda at, _: build(CT, at / "e.zip", published(encryption=Encryption("no key"))),
    ),
    "convert a missing path": (OSError, lambda at, _: convert(at / "no", at / "e.zip", Recipe())),
    "convert what is none": (EnvelopeError, lambda at, _: convert(CT, at / "e.zip", Recipe())),
    "open a missing path": (OSError, lambda at, _: open_envelope(at / "no")),
    "open an empty path": (UsageError, lambda at, _: open_envelope("")),
    "open NUL": (UsageError, lambda at, _: open_envelope("a\0b")),
    "open what is none": (EnvelopeError, lambda at, _: open_envelope(CT)),
    "open a folder that is none": (EnvelopeError, lambda at, _: open_envelope(at)),
    "verify a missing path": (OSError, lambda at, _: verify(at / "no")),
    "verify an empty path": (UsageError, lambda at, _: verify("")),
    "verify NUL": (UsageError, lambda at, _: verify("a\0b")),
    "verify with no key": (UsageError, lambda at, good: verify(good, public_key=b"short")),
    "read what is not there": (EnvelopeError, lambda _, good: read_missing(good)),
}


@pytest.mark.parametrize("name", MISUSES)
def test_only_documented_exceptions(tmp_path: Path, good: Path, name: str) -> None:
    expected, misuse = MISUSES[name]
    before = good.read_bytes()
    with pytest.raises(expected) as caught:
        misuse(tmp_path, good)
    if isinstance(caught.value, FastjmixError):
        assert not re.search(r"(^|\W)--?[a-z]", f"{caught.value}".replace(str(tmp_path), ""))
    assert good.read_bytes() == before
    assert list(tmp_path.iterdir()) == [good]


def test_the_docstrings_name_what_is_raised() -> None:
    for function, named in (
        (build, (UsageError, BuildError, EnvelopeError, OutputError, ConfigError, OSError)),
        (open_envelope, (UsageError, EnvelopeError, OSError)),
        (verify, (UsageError, OSError)),
    ):
        assert function.__doc__ is not None
        assert [one for one in named if one.__name__ not in function.__doc__] == []


# -- whose words -----------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["jmix", "tools/envelope", "tools/send"])
def test_a_library_names_no_option_of_the_command_line(folder: str) -> None:
    """No argument of an exception has a text with an option in it."""
    found = []
    paths = sorted((PACKAGE / folder).rglob("*.py"))
    assert len(paths) > 5
    for path in paths:
        tree = ast.parse(path.read_text())
        documented = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        found += [
            f"{path.name}:{node.lineno}: {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documented
            and re.search(r"(^|\s)--[a-z]", node.value)
        ]
    assert found == []


def test_the_command_line_names_its_own_options(tmp_path: Path, good: Path) -> None:
    again = run_command("envelope", "build", CT, "-o", good)
    assert again.returncode == 1
    assert "or give --force." in again.stderr
    needs = run_command("envelope", "build", CT, "-o", tmp_path / "n", "--profile", "jmix-1.0")
    assert "--sender and --receiver" in needs.stderr
    for argument in OPTIONS:
        assert argument not in for_shell(f"Give {argument}.")


# -- names and folders -----------------------------------------------------------------------------


def test_the_module_lists_its_names() -> None:
    code = "import fastjmix.jmix; print(*dir(fastjmix.jmix))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"build", "open_envelope", "verify"} <= set(done.stdout.split())


@pytest.mark.parametrize("given", [str, Path, lambda path: [path], lambda path: iter([str(path)])])
def test_a_folder_or_a_file_is_built(tmp_path: Path, given: Callable[[Path], Any]) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for one in (CT, MR):
        (scans / one.name).write_bytes(one.read_bytes())
    (built,) = build(given(scans), tmp_path / "both.zip")
    assert built.instances == 2
    (built,) = build(given(scans / CT.name), tmp_path / "one.zip")
    assert built.instances == 1


def test_a_slash_makes_a_folder_of_envelopes(tmp_path: Path) -> None:
    made = build([CT, MR], f"{tmp_path}/new/")
    assert {one.path.parent for one in made} == {tmp_path / "new"}
    assert len(made) == 2
    assert all(verify(one.path).ok for one in made)
    (more,) = build(CT, f"{tmp_path}/new/")  # one that is there is taken
    assert more.path.parent == tmp_path / "new"
    (converted,) = convert(more.path, f"{tmp_path}/converted/", Recipe())
    assert converted.path.parent == tmp_path / "converted"
    with pytest.raises(BuildError):
        build([CT], f"{tmp_path}/failed/", Recipe("jmix-1.0"))
    with pytest.raises(ConfigError):
        build([CT], f"{tmp_path}/failed/", published(signing=Signing(f"{tmp_path}/no.pem")))
    assert not (tmp_path / "failed").exists()


# -- a member as a file ----------------------------------------------------------------------------


def sources(tmp_path: Path) -> dict[str, Path]:
    """The same envelope stored, deflated, below a top folder, and as a folder."""
    (stored,) = build(CT, tmp_path / "stored.zip")
    found = {"stored": stored.path}
    with zipfile.ZipFile(stored.path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, below in (("deflated", ""), ("below", "top/")):
        found[name] = tmp_path / f"{name}.zip"
        with zipfile.ZipFile(found[name], "w", zipfile.ZIP_DEFLATED) as archive:
            for member, data in members.items():
                archive.writestr(below + member, data)
    found["folder"] = tmp_path / "folder"
    for member, data in members.items():
        path = found["folder"] / member
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return found


@pytest.mark.parametrize("kind", ["stored", "deflated", "below", "folder"])
def test_pydicom_reads_a_member(tmp_path: Path, kind: str) -> None:
    with open_envelope(sources(tmp_path)[kind]) as found:
        (name,) = found.instances
        with found.open(name) as file:
            read = pydicom.dcmread(file)
        assert read == pydicom.dcmread(CT)
        assert len(read.PixelData) == 128 * 128 * 2
        with found.open(name) as file:
            assert "PixelData" not in pydicom.dcmread(file, stop_before_pixels=True)


@pytest.mark.parametrize("kind", ["stored", "deflated", "folder"])
def test_a_member_is_read_as_any_file_is(tmp_path: Path, kind: str) -> None:
    """Wherever it is read, in whatever order, and two of them by turns."""
    wanted = CT.read_bytes()
    size = len(wanted)
    with open_envelope(sources(tmp_path)[kind]) as found, io.BytesIO(wanted) as model:
        (name,) = found.instances
        with found.open(name) as file, found.open(name) as other:
            assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
            for offset, whence, count in (
                (0, os.SEEK_END, 5),
                (-9, os.SEEK_END, 20),
                (7, os.SEEK_SET, 70_000),
                (-3, os.SEEK_CUR, 1),
                (0, os.SEEK_SET, size),
                (size + 5, os.SEEK_SET, 3),
                (1, os.SEEK_SET, 0),
                (0, os.SEEK_SET, -1),
            ):
                assert file.seek(offset, whence) == model.seek(offset, whence)
                assert file.read(count) == model.read(count)
                assert file.tell() == model.tell()
                assert other.read(11) == wanted[other.tell() - 11 : other.tell()]
            for seek in ((-1, os.SEEK_SET), (-size - 1, os.SEEK_END)):
                with pytest.raises((ValueError, OSError)):
                    file.seek(*seek)
        with pytest.raises(ValueError, match="closed"):
            file.read(1)
        left = found.open(name)
    if kind != "folder":  # which has nothing to close
        with left, pytest.raises(ValueError, match="closed"):
            left.read()


def test_a_damaged_member_is_never_read_to_its_end(tmp_path: Path) -> None:
    data = envelope(image=b"image" * 1_000_000)
    for name, change in (("first", 5), ("last", -1)):
        at = data.index(b"imageimage") + (change if change > 0 else 5_000_000 + change)
        path = tmp_path / f"{name}.zip"
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with open_envelope(path) as found, found.open(found.instances[0]) as file:
            with pytest.raises(EnvelopeError, match="CRC-32"):
                file.read()
            file.seek(4_999_999)
            with pytest.raises(EnvelopeError, match="CRC-32"):
                file.read(1)


def test_an_empty_member_and_one_that_is_encrypted(tmp_path: Path) -> None:
    (tmp_path / "empty.zip").write_bytes(envelope(image=b""))
    with open_envelope(tmp_path / "empty.zip") as found:
        assert found.open(found.instances[0]).read() == b""
    (tmp_path / "secret.zip").write_bytes(encrypted_envelope())
    with open_envelope(tmp_path / "secret.zip") as found:
        with pytest.raises(EnvelopeError, match="missing"):
            found.open("payload/dicom/1.dcm")
        assert found.open("payload.encrypted").read(4)


# -- typed -----------------------------------------------------------------------------------------

TYPED = """
from fastjmix.jmix import build, open_envelope, verify

for built in build("study/", "new/"):
    reveal_type(built.path)
    reveal_type(verify(built.path).ok)
    with open_envelope(built.path) as found:
        reveal_type(found.open(found.instances[0]))
build(7, "e.zip")
"""


def test_a_program_elsewhere_is_typed(tmp_path: Path) -> None:
    """As it is installed, editable or not: mypy finds py.typed and the types from any directory."""
    (tmp_path / "theirs.py").write_text(TYPED)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "theirs.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        check=False,
    )
    assert re.findall(r'Revealed type is "(.*)"', done.stdout) == [
        "pathlib.Path",
        "bool",
        "io.BufferedReader[io._BufferedReaderStreamT]"
        if "_BufferedReaderStreamT]" in done.stdout
        else "_io.BufferedReader[_io._BufferedReaderStream]",
    ], done.stdout + done.stderr
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 1, done.stdout
    assert "arg-type" in errors[0]


def test_a_recipients_key_opens_what_was_built(tmp_path: Path) -> None:
    import base64

    key = new_recipient_key()
    text = base64.b64encode(key.public).decode()
    (made,) = build(CT, tmp_path / "e.zip", published(encryption=Encryption(text)))
    assert verify(made.path, key=key).decrypted
