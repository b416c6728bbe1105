"""Secrets in files: systemd's credentials, Docker's and Kubernetes' secrets."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from fastjmix import config
from fastjmix.config.secret_files import SECRET_FILE_BYTES_MAX
from tests.support.configs import faults, loaded, only, written

BEARER = """
authentications.up = { method = "bearer", options = { token_file = "../token" } }
backends.jmix_upstream.options.authentication_ref = "up"
"""


def presented(at: Path, changes: str = BEARER) -> tuple[str, str]:
    """Returns the header field that the upstream of this configuration gets."""
    held = loaded(at, changes).dicom[0].upstreams[0].credentials
    assert held is not None
    return held.header()


@pytest.fixture
def set_of(tmp_path: Path) -> Path:
    """Returns a directory for the files of a configuration; `token` beside it holds a token."""
    (tmp_path / "token").write_text("s3cret-token\n")
    (tmp_path / "token").chmod(0o600)
    return tmp_path / "set"


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_token_is_what_its_file_holds_without_the_newline(set_of: Path, end: str) -> None:
    (set_of.parent / "token").write_bytes(b"s3cret-token" + end.encode())
    assert presented(set_of) == ("Authorization", "Bearer s3cret-token")
    assert not [one for one in loaded(set_of, BEARER).warnings if "token" in one]


def test_every_secret_key_has_a_file_beside_it(set_of: Path) -> None:
    for name, value in (("u", "user"), ("p", "pässword"), ("k", "k-e-y"), ("w", "https://h/x")):
        (set_of.parent / name).write_text(f"{value}\n")
    basic = BEARER.replace("bearer", "basic").replace(
        'token_file = "../token"', 'username_file = "../u", password_file = "../p"'
    )
    assert presented(set_of, basic)[1] == "Basic dXNlcjpww6Rzc3dvcmQ="
    key = BEARER.replace("bearer", "api_key").replace(
        'token_file = "../token"', 'api_key_file = "../k"'
    )
    assert presented(set_of, key) == ("X-API-Key", "k-e-y")
    alerts = loaded(set_of, 'alerts.webhook_url_file = "../w"').alerts
    assert alerts.webhook_url.reveal() == "https://h/x"


def test_systemds_directory_of_credentials(set_of: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(set_of.parent))
    changes = BEARER.replace("../token", "${CREDENTIALS_DIRECTORY}/token")
    assert presented(set_of, changes)[1] == "Bearer s3cret-token"
    _, text = config.effective(written(set_of, changes))
    assert 'token_file = "${CREDENTIALS_DIRECTORY}/token"' in text


def test_a_file_is_read_again_with_the_configuration(set_of: Path) -> None:
    main = written(set_of, BEARER)
    (set_of.parent / "token").write_text("another-token")
    held = config.load(main).dicom[0].upstreams[0].credentials
    assert held is not None
    assert held.token.reveal() == "another-token"


def test_the_effective_configuration_names_the_file_and_can_be_used(set_of: Path) -> None:
    first, text = config.effective(written(set_of, BEARER))
    assert "s3cret" not in text
    assert tomllib.loads(text)["authentications"]["up"]["options"] == {
        "token_file": str(set_of / "../token")
    }
    (set_of.parent / "again.toml").write_text(text)
    again = config.load(set_of.parent / "again.toml")
    assert again.dicom[0].upstreams[0] == first.dicom[0].upstreams[0]


@pytest.mark.fault("S34")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no content"),
        (b"\n", "no content"),
        (b"two\nlines", "content that cannot be used"),
        (b"\xff\xfe", "not in UTF-8"),
        (b"x" * (SECRET_FILE_BYTES_MAX + 1), f"more than {SECRET_FILE_BYTES_MAX} bytes"),
    ],
)
def test_a_file_without_a_usable_secret_is_a_fault(set_of: Path, content: bytes, said: str) -> None:
    (set_of.parent / "token").write_bytes(content)
    fault = only(set_of, BEARER)
    assert (fault.table, fault.key) == ("authentications.up.options", "token_file")
    assert said in fault.found
    assert "two" not in str(fault)


def test_a_secret_of_the_most_bytes_is_taken(set_of: Path) -> None:
    (set_of.parent / "token").write_bytes(b"x" * SECRET_FILE_BYTES_MAX)
    assert presented(set_of)[1] == f"Bearer {'x' * SECRET_FILE_BYTES_MAX}"


def test_a_file_that_is_no_file_does_not_stop_the_start(set_of: Path) -> None:
    (set_of.parent / "token").unlink()
    assert "No such file" in only(set_of, BEARER).found
    os.mkfifo(set_of.parent / "token")
    assert "no regular file" in only(set_of, BEARER).found
    assert "no regular file" in only(set_of, BEARER.replace("../token", "/dev/zero")).found


@pytest.mark.fault("S34")
def test_the_secret_itself_in_place_of_its_file_is_not_shown(set_of: Path) -> None:
    fault = only(set_of, BEARER.replace("../token", "s3cret-token"))
    assert "s3cret" not in str(fault)
    assert "No such file" in fault.found


def test_a_secret_and_its_file_are_one_too_many(set_of: Path) -> None:
    both = BEARER.replace("token_file", 'token = "another", token_file')
    assert only(set_of, both).allowed == "one of token and token_file"
    neither = BEARER.replace('token_file = "../token"', "")
    assert "token_file" in only(set_of, neither).allowed


@pytest.mark.fault("S34")
def test_a_file_that_everybody_can_read_is_a_warning(set_of: Path) -> None:
    (set_of.parent / "token").chmod(0o644)
    warnings = [one for one in loaded(set_of, BEARER).warnings if "every user" in one]
    assert len(warnings) == 1
    assert "authentications.up.options.token_file" in warnings[0]
    assert "s3cret" not in warnings[0]


def test_a_fault_of_a_table_that_nothing_refers_to_is_found(set_of: Path) -> None:
    unused = BEARER.splitlines()[1].replace("../token", "../missing")
    assert [fault.key for fault in faults(set_of, unused)] == ["token_file"]
