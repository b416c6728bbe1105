"""`fastjmix check --live`: real ports, disks, certificates and upstreams, good and bad."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fastjmix import config as configuration
from fastjmix.config import Config, Credentials, Secret, Upstream
from fastjmix.tools.check import Finding, State, exit_code, run
from fastjmix.tools.check import chunked as chunks
from fastjmix.tools.check import upstream as there
from tests.support import upstreams
from tests.support.disks import Disk, as_root
from tests.support.gateway import (
    COMMAND,
    Process,
    Store,
    run_command,
    running,
    write_config,
)
from tests.support.nodes import to
from tests.support.upstreams import Raw, Reply, Seen, Small, answer, authority

NOBODY = 9
"""A port on which no upstream listens."""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return configuration.load(write_config(tmp_path / "own", NOBODY), {})


def about(found: list[Finding], what: str) -> list[Finding]:
    return [one for one in found if one.what == what]


def only(found: list[Finding], what: str) -> Finding:
    (one,) = about(found, what)
    return one


async def of(one: Upstream) -> list[Finding]:
    """Returns what the steps to an upstream found."""
    return [finding async for finding in there.upstream(one, "u")]


def states(found: list[Finding]) -> list[tuple[str, State]]:
    return [(one.what, one.state) for one in found]


# -- the command -----------------------------------------------------------------------------------


def test_all_is_well(tmp_path: Path, upstream: Store) -> None:
    path = write_config(tmp_path / "own", upstream.port)
    (path.parent / "spool").mkdir()
    done = run_command("check", "--live", "--json", "-c", path, cwd=path.parent)
    told = json.loads(done.stdout)
    assert done.returncode == told["exit_code"] == 0, done.stdout
    assert {one["state"] for one in told["live"]} <= {"ok", "warning"}
    whats = {one["what"] for one in told["live"]}
    assert whats >= {"configuration", "memory", "port", "storage", "free space"}
    assert whats >= {"DNS", "TCP", "upstream", "chunked bodies"}
    assert list((path.parent / "spool").iterdir()) == []


def test_a_fault_is_a_line_and_exit_code_1(tmp_path: Path) -> None:
    path = write_config(tmp_path / "own", NOBODY)
    done = run_command("check", "--live", "-c", path, cwd=path.parent)
    assert done.returncode == 1
    assert f"fault    TCP jmix_upstream (http://127.0.0.1:{NOBODY}/api/jmix)" in done.stdout
    assert "connection refused" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("1 faults, 0 warnings")
    assert not (path.parent / "spool").exists()


def test_a_fault_of_the_configuration_is_exit_code_2(tmp_path: Path) -> None:
    path = write_config(tmp_path / "own", NOBODY, storage="creat = true")
    assert run_command("check", "--live", "-c", path, cwd=path.parent).returncode == 2
    path = write_config(tmp_path / "own", NOBODY)
    done = run_command("check", "--probe-chunked", "-c", path, cwd=path.parent)
    assert done.returncode == 2
    assert "--probe-chunked needs --live" in done.stderr


def test_a_finding_is_one_line_whatever_a_peer_says() -> None:
    one = Finding("fault", "TLS", "u", "issued by \x1b[31mCN=a\nok storage", "Do something.")
    assert len(one.line().splitlines()) == 1
    assert "\x1b" not in one.line() + one.row()["found"]
    assert exit_code([one]) == 1
    assert exit_code([replace(one, state="warning")]) == 0


# -- ports -----------------------------------------------------------------------------------------


def listening(config: Config, port: int, host: str = "127.0.0.1") -> Config:
    (dicom,) = config.dicom
    return replace(config, dicom=(replace(dicom, host=host, port=port),), http=())


def test_a_port_that_another_program_has(config: Config) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = only(run(listening(config, taken.getsockname()[1])), "port")
    assert found.state == "fault"
    assert f"held by process {os.getpid()} (" in found.found


def test_the_ports_of_the_running_fastjmix_are_no_fault(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = write_config(tmp_path / "own", NOBODY)
    path.write_text(path.read_text().replace("bind_port = 0", f"bind_port = {port}", 1))
    with running(Process("run", "-c", "config.toml", cwd=path.parent)) as own:
        own.wait_for(r" started ")
        before = own.log()
        done = run_command("check", "--live", "-c", path, cwd=path.parent)
        assert f"held by the running fastjmix of this configuration (process {own.child.pid})" in (
            done.stdout
        )
        other = write_config(tmp_path / "other", NOBODY)
        other.write_text(other.read_text().replace("bind_port = 0", f"bind_port = {port}", 1))
        told = run_command("check", "--live", "-c", other, cwd=other.parent)
        assert f"held by process {own.child.pid} (" in told.stdout
        assert own.log().count("warning") == before.count("warning")
        assert own.stop() == 0


def test_an_address_of_another_machine(config: Config) -> None:
    found = only(run(listening(config, 0, "192.0.2.1")), "port")
    assert (found.state, found.found) == ("fault", "no address of this machine")


def test_a_port_below_1024_names_the_capability(tmp_path: Path) -> None:
    """As a user without it, in a network namespace whose first unprivileged port is 1024."""
    path = write_config(tmp_path / "own", NOBODY)
    path.write_text(path.read_text().replace("bind_port = 0", "bind_port = 104", 1))
    found = as_root(
        "unshare", "-n", "sh", "-c",
        "sysctl -qw net.ipv4.ip_unprivileged_port_start=1024; ip link set lo up;"
        ' cd "$1"; shift; setpriv --bounding-set -net_bind_service --inh-caps'
        ' -net_bind_service "$@"; echo "status $?"',
        "sh", path.parent, *COMMAND, "check", "--live", "-c", path,
    )  # fmt: skip
    assert "status 1" in found
    assert "DICOM endpoint dicom_receiver: permission denied" in found
    assert "CAP_NET_BIND_SERVICE" in found


# -- storage ---------------------------------------------------------------------------------------


def test_a_storage_directory_that_is_missing(config: Config, tmp_path: Path) -> None:
    found = only(run(replace(config, storage_dir=tmp_path / "a" / "b")), "storage")
    assert found.state == "fault"
    assert "the storage directory is not there" in found.found


def test_a_disk_that_is_not_mounted(config: Config, tmp_path: Path) -> None:
    found = only(run(replace(config, storage_dir=tmp_path, require_mount=True)), "storage")
    assert found.state == "fault"
    assert "require_mount = true wants one" in found.found


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    one = Disk(tmp_path / "disk", "ext4")
    yield one
    one.close()


def test_a_disk_that_is_full_then_read_only(config: Config, disk: Disk) -> None:
    on_it = replace(config, storage_dir=disk.at, require_mount=True)
    found = run(on_it)
    assert states(about(found, "storage")) == [("storage", "ok")] * 2
    assert f"is on ext4, mounted on {disk.at}" in about(found, "storage")[0].found
    assert only(found, "free space").state == "ok"
    filler = disk.fill(leave=100_000)
    low = only(run(on_it), "free space")
    assert low.state == "warning"
    assert "instances are refused (A700)" in low.found
    filler.unlink()
    disk.remount("ro")
    fault = about(run(on_it), "storage")[-1]
    assert fault.state == "fault"
    assert "Read-only file system" in fault.found
    disk.remount("rw")


def test_directories_of_another_user(config: Config, tmp_path: Path) -> None:
    root = tmp_path / "theirs"
    (root / "building").mkdir(parents=True)
    as_root("chown", "12345", root / "building")
    found = about(run(replace(config, storage_dir=root)), "storage")
    assert found[-1].state == "fault"
    assert "belongs to user 12345" in found[-1].found


# -- certificates and keys -------------------------------------------------------------------------


@pytest.mark.parametrize(("days", "state"), [(-1, "fault"), (5, "warning"), (60, "ok")])
def test_the_certificate_of_a_listener(
    config: Config, tmp_path: Path, days: int, state: State
) -> None:
    authority(tmp_path, days=days)
    pem = tmp_path / "upstream.pem"
    pem.chmod(0o644)
    (http,) = config.http
    found = run(replace(config, http=(replace(http, cert_file=pem, key_file=pem),)))
    assert only(found, "certificate").state == state
    key = only(found, "certificate key")
    assert (key.state, key.what_to_do) == ("warning", "Set its mode to 0600.")
    pem.chmod(0o640)
    found = run(replace(config, http=(replace(http, cert_file=pem, key_file=pem),)))
    assert only(found, "certificate key").state == "ok"


# -- upstreams -------------------------------------------------------------------------------------


def test_a_name_that_is_not_known() -> None:
    (found,) = asyncio.run(of(to("http://upstream.invalid/api/jmix")))
    assert (found.what, found.state) == ("DNS", "fault")
    assert "upstream.invalid" in found.found


def credentials() -> Credentials:
    return Credentials("bearer", token=Secret("top-secret-token"))


@pytest.mark.parametrize(
    ("status", "document", "state", "word"),
    [
        (404, {"error": "unknown"}, "ok", "404 with JSON"),
        (404, None, "ok", "the credentials are not refused"),
        (401, None, "fault", "the credentials (method bearer) are refused"),
        (403, None, "fault", "may not read there"),
        (302, None, "fault", "a redirect"),
        (503, None, "fault", "cannot serve now"),
        (429, None, "fault", "cannot serve now"),
        (405, None, "warning", "where a JMIX server answers 404"),
        (200, {}, "warning", "where a JMIX server answers 404"),
    ],
)
def test_the_answers_of_an_upstream(status: int, document: Any, state: State, word: str) -> None:
    async def ask() -> tuple[list[Finding], list[Seen]]:
        server = upstreams.Upstream(manifest=lambda _, __: answer(status, document))
        async with server.open():
            return await of(to(server.url, credentials=credentials())), server.seen

    found, seen = asyncio.run(ask())
    assert states(found) == [("DNS", "ok"), ("TCP", "ok"), ("upstream", state)]
    assert word in found[-1].found
    assert "top-secret-token" not in str(found)
    assert [one.method for one in seen] == ["GET"]
    assert seen[0].headers["authorization"] == "Bearer top-secret-token"


def test_credentials_that_are_missing_and_a_web_page() -> None:
    async def ask(manifest: upstreams.Script) -> Finding:
        server = upstreams.Upstream(manifest=manifest)
        async with server.open():
            return (await of(to(server.url)))[-1]

    found = asyncio.run(ask(lambda _, __: answer(401)))
    assert "no credentials are configured" in found.found
    page = web.Response(status=404, text="<html>not here</html>", content_type="text/html")
    found = asyncio.run(ask(lambda _, __: page))
    assert (found.state, found.what_to_do) == ("warning", "Check base_path and path_prefix.")


@pytest.mark.parametrize(
    ("certificate", "word", "todo"),
    [
        ({"days": -1}, "certificate has expired", "must renew it"),
        ({"host": "127.0.0.9"}, "IP address mismatch", "connection.host must be a name"),
        ({"self_signed": True}, "not trusted: ", "must be in"),
    ],
)
def test_certificates_that_are_not_trusted(
    tmp_path: Path, certificate: dict[str, Any], word: str, todo: str
) -> None:
    ca_file, context = authority(tmp_path, **certificate)
    found = asyncio.run(over(context, ca_file=ca_file))
    assert states(found) == [("DNS", "ok"), ("TCP", "ok"), ("TLS", "fault")]
    assert word in found[-1].found
    assert "the certificate of CN=test upstream expire" in found[-1].found
    assert todo in found[-1].what_to_do


async def over(context: ssl.SSLContext | None, scheme: str = "https", **more: Any) -> list[Finding]:
    async with upstreams.Upstream().open(context) as server:
        url = f"{scheme}:{server.url.partition(':')[2]}"
        return await of(to(url, **more))


def test_certificates_that_are_trusted(tmp_path: Path) -> None:
    ca_file, context = authority(tmp_path, days=400)
    found = asyncio.run(over(context, ca_file=ca_file))
    assert states(found)[2:] == [("TLS", "ok"), ("upstream", "ok")]
    assert "TLSv1.3, trusted; " in found[2].found
    assert "issued by CN=test authority" in found[2].found
    ca_file, context = authority(tmp_path, days=10)
    assert asyncio.run(over(context, ca_file=ca_file))[2].state == "warning"
    ca_file, context = authority(tmp_path)
    unknown = asyncio.run(over(context))[-1]
    assert "connection.ca_cert_path" in unknown.what_to_do


def test_http_behind_https_and_https_behind_http(tmp_path: Path) -> None:
    plain = asyncio.run(over(None))[-1]
    assert (plain.what, plain.state) == ("TLS", "fault")
    assert "is it a plain http port behind an https address?" in plain.found
    _, context = authority(tmp_path)
    wrong = asyncio.run(over(context, scheme="http"))[-1]
    assert (wrong.what, wrong.state) == ("upstream", "fault")


def test_an_upstream_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(there, "STEP_SECS", 0.3)

    async def ask() -> list[list[Finding]]:
        async with AsyncExitStack() as stack:
            mute = await stack.enter_async_context(Raw(upstreams.says_nothing_for_ever).open())
            silent = f"https:{mute.url.partition(':')[2]}"
            return [await of(to(mute.url, timeout_secs=0.3)), await of(to(silent))]

    answered, shaken = asyncio.run(ask())
    assert (answered[-1].what, answered[-1].state) == ("upstream", "fault")
    assert "no answer in time" in answered[-1].found
    assert (shaken[-1].what, shaken[-1].found) == ("TLS", "no handshake in 0.3 s")


def test_addresses_that_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> str:
        async with upstreams.Upstream().open() as server:
            return (await of(to(server.url.replace("127.0.0.1", "localhost"))))[0].found

    assert asyncio.run(ask()).endswith("127.0.0.1")
    monkeypatch.setattr(there, "ADDRESSES_MAX", 1)
    assert "," not in asyncio.run(ask())


def test_an_answer_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(there, "STEP_SECS", 0.3)

    async def page(wire: upstreams.Wire) -> None:
        await wire.head()
        await wire.say(upstreams.http_head("400 Bad Request", Content_Length=1 << 40))
        while True:
            await wire.say(b" " * 65536)

    async def ask() -> tuple[list[Finding], Finding]:
        async with Raw(page).open() as server:
            return await of(to(server.url)), await chunks.probed(to(server.url), "u")

    found, probed = asyncio.run(ask())
    assert "400 for an envelope that nobody has" in found[-1].found
    assert probed.found.startswith("unknown: ")


def test_an_upstream_that_waits_for_the_end_of_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads Content-Length only, and takes the chunks for a request that is not whole."""
    monkeypatch.setattr(chunks, "ANSWER_SECS", 0.4)

    async def by_length(wire: upstreams.Wire) -> None:
        head = await wire.head()
        if b"Content-Length" not in head:
            await wire.take(1 << 20)
        body = await wire.body(head)
        await wire.say(upstreams.http_head(f"{415 if body else 400} No", Content_Length=0))

    async def ask() -> Finding:
        async with Raw(by_length).open() as server:
            return await chunks.probed(to(server.url), "u")

    assert asyncio.run(ask()).found == "not read: no answer in 0.4 s, and to other bodies one came"


def test_each_upstream_is_tried_once(config: Config) -> None:
    (dicom,) = config.dicom
    other = replace(
        dicom, pipeline="second", upstreams=(replace(dicom.upstreams[0], name="other"),)
    )
    found = run(replace(config, dicom=(dicom, replace(dicom, pipeline="third"), other)))
    named = [one.found for one in about(found, "upstream")]
    assert [one.split(", ")[0] for one in named] == [
        "is that of dicom_to_jmix",
        "is that of second",
    ]
    assert "third" in named[0]
    assert len(about(found, "TCP")) == 2


def test_a_url_with_a_password_is_shown_without_it(config: Config) -> None:
    url = f"http://user:top-secret@127.0.0.1:{NOBODY}/api/jmix"
    (dicom,) = config.dicom
    found = run(replace(config, dicom=(replace(dicom, upstreams=(to(url),)),), http=()))
    assert "top-secret" not in " ".join(one.line() for one in found)


# -- chunked bodies --------------------------------------------------------------------------------


def says_why(body: bytes, _: str | None) -> Reply:
    return 400, b'{"error": "empty"}' if not body else b'{"error": "no ZIP"}'


def says_no(_: bytes, __: str | None) -> Reply:
    return 400, b"{}"


@pytest.mark.parametrize(
    ("manner", "reads", "state", "word"),
    [
        (says_why, True, "ok", "read: a chunked text got the answer to the same text (400)"),
        (says_why, False, "ok", "not read: a chunked text got the answer to an empty body"),
        (says_no, True, "ok", "unknown: "),
        (upstreams.says_created, False, "warning", "something may be stored"),
    ],
)
def test_a_probe_of_chunked_bodies(
    manner: upstreams.Manner, reads: bool, state: State, word: str
) -> None:
    server = Small(manner, chunked=reads)
    with server.open() as url:
        found = asyncio.run(chunks.probed(to(url), "u"))
        assert (found.what, found.state) == ("chunked bodies", state)
        assert word in found.found
        if manner is says_why and not reads:
            relied = asyncio.run(chunks.probed(to(url, transfer_encoding="chunked"), "u"))
            assert relied.state == "fault"
    if manner is upstreams.says_created:
        assert server.sizes == [0], "it ended with the first answer that may have stored something"


def test_a_refusal_of_chunked_bodies() -> None:
    def script(_: web.BaseRequest, seen: Seen) -> web.Response:
        chunked = "chunked" in seen.headers.get("transfer-encoding", "")
        return answer(411 if chunked else 400)

    async def ask() -> tuple[Finding, Finding]:
        async with upstreams.Upstream(script).open() as server:
            first = await chunks.probed(to(server.url), "u")
            server.script = lambda _, __: answer(401)
            return first, await chunks.probed(to(server.url), "u")

    refused, locked = asyncio.run(ask())
    assert refused.found == "refused with 411"
    assert (locked.state, locked.what_to_do) == ("fault", "The credentials are refused.")


def test_the_store_of_our_own_reads_them(upstream: Store) -> None:
    before = upstream.held()
    found = asyncio.run(chunks.probed(to(f"http://127.0.0.1:{upstream.port}/api/jmix"), "u"))
    assert found.found.startswith("read: ")
    assert upstream.held() == before


def test_what_deliveries_have_taught_is_said_without_a_request(config: Config) -> None:
    one = to("http://127.0.0.1:9/api/jmix")
    assert chunks.remembered(one, "u", {"takes_chunked": True}).found.startswith("read: ")
    assert chunks.remembered(one, "u", None).state == "ok"
    relied = chunks.remembered(replace(one, transfer_encoding="chunked"), "u", None)
    assert relied.state == "warning"
    unused = chunks.remembered(replace(one, transfer_encoding="content-length"), "u", None)
    assert "not used" in unused.found


# -- what hangs ------------------------------------------------------------------------------------


def test_a_step_that_hangs_ends_at_its_limit(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Opening a FIFO waits for ever, as a file on a dead network mount does."""
    root = tmp_path / "hangs"
    root.mkdir()
    os.mkfifo(root / "fifo")

    def hang(_: Config) -> Iterator[Finding]:
        (root / "fifo").read_bytes()
        yield from ()

    whole = importlib.import_module("fastjmix.tools.check.run")
    monkeypatch.setattr(whole, "STORAGE_SECS", 0.2)
    monkeypatch.setattr(whole, "storage", hang)
    found = only(run(replace(config, storage_dir=root)), "storage")
    assert (found.state, found.found) == ("fault", "no answer in 0.2 s")
    (root / "fifo").write_bytes(b"")  # ends the thread
