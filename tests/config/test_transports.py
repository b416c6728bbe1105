"""config/transports.py: proxies, certificates, pins and addresses of a target."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastjmix import config
from fastjmix.config.tree import Credentials, Secret, Transport
from tests.support.configs import loaded, only, written
from tests.support.upstreams import authority

TARGET = "targets.upstream_jmix.connection"
BACKEND = "backends.jmix_upstream.connection"
PROXY = f'{TARGET}.proxy = "http://proxy.example:3128"\n'
PIN = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
BASIC = """
authentications.at_proxy.method = "basic"
authentications.at_proxy.options = { username = "us", password = "the-secret-of-it" }
"""


def test_the_backend_overrides_its_target_key_by_key(tmp_path: Path) -> None:
    given = f'{BACKEND}.ip = "6"\n{TARGET}.ip = "4"\n{TARGET}.pin_sha256 = ["{PIN}"]\n'
    named = f'{TARGET}.proxy_authentication = "at_proxy"\n'
    found = loaded(tmp_path, PROXY + named + BASIC + given).dicom[0].upstreams[0].transport
    credentials = Credentials("basic", username=Secret("us"), password=Secret("the-secret-of-it"))
    assert found == Transport("http://proxy.example:3128", credentials, pins=(PIN,), ip="6")


def test_no_secret_of_a_proxy_is_shown(tmp_path: Path) -> None:
    main = written(tmp_path, f'{PROXY}{TARGET}.proxy_authentication = "at_proxy"\n{BASIC}')
    found, text = config.effective(main)
    assert "the-secret-of-it" not in text
    assert "at_proxy" in text
    blank = found.without_upstream_secrets().dicom[0].upstreams[0].transport.proxy_credentials
    assert blank is not None
    assert not blank.password


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (f'{TARGET}.proxy = "https://proxy.example:3128"', "proxy"),
        (f'{TARGET}.proxy = "http://proxy.example"', "proxy"),
        (f'{TARGET}.proxy = "http://us:pass@proxy.example:3128"', "proxy"),
        (f"{PROXY}{TARGET}.use_environment_proxy = true", "use_environment_proxy"),
        (f'{TARGET}.proxy_authentication = "at_proxy"{BASIC}', "proxy_authentication"),
        (
            f'{PROXY}{TARGET}.proxy_authentication = "at_proxy"\n'
            'authentications.at_proxy = { method = "bearer", options = { token = "t" } }',
            "proxy_authentication",
        ),
        (f'{TARGET}.pin_sha256 = ["{PIN[:-5]}"]', "pin_sha256"),
        (f"{TARGET}.pin_sha256 = []", "pin_sha256"),
        (f'{TARGET}.ip = "5"', "ip"),
        (f'{TARGET}.client_cert_path = "none.pem"', "client_key_path"),
    ],
)
def test_faults(tmp_path: Path, changes: str, key: str) -> None:
    fault = only(tmp_path, changes)
    assert re.sub(r"\[\d\]$", "", fault.key) == key
    assert "pass@" not in str(fault)


def test_a_certificate_and_a_key_of_another(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        authority(tmp_path / name)
    files = [tmp_path / name / "upstream.pem" for name in ("one", "other")]

    def given(key: Path) -> str:
        return f'{TARGET}.client_cert_path = "{files[0]}"\n{TARGET}.client_key_path = "{key}"'

    found = loaded(tmp_path / "right", given(files[0])).dicom[0].upstreams[0].transport
    assert (found.cert_file, found.key_file) == (files[0], files[0])
    (other,) = re.findall(r"-----BEGIN[^-]*KEY.*?KEY-----\n", files[1].read_text(), re.S)
    alone = tmp_path / "key.pem"
    alone.write_text(other)
    fault = only(tmp_path / "wrong", given(alone))
    assert fault.key == "client_key_path"
    assert "another certificate" in fault.found
