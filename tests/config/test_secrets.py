"""Row S34: no secret shows in any text, however wrong the files are; and a file that is costly to
read is refused before it costs anything."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastjmix import config
from fastjmix.config import ConfigError, bounds
from fastjmix.config.bounds import excess
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
    "authentications.a", "authentications", "token", "proxy.token", "storage.options.secret_key",
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

SIZE = bounds.CONFIG_BYTES_MAX - 100


def many(unit: str) -> str:
    return unit * (SIZE // len(unit.encode()))


def numbered(form: str) -> str:
    length = len(form.format(10**5))
    return "".join(form.format(10**5 + n) for n in range(SIZE // length))


DEEP = ".".join("a" * bounds.KEY_PARTS_MAX)

COSTLY = {
    "dots": "a" + ".a" * 50_000 + " = 1\n",
    "dots with blanks": "a" + " . a" * 50_000 + " = 1\n",
    "quoted dots": '"a"' + '."a"' * 50_000 + " = 1\n",
    "dots in a header": "[a" + ".a" * 50_000 + "]\n",
    "dots in an inline table": "a = {a" + ".a" * 50_000 + " = 1}\n",
    "many deep keys": f"[{DEEP}]\n" + numbered(f"{DEEP[:-2]}.b{{}}=1\n"),
    "many deep headers": numbered(f"[{DEEP[:-2]}.b{{}}]\n"),
    "arrays in arrays": "a = " + "[" * 100_000,
    "tables in tables": "a = " + "{a=" * 100_000,
    "closed arrays": "a = " + "[" * 400 + "]" * 400,
    "keys": numbered("k{}=1\n"),
    "keys of a table": "[proxy]\n" + numbered("k{}=1\n"),
    "long keys": "[proxy]\n" + numbered("name" * 500 + "{}=1\n"),
    "one long key": "[proxy]\n" + "name" * 100_000 + "=1\n",
    "tables": numbered("[targets.k{}]\n"),
    "wrong tables": numbered("targets.k{}=1\n"),
    "array of tables": many("[[targets]]\n"),
    "items": "[pipelines.p]\nnetworks=[" + numbered('"n{}",') + "]",
    "numbers": "a=[" + many("1,") + "]",
    "empty arrays": "a=[" + many("[],") + "]",
    "references": "a='" + many("${A}") + "'",
    "half references": "a='" + many("${") + "'",
    "a long string": "[proxy]\nname='" + many("x") + "'",
    "a long level": "[proxy]\nlog_level='" + many("x") + "'",
    "a long method": "[authentications.a]\nmethod='" + many("x") + "'",
    "a long secret": "[authentications.a.options]\ntoken='" + many("x") + "'",
    "secrets": "[authentications.a.options]\n" + numbered("token{0}='secret-value-{0}'\n"),
    "a huge integer": "[fastjmix]\nlane_bytes=" + many("9"),
    "a huge hexadecimal": "[fastjmix]\nlane_bytes=0x" + many("f"),
    "a large hexadecimal": "[storage.options]\nsoft_reserve_bytes=0xfffffffffffffffff\n",
    "a large negative": "[storage.options]\nsoft_reserve_bytes=-9223372036854775809\n",
    "a huge fraction": "[fastjmix]\ngrace_secs=1." + many("9"),
    "escapes": 'a="' + many("\\n") + '"',
    "quotes": many('"""\\"""'),
    "open quotes": many("'''a"),
    "single quotes": many("'"),
    "backslashes": '"""' + many("\\"),
    "NUL": "[storage.options]\npath='" + "a" + "'\n[proxy]\npipelines_path=\"a\\u0000\"\n",
    "NUL bytes": many("\0"),
    "comments": many("#\n"),
    "lines": many("\n"),
    "carriage returns": many("\r"),
    "dates": "a=[" + many("2024-01-01T00:00:00Z,") + "]",
    "no date": "a=" + many("2024-13-"),
    "bytes": many("x") * 8,
    "not UTF-8": many("ä")[:-1] + "\udcff",
}  # fmt: skip


@pytest.mark.fault("S34")
@pytest.mark.parametrize("name", COSTLY)
def test_a_costly_file_is_refused_at_once(tmp_path: Path, name: str) -> None:
    """Files that took half a minute, or recursed, are refused within seconds of a busy machine."""
    main = written(tmp_path)
    costly = tmp_path / "pipelines" / "z.toml"
    costly.write_bytes(COSTLY[name].encode("utf-8", "surrogateescape"))
    begun = time.process_time()
    with pytest.raises(ConfigError) as caught:
        config.load(main)
    spent = time.process_time() - begun
    assert spent < 2.5, f"{spent:.1f} s"
    assert len(caught.value.faults) <= bounds.FAULTS_MAX
    assert all(str(one).startswith(f"{tmp_path}/") for one in caught.value.faults)
    assert len(str(caught.value)) < 400_000
    logging.info("%s: %.2f s", name, spent)


@pytest.mark.fault("S34")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_parts_of_a_key(tmp_path: Path, off: int) -> None:
    key = ".".join("k" * (bounds.KEY_PARTS_MAX + off))
    for text in (f"{key} = 1", f"[{key}]", f"[[ {key} ]]", f"a = {{ {key} = 1 }}", f"x=1\n{key}=1"):
        found = excess(f"# a comment. with. dots\n{text}\n")
        assert (found is None) == (off <= 0), text
        assert found is None or found.line == text.count("\n") + 2
    dots = "." * 100
    for text in (f'a = "{dots}"', f"a = '{dots}'", f'a = """\n{dots}"""', f"# {dots}", "a = 1.5"):
        assert excess(f"{text}\n") is None


@pytest.mark.fault("S34")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_brackets_in_brackets(off: int) -> None:
    depth = bounds.NESTING_MAX + off
    for text in ("[" * depth + "]" * depth, "{a=" * depth + "}" * depth):
        assert (excess(f"a = {text}\n") is None) == (off <= 0)
    assert excess(f'a = "{"[" * 99}"\nb = [{"[]," * 99}]\n') is None


@pytest.mark.fault("S34")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_bytes_of_all_files(tmp_path: Path, off: int) -> None:
    main = written(tmp_path)
    held = sum(path.stat().st_size for path in tmp_path.rglob("*.toml"))
    (tmp_path / "pipelines" / "a.toml").write_text("#" * (bounds.CONFIG_BYTES_MAX - held - 5))
    (tmp_path / "pipelines" / "z.toml").write_text("#" * (5 + off))
    assert ("too many bytes" in texts(main)) == (off > 0)


@pytest.mark.fault("S34")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_files_of_pipelines(tmp_path: Path, off: int) -> None:
    main = written(tmp_path)
    for number in range(bounds.FILES_MAX + off - 1):
        (tmp_path / "pipelines" / f"{number}.toml").touch()
    assert (f"{bounds.FILES_MAX + off} *.toml files" in texts(main)) == (off > 0)


@pytest.mark.fault("S34")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_keys_and_values(tmp_path: Path, off: int) -> None:
    main = tmp_path / "config.toml"
    main.write_text("a = [" + "1," * (bounds.VALUES_MAX + off - 1) + "]")
    assert ("too many keys and values" in texts(main)) == (off > 0)


@pytest.mark.fault("S34")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_faults_that_are_listed(tmp_path: Path, off: int) -> None:
    main = written(tmp_path)
    count = bounds.FAULTS_MAX + off
    (tmp_path / "pipelines" / "z.toml").write_text("".join(f"k{n} = 1\n" for n in range(count)))
    text = texts(main)
    assert text.count("found:") >= min(count, bounds.FAULTS_MAX)
    assert (" faults or more in the configuration" in text) == (off >= 0)


@pytest.mark.fault("S34")
@pytest.mark.parametrize("off", [0, 1])
def test_integers_of_toml(tmp_path: Path, off: int) -> None:
    main = written(tmp_path, f"storage.options.soft_reserve_bytes = {2**63 - 1 + off}")
    assert ("more than 64 bits" in texts(main)) == bool(off)


@pytest.mark.fault("S34")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_words_that_may_be_misspelt(tmp_path: Path, off: int) -> None:
    word = "x" * (bounds.WORD_CHARS_MAX + off - 1) + "y"
    main = written(
        tmp_path,
        f"pipelines.dicom_to_jmix.networks = ['{word}']\n"
        f"network.{word[:-1]}z.tcp_config.bind_port = 1",
    )
    assert ("nearest:" in texts(main)) == (off <= 0)


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
