"""The SCU against two independent acceptors: pynetdicom and DCMTK's storescp.

The oracle for "byte for byte" is a walk over group 0002 with struct, not the code under test.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
)
from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt

from fastjmix.tools import send
from tests.support.acceptors import (
    PRIVATE_SYNTAX,
    PYDICOM_FILES,
    UNKNOWN_SYNTAX,
    Acceptor,
    data_set_bytes,
    storescp,
    write_instance,
)


def sendable() -> list[send.Instance]:
    return send.find([PYDICOM_FILES])[0]


def test_every_pydicom_file_arrives_as_it_is_on_disk() -> None:
    files = sendable()
    acceptor = Acceptor()
    for kind in {i.sop_class for i in files}:
        acceptor.ae.add_supported_context(kind, ALL_TRANSFER_SYNTAXES)
    with acceptor.listening() as peer:
        report = send.send_files(peer, [PYDICOM_FILES], leave_out=True)
    wanted = Counter((i.sop_class, i.transfer_syntax, data_set_bytes(i.path)) for i in files)
    assert report.failed == ()
    assert Counter(acceptor.received) == wanted
    assert len({i.transfer_syntax for i in files}) >= 12  # deflated, big endian, JPEG, RLE, …
    assert report.associations == acceptor.associations == 1
    assert report.bytes_sent == sum(len(body) for _, _, body in acceptor.received)
    assert report.exit_code == 0
    assert acceptor.priorities == {0}


def test_dcmtk_keeps_the_same_bytes(tmp_path: Path) -> None:
    """storescp aborts at a data set of odd length: that file is lost and no other."""
    kinds = {context.abstract_syntax for context in AllStoragePresentationContexts}
    files = [i for i in sendable() if i.sop_class in kinds and "1.4.39" not in i.sop_class]
    with storescp(tmp_path, "-pm", "+xa", "+B", "+uf") as peer:
        report = send.send(peer, files)
    odd = {i.path.name for i in files if i.size % 2}
    assert odd
    assert {o.instance.path.name for o in report.failed} == odd
    assert {o.meaning for o in report.failed} == {
        "Not sent: the association was lost: aborted by the peer"
    }
    assert report.exit_code == 1
    assert report.associations == 1 + len(odd)
    even = Counter(data_set_bytes(i.path) for i in files if not i.size % 2)
    assert Counter(data_set_bytes(path) for path in tmp_path.iterdir()) == even


def test_an_answer_in_two_writes_does_not_cost_a_delayed_acknowledgement(tmp_path: Path) -> None:
    """storescp has Nagle on: 43 ms for nearly each instance, unless its answer is acknowledged."""
    files = [write_instance(tmp_path / f"{n}.dcm") for n in range(80)]
    kept = tmp_path / "kept"
    kept.mkdir()
    with storescp(kept, "+B") as peer:
        report = send.send_files(peer, files)
    assert report.failed == ()
    assert sorted(o.seconds for o in report.outcomes)[35] < 0.03


def test_more_kinds_than_contexts_need_several_associations(tmp_path: Path) -> None:
    kinds = [cx.abstract_syntax for cx in AllStoragePresentationContexts][:65]
    syntaxes = ExplicitVRLittleEndian, JPEG2000Lossless
    pairs = [(kind, syntax) for syntax in syntaxes for kind in kinds]
    for number, pair in enumerate(pairs):
        write_instance(tmp_path / f"{number:03}.dcm", *map(str, pair))
    acceptor = Acceptor()
    with acceptor.listening() as peer:
        report = send.send_files(peer, [tmp_path])
    assert len(pairs) == 130
    assert report.failed == ()
    assert acceptor.associations == report.associations == 2
    assert Counter(r[:2] for r in acceptor.received) == Counter((str(a), str(b)) for a, b in pairs)


@pytest.mark.parametrize("syntax", [PRIVATE_SYNTAX, UNKNOWN_SYNTAX])
def test_a_transfer_syntax_nobody_knows(tmp_path: Path, syntax: str) -> None:
    plain = write_instance(tmp_path / "plain.dcm")
    strange = write_instance(tmp_path / "strange.dcm", transfer_syntax=syntax)
    acceptor = Acceptor()
    acceptor.ae.add_supported_context(CTImageStorage, syntax)
    with acceptor.listening() as peer:
        report = send.send_files(peer, [plain, strange])
    assert report.failed == ()
    assert {(s, body) for _, s, body in acceptor.received} == {
        (ExplicitVRLittleEndian, data_set_bytes(plain)),
        (syntax, data_set_bytes(strange)),
    }


def test_what_is_not_an_instance_is_skipped_and_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no DICOM here")
    (tmp_path / "empty").touch()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    write_instance(tmp_path / "deep" / "er" / "image.dcm")
    tests = PYDICOM_FILES / "test_files"
    named = [
        tmp_path,
        tests / "no_meta.dcm",
        tests / "meta_missing_tsyntax.dcm",
    ]
    instances, skipped = send.find(named)
    assert [i.path.name for i in instances] == ["image.dcm"]
    assert {s.path.name: s.reason.split()[0:2] for s in skipped} == {
        "notes.txt": ["not", "a"],
        "empty": ["not", "a"],
        "no_meta.dcm": ["not", "a"],
        "meta_missing_tsyntax.dcm": ["its", "File"],
    }


def test_a_damaged_head_is_skipped(tmp_path: Path) -> None:
    whole = write_instance(tmp_path / "whole.dcm").read_bytes()
    for length in range(132, 300, 7):
        (tmp_path / f"cut-{length}.dcm").write_bytes(whole[:length])
    instances, skipped = send.find([tmp_path])
    assert len(instances) + len(skipped) == 1 + len(range(132, 300, 7))
    assert tmp_path / "whole.dcm" in {i.path for i in instances}


def test_paths_and_names_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(send.UsageError, match="no such file") as missing:
        send.find([tmp_path / "nothing"])
    assert missing.value.exit_code == 2
    with pytest.raises(send.UsageError, match="no DICOM Part 10 file"):
        send.send_files(send.Peer("127.0.0.1", 104), [tmp_path])
    for title in ("", " ", "SEVENTEEN_LETTERS", "BACK\\SLASH", "UMLAUT_Ä", "TAB\t"):
        with pytest.raises(send.UsageError, match="AE title"):
            send.Peer("127.0.0.1", 104, called=title)
    with pytest.raises(send.UsageError, match="port 0"):
        send.Peer("127.0.0.1", 0)


@pytest.mark.parametrize(
    ("status", "accepted", "words"),
    [
        (0x0000, True, "Success"),
        (0xB000, True, "Warning: Coercion of Data Elements"),
        (0xA700, False, "Failure: Refused: Out of Resources"),
        (0xA900, False, "Failure: Data Set Does Not Match SOP Class"),
        (0xC123, False, "Failure: Cannot Understand"),
        (0x0122, False, "Failure: Refused: SOP Class Not Supported"),
        (0x4321, False, "Failure: a status that the standard does not name"),
    ],
)
def test_statuses(tmp_path: Path, status: int, accepted: bool, words: str) -> None:
    def answer(_: evt.Event) -> Dataset:
        rsp = Dataset()
        rsp.Status = status
        if not accepted:
            rsp.ErrorComment = "the disk is full"
        return rsp

    with Acceptor(answer).listening() as peer:
        report = send.send_files(peer, [write_instance(tmp_path / "a.dcm")])
    (outcome,) = report.outcomes
    assert (outcome.status, outcome.accepted) == (status, accepted)
    assert outcome.meaning == (words if accepted else f"{words}: the disk is full")
    assert report.exit_code == (0 if accepted else 1)
    row = report.summary()["outcomes"][0]
    assert row["status"] == f"0x{status:04X}"


def test_a_refused_context_is_that_files_own_matter(tmp_path: Path) -> None:
    acceptor = Acceptor()
    acceptor.ae.remove_supported_context(CTImageStorage, [JPEG2000Lossless])
    files = [
        write_instance(tmp_path / "plain.dcm"),
        write_instance(tmp_path / "squeezed.dcm", transfer_syntax=JPEG2000Lossless),
    ]
    with acceptor.listening() as peer:
        report = send.send_files(peer, files)
        alone = send.send_files(peer, files[1:])
    assert [o.instance.path.name for o in report.accepted] == ["plain.dcm"]
    for one in (report, alone):
        (refused,) = one.failed
        assert refused.status is None
        assert refused.detail.startswith("the peer does not accept CT Image Storage as JPEG 2000")
        assert one.exit_code == 1


def test_rejections_in_words(tmp_path: Path) -> None:
    file = write_instance(tmp_path / "a.dcm")
    acceptor = Acceptor()
    acceptor.ae.require_called_aet = True
    with acceptor.listening(called="SOMEBODY") as peer:
        with pytest.raises(send.NoAssociation, match="called AE title not recognized") as why:
            send.send_files(peer, [file])
        assert why.value.exit_code == 3
        assert "permanently, by its service user" in why.value.message
    acceptor = Acceptor()
    acceptor.ae.require_calling_aet = ["FRIEND"]
    with (
        acceptor.listening() as peer,
        pytest.raises(send.NoAssociation, match="calling AE title not recognized"),
    ):
        send.echo(peer)


def test_nobody_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(send.NoAssociation, match="connection refused"):
        send.send_files(send.Peer("127.0.0.1", port), [write_instance(tmp_path / "a.dcm")])


def test_an_acceptor_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        peer = send.Peer("127.0.0.1", mute.getsockname()[1], timeout=0.3)
        with pytest.raises(send.NoAssociation, match=r"no answer within 0\.3 s"):
            send.echo(peer)


@pytest.mark.parametrize(
    ("speech", "told"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what the peer sends is not DICOM, but HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "what the peer sends is not DICOM, but TLS"),
        (b"\x02\x00\xff\xff\xff\xff", "what the peer sends is not DICOM"),
        (b"\x02\x00\x00\x00\x00\x04abcd", "does not accept the Verification"),
        (b"\x02\x00\x00\x00\x00\x49" + b"\0" * 68 + b"\x21\0\0\x01x", "makes no sense"),
        (b"\x02\x00\x00\x00", "the peer closed the connection"),
        (b"", "the peer closed the connection"),
        (b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x00", "aborted the association"),
        (b"\x03\x00\x00\x00\x00\x04\x00\x02\x03\x01", "for now, .*: temporary congestion"),
        (b"\x03\x00\x00\x00\x00\x04\x00\x09\x09\x09", "source 9: reason 9"),
    ],
)
def test_an_acceptor_that_says_something_else(speech: bytes, told: str) -> None:
    def say() -> None:
        wire, _ = other.accept()
        with wire:
            wire.recv(1 << 16)  # else closing would be a reset
            wire.sendall(speech)

    with socket.create_server(("127.0.0.1", 0)) as other:
        speaker = threading.Thread(target=say)
        speaker.start()
        with pytest.raises(send.NoAssociation, match=told):
            send.echo(send.Peer("127.0.0.1", other.getsockname()[1], timeout=10))
        speaker.join()


@pytest.mark.parametrize("limit", [0, 16, 128, 4097, 16_384, 1 << 24])
def test_the_peers_maximum_pdu_length_is_kept(tmp_path: Path, limit: int) -> None:
    """0 is no limit; one that no command set fits into is not taken at its word."""
    acceptor = Acceptor()
    acceptor.ae.maximum_pdu_size = limit
    longest = []

    def measure(event: evt.Event) -> None:
        data: bytes = event.data
        longest.append(len(data) - 6 if data[0] == 4 else 0)

    file = write_instance(tmp_path / "a.dcm", EncapsulatedDocument=bytes(range(256)) * 100)
    with acceptor.listening(handlers=[(evt.EVT_DATA_RECV, measure)]) as peer:
        assert send.send_files(peer, [file]).failed == ()
    assert [body for _, _, body in acceptor.received] == [data_set_bytes(file)]
    assert max(longest) <= (max(limit, 128) if limit else 1 << 20)


def test_a_peer_that_reads_no_more(tmp_path: Path) -> None:
    """The write is bounded in time too, not only the wait for the answer."""
    release = threading.Event()

    def stall(event: evt.Event) -> None:
        if len(event.data) > 1000:
            release.wait(20)

    file = write_instance(tmp_path / "a.dcm", EncapsulatedDocument=bytes(40_000_000))
    with Acceptor().listening(timeout=1.0, handlers=[(evt.EVT_DATA_RECV, stall)]) as peer:
        report = send.send_files(peer, [file])
        release.set()
    (outcome,) = report.outcomes
    assert outcome.detail == "the association was lost: the peer took nothing for 1 s"


def test_an_association_that_ended_between_two_instances_costs_none(tmp_path: Path) -> None:
    def told(_: send.Outcome) -> None:
        if len(acceptor.received) == 1:
            (association,) = acceptor.ae.active_associations
            association.abort()

    files = [write_instance(tmp_path / f"{number}.dcm") for number in range(3)]
    acceptor = Acceptor()
    with acceptor.listening() as peer:
        report = send.send_files(peer, files, on_outcome=told)
    assert len(report.accepted) == len(acceptor.received) == 3
    assert report.associations == 2


def test_echo() -> None:
    with Acceptor().listening() as peer:
        assert send.echo(peer).status == 0x0000
    mute = Acceptor()
    mute.ae.remove_supported_context(send.VERIFICATION)
    with (
        mute.listening() as peer,
        pytest.raises(send.NoAssociation, match="does not accept the Verification"),
    ):
        send.echo(peer)


def test_associations_in_parallel_share_the_work(tmp_path: Path) -> None:
    """The acceptor answers only when three instances are in flight at once."""
    together = threading.Barrier(3, timeout=20)

    def answer(_: evt.Event) -> int:
        together.wait()
        return 0x0000

    for number in range(9):
        write_instance(tmp_path / f"{number}.dcm")
    acceptor = Acceptor(answer)
    reported: list[send.Outcome] = []
    with acceptor.listening() as peer:
        report = send.send_files(peer, [tmp_path], associations=3, on_outcome=reported.append)
    assert report.failed == ()
    assert acceptor.associations == 3
    assert tuple(reported) == report.outcomes
    assert len({o.instance.sop_instance for o in reported}) == 9


def test_fewer_associations_than_asked_for_still_send_all(tmp_path: Path) -> None:
    acceptor = Acceptor()
    acceptor.ae.maximum_associations = 1
    for number in range(6):
        write_instance(tmp_path / f"{number}.dcm")
    with acceptor.listening() as peer:
        report = send.send_files(peer, [tmp_path], associations=4)
    assert len(report.accepted) == 6


def test_an_abort_costs_the_instance_in_flight_and_no_other(tmp_path: Path) -> None:
    def answer(event: evt.Event) -> int:
        request: Any = event.request
        if request.AffectedSOPInstanceUID == unlucky:
            event.assoc.abort()
        return 0x0000

    files = [write_instance(tmp_path / f"{number}.dcm") for number in range(5)]
    unlucky = send.find([files[2]])[0][0].sop_instance
    acceptor = Acceptor(answer)
    with acceptor.listening() as peer:
        report = send.send_files(peer, files)
    assert [o.instance.path for o in report.failed] == [files[2]]
    assert report.failed[0].status is None
    assert acceptor.associations == 2


def test_a_peer_that_always_aborts_is_not_called_for_ever(tmp_path: Path) -> None:
    def answer(event: evt.Event) -> int:
        event.assoc.abort()
        return 0x0000

    files = [write_instance(tmp_path / f"{number}.dcm") for number in range(9)]
    acceptor = Acceptor(answer)
    with acceptor.listening() as peer:
        report = send.send_files(peer, files)
    assert len(report.failed) == 9
    assert acceptor.associations == send.MAX_IN_VAIN


def test_a_late_answer_is_no_answer(tmp_path: Path) -> None:
    release = threading.Event()

    def answer(_: evt.Event) -> int:
        release.wait(20)
        return 0x0000

    with Acceptor(answer).listening(timeout=2.0) as peer:
        report = send.send_files(peer, [write_instance(tmp_path / "a.dcm")])
        release.set()
    (outcome,) = report.outcomes
    assert outcome.status is None
    assert outcome.detail == "the association was lost: no answer within 2 s"


def test_a_file_that_has_gone_is_named(tmp_path: Path) -> None:
    files = [write_instance(tmp_path / f"{number}.dcm") for number in range(3)]
    instances, _ = send.find(files)
    files[1].unlink()
    with Acceptor().listening() as peer:
        report = send.send(peer, instances)
    (gone,) = report.failed
    assert gone.instance.path == files[1]
    assert "No such file" in gone.detail
    assert len(report.accepted) == 2
