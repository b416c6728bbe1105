"""config/places.py: targets that are directories and buckets."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fastjmix import config
from fastjmix.config.tree import BucketPlace, Credentials, DirectoryPlace, Secret
from tests.support.configs import faults, loaded, only, written

REFERENCE = """
backends.archive.service = "jmix_backend"
backends.archive.target_ref = "archive"
"""
USED = f'pipelines.dicom_to_jmix.backends = ["jmix_upstream", "archive"]\n{REFERENCE}'
DIRECTORY = f'{USED}targets.archive.type = "directory"\ntargets.archive.path = "/srv/x y"\n'
BUCKET = f"""{USED}
targets.archive.type = "s3"
targets.archive.bucket = "envelopes"
targets.archive.authentication = "key"
authentications.key.method = "s3"
authentications.key.options = {{ access_key_id = "the-id", secret_access_key = "the-secret" }}
"""
RETENTION = 'backends.archive.options.retention_max_age_days = "unlimited"\n'


def archive(found: config.Config) -> config.Upstream:
    return next(one for one in found.dicom[0].upstreams if one.name == "archive")


def test_a_directory(tmp_path: Path) -> None:
    found = archive(loaded(tmp_path, DIRECTORY + "targets.archive.require_mount = true"))
    assert found.place == DirectoryPlace(Path("/srv/x y"), True, 0o640)
    assert (found.kind, found.url, found.timeout_secs) == ("directory", "file:///srv/x%20y", 30)


def test_a_bucket(tmp_path: Path) -> None:
    more = 'targets.archive.prefix = "/a//b"\ntargets.archive.endpoint = "https://s3.example"\n'
    found = archive(loaded(tmp_path, BUCKET + more))
    assert found.place == BucketPlace(
        "envelopes", "a/b/", "us-east-1", "https://s3.example", True, True
    )
    assert (found.kind, found.url) == ("s3", "s3://envelopes/a/b/")
    assert found.credentials == Credentials(
        "s3", username=Secret("the-id"), password=Secret("the-secret")
    )


@pytest.mark.parametrize("changes", [DIRECTORY, BUCKET, DIRECTORY + RETENTION])
def test_what_check_prints_can_be_pasted(tmp_path: Path, changes: str) -> None:
    first, text = config.effective(written(tmp_path, changes))
    assert "the-secret" not in text
    pasted = tmp_path / "pasted.toml"
    pasted.write_text(text)
    variables = {"KEY_ACCESS_KEY_ID": "the-id", "KEY_SECRET_ACCESS_KEY": "the-secret"}
    assert config.load(pasted, variables).dicom == first.dicom


@pytest.mark.parametrize("changes", [DIRECTORY, BUCKET])
def test_each_kind_has_a_retention(tmp_path: Path, changes: str) -> None:
    assert archive(loaded(tmp_path, changes + RETENTION)).retention_secs == math.inf


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (f'{USED}targets.archive.type = "directory"', "path"),
        (f'{USED}targets.archive = {{ type = "directory", path = "srv" }}', "path"),
        (f'{USED}targets.archive = {{ type = "directory", path = "/srv/../etc" }}', "path"),
        (f'{DIRECTORY}targets.archive.file_mode = "0888"', "file_mode"),
        (f'{DIRECTORY}targets.archive.file_mode = "0040"', "file_mode"),
        (f'{DIRECTORY}targets.archive.url = "http://a"', "url"),
        (f"{DIRECTORY}targets.archive.enabled = false", "target_ref"),
        (f'{DIRECTORY}backends.archive.options.path_prefix = "/x"', "path_prefix"),
        (f'{DIRECTORY}backends.archive.connection.host = "h"', "host"),
        (f'{USED}targets.archive = {{ type = "s3", bucket = "a/b" }}', "bucket"),
        (f'{BUCKET}targets.archive.prefix = "a/../b"', "prefix"),
        (f'{USED}targets.archive.type = "ftp"', "type"),
        (
            f'{BUCKET}targets.archive.endpoint = "http://127.0.0.1:9000"\n'
            "targets.archive.path_style = false",
            "path_style",
        ),
    ],
)
def test_faults(tmp_path: Path, changes: str, key: str) -> None:
    assert only(tmp_path, changes).key == key


def test_keys_of_s3_are_for_buckets_only(tmp_path: Path) -> None:
    for place in ("targets.upstream_jmix.authentication", "targets.archive.authentication"):
        method = '"s3"' if "upstream" in place else '"bearer"'
        options = (
            "access_key_id = 'a', secret_access_key = 'b'" if "upstream" in place else "token = 't'"
        )
        other = f"authentications.other = {{ method = {method}, options = {{ {options} }} }}\n"
        text = BUCKET.replace('targets.archive.authentication = "key"\n', "")
        text = text.replace('authentications.key.method = "s3"\n', "").partition("authentications")[
            0
        ]
        (fault,) = faults(tmp_path, f'{text}{other}{place} = "other"')
        assert fault.key == "authentication"


def test_envelopes_in_clear_text_are_a_warning(tmp_path: Path) -> None:
    for host, warned in (("10.0.0.1:9000", True), ("127.0.0.1:9000", False)):
        found = loaded(tmp_path, f'{BUCKET}targets.archive.endpoint = "http://{host}"')
        assert any(f"unencrypted to http://{host}" in one for one in found.warnings) is warned
