"""`fastjmix send`: DICOMDIR, patterns, dry run, resume, times, PDU length, no peer, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread
from pynetdicom import evt

from fastjmix.tools import send
from fastjmix.tools.send import peer as limits
from fastjmix.tools.send import record as records
from tests.support.acceptors import (
    PYDICOM_FILES,
    Acceptor,
    data_set_bytes,
    storescp,
    write_instance,
)
from tests.support.gateway import COMMAND, run_command

MEDIA = PYDICOM_FILES / "test_files" / "dicomdirtests"


def nobody() -> int:
    """Returns a port at which no program listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def images(directory: Path, count: int) -> list[Path]:
    return [write_instance(directory / f"{number:03}.dcm") for number in range(count)]


# -- a DICOMDIR ------------------------------------------------------------------------------------


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Returns a folder like a CD, with its index."""
    records = dcmread(MEDIA / "DICOMDIR").DirectoryRecordSequence
    for record in records:
        if name := record.get("ReferencedFileID"):
            target = tmp_path.joinpath("cd", *name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(MEDIA.joinpath(*name), target)
    shutil.copy(MEDIA / "DICOMDIR", tmp_path / "cd" / "DICOMDIR")
    return tmp_path / "cd"


def test_a_dicomdir_stands_for_its_files(media: Path) -> None:
    walked, nothing = send.find([media])
    named, none = send.find([media / "DICOMDIR"])
    assert nothing == none == []
    assert sorted(one.path for one in named) == sorted(one.path for one in walked)
    assert len(named) == 31
    (media / "stray.dcm").write_bytes(named[0].path.read_bytes())
    assert len(send.find([media / "DICOMDIR"])[0]) == 31
    acceptor = Acceptor()
    with acceptor.listening() as peer:
        done = run_command("send", peer.host, peer.port, media / "DICOMDIR", "--quiet")
    assert done.returncode == 0, done.stdout
    assert len(acceptor.received) == 31


@pytest.mark.parametrize("named", ["DICOMDIR", "."])
def test_what_a_dicomdir_promises_and_is_not_there(media: Path, named: str) -> None:
    gone = send.find([media])[0][3].path
    gone.unlink()
    instances, skipped = send.find([media / named])
    assert len(instances) == 30
    assert [(one.path, one.reason) for one in skipped] == [
        (gone, "is named by DICOMDIR and is not there")
    ]


def test_a_cd_that_was_copied_with_other_letters(media: Path) -> None:
    for path in sorted(media.rglob("*"), reverse=True):
        if path.name != "DICOMDIR":
            path.rename(path.with_name(path.name.lower()))
    instances, skipped = send.find([media / "DICOMDIR"])
    assert (len(instances), skipped) == (31, [])


@pytest.mark.parametrize("name", [["..", "x"], ["/etc/passwd"], ["."], ["A", "..", "..", "x"]])
def test_a_dicomdir_names_nothing_outside_its_folder(media: Path, name: list[str]) -> None:
    index = dcmread(media / "DICOMDIR")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of names that no DICOMDIR may have
        for record in index.DirectoryRecordSequence:
            if record.get("ReferencedFileID"):
                record.ReferencedFileID = name
        index.save_as(media / "DICOMDIR")
    write_instance(media.parent / "x")
    instances, skipped = send.find([media / "DICOMDIR"])
    assert instances == []
    assert "names a file that no folder can hold" in skipped[0].reason
    (media / "DICOMDIR").write_bytes((media / "DICOMDIR").read_bytes()[:700])
    assert send.find([media / "DICOMDIR"])[0] == []


# -- patterns, dry run -----------------------------------------------------------------------------


def test_patterns_choose_names_in_folders(tmp_path: Path) -> None:
    images(tmp_path / "a", 3)
    write_instance(tmp_path / "a" / "deep" / "IM1")
    (tmp_path / "a" / "autorun.inf").write_text("[autorun]")
    names = send.Names(("*.dcm",), ("002*",))
    instances, skipped = send.find([tmp_path / "a"], names)
    assert ([one.path.name for one in instances], skipped) == (["000.dcm", "001.dcm"], [])
    named, _ = send.find([tmp_path / "a" / "deep" / "IM1"], names)
    assert [one.path.name for one in named] == ["IM1"]
    with Acceptor().listening() as peer:
        done = run_command(
            "send", peer.host, peer.port, tmp_path / "a", "--exclude", "*.inf", "--exclude", "00*"
        )
    assert done.returncode == 0
    assert "1 of 1 instances accepted" in done.stdout


def test_a_dry_run_calls_nobody(tmp_path: Path) -> None:
    files = images(tmp_path / "a", 2)
    done = run_command("send", "127.0.0.1", nobody(), tmp_path / "a", "--dry-run")
    assert done.returncode == 0
    for file in files:
        assert f"would send {file}: CT Image Storage as Explicit VR Little Endian" in done.stdout
    assert "2 instances, 0.0 MB, 1 presentation context, 0 files skipped; nothing" in done.stdout
    (tmp_path / "a" / "notes").touch()
    done = run_command("send", "x.invalid", 104, tmp_path / "a", "--dry-run", "--json")
    result = json.loads(done.stdout)
    assert done.returncode == result["exit_code"] == 1
    assert (result["dry_run"], result["files"], len(result["skipped"])) == (True, 2, 1)
    done = run_command("send", "x.invalid", 104, tmp_path / "a" / "notes", "--dry-run")
    assert done.returncode == 2


# -- resume ----------------------------------------------------------------------------------------


def test_resume_sends_what_was_not_accepted(tmp_path: Path) -> None:
    files = images(tmp_path / "a", 5)
    kept = tmp_path / "record"
    full = threading.Event()

    def answer(_: evt.Event) -> int:
        return 0xA700 if len(acceptor.received) > 3 and not full.is_set() else 0x0000

    acceptor = Acceptor(answer)
    with acceptor.listening() as peer:
        where = ("send", peer.host, peer.port, tmp_path / "a", "--resume", kept)
        assert run_command(*where).returncode == 1
        assert "3 sent before" in run_command(*where, "--dry-run").stdout
        full.set()
        acceptor.received.clear()
        done = run_command(*where)
        assert done.returncode == 0
        assert "2 of 2 instances accepted, 3 sent before" in done.stdout
        assert len(acceptor.received) == 2
        result = json.loads(run_command(*where, "--json").stdout)
        assert (result["files"], result["sent_before"], result["exit_code"]) == (0, 5, 0)
        assert len(acceptor.received) == 2
        files[1].write_bytes(files[1].read_bytes())  # changed since
        os.utime(files[1], ns=(1, 1))
        assert "1 of 1 instances accepted, 4 sent before" in run_command(*where).stdout
        other = run_command(*where, "--aet", "ME", "--aec", "JMIX_RECEIVER")
        assert "0 of 0 instances accepted, 5 sent before" in other.stdout
    with Acceptor().listening() as another:  # another peer has nothing of this
        done = run_command("send", another.host, another.port, tmp_path / "a", "--resume", kept)
    assert "5 of 5 instances accepted" in done.stdout


def test_a_run_that_is_killed_is_resumed(tmp_path: Path) -> None:
    images(tmp_path / "a", 6)
    kept = tmp_path / "record"
    third, release = threading.Event(), threading.Event()

    def answer(_: evt.Event) -> int:
        if len(acceptor.received) == 3:
            third.set()
            release.wait(20)
        return 0x0000

    acceptor = Acceptor(answer)
    with acceptor.listening(timeout=30) as peer:
        where = ("send", peer.host, str(peer.port), str(tmp_path / "a"), "--resume", str(kept))
        with subprocess.Popen([*COMMAND, *where], stdout=subprocess.DEVNULL) as process:
            assert third.wait(20)
            process.kill()
        release.set()
        with kept.open("ab") as file:
            file.write(b'{"peer": "torn')
        done = run_command(*where)
    assert "4 of 4 instances accepted, 2 sent before" in done.stdout
    assert len(set(kept.read_text().splitlines())) == 7


def test_a_file_that_is_no_record_is_left_as_it_is(tmp_path: Path) -> None:
    (file,) = images(tmp_path / "a", 1)
    for foreign in (b"my notes", b'{"x": 1}\n', b'{"fastjmix_send_record": 1}\nnotes\n', b"\xff\n"):
        (tmp_path / "r").write_bytes(foreign)
        done = run_command("send", "127.0.0.1", nobody(), file, "--resume", tmp_path / "r")
        assert done.returncode == 2
        assert "r: is not a record of what was sent" in done.stderr
        assert (tmp_path / "r").read_bytes() == foreign
    first = send.Record(tmp_path / "new")
    with pytest.raises(send.UsageError, match="another send uses it"):
        send.Record(tmp_path / "new")
    first.close()
    send.Record(tmp_path / "new").close()
    assert run_command("send", "h", 1, file, "--resume", tmp_path).returncode == 2


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_bytes_of_a_line_of_a_record(tmp_path: Path, off: int) -> None:
    line = {"peer": "p", "file": "", "bytes": 1, "mtime_ns": 1, "sop_instance_uid": "1"}
    line["file"] = "x" * (records.LINE_MAX + off - len(json.dumps(line)) - 1)
    header = json.dumps(records.HEADER)
    (tmp_path / "r").write_text(f"{header}\n{json.dumps(line)}\n")
    if off > 0:
        with pytest.raises(send.UsageError, match="is not a record"):
            send.Record(tmp_path / "r")
    else:
        send.Record(tmp_path / "r").close()


# -- PDUs and times --------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [4096, 20_000])
def test_max_pdu_is_announced_and_kept(tmp_path: Path, limit: int) -> None:
    sizes, announced = [], []

    def measure(event: evt.Event) -> None:
        sizes.append(len(event.data) - 6 if event.data[0] == 4 else 0)

    def requested(event: evt.Event) -> None:
        announced.append(event.assoc.requestor.maximum_length)

    file = write_instance(tmp_path / "a.dcm", EncapsulatedDocument=bytes(100_000))
    acceptor = Acceptor()
    handlers = [(evt.EVT_DATA_RECV, measure), (evt.EVT_REQUESTED, requested)]
    with acceptor.listening(handlers=handlers) as peer:
        done = run_command("send", peer.host, peer.port, file, "--max-pdu", limit)
    assert done.returncode == 0, done.stderr
    assert announced == [limit]
    assert max(sizes) == min(limit, 16_382)  # pynetdicom takes 16382
    assert [body for _, _, body in acceptor.received] == [data_set_bytes(file)]


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_lengths_of_our_own_pdus(off: int) -> None:
    for bound, good in ((limits.MAX_PDU_LEAST, off >= 0), (limits.MAX_PDU_MOST, off <= 0)):
        if good:
            assert send.Peer("h", 104, max_pdu=bound + off).max_pdu == bound + off
        else:
            with pytest.raises(send.UsageError, match="maximum PDU length"):
                send.Peer("h", 104, max_pdu=bound + off)


def test_each_time_has_its_own_option(tmp_path: Path) -> None:
    (file,) = images(tmp_path, 1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        where = ("send", "127.0.0.1", mute.getsockname()[1], file)
        done = run_command(*where, "--acse-timeout", "0.3", "--timeout", "50")
        assert done.returncode == 3
        assert "no answer within 0.3 s" in done.stderr
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        with many_connections(full.getsockname()):
            where = ("send", "127.0.0.1", full.getsockname()[1], file)
            done = run_command(*where, "--connect-timeout", "0.3", "--timeout", "50")
        assert done.returncode == 3
        assert "timed out" in done.stderr
    release = threading.Event()

    def answer(_: evt.Event) -> int:
        release.wait(20)
        return 0x0000

    with Acceptor(answer).listening() as peer:
        patient = ("--connect-timeout", 50, "--acse-timeout", 50)
        done = run_command("send", peer.host, peer.port, file, "--timeout", "0.4", *patient)
        release.set()
    assert done.returncode == 1
    assert "no answer within 0.4 s" in done.stdout


@contextmanager
def many_connections(address: tuple[str, int]) -> Iterator[None]:
    """Opens so many connections that the kernel completes no more for this listener."""
    wires = []
    for _ in range(4):
        wire = socket.socket()
        wire.setblocking(False)
        wire.connect_ex(address)
        wires.append(wire)
    try:
        yield
    finally:
        for wire in wires:
            wire.close()


# -- one line, and the end -------------------------------------------------------------------------


@pytest.mark.fault("F114")
def test_nobody_listens_is_one_line(tmp_path: Path) -> None:
    images(tmp_path / "a", 200)
    port = nobody()
    for more in ((), ("--associations", "8"), ("--quiet",), ("--resume", tmp_path / "record")):
        done = run_command("send", "127.0.0.1", port, tmp_path / "a", *more)
        assert done.returncode == 3
        assert len((done.stdout + done.stderr).splitlines()) == 1, done.stdout[:500]
        assert f"at 127.0.0.1:{port}: connection refused" in done.stderr


@pytest.mark.fault("F114")
def test_a_peer_that_goes_away_costs_one_line_for_the_rest(tmp_path: Path) -> None:
    images(tmp_path / "a", 100)

    def stop(event: evt.Event) -> int:
        if len(acceptor.received) == 3:
            acceptor.ae.require_calling_aet = ["FRIEND"]
            event.assoc.abort()
        return 0x0000

    acceptor = Acceptor(stop)
    with acceptor.listening() as peer:
        done = run_command("send", peer.host, peer.port, tmp_path / "a", "--quiet")
    assert done.returncode == 1
    first, rest, summary = done.stdout.splitlines()
    assert "the association was lost" in first
    assert rest.startswith("------  97 instances not sent, from ")
    assert "2 of 100 instances accepted" in summary


@pytest.mark.fault("F114")
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_with_130_and_a_summary(tmp_path: Path, times: int) -> None:
    """The first lets the instance in flight finish, the second does not wait for it."""
    images(tmp_path / "a", 20)
    arrived, release = threading.Event(), threading.Event()

    def answer(_: evt.Event) -> int:
        if len(acceptor.received) == 3:
            arrived.set()
            release.wait(30)
        return 0x0000

    acceptor = Acceptor(answer)
    with acceptor.listening(timeout=30) as peer:
        command = [*COMMAND, "send", peer.host, str(peer.port), str(tmp_path / "a"), "-q"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert arrived.wait(20)
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert process.stderr.readline().startswith("interrupted: waiting for what is in fl")
            if times == 1:
                release.set()
            else:
                process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=30)
        release.set()
    assert process.returncode == 130
    *lines, summary = out.splitlines()
    assert summary.startswith(f"interrupted, {4 - times} of 20 instances accepted")
    assert any("17 instances not sent" in line for line in lines)
    assert any("interrupted before it was answered" in line for line in lines) is (times == 2)


@pytest.mark.fault("F114")
def test_ctrl_c_before_there_is_an_association(tmp_path: Path) -> None:
    images(tmp_path / "a", 3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        command = [*COMMAND, "send", "127.0.0.1", str(mute.getsockname()[1]), str(tmp_path / "a")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            wire, _ = mute.accept()
            assert wire.recv(10)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=30)
            wire.close()
    assert process.returncode == 130
    assert "3 instances not sent" in out
    assert "interrupted, 0 of 3 instances accepted" in out.splitlines()[-1]


@pytest.mark.fault("F114")
def test_ctrl_c_of_a_terminal(tmp_path: Path) -> None:
    """As a person types it: the terminal signals the whole group."""
    images(tmp_path / "a", 3)
    arrived, release = threading.Event(), threading.Event()

    def answer(_: evt.Event) -> int:
        arrived.set()
        release.wait(20)
        return 0x0000

    with Acceptor(answer).listening(timeout=30) as peer:
        ours, theirs = pty.openpty()
        command = [*COMMAND, "send", peer.host, str(peer.port), str(tmp_path / "a")]
        with subprocess.Popen(
            ["setsid", "--ctty", *command], stdin=theirs, stdout=theirs, stderr=theirs
        ) as process:
            os.close(theirs)
            assert arrived.wait(20)
            os.write(ours, b"\x03")
            said = b""
            while b"interrupted: waiting for what is in flight" not in said:
                said += os.read(ours, 4096)
            release.set()
            while True:
                try:
                    said += os.read(ours, 4096)
                except OSError:
                    break
            process.wait(30)
        os.close(ours)
    assert process.returncode == 130
    assert b"interrupted, 1 of 3 instances accepted" in said, said.decode()[-900:]


def test_options_against_dcmtk(tmp_path: Path) -> None:
    files = images(tmp_path / "a", 3)
    (tmp_path / "kept").mkdir()
    with storescp(tmp_path / "kept", "-pdu", "4096", "+B") as peer:
        done = run_command(
            "send", peer.host, peer.port, tmp_path / "a", "--max-pdu", "131072",
            "--resume", tmp_path / "record", "--connect-timeout", "5", "--acse-timeout", "5",
        )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert len(list((tmp_path / "kept").iterdir())) == len(files)
