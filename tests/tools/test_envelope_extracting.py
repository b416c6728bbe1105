"""tools/envelope/extracting.py: nothing is written outside the folder."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from fastjmix.errors import EnvelopeError
from fastjmix.tools.envelope.extracting import extract
from tests.support.envelopes import members, zipped
from tests.support.sealed import sealed


@pytest.mark.parametrize(
    "name",
    ["../out", "/tmp/out", "a/../../out", "C:\\x", "C:/x", "a\\..\\b", "./x", "a//b", "x\x00y",
     "nul", "payload/AUX.dcm", "payload/trailing. "],
)  # fmt: skip
def test_no_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "e.zip").write_bytes(sealed(members() | {name: b"evil"}))
    with pytest.raises(EnvelopeError):
        extract(tmp_path / "e.zip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["e.zip"]


def test_names_that_clash_are_refused(tmp_path: Path) -> None:
    for other in ("PAYLOAD/series_1/image_001.dcm", "Manifest.json"):
        (tmp_path / "e.zip").write_bytes(zipped(members() | {other: b"x"}))
        with pytest.raises(EnvelopeError, match="only in its letters' case"):
            extract(tmp_path / "e.zip", tmp_path / "out")


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        for name, data in members().items():
            archive.writestr(name, data)
        link = zipfile.ZipInfo("payload/link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc")
    with pytest.raises(EnvelopeError, match="symbolic link"):
        extract(tmp_path / "e.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()
