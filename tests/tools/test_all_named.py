"""Whatever a person must mend by hand is named at once, by every verb of `fastjmix envelope`."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import generate_uid

from fastjmix.errors import EnvelopeError
from fastjmix.jmix import build, open_envelope, verify
from fastjmix.jmix.faults import Fault
from fastjmix.jmix.read.report import Report
from fastjmix.tools.envelope.building import IncompleteError
from fastjmix.tools.envelope.converting import convert
from fastjmix.tools.envelope.extracting import extract
from fastjmix.tools.envelope.recipe import Recipe
from tests.support.acceptors import write_instance
from tests.support.envelopes import members, zipped
from tests.support.gateway import run_command
from tests.support.sealed import sealed

UNLISTED = Recipe(skip_hashing=True, skip_listing=True)


def unpacked(where: Path, recipe: Recipe = UNLISTED) -> Path:
    """A folder that is an envelope of three instances."""
    uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    for number in range(3):
        write_instance(where / "scans" / f"{number}.dcm", **uids)
    (made,) = build(where / "scans", where / "first.zip", recipe)
    extract(made.path, where / "envelope")
    return where / "envelope"


def spoilt(where: Path) -> tuple[Path, dict[str, str]]:
    """An envelope with everything that cannot be converted, and what is said of each."""
    folder = unpacked(where)
    payload = folder / "payload"
    (payload / "notes.dcm").write_text("no DICOM")
    (payload / "empty.dcm").touch()
    write_instance(payload / "no study.dcm")
    whole = next((where / "scans").glob("*.dcm")).read_bytes()
    (payload / "head only.dcm").write_bytes(whole[:200])
    for name in ("files/report.pdf", "files/photo.jpg", "preview/first.png"):
        (payload / name).parent.mkdir(exist_ok=True)
        (payload / name).write_bytes(b"something else")
    entries = [{"file": "files/report.pdf"}, {"file": "files/photo.jpg"}]
    (payload / "files.json").write_text(json.dumps(entries))
    return folder, {
        "payload/notes.dcm": "is not a DICOM file",
        "payload/empty.dcm": "is not a DICOM file",
        "payload/no study.dcm": "lacks a Study, Series or SOP Instance UID",
        "payload/head only.dcm": "",
        "payload/files/report.pdf": "only DICOM instances are converted",
        "payload/files/photo.jpg": "only DICOM instances are converted",
        "payload/preview/first.png": "only DICOM instances are converted",
    }


def assert_all_named(text: str, names: dict[str, str]) -> None:
    for name, reason in names.items():
        assert re.search(rf"{re.escape(name)}[^\n]*: [^\n]*{re.escape(reason)}", text), (name, text)


# -- convert ---------------------------------------------------------------------------------------


@pytest.mark.fault("F112")
def test_convert_names_everything_that_it_cannot_carry(tmp_path: Path) -> None:
    source, names = spoilt(tmp_path)
    asked = ("envelope", "convert", source, "--profile", "harmony", "-o", "e.zip")
    done = run_command(*asked, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert_all_named(done.stderr, {name: f"{why}" for name, why in names.items()})
    assert done.stderr.count("not taken: ") == len(names)
    assert f"{len(names)} that were met cannot be taken: nothing was written" in done.stderr
    assert not (tmp_path / "e.zip").exists()
    result = json.loads(run_command(*asked, "--json", cwd=tmp_path).stdout)
    assert_all_named("\n".join(result["faults"]), names)
    done = run_command(*asked, "--leave-out", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    left = json.loads(done.stdout)["left_out"]
    assert {one["path"] for one in left} == names.keys()
    assert (verify(tmp_path / "e.zip").ok, verify(tmp_path / "e.zip").instances) == (True, 3)


@pytest.mark.fault("F112")
def test_convert_of_the_api_raises_with_everything_it_met(tmp_path: Path) -> None:
    source, names = spoilt(tmp_path)
    with pytest.raises(IncompleteError) as raised:
        convert(source, tmp_path / "e.zip", Recipe())
    assert {str(one.path) for one in raised.value.skipped} == names.keys()
    assert_all_named(raised.value.message.replace("; ", "\n"), names)
    (made,) = convert(source, tmp_path / "e.zip", Recipe(), leave_out=True)
    assert made.instances == 3


def test_convert_names_every_member_that_is_not_as_it_is_listed(tmp_path: Path) -> None:
    folder = unpacked(tmp_path, Recipe())
    images = sorted(folder.rglob("*.dcm"))
    for image in images[:2]:
        image.write_bytes(image.read_bytes()[:-1] + b"!")
    images[2].unlink()
    with pytest.raises(EnvelopeError) as raised:
        convert(folder, tmp_path / "e.zip", Recipe())
    text = raised.value.message
    assert text.startswith("3 faults\n")
    for image in images[:2]:
        assert f"{image.relative_to(folder)}: does not match its hash" in text
    assert f'{images[2].name}", which is not in the archive' in text
    assert not (tmp_path / "e.zip").exists()
    asked = ("envelope", "convert", folder, "--profile", "harmony", "-o", tmp_path / "e.zip")
    assert len(json.loads(run_command(*asked, "--json").stdout)["faults"]) == 3


# -- the others ------------------------------------------------------------------------------------

BELONGS_NOWHERE = ("a link", "payload/another", "payload/fifo")


@pytest.mark.parametrize("verb", ["inspect", "extract", "convert", "decrypt"])
def test_what_may_not_be_in_a_folder_is_named_by_every_verb(tmp_path: Path, verb: str) -> None:
    folder = unpacked(tmp_path)
    (folder / "a link").symlink_to("/etc/hosts")
    (folder / "payload" / "another").symlink_to("nowhere")
    os.mkfifo(folder / "payload" / "fifo")
    with pytest.raises(EnvelopeError) as raised:
        open_envelope(folder)
    (tmp_path / "key").write_bytes(bytes(range(32)))
    more: dict[str, list[Any]] = {
        "inspect": [],
        "extract": ["-o", tmp_path / "out"],
        "convert": ["--profile", "harmony", "-o", tmp_path / "out"],
        "decrypt": ["--key", tmp_path / "key", "-o", tmp_path / "out"],
    }
    done = run_command("envelope", verb, folder, *more[verb])
    assert done.returncode == 1
    for text in (raised.value.message, done.stderr):
        assert all(name in text for name in BELONGS_NOWHERE), text
    result = json.loads(run_command("envelope", verb, folder, *more[verb], "--json").stdout)
    assert len(result["faults"]) == len(BELONGS_NOWHERE)
    assert not (tmp_path / "out").exists()


def test_every_name_that_no_file_can_have_is_named(tmp_path: Path) -> None:
    unfit = ("payload/AUX.dcm", "payload/b. ", "Manifest.json", "payload/series_1/IMAGE_001.dcm")
    (tmp_path / "e.zip").write_bytes(sealed(members() | dict.fromkeys(unfit, b"x")))
    with pytest.raises(EnvelopeError) as raised:
        extract(tmp_path / "e.zip", tmp_path / "out")
    assert all(name in raised.value.message for name in unfit)


def test_everything_that_is_in_the_way_of_extract_is_named(tmp_path: Path) -> None:
    (tmp_path / "e.zip").write_bytes(zipped(members()))
    out = tmp_path / "out"
    (out / "manifest.json").mkdir(parents=True)
    (out / "payload").mkdir()
    (out / "payload" / "metadata.json").mkdir()
    (out / "payload" / "series_1").symlink_to(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = run_command("envelope", "extract", "e.zip", "-o", "out", "--force", cwd=tmp_path)
    assert done.returncode == 1
    assert "3 things are in the way" in done.stderr
    assert "out/manifest.json: a folder where a file should be" in done.stderr
    assert "out/payload/metadata.json: a folder where a file should be" in done.stderr
    assert re.search(r"out/payload/series_1: .*: a link or a file where a folder", done.stderr)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "command", [["envelope", "build", "-o", "e.zip"], ["send", "127.0.0.1", "1"]]
)
def test_every_path_that_does_not_exist_is_named(tmp_path: Path, command: list[str]) -> None:
    there = write_instance(tmp_path / "there.dcm")
    done = run_command(*command, "first", there, "second", "third", cwd=tmp_path)
    assert done.returncode == 2
    for name in ("first", "second", "third"):
        assert f"{name}: no such file or directory" in done.stderr
    assert "3 paths do not exist" in done.stderr


def test_a_name_that_is_no_text_is_escaped_in_json(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    write_instance(
        folder / "a.dcm", StudyInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid()
    )
    shutil.copy(b"/etc/hosts", os.fsencode(folder) + b"/\xff.txt")
    asked = ("envelope", "build", folder, "-o", tmp_path / "e.zip", "--json")
    refused = run_command(*asked)
    assert "\\udcff.txt: not a DICOM Part 10 file" in json.loads(refused.stdout)["faults"][0]
    made = json.loads(run_command(*asked, "--leave-out").stdout)
    assert made["left_out"][0]["path"].endswith("\\udcff.txt")


def test_one_fault_stays_as_it_is_and_none_is_none() -> None:
    report = Report()
    report.raise_faults()
    report.add_fault(Fault("a", "is wrong", "Mend it.", at=7))
    with pytest.raises(Fault) as raised:
        report.raise_faults()
    assert (raised.value.message, raised.value.hint) == ("a, byte 7: is wrong", "Mend it.")
