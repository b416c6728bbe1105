"""`fastjmix echo`: every acceptor that is here, and what is behind a port that has none."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pynetdicom import evt

from fastjmix.tools import send
from fastjmix.tools.send.other_servers import other_protocol, speaks_tls
from tests.support.acceptors import Acceptor, orthanc, storescp
from tests.support.gateway import Gateways, run_command
from tests.support.upstreams import Upstream, authority


def nobody() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert isinstance(port, int)
    return port


def test_a_fastjmix_answers(start: Gateways) -> None:
    own = start()
    done = run_command("echo", "127.0.0.1", own.dicom_port, "--count", 3)
    assert (done.returncode, done.stderr) == (0, "")
    status, implementation, limit, _, trips = done.stdout.splitlines()
    assert status == f"JMIX_RECEIVER at 127.0.0.1:{own.dicom_port}: 0x0000 Success"
    assert "(FASTJMIX" in implementation
    assert limit == "maximum PDU     131072 bytes"
    assert "on average of 3" in trips


def test_dcmtk_answers(tmp_path: Path) -> None:
    with storescp(tmp_path, "-pdu", "28672") as peer:
        done = run_command("echo", peer.host, peer.port, "--json", "--calling-ae", "ME")
    told = json.loads(done.stdout)
    assert done.returncode == told["exit_code"] == 0
    assert told["implementation_version"].startswith("OFFIS_DCMTK")
    assert (told["max_pdu_bytes"], told["calling_ae"], told["status"]) == (28672, "ME", "0x0000")
    assert len(told["round_trip_secs"]) == 1


def test_pynetdicom_answers_without_a_limit() -> None:
    acceptor = Acceptor()
    acceptor.ae.maximum_pdu_size = 0
    with acceptor.listening() as peer:
        answered = send.echo(peer, count=2)
    assert answered.statuses == (0, 0)
    assert answered.answer.implementation_version.startswith("PYNETDICOM")
    assert answered.lines()[2] == "maximum PDU     no limit"
    assert answered.summary()["max_pdu_bytes"] is None


@pytest.mark.skipif(shutil.which("Orthanc") is None, reason="Orthanc is not installed")
def test_orthanc_answers(tmp_path: Path) -> None:
    with orthanc(tmp_path) as peer:
        done = run_command("echo", peer.host, peer.port)
    assert done.returncode == 0, done.stderr
    assert "maximum PDU     131072 bytes" in done.stdout


def test_a_status_other_than_success_is_exit_code_1() -> None:
    handlers = [(evt.EVT_C_ECHO, lambda _: 0x0122)]
    with Acceptor().listening(handlers=handlers) as peer:
        done = run_command("echo", peer.host, peer.port, "--count", "2")
    assert done.returncode == 1
    assert "0x0122" in done.stdout.splitlines()[0]


def test_a_rejection_is_told_in_words() -> None:
    acceptor = Acceptor()
    acceptor.ae.require_called_aet = True
    with acceptor.listening() as peer:
        done = run_command("echo", peer.host, peer.port, "--called-ae", "OTHER", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == told["exit_code"] == 3
    assert "rejected the association permanently, by its service user" in told["error"]
    assert "called AE title not recognized" in told["error"]
    assert "AE titles" in told["hint"]


def test_nobody_listens() -> None:
    done = run_command("echo", "127.0.0.1", nobody())
    assert done.returncode == 3
    assert "connection refused" in done.stderr


def test_a_silent_peer_is_left_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        done = run_command("echo", "127.0.0.1", mute.getsockname()[1], "--timeout", "0.3")
    assert done.returncode == 3
    assert "no answer within 0.3 s" in done.stderr


@pytest.mark.parametrize(("tls", "word"), [(False, "but HTTP"), (True, "speaks TLS")])
def test_a_web_server_is_named(tmp_path: Path, tls: bool, word: str) -> None:
    async def ask() -> str:
        async with Upstream().open(authority(tmp_path)[1] if tls else None) as web:
            port = urlsplit(web.url).port
            done = await asyncio.to_thread(run_command, "echo", "127.0.0.1", port)
            assert done.returncode == 3
            return done.stderr

    assert word in asyncio.run(ask())


def test_other_servers_have_names() -> None:
    assert other_protocol(b"SSH-2.") == ", but SSH"
    assert other_protocol(b"\x02\x00\x00\x00\x00\x00") == ""
    assert not speaks_tls("127.0.0.1", nobody(), 1.0)


@pytest.mark.parametrize(
    "arguments",
    [("127.0.0.1",), ("127.0.0.1", "x"), ("127.0.0.1", "104", "--count", "0"),
     ("127.0.0.1", "104", "--called-ae", "MORE THAN SIXTEEN")],
)  # fmt: skip
def test_usage(arguments: tuple[str, ...]) -> None:
    assert run_command("echo", *arguments).returncode == 2
