"""fastjmix.config: several wrong files, values that no fault may show, and documentation."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastjmix import config, errors
from fastjmix.config import ConfigError, Fault, document
from tests.support.configs import HARMONY, ROOT, faults, inline, only, written

BACKEND = "backends.jmix_upstream"
TARGET = "targets.upstream_jmix"
RECEIVER = "endpoints.dicom_receiver"


# -- files -----------------------------------------------------------------------------------------


def failed(main: Path) -> tuple[Fault, ...]:
    with pytest.raises(ConfigError) as caught:
        config.load(main)
    return caught.value.faults


@pytest.mark.parametrize(
    ("data", "key", "found"),
    [
        (b"[proxy\nname = 1", "line 1, column 7", "Expected"),
        (b"[proxy]\nname = 'a'\nname = 'b'\n", "line 3, column 11", "a second definition"),
        (b"[targets.a]\nurl = 'b'\n[targets.a]\n", "line 3, column 11", "a second definition"),
        (b"[targets.a]\nx.y = 1\n[targets.a.x]\n", "line 3, column 13", "a second definition"),
        (b"[targets.a.x]\n[targets.a]\nx.y = 1\n", "line 3, column 8", "a second definition"),
        (b"a = {}\n[a.'(at end of document)']\n", "line 2, column 26", "a second definition"),
        (b"[proxy]\nname = ", "end of document", "Invalid value"),
        (b"[proxy]\n\nname = '\xff'", "line 3", "0xff"),
        (b"[proxy]\nname = '''a", "end of document", "Expected"),
    ],
)
def test_not_toml(tmp_path: Path, data: bytes, key: str, found: str) -> None:
    (tmp_path / "config.toml").write_bytes(data)
    (fault,) = failed(tmp_path / "config.toml")
    assert (fault.file, fault.table, fault.key) == (str(tmp_path / "config.toml"), "", key)
    assert found in fault.found
    assert "TOML" in fault.allowed


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (fault,) = failed(tmp_path / "none.toml")
    assert (fault.file, fault.found) == (
        str(tmp_path / "none.toml"),
        "No such file or directory",
    )
    (fault,) = failed(tmp_path)
    assert fault.found == "Is a directory"


def test_a_broken_pipeline_file_hides_no_fault_of_the_others(tmp_path: Path) -> None:
    main = written(tmp_path, "proxy.log_level = 'x'")
    pipelines = tmp_path / "pipelines" / "dicom-to-jmix.toml"
    pipelines.write_text("[pipelines.x\n")
    found = failed(main)
    assert [(one.file, one.key) for one in found] == [
        (str(pipelines), "line 1, column 13"),
        (str(main), "log_level"),
    ]


def test_a_pipeline_file_that_is_not_there_is_missed(tmp_path: Path) -> None:
    """A link that leads nowhere: a reload would end the listeners that it named."""
    main = written(tmp_path)
    second = tmp_path / "pipelines" / "second.toml"
    second.symlink_to("not-mounted.toml")
    found = failed(main)
    assert [(one.file, one.found) for one in found] == [(str(second), "No such file or directory")]


def test_a_pipelines_directory_that_cannot_be_listed_is_missed(tmp_path: Path) -> None:
    """Also where the main file has pipelines, too."""
    main = written(tmp_path)
    rest = tmp_path / "pipelines" / "dicom-to-jmix.toml"
    main.write_text(main.read_text() + rest.read_text())
    rest.unlink()
    rest.parent.rmdir()
    assert len(config.load(main).dicom) == 1
    rest.parent.symlink_to(rest.parent)
    assert [one.key for one in failed(main)] == ["pipelines_path"]


def test_no_pipelines_directory(tmp_path: Path) -> None:
    main = written(tmp_path, "proxy.pipelines_path = 'pipes'")
    found = failed(main)
    assert (found[0].table, found[0].key) == ("proxy", "pipelines_path")
    assert '"pipes"' in found[0].found
    assert str(tmp_path / "pipes") in found[0].found


def test_definitions_in_two_files(tmp_path: Path) -> None:
    main = written(tmp_path)
    second = tmp_path / "pipelines" / "second.toml"
    second.write_text(
        """
        endpoints.jmix_http.service = "jmix"
        network.dicom_net.tcp_config.bind_port = 1
        logging.log_level = "info"
        """
    )
    endpoint, network, logging = failed(main)
    assert endpoint.file == network.file == logging.file == str(second)
    assert (endpoint.table, network.table) == ("endpoints.jmix_http", "network.dicom_net")
    assert str(tmp_path / "pipelines" / "dicom-to-jmix.toml") in endpoint.found
    assert str(main) in network.found
    assert (logging.table, logging.found) == ("logging", "in a pipeline file")


# -- all at once -----------------------------------------------------------------------------------


def test_every_fault_of_every_file_at_once(tmp_path: Path) -> None:
    main = written(
        tmp_path,
        f"""
        proxy.log_levle = "info"
        storage.backend = "s3"
        fastjmix.packers = "all"
        network.http_net.http.bind_port = 70000
        middleware.jmix_builder.options.skip_hashin = true
        middleware.guard.type = "jwt_auth"
        pipelines.jmix_query.middleware = ["guard", "passthrou"]
        {BACKEND}.target_ref = "upstream_jimx"
        {RECEIVER}.options.enable_store = "yes"
        """,
    )
    with pytest.raises(errors.ConfigError) as caught:
        config.load(main)
    assert isinstance(caught.value, ConfigError)
    assert [f"{one.table}: {one.key}" for one in caught.value.faults] == [
        "proxy: log_levle",
        "network.http_net.http: bind_port",
        "storage: backend",
        "fastjmix: packers",
        "endpoints.dicom_receiver.options: enable_store",
        "middleware.jmix_builder.options: skip_hashin",
        "middleware.guard: type",
        "pipelines.jmix_query: middleware[1]",
        "backends.jmix_upstream: target_ref",
    ]
    assert caught.value.exit_code == 2
    text = str(caught.value)
    assert text.startswith("9 faults in the configuration; nothing was started\n\n")
    assert (
        f"{tmp_path}/pipelines/dicom-to-jmix.toml: [pipelines.jmix_query] middleware[1]\n"
        '    found:    "passthrou", and there is no middleware.passthrou\n'
        '    allowed:  "jmix_builder", "passthru", "guard"\n'
        "    nearest:  passthru\n" in text
    )
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.faults, str(again)) == (caught.value.faults, text)


def test_control_characters_reach_no_terminal(tmp_path: Path) -> None:
    fault = only(tmp_path, '"\\u001b[2J".x = 1')
    assert "\x1b" not in str(fault)
    fault = only(tmp_path, f'{RECEIVER}.options.local_aet = "\\u001b[2J"')
    assert "\x1b" not in str(fault)


VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats()
    | st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["path", "options", "x", "port"]), inner, max_size=3)
    ),
    max_leaves=5,
)
PLACES = [
    "proxy",
    "proxy.name",
    "storage.options",
    "network",
    "network.http_net",
    "network.http_net.http",
    "targets.upstream_jmix.connection.host",
    "targets.upstream_jmix.url",
    "authentications.a.options.token",
    "fastjmix.retention",
    "fastjmix.ledger",
    "pipelines.jmix_query.middleware",
    "endpoints.dicom_receiver.options.aet_table",
    "endpoints.dicom_receiver.options.aet_table.CT",
    "middleware.jmix_builder.type",
    "backends.jmix_upstream.options.base_url",
]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(place=st.sampled_from(PLACES), value=VALUES)
def test_any_value_anywhere_is_accepted_or_a_fault(
    tmp_path: Path, place: str, value: object
) -> None:
    main = written(tmp_path, f"{place} = {inline(value)}", place_removed(place))
    try:
        text = config.effective(main)[1]
    except ConfigError as error:
        text = str(error.faults[0])
    assert text


def place_removed(place: str) -> str:
    present = ("proxy", "proxy.name", "storage.options", "network", "network.http_net")
    return place if place in present else ""


# -- secrets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        '{ token = "zq7x\\n" }',
        "{ token = 5377 }",
        '{ tokn = "zq7x" }',
        '{ token = ["zq7x"] }',
        '"zq7x"',
        '{ token = "zq7xé" }',
        '{ token = "zq7x ", username = "zq7x:" }',
        '{ header_name = "zq 7x" }',
        '{ token = "" }',
        "{}",
    ],
)
def test_a_secret_is_in_no_fault(tmp_path: Path, options: str) -> None:
    said = f"""
        authentications.a = {{ method = "bearer", options = {options} }}
        {BACKEND}.options.authentication_ref = "a"
    """
    for fault in faults(tmp_path, said):
        assert fault.table.startswith("authentications.a")
        for hidden in ("zq", "5377", "7x"):
            assert hidden not in str(fault)


@pytest.mark.parametrize(
    ("method", "missing"), [("bearer", "token"), ("basic", "username"), ("api_key", "api_key")]
)
def test_what_a_method_needs(tmp_path: Path, method: str, missing: str) -> None:
    said = f'authentications.a.method = "{method}"\n{TARGET}.authentication = "a"'
    found = faults(tmp_path, said)
    assert (found[0].table, found[0].key) == ("authentications.a.options", missing)
    assert len(found) == (2 if method == "basic" else 1)


def test_a_password_in_a_url_is_refused_and_not_shown(tmp_path: Path) -> None:
    fault = only(tmp_path, f"{BACKEND}.options.base_url = 'https://me:zq7x@x.org'")
    assert fault.key == "base_url"
    assert "zq7x" not in str(fault)


def test_values_from_the_environment_are_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3", "zq7x value")
    fault = only(tmp_path, f"{TARGET}.connection.host = '${{S3}}'")
    assert fault.key == "host"
    assert "zq7x" not in str(fault)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("${NO_SUCH_VARIABLE_HERE}", "${NO_SUCH_VARIABLE_HERE}"),
        ("a ${} b", "names no variable"),
        ("${A-B}", "names no variable"),
        ("${A", "names no variable"),
    ],
)
def test_variables_that_are_not_there(tmp_path: Path, text: str, found: str) -> None:
    fault = only(tmp_path, f"{RECEIVER}.options.local_aet = '{text}'")
    assert (fault.table, fault.key) == (f"{RECEIVER}.options", "local_aet")
    assert found in fault.found


# -- documentation ---------------------------------------------------------------------------------


def test_the_keys_of_the_readme_are_there() -> None:
    """Each row names a table, and keys of it: "`[storage.options] path`, `other`"."""
    page = document.text()
    readme = (ROOT / "README.md").read_text()
    part = readme.split("\n## Configuration\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `[")]
    assert len(rows) >= 10
    for row in rows:
        table, key = row.split("`")[1].removeprefix("[").split("] ")
        others = row.split("`")[3::2]
        parts = page.split(f"### `[{table}]`")[1:]
        assert parts, table
        found = "".join(one.split("\n### ")[0] for one in parts)
        assert [one for one in (key, *others) if f"| `{one}`" not in found] == [], table


def test_harmony_files_are_complete() -> None:
    assert sorted(str(one.relative_to(HARMONY)) for one in HARMONY.rglob("*.toml")) == [
        "config.toml",
        "pipelines/dicom-to-jmix.toml",
    ]
