"""Row S34: no secret shows in any text, however wrong the files are; and a file that is costly to
read is refused before it costs anything."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastjmix import config
from fastjmix.config import ConfigError
from fastjmix.config.secrets import EXACT_CHARS, START_CHARS, Hidden
from tests.support.configs import inline, written

MARK = "zq7Xwv0K"
SECRET = f"{MARK}-9fLr_{MARK}"
BACKEND = "backends.jmix_upstream"
METHODS = ("bearer", "basic", "api_key", "none", "jwt", "mutual_tls", "custom", SECRET, "beare")

PLACES = [
    *(f"authentications.a.options.{key}" for key in ("token", "username", "password", "api_key")),
    *(f"authentications.a.options.{key}" for key in ("header_name", "tokn", "credentials_path")),
    *(f"authentications.a.{key}" for key in ("token", "options", "method", "pasword", "secret")),
    *(f"authentications.a.options.{key}.{key}" for key in ("token", "password")),
    *(f"authentications.a.options.{key}_file" for key in ("token", "password", "api_key")),
    "alerts.webhook_url", "alerts.webhook_url_file", "authentications.a", "authentications",
    "token", "proxy.token",
    "storage.options.secret_key",
    "targets.upstream_jmix.token", "targets.upstream_jmix.authentication",
    "targets.upstream_jmix.options.token", "targets.upstream_jmix.connection.password",
    f"{BACKEND}.authentication", f"{BACKEND}.options.authentication_ref",
    f"{BACKEND}.options.api_key", "endpoints.jmix_http.authentication",
    "endpoints.jmix_http.options.authentication_ref", "peers.dicom_listener.authentication",
]  # fmt: skip
"""Places of a credential, and places where it is put by mistake."""

FORMS: list[Callable[[str], object]] = [
    lambda s: s,
    lambda s: "${" + s.replace("-", "_") + "}",
    lambda s: "${" + s,
    lambda s: "${" + s + " }",
    lambda s: "x${}" + s,
    lambda s: "$${" + s + "}",
    lambda s: "${SECRET_VARIABLE}",
    lambda s: "a ${SECRET_VARIABLE}\n",
    lambda s: s + "\n",
    lambda s: '"' + s + '"\\',
    lambda s: "\x1b" + s,
    lambda s: s + "é",
    lambda s: f"https://{s}:{s}@host/",
    lambda s: f"https://host/?token={s}",
    lambda s: [s],
    lambda s: [[s], {"a": s}],
    lambda s: {"token": s},
    lambda s: {"value": s},
    lambda s: [s, 1],
    lambda s: s * 40,
]  # fmt: skip
NUMBERS: list[object] = [7707734255312, 770773.4255312, -7707734255312, [7707734255312]]


def texts(main: Path) -> str:
    """Returns all texts about a configuration: its faults, or its effective values and its
    warnings.
    """
    try:
        found, text = config.effective(main)
    except ConfigError as error:
        return f"{error}\n{error!r}\n{error.faults!r}"
    return f"{text}\n{found!r}\n{found.warnings}"


def leaks(text: str) -> bool:
    plain = text.replace("\\", "")
    return MARK in plain or "77077342" in plain or "770773.42" in plain or "from-the-env" in plain


@pytest.mark.fault("S34")
@pytest.mark.parametrize("place", PLACES)
def test_a_secret_in_any_form_at_any_place_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("SECRET_VARIABLE", f"{SECRET} from-the-env")
    random.seed(place)
    for value in [*(form(SECRET) for form in FORMS), *NUMBERS]:
        for method in random.sample(METHODS, 3):
            changes = f"{place} = {inline(value)}"
            if not place.startswith("authentications") or place.startswith("authentications.a."):
                referring = f'\n{BACKEND}.options.authentication_ref = "a"'
                changes += "" if BACKEND in place else referring
                if "method" not in place:
                    changes += f'\nauthentications.a.method = "{method}"'
            text = texts(written(tmp_path, changes))
            assert not leaks(text), f"{changes}\n{text}"


BROKEN = [
    "[authentications.a.options]\ntoken = {}\n",
    "[authentications.a.options]\ntoken = '{}\n",
    '[authentications.a.options]\ntoken = "{}\\q"\n',
    '[authentications.a.options]\ntoken = "{}" "{}"\n',
    "[authentications.a.options]\ntoken {}\n",
    "[authentications.a.options]\ntoken = '{}'\ntoken = '{}'\n",
    "authentications.a.options.token = '{}'\n[authentications.a.options.token.{}]\n",
    "authentications.a.options.token.{} = 1\nauthentications.a.options.token.{} = 2\n",
    "[a.{}]\n[a.{}]\n",
    "a = {{ {} = 1, {} = 2 }}\n",
    "a.{} = {{ b = 1 }}\na.{}.c = 2\n",
    "password = '''{}\n",
    'password = """{}\n',
    'password = "{}\x00"\n',
    "password = '{}\n'\n",
    "password = ${{{}}}\n",
    "password = ['{}', {}]\n",
    "{} = {}\n",
]


@pytest.mark.fault("S34")
@pytest.mark.parametrize("form", BROKEN)
def test_a_secret_in_a_file_that_is_not_toml_is_not_shown(tmp_path: Path, form: str) -> None:
    (tmp_path / "config.toml").write_text(form.format(SECRET, SECRET))
    assert not leaks(texts(tmp_path / "config.toml"))
    for data in (SECRET.encode() + b"\xff", b"\xff" + SECRET.encode(), SECRET.encode("utf-16")):
        (tmp_path / "config.toml").write_bytes(form.encode().replace(b"{}", data))
        assert not leaks(texts(tmp_path / "config.toml"))


@pytest.mark.fault("S34")
@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize("value", ["${%s}", "${%s", "%s\n", "${SECRET_VARIABLE}\n"])
def test_a_secret_shows_on_no_terminal(tmp_path: Path, command: str, value: str) -> None:
    """Runs the program with FASTJMIX_TRACEBACK."""
    token = value % SECRET if "%s" in value else value
    main = written(
        tmp_path,
        f'authentications.a = {{ method = "bearer", options.token = {json.dumps(token)} }}\n'
        f'{BACKEND}.options.authentication_ref = "a"',
    )
    done = subprocess.run(
        [sys.executable, "-m", "fastjmix", command, "-c", main],
        capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False,
        env={**os.environ, "FASTJMIX_TRACEBACK": "1", "SECRET_VARIABLE": SECRET},
    )  # fmt: skip
    assert done.returncode == 2
    assert "token" in done.stderr
    assert not leaks(done.stdout + done.stderr)


@pytest.mark.fault("S34")
def test_what_came_from_the_environment_is_in_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at keys that are no secret: it may be the wrong variable."""
    monkeypatch.setenv("SECRET_VARIABLE", SECRET)
    for place in (
        f"{BACKEND}.target_ref", "pipelines.dicom_to_jmix.networks", "proxy.log_level",
        "pipelines.dicom_to_jmix.backends", "endpoints.jmix_http.peer_ref", "proxy.pipelines_path",
        "targets.upstream_jmix.connection.ca_cert_path", "endpoints.dicom_receiver.service",
        "middleware.jmix_builder.type", "endpoints.dicom_receiver.options.aet_table",
        "endpoints.dicom_receiver.options.local_aet", "endpoints.dicom_receiver.options.max_pdu",
        "network.http_net.http.cert_path",
    ):  # fmt: skip
        value = "['${SECRET_VARIABLE}']" if place.endswith("s") else "'${SECRET_VARIABLE}'"
        text = texts(written(tmp_path, f"{place} = {value}"))
        assert text.startswith(("1 fault", "2 faults", "3 faults", "4 faults")), text[:200]
        assert not leaks(text), text


@pytest.mark.fault("S34")
@given(
    secret=st.text(min_size=EXACT_CHARS, max_size=40),
    before=st.text(max_size=20),
    after=st.text(max_size=20),
    cut=st.integers(0, 40),
)
def test_hidden_values_are_taken_out_of_any_text(
    secret: str, before: str, after: str, cut: int
) -> None:
    hidden = Hidden()
    hidden.add(secret)
    assert secret not in hidden(before + secret + after).replace("(not shown)", "\0") or (
        len(set(secret)) == 1
    )
    part = secret[: max(cut, START_CHARS)]
    if len(secret) > START_CHARS:
        assert hidden(f"\0{part}\0") != f"\0{part}\0"


# -- what it costs ---------------------------------------------------------------------------------


@pytest.mark.fault("S34")
@pytest.mark.parametrize("off", [0, 1])
def test_integers_of_toml(tmp_path: Path, off: int) -> None:
    main = written(tmp_path, f"storage.options.soft_reserve_bytes = {2**63 - 1 + off}")
    assert ("more than 64 bits" in texts(main)) == bool(off)


TOML_WORDS = st.sampled_from(
    [
        "[",
        "]",
        "{",
        "}",
        "=",
        ".",
        ",",
        "\n",
        '"',
        "'",
        '"""',
        "'''",
        "\\",
        "#",
        "a",
        "1",
        " ",
        "[[",
    ]
)


@pytest.mark.fault("S34")
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.lists(TOML_WORDS, max_size=60).map("".join))
def test_any_text_is_a_configuration_or_a_fault(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    assert "fault" in texts(tmp_path / "config.toml")
