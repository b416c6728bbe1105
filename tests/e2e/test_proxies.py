"""Peers behind HAProxy and stunnel keep their own address in limits, ledger and log."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage
from pynetdicom import AE

from fastjmix.transport.proxy_header import HEADER_BYTES_MAX, HEADER_SECS, SIGNATURE
from tests.support import wire
from tests.support.acceptors import write_instance
from tests.support.gateway import Gateway, Peer, Store, running, until
from tests.support.proxies import haproxy, stunnel
from tests.support.upstreams import authority

FROM_HERE = 'proxy_protocol_from = ["127.0.0.1"]\n'
MODALITY = "127.0.0.9"
"""The address of a client that is not the proxy's."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a proxy at 127.0.0.1, and its upstream."""
    directory = tmp_path_factory.mktemp("proxies")
    endpoint = FROM_HERE + "max_half_open = 4\nacse_timeout_secs = 30"
    with (
        running(Store(directory)) as store,
        running(Gateway(directory, store.port, endpoint=endpoint, http=FROM_HERE)) as own,
    ):
        yield own


def header(host: str, port: int = 104, more: int = 0) -> bytes:
    """Returns a header of version 2, with so many bytes of TLVs."""
    body = socket.inet_aton(host) + socket.inet_aton("127.0.0.1")
    body += struct.pack(">HH", port, 11112) + bytes(more)
    return SIGNATURE + struct.pack(">BBH", 0x21, 0x11, len(body)) + body


def from_elsewhere(gateway: Gateway, first: bytes = b"") -> socket.socket:
    """Sends these bytes and an A-ASSOCIATE-RQ from an address that is no proxy's."""
    address = ("127.0.0.1", gateway.dicom_port)
    one = socket.create_connection(address, 20, source_address=("127.0.0.8", 0))
    one.sendall(first + wire.associate_rq(wire.context(1, wire.CT, wire.EXPLICIT)))
    return one


def store(port: int, file: Path, **how: Any) -> int:
    """Stores a file from MODALITY with pynetdicom. Returns the status."""
    client = AE("BEHIND")
    client.add_requested_context(CTImageStorage, "1.2.840.10008.1.2.1")
    association = client.associate(
        "127.0.0.1", port, ae_title="JMIX_RECEIVER", bind_address=(MODALITY, 0), **how
    )
    assert association.is_established
    status = association.send_c_store(file)
    association.release()
    return int(status.Status)


def origin_of(gateway: Gateway, study: str) -> dict[str, Any]:
    """Returns the association that the provenance of a study's envelope has."""

    def found() -> list[dict[str, Any]]:
        files = (gateway.spool / "provenance").glob("*.json")
        held = [json.loads(file.read_bytes()) for file in files]
        return [one for one in held if study in json.dumps(one)]

    (provenance,) = until(found, "the study's provenance is there")
    (association,) = provenance["associations"]
    return dict(association)


@pytest.mark.parametrize(
    "version", ["send-proxy-v2", "send-proxy", "send-proxy-v2 send-proxy-v2-ssl-cn"]
)
def test_a_modality_behind_haproxy(gateway: Gateway, tmp_path: Path, version: str) -> None:
    study = f"1.2.3.{len(version)}"
    file = write_instance(tmp_path / "ct.dcm", StudyInstanceUID=study, SeriesInstanceUID="1.2.4")
    with haproxy(tmp_path, gateway.dicom_port, version) as port:
        assert store(port, file) == 0x0000
    assert origin_of(gateway, study)["peer"].startswith(f"{MODALITY}:")
    gateway.wait_for(rf"association_accepted .*calling_ae=BEHIND .*peer={MODALITY}:")


def test_a_modality_with_tls_behind_stunnel(gateway: Gateway, tmp_path: Path) -> None:
    ca_file, _ = authority(tmp_path)
    file = write_instance(tmp_path / "ct.dcm", StudyInstanceUID="1.2.9", SeriesInstanceUID="1.2.4")
    tls = ssl.create_default_context(cafile=ca_file)
    with stunnel(tmp_path, gateway.dicom_port, tmp_path / "upstream.pem") as port:
        assert store(port, file, tls_args=(tls, "127.0.0.1")) == 0x0000
    assert origin_of(gateway, "1.2.9")["peer"].startswith(f"{MODALITY}:")


def test_a_caller_of_the_query_api_behind_haproxy(gateway: Gateway, tmp_path: Path) -> None:
    with haproxy(tmp_path, gateway.http_port) as port:
        client = http.client.HTTPConnection("127.0.0.1", port, 30, source_address=(MODALITY, 0))
        with contextlib.closing(client):
            client.request("GET", "/healthz")
            assert client.getresponse().status == 200
    gateway.wait_for(rf"http_request peer={MODALITY} method=GET path=/healthz")


def test_a_health_check_of_haproxy_is_no_line_in_the_log(gateway: Gateway, tmp_path: Path) -> None:
    """It connects, sends a header of LOCAL, and closes."""
    lines = len(gateway.lines)
    with haproxy(tmp_path, gateway.dicom_port, "check inter 100ms send-proxy-v2 check-send-proxy"):
        log = tmp_path / "proxy.log"
        time.sleep(0.5)  # several checks; HAProxy says only when one fails
        assert "DOWN" not in log.read_text()
    assert not [line for line in gateway.lines[lines:] if "connection_aborted" in line]


@pytest.mark.parametrize("first", [b"", b"PROXY TCP4 10.9.9.9 10.0.0.1 1 104\r\n"])
def test_a_header_of_another_address_is_not_read(gateway: Gateway, first: bytes) -> None:
    """Nobody but a proxy says that it is another."""
    with from_elsewhere(gateway, first) as one:
        assert one.recv(1) == (b"\x07" if first else b"\x02")
    if first:
        gateway.wait_for(
            "connection_aborted peer=127.0.0.8:.*a PROXY protocol header.* hint=.*from"
        )


@pytest.mark.parametrize(
    "first",
    [
        wire.associate_rq(wire.context(1, wire.CT, wire.EXPLICIT)),
        SIGNATURE + b"\x11\x11\x00\x0c" + bytes(12),
        header("10.0.0.1", more=HEADER_BYTES_MAX - 27),
    ],
    ids=["none", "invalid", "long"],
)
def test_a_proxy_must_send_a_header(gateway: Gateway, first: bytes) -> None:
    with Peer(gateway.dicom_port) as peer:
        peer.send(first)
        assert peer.pdu()[0] == 7
        address = ":".join(map(str, peer.socket.getsockname()))
    gateway.wait_for(f"connection_aborted peer={address} .*proxy_protocol_from")


def test_a_header_in_pieces_with_the_request_behind_it(gateway: Gateway) -> None:
    request = wire.associate_rq(wire.context(1, wire.CT, wire.EXPLICIT), calling=b"PIECES")
    data = header("10.1.2.3", 4711, more=HEADER_BYTES_MAX - 28) + request
    with Peer(gateway.dicom_port) as peer:
        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in (0, 5, 13, 20):
            peer.send(data[at : {0: 5, 5: 13, 13: 20, 20: len(data)}[at]])
            time.sleep(0.02)  # so that they are pieces on the wire, too
        assert peer.pdu()[0] == 2
    gateway.wait_for("association_accepted .*calling_ae=PIECES .*peer=10.1.2.3:4711")


def test_clients_of_one_proxy_are_bounded_each(gateway: Gateway) -> None:
    """A client with all half-open connections gives way to another behind the same proxy."""
    with contextlib.ExitStack() as held:
        for number in range(4):
            if number == 3:  # its answer comes after the headers before it were read
                held.enter_context(from_elsewhere(gateway)).recv(1)
            idle = held.enter_context(Peer(gateway.dicom_port))
            idle.send(header("10.66.0.1"))
        echo = held.enter_context(Peer(gateway.dicom_port))
        echo.send(header("10.7.7.7"))
        assert echo.associate(calling=b"ANOTHER")[0] == 2
    gateway.wait_for("association_accepted .*calling_ae=ANOTHER .*peer=10.7.7.7:104")


def test_a_header_that_does_not_come_costs_seconds(gateway: Gateway) -> None:
    """Seconds, where an A-ASSOCIATE-RQ has acse_timeout_secs: a proxy sends it at once."""
    began = time.monotonic()
    with Peer(gateway.dicom_port, 30) as silent, Peer(gateway.http_port, 30) as caller:
        silent.send(SIGNATURE[:5])
        caller.send(SIGNATURE[:5])
        with Peer(gateway.dicom_port) as other:  # and nobody waits for it
            other.send(header("10.1.1.1"))
            assert other.associate()[0] == 2
        assert time.monotonic() - began < HEADER_SECS
        assert silent.closed()
        assert caller.closed()
    assert HEADER_SECS - 0.5 < time.monotonic() - began < 20


@pytest.mark.parametrize("first", [b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b""])
def test_a_proxy_must_send_a_header_to_the_query_api(gateway: Gateway, first: bytes) -> None:
    with Peer(gateway.http_port) as peer:
        peer.send(first)
        if not first:
            peer.socket.shutdown(socket.SHUT_WR)
        assert peer.closed()
    if first:
        gateway.wait_for("proxy_header_refused peer=127.0.0.1 why=.no PROXY protocol header")
