"""Rows S01 to S18 of the security tests, as far as they come in by DICOM.

Faults of other DICOM programs: lengths that are believed, peers' strings in paths and
logs, parsers that recurse, memory that is not given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import wire
from tests.support.dicom_peers import (
    PROVIDER_6,
    Caller,
    at_rest,
    back_to,
    lanes_kb,
    message,
    new_uid,
    status_field,
    stored,
    together,
    use_of,
    works,
)
from tests.support.gateway import Gateway, Gateways, Peer, get, members, running, until
from tests.support.nightly import by_form

CT = wire.context(1, wire.CT, wire.EXPLICIT)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    at = tmp_path_factory.mktemp("gateway")
    with running(Gateway(at, 9, builder="release_grace_secs = 0.1")) as process:
        yield process


# -- S01 to S04: lengths ---------------------------------------------------------------------------


def lengths_in(request: bytes, at: int, end: int) -> Iterator[int]:
    """Where the 16-bit lengths of items and of the items within them stand."""
    while at + 4 <= end:
        kind, _, length = struct.unpack_from(">BBH", request, at)
        yield at + 2
        if kind == 0x20:
            yield from lengths_in(request, at + 8, at + 4 + length)
        elif kind == 0x50:
            yield from lengths_in(request, at + 4, at + 4 + length)
        at += 4 + length


def sub_items() -> dict[str, bytes]:
    """A good one of each kind of user information (PS3.7 Annex D.3)."""
    uid = wire.CT.encode()
    named = struct.pack(">H", len(uid)) + uid
    return {
        "51H maximum length": wire.item(0x51, struct.pack(">L", 16384)),
        "52H implementation class": wire.item(0x52, b"1.2.3.4"),
        "53H window": wire.item(0x53, struct.pack(">HH", 1, 1)),
        "54H role": wire.item(0x54, named + b"\1\0"),
        "55H implementation version": wire.item(0x55, b"VERSION"),
        "56H extended negotiation": wire.item(0x56, named + b"\2\0\0\0\0\0"),
        "57H common extended": wire.item(0x57, named + struct.pack(">HH", 0, 0)),
        "58H identity": wire.item(0x58, struct.pack(">BBH", 1, 1, 4) + b"user" + b"\0\0"),
        "59H identity's answer": wire.item(0x59, b"\0\0"),
    }


async def one_answer(port: int, request: bytes) -> int:
    """The kind of PDU that answers a request; it is followed by a close where it must be."""
    caller = await Caller.connect(port)
    await caller.send(request)
    caller.writer.write_eof()  # where a longer request was announced, no more will come
    came = await caller.reader.read()
    caller.close()
    return came[0] if came else 0


@pytest.mark.fault("S01")
def test_every_length_of_a_request_may_lie(gateway: Gateway) -> None:
    """Accepted, rejected or aborted, or closed where more bytes were announced than came."""
    whole = wire.associate_rq(CT, user=b"".join(sub_items().values()))
    tried = set()
    for place in [*lengths_in(whole, 74, len(whole))]:
        (right,) = struct.unpack_from(">H", whole, place)
        for lie in {0, 1, right - 1, right + 1, 0x7FFF, 0xFFFF}:
            tried.add(whole[:place] + struct.pack(">H", max(lie, 0)) + whole[place + 2 :])
    for lie in (0, 1, 67, 68, len(whole) - 7, len(whole) - 5, 1 << 18, 0x7FFFFFFF):
        tried.add(whole[:2] + struct.pack(">L", lie) + whole[6:])
    kinds = together(*(one_answer(gateway.dicom_port, request) for request in tried))
    assert set(kinds) <= {0, 2, 3, 7}
    assert kinds.count(7) > len(tried) / 2
    assert "connection_failed" not in gateway.log()
    works(gateway)


@pytest.mark.fault("S02")
def test_a_request_that_announces_much_and_sends_little(start: Gateways) -> None:
    own = start(endpoint="acse_timeout_secs = 1", builder="release_grace_secs = 0")
    works(own)
    base, shared = at_rest(own), lanes_kb(own)
    with Peer(own.dicom_port) as peer:
        peer.send(b"\x01\x00\xff\xff\xff\xff")
        assert peer.pdu() == PROVIDER_6
    waiting = [Peer(own.dicom_port) for _ in range(50)]
    for peer in waiting:
        peer.send(struct.pack(">BBL", 1, 0, 1 << 18))
    assert use_of(own.children()["receiver-0"]).private_kb < base["receiver-0"].private_kb + 1024
    for peer in waiting:
        assert peer.closed()  # by ARTIM
        peer.socket.close()
    back_to(own, base, shared)


@pytest.mark.fault("S03")
@pytest.mark.parametrize("kind", sub_items())
def test_sub_items_of_wrong_lengths(gateway: Gateway, kind: str) -> None:
    good = sub_items()[kind]
    (right,) = struct.unpack_from(">H", good, 2)

    async def tried(length: int) -> int:
        body = (good[4:] + b"\0" * 16)[: max(length, 0)]
        honest = wire.associate_rq(CT, user=wire.item(good[0], body))
        beyond = wire.associate_rq(CT, user=good[:2] + struct.pack(">H", right + 100) + good[4:])
        assert await one_answer(gateway.dicom_port, beyond) == 7  # longer than its parent
        return await one_answer(gateway.dicom_port, honest)

    kinds = together(*map(tried, {0, 1, right - 1, right, right + 1}))
    assert set(kinds) <= {2, 3, 7}
    assert "connection_failed" not in gateway.log()
    works(gateway)


@pytest.mark.fault("S04")
@pytest.mark.parametrize("lie", [0, 1, "pdu - 3", 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_pdv_whose_length_lies(gateway: Gateway, lie: int | str) -> None:
    """PDV lengths 2 (an empty fragment) and the PDU's - 4 are right, and in core/test_core.py."""
    command = wire.store_rq("1.2.3.9")
    length = len(command) + 3 if isinstance(lie, str) else lie
    with Peer(gateway.dicom_port) as peer:
        peer.associate()
        peer.send(wire.pdu(4, struct.pack(">LBB", length, 1, 3) + command))
        assert peer.pdu() == PROVIDER_6
    works(gateway)


# -- S05: growth -----------------------------------------------------------------------------------

STAGES = {
    "noise": (False, b"GET / HTTP/1.1\r\n\r\n"),
    "half a request": (False, wire.associate_rq(CT)[:80]),
    "a request that cannot be decoded": (False, wire.associate_rq(wire.item(0x20, b"\1"))),
    "rejected": (False, wire.associate_rq(CT, called=b"SOMEONE")),
    "half a header": (True, b"\4\0"),
    "half a command": (True, message(b"")[:40]),
    "a broken command": (True, wire.p_data(wire.pdvs(1, b"broken", True))),
    "half a data set": (True, message(wire.data_set())[:300]),
    "behind the head": (True, message(wire.data_set(pixels=b"x" * 60_000))[:40_000]),
    "refused": (True, message(b"not a data set")),
    "broken framing": (True, b"\4\0\xff\xff\xff\xff"),
    "a release in the wrong place": (True, message(b"")[:-40] + wire.RELEASE_RQ),
}


@pytest.mark.fault("S05")
def test_associations_that_fail_at_each_stage_leave_nothing(start: Gateways) -> None:
    own = start(builder="release_grace_secs = 0")

    async def fail(number: int) -> None:
        associated, data = list(STAGES.values())[number % len(STAGES)]
        caller = await Caller.connect(own.dicom_port)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            if associated:
                assert (await caller.associate())[0] == 2
            await caller.send(data)
            if number // len(STAGES) % 2:
                await asyncio.wait_for(caller.reader.read(200), 0.01)
        caller.close()

    async def rounds(count: int) -> None:
        for first in range(0, count, 24):
            await asyncio.gather(*map(fail, range(first, first + 24)), return_exceptions=True)

    together(rounds(240))
    works(own)
    base, shared = at_rest(own), lanes_kb(own)
    together(rounds(by_form(504, 10_000)))
    works(own)
    back_to(own, base, shared)
    assert "connection_failed" not in own.log()


# -- S06, S07: peers' strings ----------------------------------------------------------------------

HOSTILE = [
    "../../x", "/etc/x", "..", ".", "../", "a\\b", "C:\\x", "1.2\0.3", "1." * 32 + "1", "１.２",
    "%2e%2e", "$(id)", "`id`", ";id", "|id", "<script>", "1.2\r\nfake error", "\x1b[2J",
]  # fmt: skip


def names_below(at: Path) -> set[str]:
    return {str(path.relative_to(at)) for path in at.rglob("*")}


@pytest.mark.fault("S06")
def test_no_peers_string_becomes_a_path(start: Gateways, tmp_path: Path) -> None:
    """Nothing appears but in the spool, and there only under names that were made here."""
    own = start(builder="release_grace_secs = 0")
    works(own)
    at_rest(own)
    hostile = [*HOSTILE, f"{tmp_path}/evil"[:64]]
    before = {n for n in names_below(tmp_path) if not n.startswith("own/spool")}
    studies = 0
    for text in hostile:
        raw = text.encode()
        calling = (raw * 2)[:16]
        with Peer(own.dicom_port) as peer:
            assert peer.associate(calling=calling, called=b"JMIX_RECEIVER")[0] == 2
            good = wire.data_set(study=new_uid())
            assert peer.store(good) == 0
            studies += 1
            for uid in (b"1.2.3.9", b"1.2.3.1", b"1.2.3.2"):  # SOP Instance, Study, Series
                plain = wire.data_set()
                tag = {b"1.2.3.9": 0x00080018, b"1.2.3.1": 0x0020000D}.get(uid, 0x0020000E)
                old, new = (wire.element(tag, b"UI", value) for value in (uid, raw))
                assert peer.store(plain.replace(old, new)) in (0xA900, 0xC001, 0)
            items = wire.pdvs(1, wire.command(store_elements(raw)), True)
            peer.send(wire.p_data(items + wire.pdvs(1, wire.data_set(), False)))
            assert peer.status() in (0x0117, 0xA900)
            peer.release()
    at_rest(own)
    after = names_below(tmp_path)
    assert {n for n in after if not n.startswith("own/spool")} == before
    spool = {n.removeprefix("own/spool/") for n in after if n.startswith("own/spool/")}
    own_names = r"\.?[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*)*"  # UUIDs and plain words
    assert [n for n in spool if not re.fullmatch(own_names, n)] == []
    inside = {name for archive in own.envelopes("outbox") for name in members(archive)}
    own_members = r"[a-z_0-9]+(/[a-z_0-9]+)*\.(json|dcm)"
    assert [n for n in inside if not re.fullmatch(own_members, n)] == []
    assert len(own.envelopes("outbox")) >= studies


def store_elements(instance: bytes) -> dict[int, bytes]:
    padded = instance + b"\0" * (len(instance) % 2)
    return {
        0x0002: wire.uid(wire.CT),
        0x0100: wire.us(1),
        0x0110: wire.us(1),
        0x0800: wire.us(0),
        0x1000: padded,
    }


@pytest.mark.fault("S07")
def test_log_metrics_and_json_show_no_raw_control_bytes(start: Gateways) -> None:
    own = start(builder="release_grace_secs = 0")
    evil = "1\r\n2026-01-01T00:00:00Z error forged\x1b[31m\x07"
    with Peer(own.dicom_port) as peer:
        peer.associate(calling=b"A\r\nforged\x1b[31m", called=b"B\x1b[31m")
    for forged in (
        wire.associate_rq(wire.context(1, "1.2\x1b[31m\nforged", wire.IMPLICIT)),
        wire.associate_rq(CT, user=wire.item(0x55, b"V\nforged\x1b[1m")),
    ):
        with Peer(own.dicom_port) as peer:
            peer.send(forged)
            assert peer.pdu()[0] in (2, 7)
    with Peer(own.dicom_port) as peer:
        assert (
            peer.associate(
                CT,
                calling=b"A\nforged\x1b[1m",
            )[0]
            == 2
        )
        assert peer.store(wire.data_set(), evil) == 0x0117
        assert peer.store(wire.data_set()) == 0
        peer.release()
    own.wait_sealed()
    own.wait_for("association_rejected")
    own.wait_for("http_listening")
    log = "\n".join(own.lines)
    assert not any(ord(c) < 32 and c != "\n" for c in log)
    assert not any(line.startswith(("forged", "2026-01-01T")) for line in own.lines)
    metrics = get(f"{own.http}/metrics")[2].decode()
    assert not any(ord(c) < 32 and c != "\n" for c in metrics)
    assert all(line.startswith(("# ", "fastjmix_")) for line in metrics.splitlines())
    (ticket,) = (own.spool / "outbox").glob("*.json")
    assert not any(byte < 32 for byte in ticket.read_bytes().rstrip(b"\n"))


# -- S08 to S12: parsers ---------------------------------------------------------------------------


def hostile_commands() -> dict[str, bytes]:
    """Command sets of C-STORE-RQs that PS3.7 does not know."""
    good = store_elements(b"1.2.3.9\0")
    one = {e: wire.command({e: v})[12:] for e, v in good.items()}
    found = {f"without (0000,{e:04X})": {k: v for k, v in good.items() if k != e} for e in good}
    made = {name: wire.command(elements) for name, elements in found.items()}
    for e, encoded in one.items():
        made[f"(0000,{e:04X}) twice"] = wire.command(good) + encoded
        made[f"(0000,{e:04X}) of one byte"] = wire.command(good | {e: b"\1"})
        made[f"(0000,{e:04X}) of no byte"] = wire.command(good | {e: b""})
        made[f"(0000,{e:04X}) of 5000 bytes"] = wire.command(good | {e: b"1" * 5000})
    body = b"".join(reversed(one.values()))
    made["out of order"] = struct.pack("<HHLL", 0, 0, 4, len(body)) + body
    made["a group length that lies"] = struct.pack("<HHLL", 0, 0, 4, 0xFFFFFFFF) + body
    made["no group length"] = body
    made["an element that is longer"] = body[:-12] + struct.pack("<HHL", 0, 0x1000, 0xFFFFFFFE)
    made["another group"] = body + wire.element(0x00080018, b"UI", b"1.2", kind=0)
    made["cut off"] = body[:-1]
    made["nothing"] = b""
    made["explicit VR"] = wire.element(0x00000002, b"UI", wire.CT.encode())
    return made


@pytest.mark.fault("S08")
def test_hostile_command_sets_cost_one_association_at_most(gateway: Gateway) -> None:
    """An answer with a status, or an A-ABORT for what is no command set; nobody else notices."""
    outcomes: dict[str, object] = {}

    async def one(name: str, command: bytes) -> None:
        caller = await Caller.connect(gateway.dicom_port)
        await caller.associate()
        items = wire.pdvs(1, command, True) + wire.pdvs(1, wire.data_set(), False)
        await caller.send(wire.p_data(items))
        kind, body = await caller.pdu()
        outcomes[name] = (kind, body) if kind == 7 else kind
        caller.close()

    with Peer(gateway.dicom_port) as good:
        good.associate()
        together(*(one(*pair) for pair in hostile_commands().items()))
        assert good.store(wire.data_set(study=new_uid())) == 0
    assert set(outcomes.values()) <= {4, PROVIDER_6}
    assert outcomes["without (0000,0100)"] == PROVIDER_6
    assert outcomes["out of order"] == 4
    assert "connection_failed" not in gateway.log()


def nested(depth: int, *, defined: bool) -> bytes:
    """Sequences inside each other: (0008,1140), explicit VR little endian."""
    if defined:
        data = b""
        for _ in range(depth):
            item = struct.pack("<HHL", 0xFFFE, 0xE000, len(data)) + data
            data = struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, len(item)) + item
        return data
    begin = struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    begin += struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return begin * depth + end * depth


def mixed(depth: int) -> bytes:
    """A sequence of undefined length with an item of defined length, inside each other."""
    data = b""
    for _ in range(depth):
        item = struct.pack("<HHL", 0xFFFE, 0xE000, len(data)) + data
        data = struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + item
        data += struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return data


def before_the_study(middle: bytes, study: str) -> bytes:
    plain = wire.data_set(study=study)
    at = plain.index(struct.pack("<HH", 0x0010, 0x0010))
    return plain[:at] + middle + plain[at:]


@pytest.mark.fault("S09")
@pytest.mark.parametrize(
    ("what", "kept"),
    [
        ("undefined 63", True),
        ("undefined 64", True),
        ("undefined 65", False),
        ("undefined 20000", False),
        ("defined 2000", True),
        ("mixed 2000", True),
        ("behind the head, undefined 100000", True),
    ],
)
def test_deep_nesting_reaches_no_stack(gateway: Gateway, what: str, kept: bool) -> None:
    """Sequences of defined length are stepped over whole; those of undefined length to 64."""
    study, (*words, depth) = new_uid(), what.split()
    if words[-1] == "defined":
        middle = nested(int(depth), defined=True)
    elif words[-1] == "mixed":
        middle = mixed(int(depth))
    else:
        middle = nested(int(depth), defined=False)
    if words[0] == "behind":
        data = wire.data_set(study=study) + wire.element(0x00204000, b"LT", b"x") + middle
    else:
        data = before_the_study(middle, study)
    with Peer(gateway.dicom_port) as peer:
        peer.associate()
        status = peer.store(data)
        assert status == 0 if kept else status == 0xC002
        assert peer.store(wire.data_set("1.2.3.10", study=study), "1.2.3.10") == 0
        peer.release()
    assert stored(gateway, study).get("1.2.3.9") == (data if kept else None)
    assert gateway.children().keys() >= {"packer-0", "receiver-0"}
    assert "child_died" not in gateway.log()


@pytest.mark.fault("S10")
def test_every_descriptor_of_every_child_is_closed_on_exec(gateway: Gateway) -> None:
    """But the standard three; and the listening sockets of DICOM are the receiver's to accept."""
    kept: dict[str, list[str]] = {}
    gateway.wait_for("http_listening")
    for name, pid in {**gateway.children(), "supervisor": gateway.child.pid}.items():
        try:
            infos = list(Path(f"/proc/{pid}/fdinfo").iterdir())
        except PermissionError:  # it has a secret, and hides even from its own user
            continue
        for info in infos:
            with contextlib.suppress(FileNotFoundError):
                flags = int(info.read_text().split("flags:")[1].split()[0], 8)
                if int(info.name) > 2 and not flags & os.O_CLOEXEC:
                    target = Path(f"/proc/{pid}/fd/{info.name}").readlink()
                    kept.setdefault(name, []).append(f"{info.name} → {target}")
    assert kept == {}


@pytest.mark.fault("S11")
def test_a_spool_directory_that_becomes_a_symbolic_link(start: Gateways, tmp_path: Path) -> None:
    """Only the service's own user can put it there (0700), and it is followed; but nothing that
    was acknowledged is lost by it, nobody else can read it, and nothing stays outside."""
    own = start(builder="release_grace_secs = 0")
    works(own)
    at_rest(own)
    assert {path.stat().st_mode & 0o777 for path in own.spool.iterdir() if path.is_dir()} == {0o700}
    elsewhere = tmp_path / "elsewhere"
    (own.spool / "building").rename(elsewhere)
    (own.spool / "building").symlink_to(elsewhere)
    study = new_uid()
    data = wire.data_set(study=study)
    with Peer(own.dicom_port) as peer:
        peer.associate()
        assert peer.store(data) == 0
        assert all(path.stat().st_mode & 0o077 == 0 for path in elsewhere.rglob("*"))
        peer.release()
    assert stored(own, study) == {"1.2.3.9": data}
    until(lambda: not list(elsewhere.iterdir()), "nothing is left there")


@pytest.mark.fault("S12")
def test_a_value_longer_than_what_is_there_is_not_believed(start: Gateways) -> None:
    own = start(builder="release_grace_secs = 0")
    works(own)
    base, shared = at_rest(own), lanes_kb(own)
    studies = []
    with Peer(own.dicom_port) as peer:
        peer.associate()
        for vr in (b"OB", b"UN", b"SQ", b"UT"):
            lie = struct.pack("<HH2sHL", 9, 0x1010, vr, 0, 0xFFFFFFF0)
            assert peer.store(before_the_study(lie, new_uid())) == 0xC002
            studies.append(new_uid())
            sound = wire.data_set(study=studies[-1])
            assert peer.store(sound + lie) == 0xC000
            assert peer.store(sound) == 0
        peer.release()
    for study in studies:
        assert stored(own, study) == {"1.2.3.9": wire.data_set(study=study)}
    at_rest(own)
    back_to(own, base, shared)


# -- S15 to S18 ------------------------------------------------------------------------------------


@pytest.mark.fault("S15")
def test_a_table_of_calling_ae_titles_denies_all_others(start: Gateways) -> None:
    """Without a table any calling AE title is let in, as the reference has it and the
    documentation says: a title is a name that anyone can give, not a proof."""
    own = start(
        endpoint="""
[endpoints.dicom_receiver.options.aet_table]
CT_ONE = { ae_title = "CT_ONE" }
"""
    )
    for calling in (b"CT_TWO", b"ct_one", b"CT_ONE2", b"", b" " * 16, b"\0" * 16, b"CT_ONE\x1b"):
        with Peer(own.dicom_port) as peer:
            answer = peer.associate(calling=calling)
            assert answer == ((3, b"\0\1\1\3") if b"\x1b" not in calling else answer)
    with Peer(own.dicom_port) as peer:
        assert peer.associate(calling=b"CT_ONE", called=b"SOMEONE") == (3, b"\0\1\1\7")
    with Peer(own.dicom_port) as peer:
        assert peer.associate(calling=b"CT_ONE")[0] == 2


def bomb(study: str | None, size: int) -> bytes:
    """A deflated data set that inflates to so many bytes of zeros."""
    packer = zlib.compressobj(9, wbits=-15)
    head = b"" if study is None else wire.data_set(study=study)
    parts = [packer.compress(head + struct.pack("<HH2sHL", 0x7FE1, 0x10, b"OB", 0, size))]
    parts += [packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    data = b"".join([*parts, packer.flush()])
    return data + b"\0" * (len(data) % 2)


@pytest.mark.fault("S16")
def test_a_deflate_bomb_is_kept_as_it_is_and_not_inflated(start: Gateways) -> None:
    """But for 16 MB at most, whatever the ratio. Without UIDs there it is refused."""
    own = start(builder="release_grace_secs = 0")
    size = by_form(64 << 20, 1 << 30)
    study = new_uid()
    known, unknown = bomb(study, size), bomb(None, size)
    assert size / len(known) > 900
    works(own)
    at_rest(own)
    peak = {name: status_field(pid, "VmHWM") for name, pid in own.children().items()}
    with Peer(own.dicom_port) as peer:
        peer.associate(wire.context(1, wire.CT, wire.DEFLATED))
        assert peer.store(known) == 0
        assert peer.store(unknown) == 0xC002
        peer.release()
    assert stored(own, study) == {"1.2.3.9": known}
    for name in ("receiver-0", "packer-0"):
        lanes = (len(known) + len(unknown)) >> 10  # mapped, and counted in what is resident
        assert status_field(own.children()[name], "VmHWM") < peak[name] + 4096 + lanes


NOISE = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "SMB": b"\0\0\0\x85\xffSMB",
    "random": random.Random(17).randbytes(1 << 20).replace(b"\1", b"\xff"),
}


@pytest.mark.fault("S17")
@pytest.mark.parametrize("who", NOISE)
def test_foreign_protocols_at_the_dicom_port_are_closed(gateway: Gateway, who: str) -> None:
    with Peer(gateway.dicom_port) as peer:
        with contextlib.suppress(ConnectionError):
            peer.send(NOISE[who])
        assert peer.pdu() == (7, b"\0\0\2\1")
        assert peer.closed()
    works(gateway)


@pytest.mark.fault("S18")
def test_the_preamble_is_ours_and_empty(gateway: Gateway) -> None:
    """128 zero bytes: no program hides in it, whatever a data set begins with."""
    study = new_uid()
    with Peer(gateway.dicom_port) as peer:
        peer.associate()
        plain = wire.data_set(study=study)
        assert peer.store(plain.replace(b"ISO_IR 100", b"MZ\x90\0#!/bin")) == 0
        peer.release()
    assert stored(gateway, study)
    archive = until(
        lambda: [a for a in gateway.envelopes("outbox") if study in ticket_of(a)], "the envelope"
    )[0]
    (file,) = [data for name, data in members(archive).items() if name.endswith(".dcm")]
    assert file[:132] == bytes(128) + b"DICM"


def ticket_of(archive: Path) -> str:
    ticket = archive.with_suffix(".json")
    return ticket.read_text() if ticket.exists() else ""
