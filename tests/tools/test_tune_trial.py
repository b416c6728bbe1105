"""tools/tune/trial.py: a trial is of the profile that the site has."""

from __future__ import annotations

from pathlib import Path

from fastjmix import config
from fastjmix.tools.tune import trial
from tests.support import gateway
from tests.tools.test_tune import BASE


def test_a_trial_of_published_envelopes(tmp_path: Path) -> None:
    builder = """
        profile = "jmix-1.0"
        payload_hash = "stream"
        sender = { id = "org:a" }
        receivers = [{ id = "org:b" }]
    """
    site = gateway.write_config(tmp_path / "site", 9, builder=builder)
    text = trial.derived(config.load(site), BASE, tmp_path / "spool", 4711, 5)
    (tmp_path / "config.toml").write_text(text)
    tried = config.load(tmp_path / "config.toml").dicom[0].builder
    assert (tried.profile, tried.payload_hash) == ("jmix-1.0", "stream")
