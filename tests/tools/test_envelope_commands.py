"""tools/envelope/commands.py: help and faults, as a shell shows them."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from fastjmix.cli.envelope import command as app
from fastjmix.errors import FastjmixError
from tests.support.envelopes import members
from tests.support.sealed import sealed
from tests.tools.test_envelope import fastjmix


def test_faults_from_a_shell(tmp_path: Path) -> None:
    content = members() | {"payload/metadata.json": b"{"}
    (tmp_path / "bad.zip").write_bytes(sealed(content))
    done = fastjmix("verify", tmp_path / "bad.zip")
    assert done.returncode == 1
    at = len(sealed({"manifest.json": content["manifest.json"]})) - 22 - 46 - len("manifest.json")
    assert f"fault   payload/metadata.json, byte {at}: is not JSON" in done.stdout
    result = json.loads(fastjmix("verify", tmp_path / "bad.zip", "--json").stdout)
    assert result["ok"] is False
    assert result["faults"][0]["where"] == "payload/metadata.json"
    assert result["faults"][0]["byte"] == at
    runner = CliRunner()
    absent = str(tmp_path / "absent.zip")
    for arguments in (
        ["verify", absent],
        ["inspect", str(tmp_path)],
        ["extract", absent, "-o", "y"],
    ):
        problem = runner.invoke(app, arguments).exception
        assert isinstance(problem, FastjmixError)
        assert problem.exit_code == 1
    for arguments in (["verify"], ["convert", absent, "--profile", "zip", "-o", "y"]):
        assert runner.invoke(app, arguments).exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bad.zip"]


def test_help_is_enough() -> None:
    runner = CliRunner(env={"COLUMNS": "200"})
    output = runner.invoke(app, ["--help"]).stdout
    for verb in ("inspect", "verify", "extract", "decrypt", "build", "convert"):
        assert verb in output
        assert f"fastjmix envelope {verb} " in runner.invoke(app, [verb, "--help"]).stdout
