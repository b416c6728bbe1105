"""Row F116: the storage's disk is not mounted, so the storage directory is missing, or empty."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastjmix.config import storage_path
from fastjmix.errors import SpoolError
from fastjmix.spool import Spool
from tests.support.disks import Disk, as_root
from tests.support.gateway import COMMAND, Gateway, Process, run_command, running, write_config

NOBODY = 9
"""A port on which no upstream listens."""

KEY = "[storage.options] path"


def configured(directory: Path, path: str | Path, more: str = "") -> Path:
    """Writes a gateway's configuration with this storage path. Returns its main file."""
    config = write_config(directory, NOBODY, storage=more)
    text = config.read_text()
    config.write_text(text.replace('path = "./spool"', f'path = "{path}"'))
    return config


def refused(config: Path, *words: str) -> None:
    """Neither `check` nor `run` accepts this storage; both name the key, and the words."""
    before = everything(config.parent.parent)
    for command in ("check", "run"):
        done = run_command(command, "-c", config, cwd=config.parent)
        assert done.returncode == 2, (command, done.stderr)
        for word in (KEY, *words):
            assert word in done.stderr, (command, done.stderr)
    assert everything(config.parent.parent) == before


def everything(directory: Path) -> list[str]:
    return sorted(str(path) for path in directory.rglob("*"))


def accepted(config: Path, storage: Path) -> None:
    """Both commands accept it, and `run` makes it."""
    done = run_command("check", "-c", config, cwd=config.parent)
    assert done.returncode == 0, done.stderr
    with running(Process("run", "-c", "config.toml", cwd=config.parent)) as own:
        own.wait_for(r" started ")
        assert (storage / "building").is_dir()
        assert own.stop() == 0


def a_file(at: Path) -> Path:
    at.write_bytes(b"")
    return at


def leading_nowhere(at: Path) -> Path:
    at.symlink_to(at.with_name("unmounted"))
    return at


@pytest.mark.fault("F116")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda at: at / "disk", "/disk is missing"),
        (lambda at: at / "mnt" / "disk" / "fastjmix", "/mnt is missing"),
        (lambda at: a_file(at / "file"), "is not a directory"),
        (lambda at: a_file(at / "file") / "below", "/file is not a directory"),
        (lambda at: leading_nowhere(at / "link"), "a symbolic link"),
        (lambda at: leading_nowhere(at / "link") / "below", "/link is not a directory"),
    ],
    ids=["missing", "parent missing", "a file", "below a file", "link", "below a link"],
)
def test_a_storage_path_that_is_missing_is_not_made(
    tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    (tmp_path / "disks").mkdir()
    refused(configured(tmp_path / "own", make(tmp_path / "disks")), words)


@pytest.mark.fault("F116")
def test_nor_is_one_below_the_working_directory(tmp_path: Path) -> None:
    refused(configured(tmp_path / "own", "./data/spool"), "/data is missing")


@pytest.mark.fault("F116")
def test_a_log_file_in_it_does_not_make_it(tmp_path: Path) -> None:
    """The log is opened before the storage."""
    gone = tmp_path / "disk" / "fastjmix"
    config = configured(tmp_path / "own", gone)
    logging = f'[logging]\nlog_to_file = true\nlog_file_path = "{gone}/log"\n'
    config.write_text(logging + config.read_text())
    refused(config, f"{tmp_path}/disk is missing")


@pytest.mark.fault("F116")
@pytest.mark.parametrize("path", ["./tmp", "./spool"])
def test_create_false_makes_not_even_the_default(tmp_path: Path, path: str) -> None:
    refused(configured(tmp_path / "own", path, "create = false"), " is missing")


@pytest.mark.fault("F116")
def test_create_true_makes_it_with_its_parents(tmp_path: Path) -> None:
    storage = tmp_path / "some" / "where"
    accepted(configured(tmp_path / "own", storage, "create = true"), storage)


@pytest.mark.fault("F116")
@pytest.mark.parametrize("path", ["./tmp", "tmp/"])
def test_the_default_path_is_made(tmp_path: Path, path: str) -> None:
    accepted(configured(tmp_path / "own", path), tmp_path / "own" / "tmp")


@pytest.mark.fault("F116")
def test_beside_the_configuration_it_is_made(tmp_path: Path) -> None:
    """The file was just read from there: no mount is missing above."""
    storage = tmp_path / "own" / "images"
    accepted(configured(tmp_path / "own", storage), storage)


@pytest.mark.fault("F116")
def test_an_empty_directory_is_begun_in(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    accepted(configured(tmp_path / "own", tmp_path / "made"), tmp_path / "made")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    one = Disk(tmp_path / "disk", "ext4")
    yield one
    one.close()


@pytest.mark.fault("F116")
def test_storage_on_a_disk_that_is_away_is_not_begun_anew_below_it(
    tmp_path: Path, disk: Disk
) -> None:
    """At the first start the disk is mounted, and the directory on it is made. At the second it is
    not: nothing is made on the disk below."""
    config = configured(tmp_path / "own", disk.at / "fastjmix")
    accepted(config, disk.at / "fastjmix")
    disk.unmount()
    refused(config, f"{disk.at}/fastjmix is missing")
    assert list(disk.at.iterdir()) == []


@pytest.mark.fault("F116")
def test_require_mount_wants_a_mounted_disk(tmp_path: Path, disk: Disk) -> None:
    """Whatever the directory holds: an earlier start without the key may have filled it."""
    for path in (disk.at, disk.at / "fastjmix"):
        config = configured(
            tmp_path / f"own-{path.name}", path, "require_mount = true\ncreate = true"
        )
        accepted(config, path)
    disk.unmount()
    (disk.at / "building").mkdir()
    for path in (disk.at, disk.at / "fastjmix"):
        config = configured(
            tmp_path / f"own-{path.name}", path, "require_mount = true\ncreate = true"
        )
        refused(config, "require_mount = true wants one", "Mount its disk")
    assert [one.name for one in disk.at.iterdir()] == ["building"]


@pytest.mark.fault("F116")
def test_without_require_mount_nothing_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "own" / "images"
    accepted(configured(tmp_path / "own", path, "require_mount = false"), path)
    assert storage_path.mount_of(path) is None


WITH_FSTAB = """
import os, sys
os.execvp("unshare", ["unshare", "-m", "sh", "-ec", '''
    if [ ! -e /etc/fstab ]; then  # some containers have none: a copy of /etc gets one
        mount -t tmpfs tmpfs /mnt
        cp -a /etc/. /mnt
        touch /mnt/fstab
        mount --bind /mnt /etc
    fi
    mount --bind "$1" /etc/fstab
    shift
    exec "$@"''', "sh", *sys.argv[1:]])
"""
"""No other process sees what is mounted here."""


def check_with(fstab: Path, config: Path) -> str:
    """Runs `fastjmix check` where this file is /etc/fstab; its output and its status."""
    return as_root(
        "sh", "-c", 'cd "$1"; shift; "$@" 2>&1; echo "status $?"', "sh", config.parent,
        sys.executable, "-c", WITH_FSTAB, fstab, *COMMAND, "check", "-c", config,
    )  # fmt: skip


@pytest.mark.fault("F116")
def test_an_empty_mount_point_is_not_begun_in(tmp_path: Path) -> None:
    point = tmp_path / "disk"
    point.mkdir()
    fstab = tmp_path / "fstab"
    fstab.write_text(f"/dev/sdx1 {point} ext4 defaults,nofail 0 2\n")
    reported = check_with(fstab, configured(tmp_path / "own", point))
    assert "status 2" in reported, reported
    assert KEY in reported
    assert f"nothing is mounted on {point}" in reported
    reported = check_with(fstab, configured(tmp_path / "own", point, "create = true"))
    assert "status 0" in reported, reported


@pytest.mark.fault("F116")
@pytest.mark.parametrize(
    ("below", "line", "refuses"),
    [
        ("", "/dev/sdx1 {} ext4 defaults,nofail 0 2", True),
        ("deep/down", "LABEL=images {} xfs defaults", True),
        ("", "server:/images {}/ nfs4 _netdev 0 0", True),
        ("", "/dev/sdx1 {} ext4", False),  # not a line of an fstab
        ("", "/dev/sdx1 {} ext4 noauto 0 2", False),
        ("", "# /dev/sdx1 {} ext4 defaults 0 2", False),
        ("", "/dev/sdx1 {}elsewhere ext4 defaults 0 2", False),
        ("", "/dev/sdx1 none swap sw 0 0 # {}", False),
        ("", "/dev/sdx1 / ext4 defaults 0 1 # {}", False),
    ],
)
def test_lines_of_fstab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str, line: str, refuses: bool
) -> None:
    point = tmp_path / "a disk"
    (point / below).mkdir(parents=True)
    fstab = tmp_path / "fstab"
    fstab.write_text("\n" + line.format(str(point).replace(" ", "\\040")) + "\n")
    monkeypatch.setattr(storage_path, "FSTAB", fstab)
    if refuses:
        with pytest.raises(SpoolError, match=f"nothing is mounted on {point}"):
            storage_path.require(point / below, None, tmp_path / "config.toml")
    else:
        storage_path.require(point / below, None, tmp_path / "config.toml")
    storage_path.require(point / below, True, tmp_path / "config.toml")


@pytest.mark.fault("F116")
def test_storage_that_is_there_is_taken_whatever_fstab_says(tmp_path: Path) -> None:
    """The envelopes that wait in it must be delivered."""
    point = tmp_path / "disk"
    (point / "building").mkdir(parents=True)
    fstab = tmp_path / "fstab"
    fstab.write_text(f"/dev/sdx1 {point} ext4 defaults 0 2\n")
    config = configured(tmp_path / "own", point)
    reported = check_with(fstab, config)
    assert "status 0" in reported, reported


@pytest.mark.fault("F116")
def test_what_may_not_be_made_is_not_made_later_either(tmp_path: Path) -> None:
    """A process that tries storage again, which had no room at the start, finds its disk gone."""
    gone = tmp_path / "disk"
    one = Spool(gone, create=False)
    with pytest.raises(SpoolError, match="No such file"):
        one.prepare()
    child = one.inherited()
    child.unproved = True
    with pytest.raises(FileNotFoundError):
        child.reclaim()
    assert not os.path.lexists(gone)


@pytest.mark.fault("F116")
def test_tune_does_not_make_it(tmp_path: Path) -> None:
    config = configured(tmp_path / "own", tmp_path / "gone" / "spool")
    done = run_command("tune", "-c", config, "--seconds", 60, "--sample-mb", 1, cwd=config.parent)
    assert done.returncode == 2, done.stderr
    assert KEY in done.stderr
    assert not (tmp_path / "gone").exists()


@pytest.mark.fault("F116")
def test_a_gateway_whose_directory_was_there_runs(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "spool").mkdir()
    with running(Gateway(tmp_path / "own", NOBODY, storage="create = false")) as own:
        assert own.stop() == 0
