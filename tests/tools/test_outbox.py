"""`fastjmix outbox` against running, stopped and killed nodes: what an administrator types."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from fastjmix.errors import UsageError
from fastjmix.spool import Spool, Ticket
from fastjmix.spool.holds import Holds
from fastjmix.tools.outbox.choosing import Choice
from tests.support.gateway import Gateway, Store, run_command, running, until, write_config
from tests.support.sealed import sealed_envelope
from tests.support.storages import Storage

QUICK = "release_grace_secs = 0.1"
TOKEN = """
[authentications.jmix_auth]
method = "bearer"
options.token = "a-long-token"
"""
ESCAPE = "\x1b[2J\x1b]0;owned\x07\nERROR forged line"


def outbox(where: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return run_command("outbox", *arguments, cwd=where)


def as_json(where: Path, *arguments: object) -> dict[str, Any]:
    done = outbox(where, *arguments, "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["exit_code"] == done.returncode, done
    return found


def fill(storage: Path, count: int, *, study: str = "1.2.3", calling_ae: str = "CT1") -> list[str]:
    """Puts so many sealed envelopes in outbox/, as the packers of a node that is stopped."""
    spool = Spool(storage, durable=False)
    spool.prepare()
    ids = []
    for number in range(count):
        made = spool.new_upload()
        made.write_bytes(sealed_envelope(envelope_id := _uuid(number)))
        spool.admit(made, ticket(envelope_id, made, study, calling_ae))
        ids.append(envelope_id)
    spool.release()
    return ids


def _uuid(number: int) -> str:
    return f"550e8400-e29b-41d4-a716-{number:012x}"


def ticket(envelope_id: str, made: Path, study: str, calling_ae: str) -> Ticket:
    return Ticket(
        id=envelope_id, pipeline="dicom_to_jmix", upstreams=("jmix_upstream",), ack="stored",
        studies=(study,), calling_ae=calling_ae, instances=1, size_bytes=made.stat().st_size,
        sealed_at=time.time(), origin="packer-0",
    )  # fmt: skip


def test_an_upstream_may_stand_beside_ids() -> None:
    Choice(ids=("x",), upstream="b").require_clear()
    for choice in (
        Choice(ids=("x",), upstream="b", ae="CT"),
        Choice(ids=("x",), every=True),
        Choice(),
    ):
        with pytest.raises(UsageError):
            choice.require_clear()


def test_five_hundred_that_wait_for_a_token_go_when_they_are_retried(tmp_path: Path) -> None:
    """The token was renewed at the upstream: nobody waits for the next probe, a minute later."""
    node = tmp_path / "gw"
    write_config(node, 9)
    ids = fill(node / "spool", 500)
    with running(Store(tmp_path / "up", "--token-file", str(_token(tmp_path, "another")))) as store:
        auth = 'authentication_ref = "jmix_auth"'
        own = Gateway(node, store.port, fastjmix=TOKEN, backend=auth)
        with running(own):
            own.wait_for("upstream_held")
            told = run_command("status", cwd=node)
            assert "jmix_upstream: held" in told.stdout
            assert "500 wait" in told.stdout
            assert "HTTP 401" in told.stdout
            store.stop()
            good = _token(tmp_path, "a-long-token")
            with running(Store(tmp_path / "up", "--token-file", str(good), port=store.port)):
                began = time.monotonic()
                told = outbox(node, "retry", "--all")
                assert (told.returncode, told.stdout) == (0, "retry: 500 envelopes\n"), told
                own.wait_sent(len(ids))
                assert time.monotonic() - began < 50, "that was the next probe"


def _token(directory: Path, text: str) -> Path:
    path = directory / "token"
    path.write_text(text)
    return path


def test_hold_release_and_dry_runs(tmp_path: Path) -> None:
    write_config(tmp_path, 9)
    first, second = fill(tmp_path / "spool", 2)
    with running(Gateway(tmp_path, 9)) as own:
        own.wait_for("upload_retry")
        dry = as_json(tmp_path, "hold", "--study", "1.2.3", "--dry-run")
        assert (dry["dry_run"], dry["envelopes"]) == (True, [first, second])
        assert not Holds(Spool(own.spool)).ids()
        until(lambda: outbox(tmp_path, "hold", first, "--why", "a complaint").returncode == 0, "")
        (row,) = as_json(tmp_path, "list", "--held")["envelopes"]
        assert (row["id"], row["state"]) == (first, "held")
        assert row["reason"].startswith("held by uid ")
        assert row["reason"].endswith(": a complaint")
        told = outbox(tmp_path, "retry", first)
        assert (told.returncode, "it is on hold: release it" in told.stderr) == (1, True)
        assert outbox(tmp_path, "release", "--all").stdout == "release: 1 envelope\n"
        assert outbox(tmp_path, "release", "--all").returncode == 1
        own.child.kill()
        own.child.wait()
    with running(Gateway(tmp_path, 9)) as own:
        told = run_command("trace", first, cwd=tmp_path)
        assert "hold by uid " in told.stdout
        assert "release by uid " in told.stdout


def test_a_rejected_envelope_is_found_explained_and_sent_again(tmp_path: Path) -> None:
    write_config(tmp_path / "gw", 9)
    (envelope_id,) = fill(tmp_path / "gw" / "spool", 1)
    spool = Spool(tmp_path / "gw" / "spool")
    spool.reject(envelope_id, {"status": 400, "why": f"unknown study {ESCAPE}"})
    told = outbox(tmp_path / "gw", "list", "--rejected")
    assert told.returncode == 0
    assert "HTTP 400: unknown study \\x1b[2J" in told.stdout
    assert "\x1b" not in told.stdout
    assert len(told.stdout.splitlines()) == 2
    told = outbox(tmp_path / "gw", "show", envelope_id)
    assert "refusal status: 400" in told.stdout
    assert "\x1b" not in told.stdout
    with (
        running(Store(tmp_path / "up")) as store,
        running(Gateway(tmp_path / "gw", store.port)) as own,
    ):
        assert outbox(tmp_path / "gw", "requeue", "--rejected").returncode == 0
        own.wait_sent(1)
        assert as_json(tmp_path / "gw", "show", envelope_id)["envelopes"][0]["state"] == "sent"


def test_reading_needs_no_node_and_changing_does(tmp_path: Path) -> None:
    write_config(tmp_path, 9)
    first, second = fill(tmp_path / "spool", 2, calling_ae=ESCAPE)
    rows = as_json(tmp_path, "list", "--older", "0s")["envelopes"]
    assert [row["id"] for row in rows] == [first, second]
    assert rows[0]["calling_ae"] == ESCAPE
    assert "\x1b" not in outbox(tmp_path, "list").stdout
    assert as_json(tmp_path, "list", "--older", "1h")["envelopes"] == []
    assert as_json(tmp_path, "list", "--ae", "MR1")["exit_code"] == 1
    assert as_json(tmp_path, "list", "--upstream", "jmix_upstream")["exit_code"] == 0
    assert as_json(tmp_path, "show", first, _uuid(77))["absent"] == [_uuid(77)]
    for kind in ("retry", "hold", "release", "requeue"):
        told = as_json(tmp_path, kind, first)
        assert (told["exit_code"], "does not run" in told["error"]) == (3, True)
    assert as_json(tmp_path, "retry", "--all", "--dry-run")["envelopes"] == [first, second]


def test_the_storage_can_be_named_without_a_configuration(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "spool")
    held = storage.envelope()
    storage.hold(held)
    told = run_command("outbox", "list", "--storage", tmp_path / "spool")
    assert held in told.stdout
    assert run_command("outbox", "list", "--storage", tmp_path / "none").returncode == 2


def test_a_secret_of_the_configuration_is_not_needed(tmp_path: Path) -> None:
    path = write_config(tmp_path, 9, fastjmix=TOKEN.replace("a-long-token", "${NOT_SET_HERE}"))
    fill(tmp_path / "spool", 1)
    assert outbox(tmp_path, "list").returncode == 0
    path.write_text(path.read_text().replace("./spool", "${ELSEWHERE}"))
    told = outbox(tmp_path, "list")
    assert (told.returncode, "ELSEWHERE" in told.stderr) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["retry"], ["hold", "--why", "x"], ["export", "there"], ["retry", "no-id"],
        ["retry", _uuid(1), "--all"], ["retry", _uuid(1), "--study", "1"], ["requeue", "--held"],
        ["retry", "--older", "soon"], ["list", "--older", "-1"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_choice_that_is_not_clear_changes_nothing(tmp_path: Path, arguments: list[str]) -> None:
    write_config(tmp_path, 9)
    fill(tmp_path / "spool", 1)
    told = as_json(tmp_path, *arguments)
    assert told["exit_code"] == 2
    assert told["error"]
    assert not (tmp_path / "there").exists()


def test_an_export_is_taken_in_by_another_node(tmp_path: Path) -> None:
    """docs/operations.md: stop that node, copy both directories into its storage, start it."""
    here = tmp_path / "here"
    write_config(here, 9)
    first, second, third = fill(here / "spool", 3)
    spool = Spool(here / "spool")
    spool.reject(second, {"status": 400, "why": "no"})
    (here / "spool" / "provenance").mkdir(exist_ok=True)
    (here / "spool" / "provenance" / f"{first}.json").write_text('{"a": "provenance"}')
    told = as_json(here, "export", "there", "--all")
    assert told["done"] == 3
    there = here / "there"
    assert sorted(one.name for one in (there / "outbox").iterdir()) == sorted(
        f"{one}.{ending}" for one in (first, second, third) for ending in ("json", "zip")
    )
    assert (there / "provenance" / f"{first}.json").read_text() == '{"a": "provenance"}'
    archive = there / "outbox" / f"{first}.zip"
    assert archive.read_bytes() == (here / "spool" / "outbox" / f"{first}.zip").read_bytes()
    assert archive.stat().st_mode & 0o777 == 0o600
    archive.write_text("a person's")
    told = as_json(here, "export", "there", first, _uuid(77))
    assert told["results"] == {first: "the target has it already", _uuid(77): "it is not here"}
    assert archive.read_text() == "a person's"
    archive.unlink()  # as a copy that was cut off
    assert as_json(here, "export", "there", first)["done"] == 1
    with (
        running(Store(tmp_path / "up")) as store,
        running(Gateway(tmp_path / "other", store.port)) as other,
    ):
        other.stop()
        subprocess.run(["cp", "-rn", f"{there}/.", other.spool], check=True)
        with running(Gateway(tmp_path / "other", store.port)) as other:
            assert {one.stem for one in other.wait_sent(3)} == {first, second, third}


def test_an_age_has_a_unit() -> None:
    ages = {"90": 90, "90s": 90, "15m": 900, "1.5h": 5400, "3d": 259200, "1w": 604800}
    for word, secs in ages.items():
        assert Choice(older=word).selection(("outbox",)).older_secs == secs
    for wrong in ("", "h", "1y", "nan", "inf", "-1s", "1e99"):
        with pytest.raises(UsageError):
            Choice(older=wrong).selection(("outbox",))


def test_an_uploader_that_is_away_and_one_that_is_back(tmp_path: Path) -> None:
    write_config(tmp_path, 9)
    (envelope_id,) = fill(tmp_path / "spool", 1)
    sooner = "import fastjmix.api.admin.uploader as u; u.ANSWER_SECS = 0.5"
    with running(Gateway(tmp_path, 9, first=sooner)) as own:
        own.wait_for("upload_retry")
        os.kill(own.children()["uploader"], signal.SIGSTOP)
        told = as_json(tmp_path, "retry", envelope_id)
        assert told["exit_code"] == 1
        assert told["error"] == "the uploader did not answer in time; it may still do it"
        os.kill(own.children()["uploader"], signal.SIGKILL)
        own.wait_for("child_restarted child=uploader")
        until(lambda: outbox(tmp_path, "retry", envelope_id).returncode == 0, "it is back")
