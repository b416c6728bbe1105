"""The HTTP listeners of a pipeline: its jmix endpoints on its networks.

Guaranteed: no query API beyond loopback without credentials, unless allow_unauthenticated says so;
a certificate and its key are read as TLS will use them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fastjmix.config import tree
from fastjmix.config.addresses import Addresses
from fastjmix.config.binding import HTTP_DEFAULT, Address, bind_table, is_loopback, peer
from fastjmix.config.credentials import credentials
from fastjmix.config.faults import shown
from fastjmix.config.pipelines import Pipeline
from fastjmix.config.published import recipient_key
from fastjmix.config.references import References
from fastjmix.config.table_checks import Entry
from fastjmix.config.tables_net import Network
from fastjmix.config.tables_pipeline import JmixEndpoint

TLS_PAIR: Final = (
    "a certificate chain in PEM, the server's first, and that one's private key without a password"
)


class HttpListeners:
    """Resolves the jmix endpoints of pipelines. `first` are the upstreams of those whose pipeline
    has no backend."""

    def __init__(
        self, references: References, addresses: Addresses, first: tuple[tree.Upstream, ...]
    ) -> None:
        self._references = references
        self._addresses = addresses
        self._first = first

    def of(self, pipeline: Pipeline) -> Iterator[tree.HttpListener]:
        """Yields a listener for each endpoint and address."""
        for entry in pipeline.endpoints:
            if entry is None or not isinstance(entry.value, JmixEndpoint):
                continue
            to = pipeline.upstreams(self._references) if pipeline.backends else self._first
            for address in self._addresses.of(pipeline, entry, HTTP_DEFAULT):
                yield self._listener(pipeline, entry, entry.value, address, to)

    def _listener(
        self,
        pipeline: Pipeline,
        entry: Entry,
        endpoint: JmixEndpoint,
        address: Address,
        to: tuple[tree.Upstream, ...],
    ) -> tree.HttpListener:
        options = endpoint.options
        certificate, private_key = _tls(self._references, address.network)
        required = _required_credentials(self._references, entry, endpoint)
        if required is None and not is_loopback(address.host):
            self._check_open(entry, endpoint, address)
        return tree.HttpListener(
            pipeline=pipeline.entry.name,
            endpoint=entry.name,
            host=address.host,
            port=address.port,
            path_prefix=options.path_prefix,
            cert_file=certificate,
            key_file=private_key,
            credentials=required,
            allow_unauthenticated=options.allow_unauthenticated,
            allowed_hosts=tuple(options.allowed_hosts),
            upstreams=to,
            decryption_key_file=recipient_key(
                self._references, entry, "options.decryption_key_file", options.decryption_key_file
            ),
            proxies=self._addresses.proxies(entry, options.proxy_protocol_from),
        )

    def _check_open(self, entry: Entry, endpoint: JmixEndpoint, address: Address) -> None:
        """Warns of, or refuses, a query API that asks for no credentials beyond loopback."""
        if endpoint.options.allow_unauthenticated:
            warning = f"anyone who reaches {address} can read patients' data"
            self._references.findings.warn(f"{entry.path}: {warning}")
            return
        self._references.fault(
            entry,
            "options.authentication_ref",
            f"nothing, and the query API at {address} can be reached from other machines",
            "the name of an [authentications.*] that callers must present; or"
            " allow_unauthenticated = true; or a loopback address",
        )


def _required_credentials(
    references: References, entry: Entry, endpoint: JmixEndpoint
) -> tree.Credentials | None:
    """Returns the credentials that callers must present: the endpoint's, else its peer's."""
    options = endpoint.options
    for key, name in (
        ("options.authentication_ref", options.authentication_ref),
        ("options.authentication", options.authentication),
        ("authentication", endpoint.authentication),
    ):
        if name is not None:
            return credentials(references, entry, key, name)
    of = peer(references, entry)
    if of is None or of.authentication is None or endpoint.peer_ref is None:
        return None
    by = references.find(entry, "peer_ref", "peers", endpoint.peer_ref)
    return None if by is None else credentials(references, by, "authentication", of.authentication)


def _tls(references: References, network: Entry) -> tuple[Path | None, Path | None]:
    """Returns the certificate and the key of a network's listeners; None for both: plain HTTP."""
    assert isinstance(network.value, Network)
    name, bind = bind_table(network.value)
    if (bind.cert_path is None) != (bind.key_path is None):
        missing = "cert_path" if bind.cert_path is None else "key_path"
        allowed = "a PEM file: TLS needs cert_path and key_path"
        references.fault(network, f"{name}.{missing}", "nothing", allowed)
    certificate = references.file(network, f"{name}.cert_path", bind.cert_path)
    private_key = references.file(network, f"{name}.key_path", bind.key_path)
    if certificate is not None and private_key is not None:
        # ssl: only for TLS listeners
        from fastjmix.config.certificates import chain_warning, pair_fault

        key, found = pair_fault(certificate, private_key)
        if found:
            given = bind.cert_path if key == "cert_path" else bind.key_path
            references.fault(network, f"{name}.{key}", f"{shown(given)}: {found}", TLS_PAIR)
        elif warning := chain_warning(certificate):
            references.findings.warn(f"{network.path}.{name}.cert_path: {warning}")
    return certificate, private_key
