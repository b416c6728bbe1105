"""The node's end of the local socket, as a file."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from fastjmix.control.listening import ControlSocket
from fastjmix.control.place import NAME, address


def connect(storage: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    try:
        with address(storage) as where:
            made.connect(where)
    except OSError:
        made.close()
        raise
    return made


def test_it_is_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        one = ControlSocket(tmp_path)
    finally:
        os.umask(before)
    with one.socket:
        assert stat.S_IMODE((tmp_path / NAME).lstat().st_mode) == 0o600
        assert stat.S_ISSOCK((tmp_path / NAME).lstat().st_mode)


def test_a_path_may_be_longer_than_an_address(tmp_path: Path) -> None:
    deep = tmp_path / ("long" * 40) / ("longer" * 30)
    deep.mkdir(parents=True)
    assert len(str(deep)) > 300
    one = ControlSocket(deep)
    with one.socket, connect(deep):
        assert one.in_place()
        one.socket.settimeout(10)
        one.socket.accept()[0].close()


def test_a_socket_that_a_killed_node_has_left_is_replaced(tmp_path: Path) -> None:
    ControlSocket(tmp_path).socket.close()  # as a kill does: the file stays
    with pytest.raises(ConnectionRefusedError):
        connect(tmp_path)
    two = ControlSocket(tmp_path)
    with two.socket, connect(tmp_path):
        assert two.in_place()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_nothing_but_a_socket_is_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / NAME
    other = tmp_path / "other"
    other.write_text("kept")
    match kind:
        case "file":
            path.write_text("kept")
        case "directory":
            path.mkdir()
        case _:
            path.symlink_to(other)
    with pytest.raises(FileExistsError, match="another kind"):
        ControlSocket(tmp_path)
    assert os.path.lexists(path)
    assert other.read_text() == "kept"


def test_the_end_removes_its_own_file_only(tmp_path: Path) -> None:
    one = ControlSocket(tmp_path)
    two = ControlSocket(tmp_path)
    with one.socket, two.socket:
        assert not one.in_place()
        one.remove()
        assert (tmp_path / NAME).exists()
        two.remove()
        assert not (tmp_path / NAME).exists()


def test_a_directory_that_is_gone_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ControlSocket(tmp_path / "none")
