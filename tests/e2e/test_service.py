"""The unit file: what the program needs of systemd is in it, and what it forbids is not needed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from fastjmix.config import load
from tests.support import wire
from tests.support.gateway import Gateway, Peer, get, running, until

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "contrib" / "fastjmix.service"

NEEDED = {
    "User=fastjmix", "UMask=0077", "KillMode=mixed", "TimeoutStopSec=1020", "Type=notify",
    "WatchdogSec=30", "Restart=on-failure",
    "RestartPreventExitStatus=2", "LimitNOFILE=65536", "MemoryDenyWriteExecute=yes",
    "OOMPolicy=continue",
}  # fmt: skip

AS_UNDER_THE_UNIT = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, Linux 6.3: what MemoryDenyWriteExecute= asks for
    print("this kernel has no PR_SET_MDWE", flush=True)
if libc.prctl(38, 1, 0, 0, 0):  # PR_SET_NO_NEW_PRIVS
    raise SystemExit("no_new_privs")
os.umask(0o077)
"""


def test_the_unit_says_what_the_program_relies_on() -> None:
    lines = UNIT.read_text().splitlines()
    assert set(lines) >= NEEDED
    settings = [line for line in lines if "=" in line and not line.startswith("#")]
    assert len({line for line in settings if not line.startswith("SystemCallFilter")}) == len(
        [line for line in settings if not line.startswith("SystemCallFilter")]
    )


def test_the_sockets_are_those_of_the_configuration() -> None:
    """systemd's addresses are the ones that config.toml has; the stop takes longer than a drain."""
    found = load(ROOT / "config.toml")
    addresses = [f"{one.host}:{one.port}" for one in found.dicom]
    addresses += [f"{one.host}:{one.port}" for one in found.http]
    lines = UNIT.with_suffix(".socket").read_text().splitlines()
    assert [line for line in lines if line.startswith("ListenStream=")] == [
        f"ListenStream={one}" for one in addresses
    ]
    secs = found.runtime.drain_secs + 3 * found.runtime.grace_secs + 70
    assert f"TimeoutStopSec={secs + 20:.0f}" in UNIT.read_text()


def test_systemd_can_read_the_units(tmp_path: Path) -> None:
    """Where systemd is; elsewhere the tests above have looked at the form."""
    analyze = shutil.which("systemd-analyze")
    text = UNIT.read_text().replace("/opt/fastjmix/bin/fastjmix", sys.executable)
    unit, sockets = tmp_path / "fastjmix.service", tmp_path / "fastjmix.socket"
    unit.write_text(text.replace("User=fastjmix", "User=root"))
    sockets.write_text(UNIT.with_suffix(".socket").read_text())
    if analyze:
        done = subprocess.run(
            [analyze, "verify", unit, sockets], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_it_works_without_executable_memory_or_new_privileges(tmp_path: Path) -> None:
    own = Gateway(tmp_path / "own", 9, builder="release_grace_secs = 0.1", first=AS_UNDER_THE_UNIT)
    with running(own):
        own.wait_for("http_listening")
        with Peer(own.dicom_port) as peer:
            peer.associate()
            assert peer.store(wire.data_set()) == 0
            peer.release()
        (archive,) = own.wait_sealed()
        assert get(f"{own.http}/jmix/api/jmix/{archive.stem}/manifest")[0] == 200
        until(lambda: "upload_retry" in own.log(), "the uploader has tried")
        assert own.stop() == 0
