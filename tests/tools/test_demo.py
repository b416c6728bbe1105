"""`make demo`'s one command, and the configuration it derives."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from fastjmix import config
from fastjmix.tools import demo
from tests.support import gateway
from tests.support.acceptors import data_set_bytes, data_set_in

ROOT = Path(__file__).parents[2]


def run_demo(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastjmix", "demo", *arguments],
        cwd=where,
        capture_output=True,
        text=True,
        timeout=110,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "200"},
        check=False,
    )


def processes_in(directory: Path) -> list[str]:
    """Returns the command lines of the processes that mention a directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode()
            where = str(entry.with_name("cwd").readlink())
        except OSError:  # ended meanwhile, or somebody else's
            continue
        if str(directory) in line or where.startswith(str(directory)):
            found.append(line)
    return found


def test_the_demonstration(tmp_path: Path) -> None:
    """With the repository's own configuration: all that was sent is in the store, byte for byte."""
    done = run_demo(tmp_path, "-c", str(ROOT / "config.toml"))
    assert done.returncode == 0, done.stdout + done.stderr
    archives = sorted((tmp_path / "demo" / "store").glob("*.zip"))
    inside: Counter[bytes] = Counter()
    for archive in archives:
        assert archive.stem in done.stdout
        with zipfile.ZipFile(archive) as envelope:
            images = [name for name in envelope.namelist() if name.endswith(".dcm")]
            inside.update(data_set_in(envelope.read(name)) for name in images)
    instances = demo.instances_of_pydicom()
    assert set(inside) == {data_set_bytes(instance.path) for instance in instances}
    assert len(instances) > 100
    assert f"{len(instances)} times C-STORE-RSP 0x0000 Success" in done.stdout
    assert re.search(r"^ +\d+  payload/series_1/image_001.dcm$", done.stdout, re.MULTILINE)
    assert processes_in(tmp_path) == []


BEARER = """
[authentications.jmix_auth]
method = "bearer"
[authentications.jmix_auth.options]
token = "s3cret"
"""


def test_a_second_run_replaces_the_first_and_nothing_else(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("three years")
    gateway.write_config(tmp_path, 9, fastjmix=BEARER, backend='authentication_ref = "jmix_auth"')
    refused = run_demo(tmp_path, "--dir", "mine")
    assert refused.returncode == 1
    assert "is not empty" in refused.stderr
    assert (mine / "thesis.txt").read_text() == "three years"
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / demo.MARK).touch()
    (tmp_path / "demo" / "old").touch()
    assert run_demo(tmp_path).returncode == 0
    assert not (tmp_path / "demo" / "old").exists()
    # The store asked for what the gateway had been configured to show.
    token = tmp_path / "demo" / "token"
    assert (token.read_text(), token.stat().st_mode & 0o777) == ("s3cret", 0o600)
    assert "s3cret" not in (tmp_path / "demo" / "gateway.log").read_text()


def test_a_wrong_configuration_is_reported_as_by_run(tmp_path: Path) -> None:
    gateway.write_config(tmp_path, upstream=9, endpoint="max_pduu = 1")
    done = run_demo(tmp_path)
    assert done.returncode == 2
    assert "max_pduu" in done.stderr
    assert processes_in(tmp_path) == []


TEXT = """\
# a gateway
[network.dicom_net.tcp_config]  # listens
bind_address = "0.0.0.0"   # everywhere
bind_port = 11113
[network.http_net.http]
bind_port=8086
[storage.options]
path = "/var/lib/fastjmix"
[peers.dicom_listener]
connection.host = "0.0.0.0"
connection.port = 11113
connection.protocol = "dicom"
[peers.elsewhere.connection]
host = "ct.local"
port = 104
[targets.upstream]
"connection".host = "jmix.example.com"
connection.port = 443 # https
connection.protocol = "https"
timeout_secs = 300
"""

DERIVED = """\
# a gateway
[network.dicom_net.tcp_config]  # listens
bind_address = "127.0.0.1"  # everywhere
bind_port = 0
[network.http_net.http]
bind_port= 0
[storage.options]
path = "./tmp"
[peers.dicom_listener]
connection.host = "127.0.0.1"
connection.port = 0
connection.protocol = "dicom"
[peers.elsewhere.connection]
host = "ct.local"
port = 104
[targets.upstream]
"connection".host = "127.0.0.1"
connection.port = 4711  # https
connection.protocol = "http"
timeout_secs = 300
"""


def test_only_addresses_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(TEXT)
    (tmp_path / "out").mkdir()
    shown = demo.derive(
        tmp_path / "config.toml", tmp_path / "out", "http://127.0.0.1:4711/api/jmix"
    )
    assert (tmp_path / "out" / "config.toml").read_text() == DERIVED
    assert "-bind_port = 11113\n" in shown
    assert "+connection.port = 4711  # https" in shown


def test_a_key_that_cannot_be_found_again_is_a_fault() -> None:
    text = '[targets]\nup = { connection = { host = "a", port = 1 } }\n'
    assert demo.rewrite(text, {}) == text
    with pytest.raises(demo.DemoError, match=r"targets\.up\.connection\.host"):
        demo.rewrite(text, {("targets", "up", "connection", "host"): "b"})


def test_the_repositorys_configuration_can_be_derived(tmp_path: Path) -> None:
    demo.derive(ROOT / "config.toml", tmp_path, "http://127.0.0.1:4711/api/jmix")
    before = config.load(ROOT / "config.toml")
    after = config.load(tmp_path / "config.toml")
    assert {d.upstreams[0].url for d in after.dicom} == {"http://127.0.0.1:4711/api/jmix"}
    assert [(d.host, d.port) for d in after.dicom] == [("127.0.0.1", 0)] * len(before.dicom)
    assert [(h.host, h.port) for h in after.http] == [("127.0.0.1", 0)] * len(before.http)
    for one, other in zip(before.dicom, after.dicom, strict=True):
        assert (one.builder, one.ae_title, one.ack) == (other.builder, other.ae_title, other.ack)
    main = tomllib.loads((ROOT / "config.toml").read_text())
    assert not Path(main["storage"]["options"]["path"]).is_absolute()


def test_pydicoms_whole_instances_are_many_kinds() -> None:
    instances = demo.instances_of_pydicom()
    assert len({instance.transfer_syntax for instance in instances}) >= 11
    assert len({instance.sop_class for instance in instances}) >= 10


def test_an_envelope_can_be_opened_by_anybody(tmp_path: Path) -> None:
    """The listing that the demonstration shows is the archive's own."""
    archive = tmp_path / "e.zip"
    with zipfile.ZipFile(archive, "w") as envelope:
        for number in range(demo.MEMBERS_SHOWN + 3):
            envelope.writestr(f"payload/{number}", b"x" * number)
    from rich.console import Console

    console = Console(record=True, width=120, file=(tmp_path / "out").open("w"))
    with console.file:
        demo.show_members(console, archive)
    text = console.export_text()
    assert "payload/11" in text
    assert "payload/12" not in text
    assert "and 3 more" in text
