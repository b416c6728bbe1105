"""Row F117: certificates and keys that TLS cannot use are refused before anything is started."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fastjmix.config import certificates
from tests.support.configs import loaded, only, written
from tests.support.gateway import run_command
from tests.support.upstreams import authority

NETWORK = "network.http_net.http"
UPSTREAM = "targets.upstream_jmix.connection"


def pair(directory: Path) -> tuple[bytes, bytes, bytes]:
    """Returns a new key, its certificate, and that of the authority which signed it, in PEM."""
    directory.mkdir()
    ca_file, _ = authority(directory)
    key, certificate = re.findall(
        rb"-----BEGIN.*?-----END [^\n]*-----\n", (directory / "upstream.pem").read_bytes(), re.S
    )
    return key, certificate, ca_file.read_bytes()


def of_another_kind() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


FORMS = {"PKCS8": PrivateFormat.PKCS8, "OLD": PrivateFormat.TraditionalOpenSSL}


def locked(key: bytes, form: str) -> bytes:
    """Returns the key, encrypted with a password."""
    held = load_pem_private_key(key, None)
    return held.private_bytes(Encoding.PEM, FORMS[form], BestAvailableEncryption(b"secret"))


@pytest.fixture
def one(tmp_path: Path) -> tuple[bytes, bytes, bytes]:
    return pair(tmp_path / "one")


@pytest.fixture
def other(tmp_path: Path) -> tuple[bytes, bytes, bytes]:
    return pair(tmp_path / "other")


def configured(tmp_path: Path, certificate: bytes, key: bytes) -> str:
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    return (
        f'{NETWORK}.cert_path = "{tmp_path}/cert.pem"\n{NETWORK}.key_path = "{tmp_path}/key.pem"\n'
    )


@pytest.mark.fault("F117")
@pytest.mark.parametrize(
    ("make", "key", "found"),
    [
        (lambda one, other: (one[1], other[0]), "key_path", "another certificate"),
        (lambda one, other: (one[1], of_another_kind()), "key_path", "another certificate"),
        (lambda one, other: (one[2] + one[1], one[0]), "key_path", "another certificate"),
        (lambda one, other: (one[0], one[1]), "cert_path", "no certificate"),
        (lambda one, other: (b"", one[0]), "cert_path", "no certificate"),
        (lambda one, other: (one[1], b""), "key_path", "no private key"),
        (lambda one, other: (one[1], one[1]), "key_path", "no private key"),
        (lambda one, other: (one[1][:-60], one[0]), "cert_path", "no certificate"),
        (lambda one, other: (one[1], one[0][:-60]), "key_path", "no private key"),
        (lambda one, _: (one[1], locked(one[0], "PKCS8")), "key_path", "needs a password"),
        (lambda one, _: (one[1], locked(one[0], "OLD")), "key_path", "needs a password"),
    ],
    ids=[
        "another key", "another kind of key", "the authority first", "exchanged", "empty",
        "no key", "twice the certificate", "a cut certificate", "a cut key", "encrypted",
        "encrypted as of old",
    ],
)  # fmt: skip
def test_what_tls_cannot_use(
    tmp_path: Path,
    one: tuple[bytes, bytes, bytes],
    other: tuple[bytes, bytes, bytes],
    make: Callable[..., tuple[bytes, bytes]],
    key: str,
    found: str,
) -> None:
    fault = only(tmp_path / "set", configured(tmp_path, *make(one, other)))
    assert (fault.table, fault.key) == (NETWORK, key)
    assert found in fault.found


@pytest.mark.fault("F117")
def test_what_belongs_together(tmp_path: Path, one: tuple[bytes, bytes, bytes]) -> None:
    for certificate, key in (
        (one[1], one[0]),
        (one[1] + one[2], one[0]),  # the chain
        (one[0] + one[1], one[1] + one[0]),  # both in one file, in any order
    ):
        changes = configured(tmp_path, certificate, key)
        assert loaded(tmp_path / "set", changes).http[0].key_file == tmp_path / "key.pem"


@pytest.mark.fault("F117")
def test_nothing_is_started_with_them(
    tmp_path: Path, one: tuple[bytes, bytes, bytes], other: tuple[bytes, bytes, bytes]
) -> None:
    """Before: the API ended with an error, and was started again, for ever."""
    path = written(tmp_path / "set", configured(tmp_path, one[1], other[0]))
    for command in ("check", "run"):
        done = run_command(command, "-c", path, cwd=path.parent)
        assert done.returncode == 2
        assert f"[{NETWORK}] key_path" in done.stderr
        assert "nothing was started" in done.stderr
    assert not (path.parent / "tmp").exists()


@pytest.mark.fault("F117")
@pytest.mark.parametrize("content", [b"", b"hello\n", b"-----BEGIN CERTIFICATE-----\n"])
def test_an_authority_without_a_certificate(tmp_path: Path, content: bytes) -> None:
    """Before: no envelope was ever delivered."""
    (tmp_path / "ca.pem").write_bytes(content)
    fault = only(tmp_path / "set", f'{UPSTREAM}.ca_cert_path = "{tmp_path}/ca.pem"')
    assert (fault.table, fault.key) == (UPSTREAM, "ca_cert_path")
    assert "no certificate" in fault.found


@pytest.mark.fault("F117")
@pytest.mark.parametrize(
    ("days", "word"), [(-1, "expired on"), (20, "in 19 days"), (29.9, "in 29 days"), (31, None)]
)
def test_a_certificate_that_expires_is_a_warning(
    tmp_path: Path, days: float, word: str | None
) -> None:
    """The gateway starts all the same: images come in without it."""
    (tmp_path / "one").mkdir()
    authority(tmp_path / "one", days=days)
    pem = (tmp_path / "one" / "upstream.pem").read_bytes()
    config = loaded(tmp_path / "set", configured(tmp_path, pem, pem))
    told = [one for one in config.warnings if "cert_path" in one]
    if word is None:
        assert told == []
    else:
        assert len(told) == 1
        assert word in told[0]
        assert f"{tmp_path}/cert.pem: the certificate of CN=" in told[0]


def test_an_authority_is_warned_of_when_the_last_one_expires(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for directory, days in ((old, 5), (new, 400)):
        directory.mkdir()
        authority(directory, days=days, self_signed=True)
    both = tmp_path / "ca.pem"
    texts = [(one / "upstream.pem").read_text() for one in (old, new)]
    both.write_text("".join(texts))
    assert certificates.authorities_warning(both) is None
    warning = certificates.chain_warning(both)
    assert warning is not None
    assert "in 4 days" in warning
    assert certificates.authorities_warning(old / "upstream.pem") is not None
    assert certificates.expiries(tmp_path / "nothing") == []
