"""Whatever is met and not taken is named and makes exit code 1: `send`, `build`, build()."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    generate_uid,
)

from fastjmix import _core
from fastjmix.dicom.head import STEP_BYTES, cut_short
from fastjmix.errors import FastjmixError, UnreadableHead
from fastjmix.jmix import build, verify
from fastjmix.tools import send
from fastjmix.tools.envelope import building
from fastjmix.tools.envelope.building import IncompleteError
from tests.support.acceptors import PYDICOM_FILES, Acceptor, data_set_bytes, write_instance
from tests.support.gateway import run_command
from tests.support.unprivileged import run_python_unprivileged, run_unprivileged


def image(path: Path, **elements: Any) -> Path:
    """An instance that an envelope can hold."""
    uids = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    return write_instance(path, **{**uids, "PatientName": "DOE^JANE", **elements})


def cut(path: Path) -> None:
    data = image(path).read_bytes()
    path.write_bytes(data[:-7])


def of_other_uid(path: Path, uid: str) -> None:
    """The data set says another SOP Instance UID than the File Meta Information, which says this.

    A UID of odd length has a NUL behind it, which its value length counts.
    """
    data = image(path, SOPInstanceUID=uid).read_bytes()
    found = re.search(rb"\x08\x00\x18\x00UI..[0-9.]+", data, re.DOTALL)
    assert found
    last = found.end() - 1
    path.write_bytes(data[:last] + bytes([data[last] ^ 1]) + data[last + 1 :])


def listening_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(path))


MET: dict[str, tuple[Callable[[Path], Any], str]] = {
    "text": (lambda path: path.write_text("no DICOM"), "not a DICOM Part 10 file"),
    "empty": (lambda path: path.touch(), "not a DICOM Part 10 file"),
    "fifo": (os.mkfifo, "is a FIFO, not a file"),
    "socket": (listening_socket, "is a socket, not a file"),
    "device": (lambda path: path.symlink_to("/dev/null"), "is a device, not a file"),
    "broken link": (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
    "loop": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    "linked folder": (lambda path: path.symlink_to("/usr"), "is a link to a folder"),
    "read error": (lambda path: path.symlink_to("/proc/self/mem"), "Input/output error"),
    "truncated": (cut, "is truncated: it ends inside (0020,000E)"),
    "head only": (
        lambda path: path.write_bytes(image(path).read_bytes()[: -len(data_set_bytes(path))]),
        "is truncated: it ends before its data set begins",
    ),
    "index": (
        lambda path: shutil.copy(PYDICOM_FILES / "test_files" / "dicomdirtests" / "DICOMDIR", path),
        "is named by index and is not there",
    ),
}
"""Things that lie in a folder, and what is said of each."""

NOT_FOR_AN_ENVELOPE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no study": (lambda path: write_instance(path), "lacks a Study, Series or SOP Instance UID"),
    "other uid": (lambda path: of_other_uid(path, "1.2.3.40"), "the SOP Instance UID is another"),
    "odd uid": (lambda path: of_other_uid(path, "1.2.3.4"), "the SOP Instance UID is another"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of two, with everything in it that can be met."""
    here = tmp_path / "study"
    here.mkdir()
    monkeypatch.chdir(tmp_path)
    for name, (make, _) in MET.items():
        make(here / name)
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}
    for number in range(2):
        image(here / f"{number}.dcm", **uids)
    return here


def assert_all_named(text: str, *more: dict[str, tuple[Callable[[Path], Any], str]]) -> None:
    for what in (MET, *more):
        for name, (_, reason) in what.items():
            assert re.search(rf"{re.escape(name)}[^\n]*: [^\n]*{re.escape(reason)}", text) or (
                name == "index" and reason in text
            ), (name, text)


# -- each kind -------------------------------------------------------------------------------------


def test_everything_in_a_folder_is_an_instance_or_is_named(folder: Path) -> None:
    instances, skipped = send.find([folder])
    assert [one.path.name for one in instances] == ["0.dcm", "1.dcm"]
    assert_all_named("\n".join(f"{one.path}: {one.reason}" for one in skipped))


@pytest.mark.fault("F112")
def test_the_command_build_names_everything_and_writes_nothing(
    folder: Path, tmp_path: Path
) -> None:
    for name, (make, _) in NOT_FOR_AN_ENVELOPE.items():
        make(folder / name)
    done = run_command("envelope", "build", folder, "-o", "e.zip", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert_all_named(done.stderr, NOT_FOR_AN_ENVELOPE)
    assert "nothing was written. With --leave-out the envelope is made without." in done.stderr
    assert not (tmp_path / "e.zip").exists()
    done = run_command("envelope", "build", folder, "-o", "e.zip", "--leave-out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_all_named(done.stderr, NOT_FOR_AN_ENVELOPE)
    assert verify(tmp_path / "e.zip").instances == 2


@pytest.mark.fault("F112")
def test_build_of_the_api_raises_with_everything_it_met(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(IncompleteError) as raised:
        build([folder], tmp_path / "e.zip")
    assert_all_named("\n".join(f"{one.path}: {one.reason}" for one in raised.value.skipped))
    assert "study/broken link: cannot be read" in str(raised.value)
    assert not (tmp_path / "e.zip").exists()
    (made,) = build([folder], tmp_path / "e.zip", leave_out=True)
    assert (made.instances, verify(made.path).ok) == (2, True)


@pytest.mark.parametrize("kind", ["fifo", "linked folder", "truncated"])
def test_one_thing_alone_is_enough(tmp_path: Path, kind: str, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "study" / "whole.dcm")
    MET[kind][0](tmp_path / "study" / kind)
    with pytest.raises(IncompleteError, match=re.escape(MET[kind][1])):
        build([tmp_path / "study"], tmp_path / "e.zip")


@pytest.mark.fault("F112")
def test_send_sends_the_rest_names_everything_and_exits_1(folder: Path) -> None:
    with Acceptor().listening() as peer:
        where = (peer.host, peer.port, folder)
        done = run_command("send", *where, "--quiet")
        assert done.returncode == 1
        assert_all_named(done.stdout)
        assert "2 of 2 instances accepted" in done.stdout
        result = json.loads(run_command("send", *where, "--json").stdout)
        assert (result["accepted"], result["exit_code"]) == (2, 1)
        assert_all_named("\n".join(f"{one['file']}: {one['reason']}" for one in result["skipped"]))
        assert run_command("send", *where, "--leave-out").returncode == 0
        report = send.send_files(peer, [folder])
        assert (len(report.accepted), report.exit_code) == (2, 1)
        assert send.send_files(peer, [folder], leave_out=True).exit_code == 0


@pytest.mark.fault("F112")
@pytest.mark.parametrize("closed", ["0.dcm", "deep"])
def test_what_may_not_be_read_is_named(tmp_path: Path, closed: str) -> None:
    image(tmp_path / "study" / "0.dcm")
    image(tmp_path / "study" / "1.dcm")
    image(tmp_path / "study" / "deep" / "2.dcm")
    shut = tmp_path / "study" / closed
    shut.chmod(0)
    try:
        done = run_unprivileged("envelope", "build", "study", "-o", "e.zip", cwd=tmp_path)
        assert done.returncode == 1, done.stdout
        assert re.search(rf"not taken: study/{closed}: .*Permission denied", done.stderr)
        code = "import sys; from fastjmix.jmix import build; build(['study'], 'e.zip')"
        raised = run_python_unprivileged("-c", code, cwd=tmp_path)
        assert raised.returncode == 1
        assert re.search(rf"IncompleteError: .*study/{closed}: .*Permission denied", raised.stderr)
        assert not (tmp_path / "e.zip").exists()
        with Acceptor().listening() as peer:
            sent = run_unprivileged("send", peer.host, peer.port, "study", cwd=tmp_path)
        assert sent.returncode == 1
        assert re.search(rf"skipped study/{closed}: .*Permission denied", sent.stdout)
        assert "2 of 2 instances accepted" in sent.stdout
    finally:
        shut.chmod(0o700)


def test_a_name_that_is_no_text_is_named_in_json_too(tmp_path: Path) -> None:
    strange = os.fsencode(tmp_path) + b"/study/\xff\x1b.dcm"
    image(tmp_path / "study" / "a.dcm")
    Path(os.fsdecode(strange)).write_bytes(b"no DICOM")
    with Acceptor().listening() as peer:
        done = run_command("send", peer.host, peer.port, tmp_path / "study", "--json")
    assert done.returncode == 1
    (skipped,) = json.loads(done.stdout)["skipped"]
    assert skipped["file"].endswith("study/\\udcff\x1b.dcm")
    assert "\x1b" not in done.stderr


def test_folders_that_bring_nothing_and_folders_below_each_other(tmp_path: Path) -> None:
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    _, skipped = send.find([tmp_path / "empty"])
    assert [(one.path, one.reason) for one in skipped] == [
        (tmp_path / "empty", "the folder holds no file")
    ]
    here = tmp_path
    for _ in range(60):  # longer than PATH_MAX in all
        here = here / ("d" * 200)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 200, dir_fd=descriptor)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    _, skipped = send.find([tmp_path / ("d" * 200)])
    assert [one.reason for one in skipped] == ["the folder cannot be listed: File name too long"]
    subprocess.run(["rm", "-r", tmp_path / ("d" * 200)], check=True)


def test_a_folder_that_is_a_link_and_named_itself_is_followed(tmp_path: Path) -> None:
    image(tmp_path / "real" / "a.dcm")
    (tmp_path / "link").symlink_to("real")
    instances, skipped = send.find([tmp_path / "link"])
    assert ([one.path for one in instances], skipped) == ([tmp_path / "link" / "a.dcm"], [])


def test_duplicates_that_are_dropped_are_reported(tmp_path: Path) -> None:
    first = image(tmp_path / "study" / "a.dcm")
    shutil.copy(first, tmp_path / "study" / "b.dcm")
    done = run_command("envelope", "build", "study", "-o", "e.zip", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "kept once: study/b.dcm: an earlier file has its data set" in done.stderr
    (made,) = build([tmp_path / "study"], tmp_path / "f.zip")
    assert made.duplicates == (str(tmp_path / "study" / "b.dcm"),)
    converted = run_command(
        "envelope", "convert", "e.zip", "--profile", "jmix-1.0", "--sender", "a", "--receiver", "b",
        "-o", "g.zip", cwd=tmp_path,
    )  # fmt: skip
    assert (converted.returncode, converted.stderr) == (0, "")


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_names_in_the_message_of_an_exception(off: int) -> None:
    skipped = [
        send.Skipped(Path(f"{number}.txt"), "no") for number in range(building.NAMED_MAX + off)
    ]
    error = IncompleteError(skipped)
    assert error.skipped == tuple(skipped)
    assert error.message.count(".txt: no") == building.NAMED_MAX - (off < 0)
    assert ("and 1 more" in error.message) is (off > 0)
    assert isinstance(error, FastjmixError)


def test_a_file_that_changes_after_it_was_found_is_not_sent_as_another(tmp_path: Path) -> None:
    files = [image(tmp_path / f"{number}.dcm") for number in range(3)]
    instances, _ = send.find(files)
    files[0].write_bytes(files[0].read_bytes()[:-8])
    files[2].write_bytes(files[2].read_bytes() + bytes(8))
    acceptor = Acceptor()
    with acceptor.listening() as peer:
        report = send.send(peer, instances)
    assert [one.instance.path for one in report.accepted] == [files[1]]
    assert {one.detail for one in report.failed} == {"the file has changed since it was found"}
    assert len(acceptor.received) == 1


# -- where a data set ends -------------------------------------------------------------------------


def ends(data: bytes, syntax: str) -> str:
    """As of a file with something before the data set."""
    return cut_short(lambda at, length: data[at - 99 : at - 99 + length], 99, len(data), syntax)


def deflated(data: bytes) -> bytes:
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -15)
    return squeezed.compress(data) + squeezed.flush()


@pytest.mark.fault("F112")
def test_a_cut_far_inside_a_deflated_data_set_is_seen() -> None:
    """Behind what reception inflates: in its stream, and in what was deflated."""
    size = _core.INFLATE_MAX + 1000
    whole = struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OB", 0, size) + bytes(size)
    assert ends(deflated(whole), DeflatedExplicitVRLittleEndian) == ""
    assert ends(deflated(whole)[:-8], DeflatedExplicitVRLittleEndian) == "inside its deflate stream"
    assert ends(deflated(whole[:-10]), DeflatedExplicitVRLittleEndian) == "inside (7FE0,0010)"


FRAGMENT = struct.pack("<HHL", 0xFFFE, 0xE000, 4) + b"abcd"
TABLE = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
OPEN = struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF)
PLAIN = struct.pack("<HH2sH", 8, 0x60, b"CS", 2) + b"CT"
LAST = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


@pytest.mark.fault("F112")
@pytest.mark.parametrize(
    ("behind", "where"),
    [
        (OPEN + TABLE + FRAGMENT + LAST, ""),
        (OPEN + TABLE + FRAGMENT, ""),
        (OPEN + TABLE + 9 * FRAGMENT, ""),
        (OPEN + TABLE, "inside (7FE0,0010)"),
        (OPEN, "inside (7FE0,0010)"),
        (OPEN + TABLE + FRAGMENT[:-1], "inside (7FE0,0010)"),
        (OPEN + TABLE + FRAGMENT + LAST[:-1], "inside (7FE0,0010)"),
        (OPEN[:3], "in an element's head"),
        (OPEN[:6], "inside (7FE0,0010)"),
        (struct.pack("<HHL", 0x41, 0x10, 50) + b"no VR", ""),
        (struct.pack("<HH2sH", 0x41, 0x10, b"LO", 9) + b"eight by", "inside (0041,0010)"),
        (LAST + OPEN, ""),
    ],
)
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, ExplicitVRLittleEndian])
def test_what_proves_a_cut(behind: bytes, where: str, syntax: str) -> None:
    """An omitted delimiter of Pixel Data does not, nor anything else that may be wrong; so it is
    for its receiver to say that Pixel Data contradicts the transfer syntax."""
    assert ends(PLAIN + behind, syntax) == where


@pytest.mark.fault("F112")
def test_a_large_file_is_looked_at_in_steps_and_its_values_are_passed_over() -> None:
    """64 GB that nobody wrote: as a file that has a hole in it would be."""
    read: list[int] = []
    heads = {0: PLAIN + struct.pack("<HH2sHL", 0x9, 0x1010, b"OB", 0, 0xFFFFFFF0)}
    at = len(heads[0]) + 0xFFFFFFF0
    for _ in range(15):
        heads[at] = struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, 0xFFFFFFF0)
        at += 12 + 0xFFFFFFF0

    def read_at(start: int, length: int) -> bytes:
        read.append(length)
        return heads.get(start, b"").ljust(length, b"\0")

    assert cut_short(read_at, 0, at, ExplicitVRLittleEndian) == ""
    assert cut_short(read_at, 0, at - 1, ExplicitVRLittleEndian) == "inside (7FE0,0010)"
    assert max(read) <= STEP_BYTES
    assert len(read) < 40


@pytest.mark.fault("F112")
def test_a_file_that_shrinks_meanwhile_is_not_looked_at_for_ever() -> None:
    with pytest.raises(UnreadableHead):
        cut_short(lambda at, length: PLAIN[at : at + length], 0, 500, ExplicitVRLittleEndian)
