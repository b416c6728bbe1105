"""spool/calling_aes.py: what was learned of a calling AE title is there after a restart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastjmix.spool.calling_aes import RETURNING_FILE
from tests.e2e.test_studies import metric, sealed
from tests.packer.test_senders import PATIENT, gateway_with, send_apart, uids_of
from tests.support.dicom_peers import new_uid


@pytest.mark.fault("F102")
def test_what_was_learned_is_kept_over_a_restart(tmp_path: Path) -> None:
    with gateway_with(tmp_path, PATIENT) as own:
        send_apart(own, "APART", 2, new_uid())
        own.wait_for("calling_ae_returns .*calling_ae=APART")
        assert own.stop() == 0
    assert [*json.loads((tmp_path / "spool" / RETURNING_FILE).read_text())["entries"]] == ["APART"]
    with gateway_with(tmp_path, PATIENT) as own:
        assert metric(own, "fastjmix_calling_aes_returning") == 1
        study = new_uid()
        sent = send_apart(own, "APART", 2, study)
        assert uids_of(sealed(own, study)) == [{uid for uid, _ in sent}]
