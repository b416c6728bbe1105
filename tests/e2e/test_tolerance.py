"""Strictness in what does not matter: whatever DCMTK's storescp takes, fastjmix takes (F105).

So it is with Orthanc, where it is installed; pytest's first lines say whether it is. All get the
same bytes, from a seeded generator that writes sound requests with oddities in them, as devices are
known to send. Where one of them takes what we refuse, the reason stands here, and nowhere else:

- A transfer syntax or SOP class that storescp was told to take and we do not: none is generated.
- An Affected SOP Instance UID that is not a UID: `tolerate_uids` decides, so none is generated.
- Several fragments of a data set in one PDU, or fragments of odd length: storescp 3.6.7 dies of the
  first, and aborts at the second. fastjmix takes both.
- An abstract syntax that is no UID: Orthanc takes any text for a SOP class once it is to accept
  unknown ones (UnknownSopClassAccepted), so it is not told to. No C-STORE could name it.

Orthanc 1.10.1 answers A900 now and then to a sound request whose Affected SOP Class UID comes last:
so it is asked what it took, and not what it refused.
"""

from __future__ import annotations

import random
import shutil
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import pytest

from tests.support import wire
from tests.support.acceptors import orthanc, storescp
from tests.support.gateway import Gateway, Peer, running
from tests.support.nightly import by_form

MR = "1.2.840.10008.5.1.4.1.1.4"
SYNTAXES = (wire.EXPLICIT, wire.IMPLICIT, wire.BIG, "1.2.840.10008.1.2.4.50")
SOP = "1.2.3.9"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """Name → port of those that fastjmix is compared with."""
    options = ("+xa", "--ignore", "--max-pdu", "131072")
    with ExitStack() as stack:
        started = {"storescp": storescp(tmp_path_factory.mktemp("storescp"), *options)}
        if shutil.which("Orthanc"):
            started["Orthanc"] = orthanc(tmp_path_factory.mktemp("orthanc"))
        yield {name: stack.enter_context(peer).port for name, peer in started.items()}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(Gateway(tmp_path_factory.mktemp("tolerance"), 9)) as own:
        yield own


@dataclass
class Answer:
    """An acceptor's answers: context ID → result, statuses, and how it ended."""

    results: dict[int, int] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    accepted: bool = False
    released: bool = False


def ask(port: int, request: bytes, messages: bytes = b"", *, half_close: bool = False) -> Answer:
    """Sends a request, messages and an A-RELEASE-RQ at once. `half_close` wakes a storescp that
    would wait for more of what it cannot read."""
    answer = Answer()
    with Peer(port) as peer, suppress(EOFError, OSError):
        peer.send(request + messages + wire.RELEASE_RQ)
        if half_close:
            with suppress(OSError):
                peer.socket.shutdown(socket.SHUT_WR)
        while not answer.released:
            kind, body = peer.pdu()
            if kind == 2:
                answer.accepted = True
                for number, result in results_of(body):
                    answer.results[number] = min(result, answer.results.get(number, 4))
            elif kind == 4:
                status = wire.parse_command(body[6:])[0x0900]
                answer.statuses.append(int.from_bytes(status, "little"))
            elif kind == 6:
                answer.released = True
            else:
                break
    return answer


def results_of(body: bytes) -> Iterator[tuple[int, int]]:
    for kind, value in wire.parse_items(body[68:]):
        if kind == 0x21:
            yield value[0], value[2]


# -- requests --------------------------------------------------------------------------------------

LONG_UID = b"1." * 32 + b"1"
ODD_TEXTS = (
    b"", b"V" * 17, b"V" * 60, b"ABC\0", b"M\xfcller", b"  ", b"\\", b"\0" * 9, b"a\nb", b"abc",
    b"1.2.\xe9", b"1.2.3 ", b"01.02",
)  # fmt: skip


class Requests:
    """Writes A-ASSOCIATE-RQs with oddities; `often` is how likely each of them is."""

    def __init__(self, seed: int, often: float = 0.25) -> None:
        self.random = random.Random(seed)
        self._often = often

    def odd(self) -> bool:
        return self.random.random() < self._often

    def item(self, kind: int, body: bytes) -> bytes:
        reserved = self.random.randrange(256) if self.odd() else 0
        return struct.pack(">BBH", kind, reserved, len(body)) + body

    def named(self, more: bytes) -> bytes:
        odd = (b"", b"1.2.3", b"1.\xe9", LONG_UID, wire.CT.encode() + b"\0")
        uid = self.random.choice(odd) if self.odd() else wire.CT.encode()
        return struct.pack(">H", len(uid)) + uid + more

    def uid(self, good: str) -> bytes:
        if not self.odd():
            return good.encode()
        return self.random.choice(
            [good.encode() + b"\0", good.encode() + b"\0junk", b"", b"\0", b"abc", b"1.\xff",
             b"1..2", LONG_UID, b" " + good.encode(), b"1" * 300]
        )  # fmt: skip

    def context(self) -> bytes:
        number = self.random.randrange(256) if self.odd() else self.random.randrange(128) * 2 + 1
        parts = [self.item(0x30, self.uid(self.random.choice((wire.CT, MR, wire.VERIFICATION))))]
        for _ in range(self.random.choice((1, 1, 2, 4))):
            parts.append(self.item(0x40, self.uid(self.random.choice(SYNTAXES))))
        if self.odd():
            parts.append(self.item(self.random.choice((0x41, 0x31, 0x00)), b"x"))
        if self.odd():
            self.random.shuffle(parts)
        reserved = self.random.randbytes(3) if self.odd() else bytes(3)
        return self.item(0x20, bytes([number]) + reserved + b"".join(parts))

    def sub_item(self) -> bytes:
        byte = self.random.randbytes
        size = self.random.choice((0, 1, 7, 64, 127, 128, 4097, 16384, 1 << 31, (1 << 32) - 1))
        text = self.random.choice(ODD_TEXTS)
        kind, body = self.random.choice(
            [
                (0x51, struct.pack(">L", size)),
                (0x51, byte(self.random.choice((0, 2, 8)))),
                (0x52, text),
                (0x55, text),
                (0x53, byte(self.random.choice((0, 1, 4, 6)))),
                (0x54, self.named(byte(2))),
                (0x56, self.named(byte(self.random.choice((0, 6, 300))))),
                (0x57, self.named(b"\0\0\0\0")),
                (0x57, byte(self.random.choice((0, 3)))),
                (0x58, b"\1" + byte(1) + b"\0\4user\0\0"),
                (0x58, byte(2) + b"\0\0\0\0"),
                (self.random.choice((0x00, 0x5F, 0xFF)), byte(3)),
            ]
        )
        return self.item(kind, body)

    def user(self) -> bytes:
        parts = [self.item(0x51, struct.pack(">L", 16384)), self.item(0x52, b"1.2.3.4")]
        for _ in range(self.random.randrange(4)):
            parts.insert(self.random.randrange(len(parts) + 1), self.sub_item())
        if self.odd():
            self.random.shuffle(parts)
        if self.odd():
            parts = parts[self.random.randrange(2) :]
        return self.item(0x50, b"".join(parts))

    def request(self) -> bytes:
        version = self.random.choice((3, 0xFFFF, 2, 0, 0x8001)) if self.odd() else 1
        name = wire.APPLICATION_CONTEXT.encode()
        if self.odd():
            name = self.random.choice((name + b"\0", name + b"\0x", b"1.2.3", b"", name + b"\xe9"))
        items = [self.item(0x10, name)]
        items += [self.context() for _ in range(self.random.choice((1, 1, 2, 3, 8)))]
        items.append(self.user())
        if self.odd():
            items.insert(self.random.randrange(len(items) + 1), self.item(0x77, b"x"))
        if self.odd():
            self.random.shuffle(items)
        calling = self.random.choice((b"A\0B", b"\xff" * 16, b"a\nb", b" X", b"A\\B"))
        body = struct.pack(">H", version)
        body += self.random.randbytes(2) if self.odd() else bytes(2)
        body += b"JMIX_RECEIVER".ljust(16, b"\0" if self.odd() else b" ")
        body += (calling if self.odd() else b"PEER").ljust(16)
        body += self.random.randbytes(32) if self.odd() else bytes(32)
        body += b"".join(items) + bytes(4 * self.random.randrange(3) if self.odd() else 0)
        if self.random.random() < 0.1:
            at = self.random.randrange(68, len(body))
            body = body[:at] + self.random.randbytes(1) + body[at + 1 :]
        return (
            struct.pack(">BBL", 1, self.random.randrange(256) if self.odd() else 0, len(body))
            + body
        )


@pytest.mark.fault("F105")
def test_what_storescp_accepts_of_a_request_is_accepted(
    theirs: dict[str, int], gateway: Gateway
) -> None:
    taken, count = Counter[str](), by_form(600, 20_000)
    for seed in range(count):
        request = Requests(seed, random.Random(seed).choice((0.03, 0.1, 0.3))).request()
        found = ask(gateway.dicom_port, request)
        for name, port in theirs.items():
            expected = ask(port, request, half_close=True)
            assert found.accepted >= expected.accepted, (name, seed, request.hex())
            for number, result in expected.results.items():
                assert result or not found.results[number], (name, seed, number, request.hex())
            taken[name] += expected.accepted
    for name in theirs:  # the generator is odd, and not too odd
        assert taken[name] > 2 * (count - taken[name]) > 0, name


# -- messages --------------------------------------------------------------------------------------


def element(number: int, value: bytes, group: int = 0) -> bytes:
    return struct.pack("<HHL", group, number, len(value)) + value


class Messages(Requests):
    """Writes C-STORE and C-ECHO requests with oddities."""

    def elements(self, found: dict[int, bytes]) -> bytes:
        for number in [n for n in found if n in (0x0100, 0x0110, 0x0700, 0x0800)]:
            if self.odd():
                found[number] += self.random.randbytes(2)
        for number in (0x0002, 0x1000):
            if number in found and self.odd():
                value = found[number].rstrip(b"\0")
                found[number] = self.random.choice(
                    (value + b" " * (len(value) % 2), b"  " + found[number],
                     value + b"\0" * (2 + len(value) % 2), value + b"\0junk"[: 4 + len(value) % 2])
                )  # fmt: skip
        more = [
            (0x0010, b"LEN^", 0), (0x5110, b"A" * self.random.randrange(0, 900, 2), 0),
            (0x1030, b"MOVER ", 0), (0x1031, b"\1\0", 0), (0x1031, b"", 0), (0x0900, b"\0\0", 0),
            (0x0016, b"1.2.3\0", 8), (0x0010, b"AA", 9), (0x0003, b"1.2\0", 0),
            (0x1001, b"1.2\0", 0),
        ]  # fmt: skip
        parts = [element(number, value) for number, value in sorted(found.items())]
        for number, value, group in self.random.sample(more, self.random.randrange(3)):
            if self.odd():
                parts.append(element(number, value, group))
        if self.odd():
            parts.append(parts[0])
        if self.odd():
            self.random.shuffle(parts)
        if self.odd():
            parts.append(b"\0\0")
        encoded = b"".join(parts)
        length = self.random.choice((0, 3, 0xFFFFFFFF)) if self.odd() else len(encoded)
        return encoded if self.odd() else element(0, struct.pack("<L", length)) + encoded

    def pdvs(self, number: int, data: bytes, *, is_command: bool) -> bytes:
        """P-DATA-TFs of one PDV each, with fragments of even length, reserved bits set or not."""
        sizes = [2 * self.random.randrange(60) for _ in range(self.random.randrange(4))]
        bits = self.random.randrange(64) << 2 if self.odd() else 0
        sent = b""
        for pdv in wire.pdvs(number, data, is_command, sizes):
            pdv = pdv[:5] + bytes([pdv[5] | bits]) + pdv[6:]
            sent += struct.pack(
                ">BBL", 4, self.random.randrange(256) if self.odd() else 0, len(pdv)
            )
            sent += pdv
        return sent

    def store(self) -> bytes:
        """A C-STORE-RQ with its data set."""
        found = {0x0002: wire.uid(wire.CT), 0x0100: wire.us(1), 0x0110: wire.us(7)}
        kind = self.random.choice((0, 1, 0x0102, 0xFEFE))
        found |= {0x0700: wire.us(self.random.choice((0, 1, 2, 9))), 0x0800: wire.us(kind)}
        found[0x1000] = wire.uid(SOP)
        number = self.random.choice((1, 5))  # 5 is the context of another storage SOP class
        command = self.pdvs(number, self.elements(found), is_command=True)
        return command + self.pdvs(number, wire.data_set(SOP), is_command=False)

    def echo(self) -> bytes:
        found = {0x0002: wire.uid(wire.VERIFICATION), 0x0100: wire.us(0x30), 0x0110: wire.us(8)}
        found[0x0800] = wire.us(wire.NO_DATA_SET)
        if self.odd():
            found[0x1000] = wire.uid(SOP)
        return self.pdvs(3, self.elements(found), is_command=True)


@pytest.mark.fault("F105")
def test_what_storescp_takes_of_a_message_is_taken(
    theirs: dict[str, int], gateway: Gateway
) -> None:
    request = wire.associate_rq(
        wire.context(1, wire.CT, wire.EXPLICIT),
        wire.context(3, wire.VERIFICATION, wire.IMPLICIT),
        wire.context(5, MR, wire.EXPLICIT),
    )
    taken, count = Counter[str](), by_form(500, 20_000)
    for seed in range(count):
        writer = Messages(seed, random.Random(seed).choice((0.03, 0.1, 0.3)))
        messages = writer.store() + (writer.echo() if writer.odd() else b"")
        found = ask(gateway.dicom_port, request, messages)
        assert found.accepted
        for name, port in theirs.items():
            expected = ask(port, request, messages, half_close=True)
            if expected.released:
                case = (name, seed, found, messages.hex())
                assert found.released, case
                answers = list(zip(found.statuses, expected.statuses, strict=True))
                assert all(our == 0 for our, their in answers if their == 0), case
                assert name == "Orthanc" or found.statuses == expected.statuses, case
            taken[name] += expected.released
    for name in theirs:
        assert taken[name] > 2 * (count - taken[name]) > 0, name
