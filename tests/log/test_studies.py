"""log/studies.py: how a line names a study."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fastjmix import config, errors, log
from fastjmix.log import studies
from fastjmix.log.studies import STUDIES_SHOWN_MAX, UID_CHARS_MAX, StudyUids
from tests.support import wire
from tests.support.gateway import Gateway, Peer, Store, get, running

UID = "1.2.826.0.1.3680043.9.1"


def test_plain_hashed_and_off() -> None:
    assert studies.shown(UID, "plain") == UID
    assert studies.shown(UID, "off") is None
    assert studies.shown("", "hashed") is None
    assert studies.shown("1" * 500, "plain") == "1" * UID_CHARS_MAX


def test_an_administrator_can_make_the_hash() -> None:
    done = subprocess.run(["sha256sum"], input=UID.encode(), capture_output=True, check=True)
    assert studies.shown(UID, "hashed") == done.stdout.decode()[: studies.HASH_CHARS]


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_the_studies_of_one_envelope(off: int) -> None:
    uids = [f"1.2.{number}" for number in range(STUDIES_SHOWN_MAX + off)]
    shown = studies.all_shown(uids, "plain")
    assert shown == ",".join([*uids[:STUDIES_SHOWN_MAX], *(["+1"] if off > 0 else [])])
    assert studies.all_shown(uids, "off") is None
    assert studies.all_shown([], "plain") is None


def test_uids_in_a_text() -> None:
    text = f"studyInstanceUid={UID}&limit=5"
    assert studies.replaced(text, "plain") == text
    assert studies.replaced(text, "off") is None
    hashed = studies.replaced(text, "hashed")
    assert hashed == f"studyInstanceUid={studies.shown(UID, 'hashed')}&limit=5"


@pytest.mark.parametrize("how", ["plain", "hashed", "off"])
def test_the_process_has_one_way(tmp_path: Path, how: StudyUids) -> None:
    log.setup("info", tmp_path / "log", "tested", "text", how)
    log.get().info("event", study=log.get().study(UID))
    shown = studies.shown(UID, how)
    wanted = f" study={shown}\n" if shown else " event\n"
    assert (tmp_path / "log").read_text().endswith(wanted)


def test_another_value_is_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[logging]\nstudy_uids = "hash"\n')
    with pytest.raises(errors.ConfigError, match=r'(?s)"hash".*"plain", "hashed" or "off"'):
        config.load(file)


@pytest.mark.parametrize("how", ["plain", "hashed", "off"])
def test_a_study_in_the_lines_of_a_gateway(tmp_path: Path, how: StudyUids) -> None:
    """From its seal to its upstream, and in a query: nowhere else than as it is configured."""
    table = f'\n[logging]\nlog_level = "debug"\nstudy_uids = "{how}"\n'
    quick = "release_grace_secs = 0.1"
    with (
        running(Store(tmp_path / "upstream")) as store,
        running(Gateway(tmp_path / "own", store.port, fastjmix=table, builder=quick)) as own,
    ):
        with Peer(own.dicom_port) as peer:
            peer.associate()
            assert peer.store(wire.data_set("1.2.3.9", study=UID), "1.2.3.9") == 0
            peer.release()
        own.wait_for("envelope_uploaded")
        get(f"{own.http}/jmix/api/jmix?studyInstanceUid={UID}")
        own.wait_for("http_request")
        assert own.stop() == 0
    shown = studies.shown(UID, how)
    lines = {event: [one for one in own.lines if f" {event} " in one] for event in EVENTS}
    for event in ("envelope_sealed", "envelope_uploaded"):
        (line,) = lines[event]
        assert (f" study={shown}" in line) == (shown is not None)
        assert ("study=" in line) == (how != "off")
    queries = [f'query="studyInstanceUid={shown}"'] if shown else []
    assert [one.split("http_query ")[1] for one in lines["http_query"]] == queries
    assert (UID in own.log()) == (how == "plain")


EVENTS = ("envelope_sealed", "envelope_uploaded", "http_query")
