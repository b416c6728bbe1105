"""The command line: processes, exit codes, stdout and stderr."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest
from pydicom.uid import generate_uid
from pynetdicom import evt

from fastjmix import __version__
from fastjmix.cli.lazy import LazyGroup
from fastjmix.cli.linux import check_release
from fastjmix.cli.tree import app
from fastjmix.errors import PlatformError, printable
from tests.support import gateway
from tests.support.acceptors import Acceptor, data_set_bytes, storescp, write_instance
from tests.support.gateway import COMMAND
from tests.support.gateway import run_command as fastjmix

# --- version, help, start-up -------------------------------------------------------------------


def test_version_and_help() -> None:
    assert fastjmix("--version").stdout == f"fastjmix {__version__}\n"
    done = fastjmix("--help")
    assert done.returncode == 0
    for command in ("run", "check", "store", "send", "echo", "demo"):
        assert f" {command} " in done.stdout
        assert fastjmix(command, "-h").returncode == 0


def test_nothing_to_do_is_a_usage_error() -> None:
    done = fastjmix()
    assert done.returncode == 2
    assert "Usage: fastjmix" in done.stdout
    assert fastjmix("no-such-command").returncode == 2
    assert fastjmix("--config", "x.toml", "check").returncode == 2


def modules_after(*arguments: str) -> set[str]:
    """Returns the names of the modules that a command had imported when it ended."""
    code = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
        "from fastjmix.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


HEAVY = {"pydicom", "pynetdicom", "aiohttp", "pydantic", "asyncio", "numpy", "rich", "typer"}


def test_version_and_help_import_no_tool_and_nothing_heavy() -> None:
    for arguments in (["--version"], ["--help"], ["envelope", "--help"]):
        loaded = modules_after(*arguments)
        assert not HEAVY & loaded
        ours = {name.split(".")[1] for name in loaded if name.startswith("fastjmix.")}
        assert ours == {"_version", "cli", "errors"}


@pytest.mark.parametrize("command", ["run", "check", "store", "demo", "tune", "send", "echo"])
def test_the_help_of_a_command_imports_no_tool_and_nothing_heavy(command: str) -> None:
    loaded = modules_after(command, "--help")
    assert not HEAVY & loaded
    assert not any(name.startswith("fastjmix.tools") for name in loaded)
    assert f"fastjmix.cli.{command}" in loaded
    assert "fastjmix.cli.envelope" not in loaded


def test_the_list_of_commands_has_the_first_sentence_of_each() -> None:
    for group in (app, app.commands["envelope"]):
        assert isinstance(group, LazyGroup)
        for name, one in group.commands.items():
            summary = (one.help or "").split("\n\n")[0].replace("\n", " ")
            assert group.summary(name) == summary


# --- completion by a shell --------------------------------------------------------------------


def asked(instruction: str, **words: str) -> str:
    """Returns what a shell gets that asks for its completion."""
    done = subprocess.run(
        COMMAND, capture_output=True, text=True, check=True,
        env={**os.environ, "_FASTJMIX_COMPLETE": instruction, **words},
    )  # fmt: skip
    return done.stdout


def completed(*words: str) -> list[str]:
    """Returns what bash is offered for the last of these words."""
    lines = asked("bash_complete", COMP_WORDS=" ".join(words), COMP_CWORD=str(len(words) - 1))
    return [line.removeprefix("plain,") for line in lines.splitlines()]


def test_a_shell_completes_commands_and_options() -> None:
    assert completed("fastjmix", "st") == ["status", "store"]
    assert completed("fastjmix", "envelope", "") == [
        "inspect", "verify", "extract", "decrypt", "keygen", "build", "convert",
    ]  # fmt: skip
    assert completed("fastjmix", "check", "--co") == ["--config"]


def test_bash_completes_with_the_source_that_it_gets(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text(asked("bash_source"))
    program = tmp_path / "fastjmix"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m fastjmix "$@"\n')
    program.chmod(0o755)
    script = f"source {source}; COMP_WORDS=(fastjmix tu); COMP_CWORD=1; "
    script += f"_fastjmix_completion {program}; echo ${{COMPREPLY[@]}}; complete -p fastjmix"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "tune", "complete -o nosort -F _fastjmix_completion fastjmix"
    ]  # fmt: skip


# --- where it runs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "release", "told"),
    [
        ("darwin", "23.1.0", "this is darwin"),
        ("linux", "4.19.0-26-amd64", "this is 4.19"),
        ("linux", "5.3.18", "this is 5.3"),
    ],
)
def test_platforms_that_cannot(system: str, release: str, told: str) -> None:
    with pytest.raises(PlatformError, match=told) as why:
        check_release(system, release)
    assert why.value.exit_code == 2


@pytest.mark.parametrize("release", ["5.4.0", "5.10.0-33-amd64", "6.1.0", "6.12.5+rpt-rpi-v8"])
def test_platforms_that_can(release: str) -> None:
    check_release("linux", release)


def test_control_bytes_are_shown_and_not_obeyed() -> None:
    assert printable("a\x1b[2Kb\nc\u202ed é") == "a\\x1b[2Kb\\nc\\u202ed é"


# --- run and check ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", [("run", "-c"), ("--config",), ("run", "--config")])
def test_run_until_sigterm(tmp_path: Path, form: tuple[str, ...]) -> None:
    gateway.write_config(tmp_path, upstream=9)
    with gateway.running(gateway.Process(*form, "config.toml", cwd=tmp_path)) as process:
        process.wait_for(r" started ")
        assert process.stop() == 0


def test_check_prints_what_takes_effect(tmp_path: Path) -> None:
    path = gateway.write_config(tmp_path, upstream=8123, endpoint="max_pdu = 65536")
    done = fastjmix("check", "-c", path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "65536" in done.stdout
    assert "http://127.0.0.1:8123/api/jmix" in done.stdout


@pytest.mark.fault("S25")
@pytest.mark.parametrize("command", ["check", "run"])
def test_every_fault_at_once_and_nothing_started(tmp_path: Path, command: str) -> None:
    path = gateway.write_config(
        tmp_path, upstream=9, endpoint="max_pduu = 1", builder='digest = "md5"'
    )
    done = fastjmix(command, "-c", path, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("fastjmix: 2 faults")
    for word in ("max_pduu", "max_pdu", "md5", "sha256", "blake3"):
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "spool").exists()


@pytest.mark.fault("S25")
def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    done = fastjmix("check", cwd=tmp_path)
    assert done.returncode == 2
    assert "config.toml" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.fault("S25")
def test_a_port_that_is_taken(tmp_path: Path) -> None:
    gateway.write_config(tmp_path / "one", upstream=9)
    with gateway.running(gateway.Gateway(tmp_path / "one", upstream=9)) as first:
        path = gateway.write_config(tmp_path / "two", upstream=9)
        text = path.read_text().replace("bind_port = 0", f"bind_port = {first.dicom_port}", 1)
        path.write_text(text)
        done = fastjmix("run", cwd=tmp_path / "two")
        assert done.returncode == 2
        assert f"127.0.0.1:{first.dicom_port}" in done.stderr
        assert "Traceback" not in done.stderr


# --- store ------------------------------------------------------------------------------------


def test_store_tells_its_address_and_asks_for_the_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    where = ["--dir", str(tmp_path / "s"), "--token-file", str(token)]
    command = [*COMMAND, "store", "--port", "0", *where]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().decode().strip()
            assert url.startswith("http://127.0.0.1:")
            request = urllib.request.Request(url, headers={"Accept": "application/json"})
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=10)
            with refused.value:
                assert refused.value.code == 401
            request.add_header("Authorization", "Bearer s3cret")
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert json.load(answer) == {"jmixEnvelopes": []}
        finally:
            process.terminate()
        assert process.wait(20) == 0


def test_store_will_not(tmp_path: Path) -> None:
    where = ("--port", "0", "--dir", tmp_path / "s")
    (tmp_path / "empty").touch()
    for arguments in (
        ("--token-file", tmp_path / "nothing"),
        ("--token-file", tmp_path / "empty"),
        ("--host", "0.0.0.0"),
        ("--host", "192.0.2.1", "--allow-unauthenticated"),
        ("--log-level", "loud"),
    ):
        done = fastjmix("store", *where, *arguments)
        assert done.returncode == 2, arguments
        assert "Traceback" not in done.stderr
    assert fastjmix("store").returncode == 2


# --- send -------------------------------------------------------------------------------------


def test_send_says_what_became_of_each_file(tmp_path: Path) -> None:
    def answer(event: evt.Event) -> int:
        return 0xA700 if len(acceptor.received) == 2 else 0x0000

    for number in range(3):
        write_instance(tmp_path / f"{number}.dcm")
    (tmp_path / "notes.txt").write_text("no DICOM")
    acceptor = Acceptor(answer)
    with acceptor.listening() as peer:
        done = fastjmix("send", peer.host, peer.port, tmp_path)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        f"skipped {tmp_path}/notes.txt: not a DICOM Part 10 file (no preamble and DICM prefix)",
        f"0x0000  {tmp_path}/0.dcm: Success",
        f"0xA700  {tmp_path}/1.dcm: Failure: Refused: Out of Resources",
        f"0x0000  {tmp_path}/2.dcm: Success",
    ]
    assert lines[4].startswith("2 of 3 instances accepted, ")
    assert lines[4].endswith(" 1 failed, 1 files skipped, 1 association")
    assert done.stderr == ""


def test_send_quietly(tmp_path: Path) -> None:
    write_instance(tmp_path / "a.dcm")
    (tmp_path / "notes.txt").touch()
    with Acceptor().listening() as peer:
        done = fastjmix("send", "--quiet", "--leave-out", peer.host, peer.port, tmp_path)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1


def test_send_as_json(tmp_path: Path) -> None:
    file = write_instance(tmp_path / "a.dcm")
    with Acceptor().listening() as peer:
        done = fastjmix("send", "--json", peer.host, peer.port, file)
    report = json.loads(done.stdout)
    assert done.returncode == report["exit_code"] == 0
    assert report["files"] == report["accepted"] == report["associations"] == 1
    assert report["bytes"] == len(data_set_bytes(file))
    assert report["outcomes"][0]["status"] == "0x0000"
    assert f"0x0000  {file}: Success" in done.stderr


def test_send_to_nobody(tmp_path: Path) -> None:
    acceptor = Acceptor()
    acceptor.ae.require_calling_aet = ["FRIEND"]
    file = write_instance(tmp_path / "a.dcm")
    with acceptor.listening() as peer:
        done = fastjmix("send", "--json", peer.host, peer.port, file)
        friend = fastjmix("send", "--aet", "FRIEND", peer.host, peer.port, file)
        echo = fastjmix("send", "--echo", "--aet", "FRIEND", peer.host, peer.port)
    assert done.returncode == 3
    assert "calling AE title not recognized" in done.stderr
    assert json.loads(done.stdout)["exit_code"] == 3
    assert friend.returncode == 0
    assert echo.returncode == 0
    assert echo.stdout.splitlines()[0].endswith(": 0x0000 Success")


def test_send_refuses_nonsense(tmp_path: Path) -> None:
    for arguments in (
        ("127.0.0.1", "104"),
        ("127.0.0.1", "104", "--echo", tmp_path),
        ("127.0.0.1", "0", tmp_path),
        ("127.0.0.1", "104", tmp_path / "nothing"),
        ("127.0.0.1", "104", tmp_path),
        ("127.0.0.1", "104", tmp_path, "--aec", "MORE THAN SIXTEEN"),
        ("127.0.0.1", "104", tmp_path, "--associations", "0"),
    ):
        done = fastjmix("send", *arguments)
        assert done.returncode == 2, arguments
        assert "Traceback" not in done.stderr


def test_an_interrupt_finishes_the_instance_in_flight(tmp_path: Path) -> None:
    arrived, release = threading.Event(), threading.Event()

    def answer(_: evt.Event) -> int:
        arrived.set()
        release.wait(20)
        return 0x0000

    for number in range(50):
        write_instance(tmp_path / f"{number}.dcm")
    with Acceptor(answer).listening(timeout=30) as peer:
        command = [*COMMAND, "send", peer.host, str(peer.port), str(tmp_path), "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert arrived.wait(20)
            process.send_signal(signal.SIGINT)
            release.set()
            out, _ = process.communicate(timeout=30)
    report = json.loads(out)
    assert process.returncode == report["exit_code"] == 130
    assert report["accepted"] >= 1
    assert {o["meaning"] for o in report["outcomes"]} == {"Success", "Not sent: interrupted"}


def test_send_to_dcmtk(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    file = write_instance(tmp_path / "a.dcm", PatientID="P1")
    with storescp(kept, "+B") as peer:
        assert fastjmix("send", peer.host, peer.port, file).returncode == 0
    (stored,) = kept.iterdir()
    assert data_set_bytes(stored) == data_set_bytes(file)


# --- all of it --------------------------------------------------------------------------------


def test_send_through_a_gateway_into_a_store(tmp_path: Path) -> None:
    study, series = generate_uid(), generate_uid()
    files = [
        write_instance(
            tmp_path / "in" / f"{number}.dcm",
            StudyInstanceUID=study,
            SeriesInstanceUID=series,
            PatientID="P1",
        )
        for number in range(4)
    ]
    with (
        gateway.running(gateway.Store(tmp_path / "upstream")) as store,
        gateway.running(gateway.Gateway(tmp_path / "gw", upstream=store.port)) as node,
    ):
        done = fastjmix("send", "127.0.0.1", node.dicom_port, tmp_path / "in")
        assert done.returncode == 0, done.stdout
        (held,) = store.wait_held(1)
        (archive,) = (tmp_path / "upstream" / "store").glob("*.zip")
        with zipfile.ZipFile(archive) as envelope:
            members = [n for n in envelope.namelist() if n.endswith(".dcm")]
            inside = {envelope.read(name)[-200:] for name in members}
        assert held["id"] == archive.stem
        assert inside == {file.read_bytes()[-200:] for file in files}
        assert node.stop() == 0


AS_NOBODY = """
import ctypes, os
from fastjmix.supervisor.sockets import listen
if os.geteuid() == 0:
    ctypes.CDLL(None).unshare(0x40000000)  # CLONE_NEWNET: a network with the kernel's own defaults
    os.setuid(65534)
try:
    listen("0.0.0.0", 104, "DICOM endpoint x").close()
except Exception as problem:
    print(problem)
"""


def test_a_port_that_is_for_privileged_programs_says_which_privilege() -> None:
    reported = subprocess.run(
        [sys.executable, "-c", AS_NOBODY], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    if reported:
        assert "cannot listen on 0.0.0.0:104: Permission denied" in reported
        assert "CAP_NET_BIND_SERVICE" in reported
    else:  # a machine that lets anybody have it
        open_from = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()
        assert int(open_from) <= 104
