"""A refusal names the instance, the peer and the reason, in the Error Comment and in the log."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import struct
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastjmix._core import DataSetReader
from fastjmix.dicom.dimse import COMMENT_MAX
from fastjmix.dicom.refusals import UIDS, Reason, why_uids, why_unreadable
from fastjmix.log.rates import LINES_AT_ONCE
from fastjmix.receiver.messages import UID_SHOWN_MAX
from tests.support import wire
from tests.support.acceptors import dcmtk
from tests.support.gateway import Gateway, Peer, running

TAGS = {name: tag for tag, name in UIDS.items()}
LONG = "1.2." + "3" * 61


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(Gateway(tmp_path_factory.mktemp("refusals"), 9)) as own:
        yield own


@pytest.fixture
def peer(gateway: Gateway) -> Iterator[Peer]:
    with Peer(gateway.dicom_port) as one:
        one.associate(
            wire.context(1, wire.CT, wire.EXPLICIT),
            wire.context(3, wire.CT, wire.IMPLICIT),
            wire.context(5, wire.CT, wire.BIG),
            wire.context(7, wire.CT, wire.DEFLATED),
            calling=b"CT_7",
        )
        yield one


def address_of(peer: Peer) -> str:
    """Returns the peer's address as the gateway logs it."""
    return ":".join(map(str, peer.socket.getsockname()))


def without(tag: int, kind: int = 1, value: bytes | None = None, **options: str) -> bytes:
    """Returns a data set without an element, or with another value of it."""
    data = wire.data_set(options.pop("instance", "1.2.3.9"), kind=kind, **options)  # type: ignore[arg-type]
    order = ">" if kind == 2 else "<"
    start = data.index(struct.pack(order + "HH", tag >> 16, tag & 0xFFFF))
    if kind == 0:
        end = start + 8 + struct.unpack_from("<L", data, start + 4)[0]
    else:
        end = start + 8 + struct.unpack_from(order + "H", data, start + 6)[0]
    put = b"" if value is None else wire.element(tag, b"UI", value, kind)
    return data[:start] + put + data[end:]


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def refused(peer: Peer, data: bytes, instance: str, number: int = 1) -> tuple[int, str, int]:
    """Returns Status, Error Comment and Offending Element of a C-STORE."""
    items = wire.pdvs(number, wire.store_rq(instance), True)
    peer.send(wire.p_data(items + wire.pdvs(number, data, False)))
    answer = peer.response()
    group, element = struct.unpack("<HH", answer.get(0x0901, bytes(4)))
    comment = answer[0x0902].decode().strip()
    return int.from_bytes(answer[0x0900], "little"), comment, group << 16 | element


@pytest.mark.fault("F107")
@pytest.mark.parametrize("number", [1, 3, 5, 7])
@pytest.mark.parametrize("name", list(TAGS))
def test_a_refusal_names_the_instance_the_peer_and_the_reason(
    gateway: Gateway, peer: Peer, name: str, number: int
) -> None:
    instance = f"1.2.3.{time.time_ns()}"
    kind = {1: 1, 3: 0, 5: 2, 7: 1}[number]
    data = without(TAGS[name], kind, instance=instance)
    answer = refused(peer, deflated(data) if number == 7 else data, instance, number)
    assert answer == (0xC001, f"no {name} UID in the data set", TAGS[name])
    line = gateway.wait_for(f"instance_refused .*sop_instance={instance} ").string
    address = address_of(peer)
    for part in ("calling_ae=CT_7", f"peer={address}", "status=C001H", answer[1], wire.CT):
        assert part in line
    assert ' called_ae=JMIX_RECEIVER sop_class_name="CT Image Storage"' in line


def test_a_refusal_names_the_study_of_its_own_data_set(gateway: Gateway, peer: Peer) -> None:
    """It is known when the head was read; the study before it is another's."""
    named, nameless = f"1.2.3.{time.time_ns()}.1", f"1.2.3.{time.time_ns()}.2"
    other = wire.data_set(instance="1.2.3.99", study="1.2.3.77")
    assert refused(peer, other, named)[0] == 0xA900
    line = gateway.wait_for(f"instance_refused .*sop_instance={named} ").string
    assert line.endswith(" study=1.2.3.77")
    assert refused(peer, wire.element(0x00080060, b"CS", b"CT"), nameless)[0] == 0xC001
    assert "study=" not in gateway.wait_for(f"instance_refused .*{nameless} ").string


def test_contexts_that_are_refused_have_names(gateway: Gateway) -> None:
    find, private = "1.2.840.10008.5.1.4.1.2.1.1", "1.2.840.10008.5.1.4.1.1.2.777.x"
    with Peer(gateway.dicom_port) as one:
        contexts = [
            wire.context(1 + 2 * number, uid, wire.EXPLICIT)
            for number, uid in enumerate((wire.CT, find, private))
        ]
        one.associate(*contexts)
        line = gateway.wait_for(f"contexts_refused .*peer={address_of(one)} ").string
    names = '"(unknown), Patient Root Query/Retrieve Information Model - FIND"'
    assert f" abstract_syntaxes={private},{find} called_ae=JMIX_RECEIVER names={names}" in line


def test_a_broken_request_is_logged_with_its_ae_titles(gateway: Gateway) -> None:
    request = bytearray(wire.associate_rq(calling=b"BROKEN"))
    request[76:78] = b"\xff\xff"  # the length of its first item
    with Peer(gateway.dicom_port) as one:
        address = address_of(one)
        one.send(bytes(request))
        assert one.pdu()[0] == 7
    line = gateway.wait_for(f"connection_aborted peer={address} ").string
    assert " endpoint=dicom_receiver calling_ae=BROKEN called_ae=JMIX_RECEIVER" in line


def test_a_rejection_says_where_and_why(gateway: Gateway) -> None:
    with Peer(gateway.dicom_port) as one:
        assert one.associate(called=b"ELSEWHERE")[0] == 3
        address = address_of(one)
    line = gateway.wait_for(f"association_rejected .*peer={address} ").string
    assert " calling_ae=PEER called_ae=ELSEWHERE " in line
    assert ' why="called AE title is not JMIX_RECEIVER" endpoint=dicom_receiver' in line


@pytest.mark.fault("F107")
@pytest.mark.parametrize(
    ("data", "comment"),
    [
        (wire.data_set(study=LONG), "Study Instance UID has 65 characters, more than 64"),
        (wire.data_set(series="1.2.x"), "Series Instance UID holds more than digits and dots"),
        (without(0x0020000D, value=b""), "no Study Instance UID in the data set"),
        (without(0x0020000D, value=b"\0\0"), "no Study Instance UID in the data set"),
        (
            wire.element(0x00080060, b"CS", b"CT"),
            "no SOP Class, SOP Instance, Study, Series UID in the data set",
        ),
        (
            wire.data_set()[: wire.data_set().index(b"\x20\0\x0d\0")],
            "no Study Instance, Series Instance UID in the data set",
        ),
    ],
)
def test_the_comment_names_the_uid(peer: Peer, data: bytes, comment: str) -> None:
    status, found, _ = refused(peer, data, "1.2.3.9")
    assert (status, found) == (0xC001, comment)
    assert len(comment) <= COMMENT_MAX


@pytest.mark.fault("F107")
@pytest.mark.parametrize(
    ("broken", "tag"),
    [
        (wire.element(0x00100010, b"PN", b"A^B")[:-1], 0x00100010),
        (struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + bytes(20), 0x00081140),
        (struct.pack("<HHL", 0xFFFE, 0xE000, 0), 0xFFFEE000),
        (struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, 1 << 30), 0x00091001),
        (struct.pack("<HH", 0x0010, 0x0020) + b"LO", 0x00100020),
    ],
)
def test_the_comment_names_the_element(peer: Peer, broken: bytes, tag: int) -> None:
    start = wire.element(0x00080005, b"CS", b"ISO_IR 100")
    status, comment, offending = refused(peer, start + broken, "1.2.3.9")
    assert (status, offending) == (0xC002, tag)
    place = f"element ({tag >> 16:04X},{tag & 0xFFFF:04X}) at byte {len(start)}"
    assert comment == f"{place} cannot be followed"


def read(data: bytes, kind: int) -> DataSetReader:
    """Reads a data set to its end, as reception does."""
    reader = DataSetReader(kind)
    reader.feed(data)
    reader.end()
    return reader


def unreadable(reader: DataSetReader) -> Reason:
    return why_unreadable(reader.fault, reader.broken_at)


@pytest.mark.fault("F107")
@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2), st.data())
def test_where_a_data_set_is_cut_is_where_it_cannot_be_followed(
    kind: int, data: st.DataObject
) -> None:
    whole = without(0x0020000E, kind)
    cut = whole[: data.draw(st.integers(1, len(whole) - 1))]
    reader = read(cut, kind)
    if not reader.found:
        comment, tag = unreadable(reader)
        order = ">" if kind == 2 else "<"
        at = int(comment.partition(b"at byte ")[2].split()[0])
        assert at < len(cut)
        if tag is not None:
            assert cut[at : at + 4] == struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
        assert len(comment) <= COMMENT_MAX


@pytest.mark.fault("F107")
@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300), st.integers(0, 2))
def test_any_bytes_have_a_reason(data: bytes, kind: int) -> None:
    reader = read(data, kind)
    reasons = [why_uids(data, tolerant=lax) for lax in (False, True)]
    if reader.found:
        reasons += [why_uids(reader.head().elements, tolerant=lax) for lax in (False, True)]
    if reader.fault:
        reasons.append(unreadable(reader))
    for comment, _ in reasons:
        assert 0 < len(comment) <= COMMENT_MAX
        assert comment.decode().isprintable()


@pytest.mark.fault("S42")
def test_the_element_is_named_behind_any_number_and_costs_nothing_more() -> None:
    """There are half a million elements, which were read when they arrived."""
    data = wire.element(0x00090010, b"LO", b"") * 500_000
    reader = read(data + wire.element(0x00100010, b"PN", b"A^B")[:-1], 1)
    begin = time.process_time()
    comment = f"element (0010,0010) at byte {len(data)} cannot be followed".encode()
    assert unreadable(reader) == (comment, 0x00100010)
    assert time.process_time() - begin < 0.01


@pytest.mark.fault("F107")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_characters_of_a_refused_uid_that_are_logged(
    gateway: Gateway, peer: Peer, off: int
) -> None:
    uid = (f"{time.time_ns()}." + "9" * 200)[: UID_SHOWN_MAX + off]
    assert refused(peer, wire.data_set(), uid)[0] == 0x0117
    shown = gateway.wait_for(f"instance_refused .*sop_instance={uid[:20]}(9*)")
    assert len(uid[:20] + shown[1]) == min(len(uid), UID_SHOWN_MAX)


# -- operations that are not served ----------------------------------------------------------------


def operation(field: int) -> bytes:
    elements = {0x0003: wire.uid(wire.CT), 0x0100: wire.us(field), 0x0110: wire.us(1)}
    elements |= {0x0800: wire.us(wire.NO_DATA_SET), 0x1001: wire.uid("1.2.3.77")}
    return wire.p_data(wire.pdvs(1, wire.command(elements), True))


@pytest.mark.fault("S41")
@pytest.mark.parametrize(
    ("field", "name"),
    [(0x20, "C-FIND-RQ"), (0x21, "C-MOVE-RQ"), (0x130, "N-ACTION-RQ"), (0x7777, "unknown")],
)
def test_operations_that_are_not_served_leave_a_line(
    gateway: Gateway, peer: Peer, field: int, name: str
) -> None:
    peer.send(operation(field))
    assert peer.status() == 0x0211
    line = gateway.wait_for(rf'operation_refused .*operation="{name} \({field:04X}H\)"').string
    for part in ("calling_ae=CT_7", "status=0211H", "peer=127.0.0.1:", "1.2.3.77"):
        assert part in line


@pytest.mark.fault("S41")
def test_a_flood_of_operations_does_not_fill_the_log(tmp_path: Path) -> None:
    count = LINES_AT_ONCE + 200
    with running(Gateway(tmp_path, 9)) as own, Peer(own.dicom_port) as peer:
        peer.associate()
        for _ in range(count // 100):
            peer.send(operation(0x110) * 100)
            for _ in range(100):
                assert peer.status() == 0x0211
        own.wait_for("log_lines_left_out of=operation_refused")
        lines = sum(" operation_refused " in line for line in own.lines)
        assert lines < count


# -- protocols that are not DICOM ------------------------------------------------------------------


@pytest.mark.fault("S40")
def test_a_dicom_sender_with_tls_is_named(gateway: Gateway) -> None:
    command = [dcmtk("echoscu"), "+tla", "-ic", "-aec", "JMIX_RECEIVER", "-to", "5"]
    subprocess.run(
        [*command, "127.0.0.1", str(gateway.dicom_port)],
        capture_output=True,
        timeout=30,
        check=False,
    )
    gateway.wait_for("connection_aborted .*a TLS handshake.* hint=.*turn TLS off .*stunnel")


@pytest.mark.fault("S40")
def test_an_http_client_is_named(gateway: Gateway) -> None:
    client = http.client.HTTPConnection("127.0.0.1", gateway.dicom_port, timeout=20)
    with contextlib.closing(client):
        client.request("GET", "/")
        with pytest.raises((http.client.HTTPException, OSError)):
            client.getresponse()
    gateway.wait_for(r"connection_aborted .*an HTTP request \(GET\).* hint=.*HTTP listener's port")


def hello() -> bytes:
    """Returns the first bytes of a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="gateway").do_handshake()
    return outgoing.read()


@pytest.mark.fault("S40")
@pytest.mark.parametrize(
    ("start", "word"),
    [
        (hello(), "TLS"),
        (b"\x16", "TLS"),
        (b"\x15\x03\x01\0\2\2\x28", "TLS"),
        (b"\x80\x2e\x01\x03\x01", "SSL 2.0"),
        *((f"{m} / HTTP/1.1\r\n".encode(), f"HTTP request \\({m}\\)") for m in ("PUT", "OPTIONS")),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP"),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", "PROXY protocol"),
        (b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c", "PROXY protocol"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH"),
        (b"\x0bMSH|^~\\&|", "HL7"),
    ],
)
def test_other_protocols_are_named(gateway: Gateway, start: bytes, word: str) -> None:
    with Peer(gateway.dicom_port) as one:
        address = address_of(one)
        one.send(start)
        assert one.pdu() == (7, b"\0\0\2\1")
        one.socket.shutdown(socket.SHUT_WR)
    gateway.wait_for(f"connection_aborted peer={address} .*{word}")
