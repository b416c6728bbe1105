"""`fastjmix check` prints a configuration that can be pasted; numbers from the environment."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fastjmix import config
from fastjmix.jmix.keys import new_recipient_key, new_signing_key
from tests.support.configs import HARMONY, ROOT, faults, loaded, written
from tests.support.gateway import run_command

AUTH = """
authentications.up = { method = "bearer", options = { token = "s3cret-token" } }
authentications."9 x" = { method = "basic", options = { username = "user", password = "${PW}" } }
authentications.key = { method = "api_key", options = { api_key = "k-e-y", header_name = "X-Own" } }
authentications.other = { method = "jwt", options = { secret = "s3cret-jwt" } }
backends.jmix_upstream.authentication = "up"
endpoints.jmix_http.options.authentication_ref = "9 x"
"""
CALLERS = """
[endpoints.dicom_receiver.options.aet_table]
"CT 1" = { host = "ct.local", port = 104, quiet_secs = 60.5 }
MR = { ae_title = "MR", max_associations = 2, skip_hashing = true }
"""
NODE = """
fastjmix = { packers = 3, retention = { max_age_days = "unlimited", max_bytes = 0 } }
storage.options.path = "./a \\"quoted\\" $${place}"
storage.options.soft_reserve_bytes = 2000
storage.options.hard_reserve_bytes = 1000
proxy = { name = "${NAME_OF_NODE} here", log_level = "debug" }
network.dicom_net.tcp_config = { bind_port = "${PORT}", bind_address = "127.0.0.1" }
peers.p = { timeout_secs = 1 }
pipelines.dicom_to_jmix.middleware = { left = ["jmix_builder"], right = ["pass"] }
middleware.pass = { type = "passthru" }
"""
PUBLISHED = """
[middleware.jmix_builder.options]
profile = "jmix-1.0"
receivers = [
  { id = "b", contact = { system = "phone", value = "+49" } },
  { id = "c", assertion = { key_file = "../signing.pem", fields = ["sender.id"] } },
]
custom_tags = ["a", "ä"]
consent = { status = "granted", scope = ["treatment"] }
deid = { keys = ["PatientAddress"] }
encryption = { recipient_key_file = "../recipient.pub", dialect = "rs" }
signing = { key_file = "../signing.pem", audit = true }
sender = { id = "a", name = "A" }
"""
ENVIRONMENT = {"PW": "pass word", "NAME_OF_NODE": "node 7", "PORT": "11199"}
SETS = {
    "ours": ("", ROOT),
    "harmony": ("", HARMONY),
    "credentials": (AUTH, HARMONY),
    "callers": (CALLERS, HARMONY),
    "node": (NODE, HARMONY),
    "published": (PUBLISHED, HARMONY),
}


def same(found: config.Config) -> config.Config:
    """Returns the part that a paste must keep: all but its place and its comments."""
    return dataclasses.replace(found, source=Path(), ignored=(), warnings=())


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("beside", [True, False], ids=["in its place", "elsewhere"])
def test_what_check_prints_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, beside: bool
) -> None:
    """It loads to the same tree, also over the file that it came from, and prints itself."""
    monkeypatch.chdir(tmp_path)
    for variable, value in ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    (tmp_path / "signing.pem").write_bytes(new_signing_key().pem())
    (tmp_path / "recipient.pub").write_bytes(new_recipient_key().public)
    (tmp_path / "signing.pem").chmod(0o600)
    main = written(tmp_path, *SETS[name][:1], base=SETS[name][1])
    found, text = config.effective(main)
    for secret in ("s3cret-token", "pass word", "k-e-y", "s3cret-jwt"):
        assert secret not in text
    for variable, value in (("UP_TOKEN", "s3cret-token"), ("_9_X_USERNAME", "user"),
                            ("KEY_API_KEY", "k-e-y")):  # fmt: skip
        monkeypatch.setenv(variable, value)
    target = main if beside else tmp_path / "elsewhere" / "one.toml"
    target.parent.mkdir(exist_ok=True)
    target.write_text(text)
    again, printed = config.effective(target)
    assert same(again) == same(found)
    (target.parent / "third.toml").write_text(printed)
    assert (
        config.effective(target.parent / "third.toml")[1].splitlines()[1:]
        == (printed.splitlines()[1:])
    )


def test_check_from_a_shell_prints_nothing_but_a_configuration(tmp_path: Path) -> None:
    main = written(tmp_path)
    printed = run_command("check", "-c", main, cwd=tmp_path)
    (tmp_path / "pasted.toml").write_text(printed.stdout)
    again = run_command("check", "-c", tmp_path / "pasted.toml", cwd=tmp_path)
    assert (printed.returncode, again.returncode) == (0, 0), again.stderr
    assert tomllib.loads(again.stdout) == tomllib.loads(printed.stdout)


def test_a_secret_of_the_file_is_asked_for_when_it_is_pasted(tmp_path: Path) -> None:
    """A variable that is not set is a fault; a wrong credential would be none."""
    text = config.effective(written(tmp_path, AUTH), {"PW": "x"})[1]
    (tmp_path / "pasted.toml").write_text(text)
    with pytest.raises(config.ConfigError, match="not set"):
        config.load(tmp_path / "pasted.toml", {"PW": "x"})


# -- numbers from the environment ------------------------------------------------------------------

NUMBERS: list[tuple[str, str, Any]] = [
    ("network.dicom_net.tcp_config.bind_port", "104", None),
    ("fastjmix.packers", "+2", 2),
    ("fastjmix.grace_secs", "2.5", 2.5),
    ("fastjmix.grace_secs", "1e1", 10.0),
    ("fastjmix.retention.max_age_days", "7", None),
    ("fastjmix.ledger.max_age_days", "unlimited", None),
    ("fastjmix.ledger.patient_data", "false", None),
    ("fastjmix.retention.max_age_days", "unlimited", None),
    ("endpoints.dicom_receiver.options.enable_echo", "false", False),
    ("endpoints.dicom_receiver.options.max_pdu", "65536", 65536),
    ("targets.upstream_jmix.connection.port", "8443", None),
    ('endpoints.dicom_receiver.options.aet_table."A".port', "104", None),
]


@pytest.mark.parametrize(("key", "value", "wanted"), NUMBERS)
def test_a_variable_where_a_number_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str, wanted: Any
) -> None:
    monkeypatch.setenv("VALUE_OF_IT", value)
    by_variable = loaded(tmp_path, f'{key} = "${{VALUE_OF_IT}}"')
    plain = f'"{value}"' if value == "unlimited" else value
    assert by_variable == loaded(tmp_path, f"{key} = {plain}")
    if wanted is not None:
        assert wanted in [
            by_variable.dicom[0].port,
            by_variable.runtime.packers,
            by_variable.runtime.grace_secs,
            by_variable.dicom[0].enable_echo,
            by_variable.dicom[0].max_pdu,
        ]


@pytest.mark.parametrize("value", ["77077x", "7707734255312", "0x77077", "", "yes_770", "77077 1"])
@pytest.mark.parametrize(
    "key",
    ["network.dicom_net.tcp_config.bind_port", "endpoints.dicom_receiver.options.enable_echo"],
)
def test_a_variable_that_holds_no_such_number_is_a_fault_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    monkeypatch.setenv("VALUE_OF_IT", value)
    (fault,) = faults(tmp_path, f'{key} = "${{VALUE_OF_IT}}"')
    assert not value or value not in str(fault)


def test_a_text_is_no_number_without_a_variable(tmp_path: Path) -> None:
    assert faults(tmp_path, 'network.dicom_net.tcp_config.bind_port = "104"')
