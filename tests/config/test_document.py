"""config/document.py: docs/configuration.md and the commented file are what it writes."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from fastjmix import config
from fastjmix.config import document
from fastjmix.jmix import keys
from tests.support.configs import ROOT, written


def test_documentation_is_in_step() -> None:
    hint = "run: python -m fastjmix.config.document"
    assert (ROOT / "docs" / "configuration.md").read_text() == document.text(), hint
    rows = document.text().split("### ", 1)[1].splitlines()
    keys = {line.split("`")[1] for line in rows if line.startswith("| `")}
    assert len(keys) > 80


def test_every_key_of_our_own_is_in_the_commented_file() -> None:
    text = (ROOT / "config.toml").read_text()
    page = document.text().splitlines()
    own = [line.split("`")[1] for line in page if line.startswith("| `") and "**+**" in line]
    assert len(own) > 25
    for key in own:
        assert key in text, key


VARIABLES = ("JMIX_TOKEN", "PROXY_PASSWORD", "S3_KEY_ID", "S3_SECRET", "S3_TOKEN")


# -- the comments of the shipped files, without their "# " ----------------------------------------


def uncommented(name: str) -> str:
    """Returns a shipped file with each table and each key in its comments in force."""
    text = (ROOT / name).read_text()
    return re.sub(r"^# (?=\[{1,2}[\w.]+\]|[\w.]+ = )", "", text, flags=re.MULTILINE)


def test_all_that_the_comments_offer_can_be_had_at_once(tmp_path: Path) -> None:
    text = uncommented("config.toml").replace('profile = "harmony"', 'profile = "jmix-1.0"')
    # Without the files that nobody has here.
    text = re.sub(r"^connection\.(ca_cert|client_\w+)_path.*\n", "", text, flags=re.MULTILINE)
    main = written(tmp_path, text, base=ROOT)
    for name in ("signing.pem", "sender.pem"):
        (main.parent / "pipelines" / name).write_bytes(keys.new_signing_key().pem())
    recipient = keys.new_recipient_key()
    (main.parent / "pipelines" / "key.pem").write_bytes(recipient.pem())
    public = base64.b64encode(recipient.public)
    (main.parent / "pipelines" / "recipient.pub").write_bytes(public)
    builder = config.load(main, dict.fromkeys(VARIABLES, "secret")).dicom[0].builder
    assert builder.published is not None
    assert builder.published.sender.assertion is not None


def test_all_that_the_comments_of_the_pipelines_offer(tmp_path: Path) -> None:
    text = uncommented("pipelines/dicom-to-jmix.toml")
    ours = "\n[authentications.jmix_auth]\nmethod = 'bearer'\noptions.token = 'secret'\n"
    config.load(written(tmp_path, text + ours, base=ROOT))
