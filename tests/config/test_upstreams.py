"""fastjmix.config: upstreams, credentials, the environment; the tree and its text."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import pickle
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from fastjmix import config
from fastjmix.config import Config, Credentials, Secret, tree
from fastjmix.config.upstreams import post_path
from tests.support.configs import loaded, written
from tests.support.upstreams import authority

AUTH = """
authentications.jmix_auth.id = "jmix_auth"
authentications.jmix_auth.method = "bearer"
authentications.jmix_auth.options.token = "your-api-token"
"""
TO_IT = 'backends.jmix_upstream.options.authentication_ref = "jmix_auth"\n'


def header(credentials: Credentials | None) -> tuple[str, str]:
    assert credentials is not None
    return credentials.header()


# -- rows: upstream --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_path", "path_prefix", "path"),
    [
        ("", "/api", "/api/jmix"),
        ("", "", "/api/jmix"),
        ("", "/v2/jmix", "/v2/jmix"),
        ("/gw", "/api", "/gw/api/jmix"),
        ("/gw", "", "/gw/api/jmix"),
        ("/gw/jmix", "", "/gw/jmix"),
        ("", "/notjmix", "/notjmix/jmix"),
    ],
)
def test_post_path(base_path: str, path_prefix: str, path: str) -> None:
    assert post_path(base_path, path_prefix) == path


TARGET = "targets.upstream_jmix"
BACKEND = "backends.jmix_upstream"


@pytest.mark.parametrize(
    ("changes", "without", "url"),
    [
        (f'{TARGET}.connection.protocol = "http"', f"{TARGET}.connection.port", "http://jmix.example.com:80/api/jmix"),
        ("", f"{TARGET}.connection.port", "https://jmix.example.com:443/api/jmix"),
        (f'{TARGET}.protocol = "https"', f"{TARGET}.connection.protocol", "https://jmix.example.com:443/api/jmix"),
        (f'{TARGET}.type = "https"', f"{TARGET}.connection.protocol", "https://jmix.example.com:443/api/jmix"),
        (f'{TARGET}.connection.base_path = "gw/"', "", "https://jmix.example.com:443/gw/api/jmix"),
        (f'{TARGET}.connection.host = "2001:DB8::1"', "", "https://[2001:db8::1]:443/api/jmix"),
        (f'{BACKEND}.options.path_prefix = "/"', "", "https://jmix.example.com:443/api/jmix"),
        ("", f"{BACKEND}.options", "https://jmix.example.com:443/api/jmix"),
        (f'{BACKEND}.options.path_prefix = "/v2/jmix"', "", "https://jmix.example.com:443/v2/jmix"),
        (
            f'{BACKEND}.connection = {{host = "b.example.com", port = 444, base_path = "/x"}}',
            "",
            "https://b.example.com:444/x/api/jmix",
        ),
        (
            f'{BACKEND}.connection = {{host = "b.example.com", protocol = "https"}}',
            f"{BACKEND}.target_ref {TARGET}",
            "https://b.example.com:443/api/jmix",
        ),
        (f'{BACKEND}.options.base_url = "https://c.example.com:4443/in/"', "", "https://c.example.com:4443/in/api/jmix"),
        (f'{BACKEND}.options.url = "https://c.example.com"', f"{BACKEND}.target_ref", "https://c.example.com/api/jmix"),
        (f'{TARGET}.url = "https://d.example.com/jmix"', f"{TARGET}.connection {BACKEND}.options", "https://d.example.com/jmix"),
    ],
)  # fmt: skip
def test_upstream_url(tmp_path: Path, changes: str, without: str, url: str) -> None:
    assert loaded(tmp_path, changes, without).dicom[0].upstreams[0].url == url


def test_limits_of_target_and_backend(tmp_path: Path) -> None:
    upstream = loaded(tmp_path, without=f"{TARGET}.timeout_secs").dicom[0].upstreams[0]
    assert (upstream.timeout_secs, upstream.max_retries) == (30.0, 3)
    said = f"{TARGET}.timeout_secs = 7\n{TARGET}.max_retries = 0\n"
    upstream = loaded(tmp_path, said).dicom[0].upstreams[0]
    assert (upstream.timeout_secs, upstream.max_retries) == (7.0, 0)
    said += f"{BACKEND}.timeout_secs = 8.5\n{BACKEND}.max_retries = 10\n"
    upstream = loaded(tmp_path, said).dicom[0].upstreams[0]
    assert (upstream.timeout_secs, upstream.max_retries) == (8.5, 10)


@pytest.mark.parametrize("encoding", get_args(tree.TransferEncoding))
def test_backend_options(tmp_path: Path, encoding: str) -> None:
    changes = f"""
        [backends.jmix_upstream.options]
        transfer_encoding = "{encoding}"
        require_matching_id = true
    """
    upstream = loaded(tmp_path, changes).dicom[0].upstreams[0]
    assert (upstream.transfer_encoding, upstream.require_matching_id) == (encoding, True)


def test_private_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    authority(tmp_path)
    shutil.copy("ca.pem", "other.pem")
    said = f'{TARGET}.connection.ca_cert_path = "ca.pem"\n'
    assert loaded(tmp_path, said).dicom[0].upstreams[0].ca_file == tmp_path / "ca.pem"
    said += f'{BACKEND}.connection.ca_cert_path = "{tmp_path}/other.pem"\n'
    assert loaded(tmp_path, said).dicom[0].upstreams[0].ca_file == tmp_path / "other.pem"


def test_clear_text_to_another_machine_is_warned_of(tmp_path: Path) -> None:
    said = f'{TARGET}.connection.protocol = "http"\n'
    (warning,) = loaded(tmp_path, said).warnings
    assert "unencrypted" in warning
    assert "credentials" not in warning
    (warning,) = [one for one in loaded(tmp_path, said + AUTH + TO_IT).warnings if "go un" in one]
    assert "credentials" in warning
    for host in ("127.0.0.1", "localhost", "::1"):
        assert loaded(tmp_path, said + f'{TARGET}.connection.host = "{host}"').warnings == ()


# -- rows: credentials -----------------------------------------------------------------------------


def test_methods(tmp_path: Path) -> None:
    def sent(method: str, options: str) -> Credentials | None:
        said = f"""
            authentications.a.method = "{method}"
            authentications.a.options = {options}
            backends.jmix_upstream.options.authentication_ref = "a"
        """
        return loaded(tmp_path, said).dicom[0].upstreams[0].credentials

    assert header(sent("bearer", '{token = "a$b"}')) == ("Authorization", "Bearer a$b")
    basic = base64.b64encode("nurse:pä:ss".encode()).decode()
    given = sent("basic", '{username = "nurse", password = "pä:ss"}')
    assert header(given) == ("Authorization", f"Basic {basic}")
    assert header(sent("api_key", '{api_key = "k"}')) == ("X-API-Key", "k")
    given = sent("api_key", '{api_key = "k", header_name = "X-Site"}')
    assert header(given) == ("X-Site", "k")
    assert sent("none", "{}") is None


@pytest.mark.parametrize("form", ["jmix_auth", "authentications.jmix_auth", "by-its-id"])
@pytest.mark.parametrize(
    "key",
    [
        f"{BACKEND}.options.authentication_ref",
        f"{BACKEND}.authentication",
        f"{TARGET}.authentication",
    ],
)
def test_references_to_credentials(tmp_path: Path, key: str, form: str) -> None:
    said = AUTH + f'authentications.jmix_auth.id = "by-its-id"\n{key} = "{form}"'
    said = said.replace('authentications.jmix_auth.id = "jmix_auth"\n', "")
    credentials = loaded(tmp_path, said).dicom[0].upstreams[0].credentials
    assert header(credentials) == ("Authorization", "Bearer your-api-token")


def test_precedence_of_references_to_credentials(tmp_path: Path) -> None:
    def token(said: str) -> str:
        credentials = loaded(tmp_path, said).dicom[0].upstreams[0].credentials
        return header(credentials)[1].removeprefix("Bearer ")

    said = "".join(
        f'authentications.{name} = {{method = "bearer", options = {{token = "{name}"}}}}\n'
        for name in "abc"
    )
    said += f'{TARGET}.authentication = "a"\n'
    assert token(said) == "a"
    said += f'{BACKEND}.authentication = "b"\n'
    assert token(said) == "b"
    said += f'{BACKEND}.options.authentication_ref = "c"\n'
    assert token(said) == "c"


def test_credentials_for_callers_of_the_query_api(tmp_path: Path) -> None:
    outside = AUTH + 'network.http_net.http.bind_address = "0.0.0.0"\n'
    for key in (
        "endpoints.jmix_http.options.authentication_ref",
        "endpoints.jmix_http.options.authentication",
        "endpoints.jmix_http.authentication",
    ):
        (http,) = loaded(tmp_path, outside + f'{key} = "jmix_auth"').http
        assert (http.host, http.allow_unauthenticated) == ("0.0.0.0", False)
        assert header(http.credentials)[1] == "Bearer your-api-token"
    peer = 'peers.p.authentication = "jmix_auth"\nendpoints.jmix_http.peer_ref = "p"'
    assert loaded(tmp_path, outside + peer).http[0].credentials is not None


def test_query_api_beyond_loopback_open_to_all_only_when_said(tmp_path: Path) -> None:
    outside = 'network.http_net.http.bind_address = "0.0.0.0"\n'
    allowed = outside + "endpoints.jmix_http.options.allow_unauthenticated = true"
    found = loaded(tmp_path, allowed)
    assert found.http[0].allow_unauthenticated
    assert any("anyone" in warning for warning in found.warnings)
    with pytest.raises(config.ConfigError, match="allow_unauthenticated = true"):
        loaded(tmp_path, outside)


def test_https_for_the_query_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    authority(tmp_path)
    for name in ("c.pem", "k.pem"):  # both are in the one file
        shutil.copy("upstream.pem", name)
    said = 'network.http_net.http.cert_path = "c.pem"\nnetwork.http_net.http.key_path = "k.pem"'
    (http,) = loaded(tmp_path, said).http
    assert (http.cert_file, http.key_file) == (tmp_path / "c.pem", tmp_path / "k.pem")


def test_path_prefix_of_the_query_api(tmp_path: Path) -> None:
    for given, effective in [("/jmix", "/jmix"), ("a/b/", "/a/b"), ("/", ""), ("", "")]:
        said = f'endpoints.jmix_http.options.path_prefix = "{given}"'
        assert loaded(tmp_path, said).http[0].path_prefix == effective


# -- the environment -------------------------------------------------------------------------------


def test_environment_in_string_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMIX_HOST", "env.example.com")
    monkeypatch.setenv("JMIX_TOKEN", "from ${the} environment")
    said = AUTH.replace("your-api-token", "x-${JMIX_TOKEN}-$HOME-$${JMIX_TOKEN}-$$") + TO_IT
    upstream = (
        loaded(tmp_path, said + f'{TARGET}.connection.host = "${{JMIX_HOST}}"')
        .dicom[0]
        .upstreams[0]
    )
    assert upstream.url == "https://env.example.com:443/api/jmix"
    token = header(upstream.credentials)[1]
    assert token == "Bearer x-from ${the} environment-$HOME-${JMIX_TOKEN}-$$"


def test_variables_of_the_cloud_are_not_missed(tmp_path: Path) -> None:
    assert loaded(tmp_path, 'provider.runbeam.api = "${NO_SUCH_VARIABLE_HERE}"').dicom


# -- secrets ---------------------------------------------------------------------------------------


def test_a_file_that_others_can_read_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = written(tmp_path, AUTH + TO_IT)
    main.chmod(0o640)
    assert config.load(main).warnings == ()
    main.chmod(0o644)
    (warning,) = config.load(main).warnings
    assert "chmod o-r" in warning
    monkeypatch.setenv("JMIX_TOKEN", "secret")
    main = written(tmp_path, AUTH.replace("your-api-token", "${JMIX_TOKEN}") + TO_IT)
    main.chmod(0o644)
    assert config.load(main).warnings == ()


def test_secrets_do_not_show(tmp_path: Path) -> None:
    found = loaded(tmp_path, AUTH + TO_IT + 'endpoints.jmix_http.authentication = "jmix_auth"')
    effective = config.effective(tmp_path / "config.toml")[1]
    for text in (repr(found), str(found), effective, f"{Secret('your-api-token')}"):
        assert "your-api-token" not in text
    assert "(redacted)" in repr(found)
    assert Secret("a") == Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1
    assert Secret("a") != "a"
    assert (str(Secret()), bool(Secret())) == ("", False)


def test_without_secrets(tmp_path: Path) -> None:
    found = loaded(tmp_path, AUTH + TO_IT + 'endpoints.jmix_http.authentication = "jmix_auth"')
    blank = found.without_secrets()
    assert b"your-api-token" not in pickle.dumps(blank)
    assert blank.dicom[0].upstreams[0].url == found.dicom[0].upstreams[0].url
    assert blank.dicom[0].upstreams[0].credentials == Credentials("bearer")
    half = found.without_upstream_secrets()
    assert half.http[0].credentials == found.http[0].credentials
    assert half.http[0].upstreams == half.dicom[0].upstreams == blank.dicom[0].upstreams
    assert found.dicom[0].upstreams[0].credentials == Credentials(
        "bearer", Secret("your-api-token")
    )


# -- the tree and its text -------------------------------------------------------------------------


def full(tmp_path: Path) -> Config:
    changes = """
        peers.p = {timeout_secs = 1}
        [endpoints.dicom_receiver.options.aet_table]
        "CT 1" = { host = "ct.local", port = 104, quiet_secs = 60 }
    """
    return loaded(tmp_path, AUTH + TO_IT + changes)


def test_frozen_and_picklable(tmp_path: Path) -> None:
    found = full(tmp_path)
    assert pickle.loads(pickle.dumps(found)) == found
    with contextlib.suppress(dataclasses.FrozenInstanceError):
        found.name = "other"  # type: ignore[misc]
        pytest.fail("not frozen")


def test_rendered_text_is_toml_and_complete(tmp_path: Path) -> None:
    found = full(tmp_path)
    text = config.effective(tmp_path / "config.toml")[1]
    read = tomllib.loads(text)
    assert read["proxy"]["name"] == found.name
    assert read["fastjmix"]["lane_bytes"] == found.runtime.lane_bytes
    caller = read["endpoints"]["dicom_receiver"]["options"]["aet_table"]["CT 1"]
    assert (caller["quiet_secs"], caller["port"]) == (60, 104)
    assert read["authentications"]["jmix_auth"]["options"]["token"] == "${JMIX_AUTH_TOKEN}"
    assert found.dicom[0].upstreams[0].url in text
    for word in (*found.ignored, *found.warnings):
        assert f"#   {word}\n" in text
    assert found.warnings == ("nothing refers to peers.p: without effect",)


def test_names_of_types_cost_no_pydantic() -> None:
    """Every process imports the tree; the models are imported where a file is loaded."""
    code = "import sys, fastjmix.config; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
