"""uploader/proxies.py, and how connections are made: real proxies, certificates and addresses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from fastjmix.config import Credentials, Secret
from fastjmix.config.certificates import public_key_pin
from fastjmix.config.tree import Transport
from fastjmix.uploader.proxies import Proxy, parsed, proxy_of
from tests.support.forward_proxies import ForwardProxy, nginx
from tests.support.nodes import MEGABYTE, node, run, to
from tests.support.places import S3Service, to_bucket
from tests.support.sealed import sealed_envelope
from tests.support.upstreams import PATH, authority
from tests.support.upstreams import Upstream as Server

OURS = Credentials("basic", username=Secret("fastjmix"), password=Secret("proxy-password"))


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[ForwardProxy]:
    made = ForwardProxy(tmp_path / "proxy", "fastjmix proxy-password")
    yield made
    made.close()


def through(proxy: ForwardProxy, credentials: Credentials | None = OURS) -> Transport:
    return Transport(proxy=proxy.url, proxy_credentials=credentials)


@pytest.mark.parametrize("tls", [True, False])
def test_an_envelope_goes_through_the_proxy(tmp_path: Path, proxy: ForwardProxy, tls: bool) -> None:
    ca_file, context = authority(tmp_path)

    async def test() -> None:
        async with Server().open(context if tls else None) as store:
            upstream = to(store.url, ca_file=ca_file, transport=through(proxy))
            async with node(tmp_path / "spool", upstream) as one:
                image = os.urandom(MEGABYTE // 2)
                envelope_id = one.seal(sealed_envelope(image=image), crc32=None)
                assert await one.left() == [("sent", envelope_id)]
                assert store.posts[0].body == one.spool.path("sent", envelope_id).read_bytes()
                assert "proxy-authorization" not in store.posts[0].headers
                assert "proxy-password" not in one.log.read_text()
            host = store.url.split("/")[2]
        (asked,) = proxy.requests
        assert asked.startswith(f"CONNECT {host} " if tls else f"POST http://{host}{PATH} ")

    run(test)


@pytest.mark.parametrize("tls", [True, False])
def test_a_proxy_that_refuses_our_credentials_holds_the_target(
    tmp_path: Path, proxy: ForwardProxy, tls: bool
) -> None:
    ca_file, context = authority(tmp_path)

    async def test() -> None:
        async with Server().open(context if tls else None) as store:
            upstream = to(store.url, ca_file=ca_file, transport=through(proxy, None))
            async with node(tmp_path / "spool", upstream) as one:
                one.seal()
                (line, *_) = await one.logged("upstream_held")
                assert "status=407" in line or "status=401" in line
                assert not store.posts

    run(test)


def test_a_proxy_that_is_not_there(tmp_path: Path) -> None:
    async def test() -> None:
        transport = Transport(proxy="http://127.0.0.1:9")
        upstream = to("https://jmix.example/api/jmix", transport=transport)
        async with node(tmp_path, upstream) as one:
            one.seal()
            (line, *_) = await one.logged("upstream_paused")
            assert "the proxy cannot be reached" in line

    run(test)


def test_a_server_that_the_proxy_cannot_reach(tmp_path: Path, proxy: ForwardProxy) -> None:
    async def test() -> None:
        upstream = to("https://127.0.0.1:9/api/jmix", transport=through(proxy))
        async with node(tmp_path / "spool", upstream) as one:
            one.seal()
            (line, *_) = await one.logged("upstream_paused")
            assert "the proxy answers 5" in line
            assert "CONNECT 127.0.0.1:9" in line

    run(test)


def test_objects_go_through_the_proxy(tmp_path: Path, proxy: ForwardProxy) -> None:
    service = S3Service()
    try:
        bucket = service.make_bucket()

        async def test() -> None:
            upstream = to_bucket(service.url, bucket, transport=through(proxy))
            async with node(tmp_path / "spool", upstream) as one:
                envelope_id = one.seal()
                assert await one.left() == [("sent", envelope_id)]
            assert service.names(bucket) == [f"radiology/{envelope_id}.zip"]
            assert any(f"/{bucket}/radiology/{envelope_id}.zip" in one for one in proxy.requests)

        run(test)
    finally:
        service.close()


# -- the environment -------------------------------------------------------------------------------

ENVIRONMENT = {
    "https_proxy": "http://user:pass%40word@proxy.example:3128",
    "HTTP_PROXY": "other.example:8080",
    "NO_PROXY": ".internal.example,127.0.0.1",
}

ASK = """
from fastjmix.uploader.proxies import forget_environment, proxy_of
from tests.support.nodes import to
from fastjmix.config.tree import Transport
import os
forget_environment()
assert not [name for name in os.environ if name.lower().endswith("_proxy")]
for use in (True, False):
    for url in {urls!r}:
        print(proxy_of(to(url, transport=Transport(use_environment_proxy=use)), url))
"""


def test_the_environment_counts_by_that_key_only() -> None:
    urls = ["https://a.example/x", "http://a.example/x", "https://b.internal.example:8443/x"]
    done = subprocess.run(
        [sys.executable, "-c", ASK.format(urls=urls)],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [
        str(Proxy("http://proxy.example:3128", "user", "pass@word")),
        str(Proxy("http://other.example:8080")),
        *["None"] * 4,
    ], done.stderr


def test_a_user_is_written_so_that_a_url_can_hold_it() -> None:
    one = Proxy("http://proxy.example:3128", "a:b@c", "d/e f")
    assert parsed(one.with_user()) == one
    named = Transport(proxy=one.url, proxy_credentials=OURS)
    assert proxy_of(to("https://a", transport=named), "https://a") == Proxy(
        one.url, "fastjmix", "proxy-password"
    )


# -- TLS -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ours", ["trusted", "another authority's", "none"])
def test_our_certificate_is_presented(tmp_path: Path, ours: str) -> None:
    """To nginx, which asks for one of a certain authority."""
    server, client, other = (tmp_path / name for name in ("server", "client", "other"))
    for directory in (server, client, other):
        directory.mkdir()
    ca_file, _ = authority(server)
    client_ca, _ = authority(client)
    authority(other)
    held = {"trusted": client, "another authority's": other}.get(ours)
    file = held / "upstream.pem" if held is not None else None

    async def test() -> None:
        async with Server().open() as store:
            behind = store.url.removesuffix(PATH)
            block = f"""ssl; ssl_verify_client on; ssl_client_certificate {client_ca};
                ssl_certificate {server}/upstream.pem; ssl_certificate_key {server}/upstream.pem;
                location / {{ proxy_pass {behind}; }}"""
            with nginx(tmp_path / "nginx", block) as port:
                transport = Transport(cert_file=file, key_file=file)
                url = f"https://127.0.0.1:{port}{PATH}"
                upstream = to(url, ca_file=ca_file, transport=transport)
                async with node(tmp_path / "spool", upstream) as one:
                    one.seal()
                    if ours == "trusted":
                        assert (await one.left())[0][0] == "sent"
                    else:
                        await one.logged("upload_retry")
                        assert not store.posts
                        assert not one.lines("envelope_rejected")

    run(test)


@pytest.mark.parametrize("pinned", ["its key", "one of two", "another key"])
@pytest.mark.parametrize("proxied", [False, True])
def test_only_a_pinned_key_gets_an_envelope(
    tmp_path: Path, proxy: ForwardProxy, pinned: str, proxied: bool
) -> None:
    ca_file, context = authority(tmp_path)
    chain = (tmp_path / "upstream.pem").read_bytes()
    certificate = x509.load_pem_x509_certificates(chain)[0]
    from cryptography.hazmat.primitives.serialization import Encoding

    pin = public_key_pin(certificate.public_bytes(Encoding.DER))
    other = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    pins = {"its key": (pin,), "one of two": (other, pin), "another key": (other,)}[pinned]
    url = proxy.url if proxied else None
    transport = Transport(proxy=url, proxy_credentials=OURS if proxied else None, pins=pins)

    async def test() -> None:
        async with Server().open(context) as store:
            upstream = to(store.url, ca_file=ca_file, transport=transport)
            async with node(tmp_path / "spool", upstream) as one:
                one.seal()
                if pinned == "another key":
                    (line, *_) = await one.logged("upstream_paused")
                    assert f"its public key is {pin}, and not pinned" in line
                    assert not store.posts
                else:
                    assert (await one.left())[0][0] == "sent"

    run(test)


def test_a_pin_is_what_openssl_says(tmp_path: Path) -> None:
    """docs/targets.md has these commands."""
    authority(tmp_path)
    script = (
        f"openssl x509 -in {tmp_path}/upstream.pem -pubkey -noout"
        " | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | openssl enc -base64"
    )
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    der = subprocess.run(
        ["openssl", "x509", "-in", tmp_path / "upstream.pem", "-outform", "der"],
        capture_output=True,
        check=True,
    ).stdout
    assert public_key_pin(der) == said.strip()


# -- addresses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ip", ["any", "4", "6"])
def test_addresses_of_one_kind_are_used(tmp_path: Path, ip: str) -> None:
    """localhost has both; the server listens on the address of version 4."""

    async def test() -> None:
        async with Server().open() as store:
            url = store.url.replace("127.0.0.1", "localhost")
            async with node(tmp_path, to(url, transport=Transport(ip=ip))) as one:  # type: ignore[arg-type]
                one.seal()
                if ip == "6":
                    (line, *_) = await one.logged("upstream_paused")
                    assert "no connection" in line
                    assert not store.posts
                else:
                    assert (await one.left())[0][0] == "sent"

    run(test)
