"""docs/routing.md: each example's configuration is loaded, and each of its questions is asked."""

from __future__ import annotations

import re
import shlex
from datetime import date
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from tests.support.configs import ROOT, loaded, written
from tests.support.gateway import run_command
from tests.support.made_up import write_study

PAGE = (ROOT / "docs/routing.md").read_text("utf-8")
EXAMPLES = PAGE.split("\n### ")[1:]


def block(example: str, language: str) -> str:
    (found,) = re.finditer(rf"^```{language}\n(.*?)^```$", example, re.DOTALL | re.MULTILINE)
    return found[1]


def write_files(at: Path) -> None:
    """Writes the files that the page names."""
    today = date.today().strftime("%Y%m%d")
    for name, said in {
        "emergency_ct": {"StudyDescription": "CT HEAD"},
        "prostate_2": {"StudyDescription": "mr prostate-2 baseline"},
        "screen_shot": {"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "OT"},
        "old_ct": {"StudyDate": "19990101"},
        "new_ct": {"StudyDate": today},
    }.items():
        write_study(at / name, "A^B", 1, elements=said)
        (made,) = (at / name).iterdir()
        made.rename(at / f"{name}.dcm")


def test_the_page_has_five_examples() -> None:
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one.partition("\n")[0])
def test_an_example(tmp_path: Path, example: str) -> None:
    """An answer is compared as a whole; between two of them the page has a blank line."""
    main = written(tmp_path, block(example, "toml"), base=ROOT)
    write_files(tmp_path)
    answers = []
    for line in block(example, "sh").splitlines():
        program, *arguments = shlex.split(line)
        assert program == "fastjmix"
        done = run_command(*arguments, "-c", main, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        answers.append(done.stdout)
    assert "\n".join(answers) == block(example, "text")


def test_the_first_tables_of_the_page(tmp_path: Path) -> None:
    config = loaded(tmp_path, block(PAGE.partition("\n## ")[0], "toml"), base=ROOT)
    (listener,) = config.dicom
    assert [one.name for one in listener.routed] == ["research"]
    assert not [one for one in config.warnings if "rule" in one]


def test_the_files_are_of_the_kinds_that_the_page_says(tmp_path: Path) -> None:
    write_files(tmp_path)
    shot = pydicom.dcmread(tmp_path / "screen_shot.dcm")
    assert shot.file_meta.MediaStorageSOPClassUID == SecondaryCaptureImageStorage
