"""Data sets whose head is far away, that nobody can read, or whose UIDs are none: rows F108 to F111
and S44 to S46. Through a gateway, byte for byte, or refused with a comment."""

from __future__ import annotations

import contextlib
import json
import random
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastjmix import _core
from fastjmix.dicom.dataset import WANTED
from fastjmix.dicom.syntaxes import encoding_of
from fastjmix.jmix import build, verify
from fastjmix.tools.envelope.building import IncompleteError
from fastjmix.tools.envelope.verifying import META_BYTES_MAX, InstanceCheck
from tests import reference
from tests.support import strange, wire
from tests.support.acceptors import dcmtk, storescp
from tests.support.dicom_peers import new_uid, status_field, stored
from tests.support.gateway import Gateway, Gateways, Peer, images, running, until
from tests.support.reception import Reception, recovered

UNDEFINED = 0xFFFFFFFF
EXPLICIT = wire.EXPLICIT
JPEG = strange.ENCAPSULATED
JPIP = ("1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205")


def item(length: int = UNDEFINED, number: int = 0xE000) -> bytes:
    return struct.pack("<HHL", 0xFFFE, number, length)


END = item(0, 0xE0DD)
ITEM_END = item(0, 0xE00D)


def sequence(tag: int, content: bytes, vr: bytes = b"SQ") -> bytes:
    head = struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, vr, 0, UNDEFINED)
    return head + content + END


def references(count: int) -> bytes:
    """(0008,1115), as a segmentation has it: so many instances."""
    one = wire.element(0x00081155, b"UI", b"1.2.826.0.1.3680043.8.498." + b"1" * 30)
    items = b"".join(item() + one + ITEM_END for _ in range(count))
    return sequence(0x00081115, item() + sequence(0x0008114A, items) + ITEM_END)


def before_the_study(middle: bytes, study: str, kind: int = 1) -> bytes:
    parts = strange.parts("1.2.3.9", study, f"{study}.1", 1, kind)
    parts.insert(strange.STUDY_AT, middle)
    return b"".join(parts) + wire.element(0x7FE00010, b"OW", bytes(64), kind)


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(data) + packer.flush()


def only(own: Gateway, study: str) -> tuple[Path, dict[str, Any]]:
    """The study's envelope once it is sealed, and its metadata."""
    stored(own, json.dumps(study)[1:-1])
    for archive in (*own.envelopes("outbox"), *own.envelopes("sent")):
        with zipfile.ZipFile(archive) as opened:
            metadata = json.loads(opened.read("payload/metadata.json"))
        if study in metadata["studies"]:
            return archive, metadata["studies"][study]
    raise AssertionError(study)


def send(own: Gateway, data: bytes, syntax: str = EXPLICIT) -> dict[int, bytes]:
    """A C-STORE on an association of its own; the response."""
    with Peer(own.dicom_port) as peer:
        peer.associate(wire.context(1, wire.CT, syntax))
        items = wire.pdvs(1, wire.store_rq("1.2.3.9"), True)
        sizes = [16_000] * (len(data) // 16_000 + 1)
        peer.send(wire.p_data(items + wire.pdvs(1, data, False, sizes)))
        answer = peer.response()
        peer.release()
    return answer


def status_of(answer: dict[int, bytes]) -> int:
    return int.from_bytes(answer[0x0900], "little")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    own = Gateway(tmp_path_factory.mktemp("strict"), 9, builder="release_grace_secs = 0")
    with running(own) as process:
        yield process


@pytest.fixture(scope="module")
def tolerant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    options = "tolerate_uids = true\naccept_malformed = true"
    folder = tmp_path_factory.mktemp("tolerant")
    own = Gateway(folder, 9, builder="release_grace_secs = 0", endpoint=options)
    with running(own) as process:
        yield process


# -- F108, F109: what can be read is taken ---------------------------------------------------------

RANDOM = random.Random(108).randbytes(9_500_000)
FAR = {
    "10,000 references": (references(10_000), 1, EXPLICIT),
    "60,000 references": (references(60_000), 1, EXPLICIT),
    "a private element of 3 MB": (strange.private(3_000_000, random.Random(1)), 1, EXPLICIT),
    "more than a lane": (wire.element(0x00091010, b"OB", RANDOM), 1, EXPLICIT),
    "implicit": (strange.private(3_000_000, random.Random(1), 0), 0, wire.IMPLICIT),
    "big endian": (strange.private(3_000_000, random.Random(1), 2), 2, wire.BIG),
    "encapsulated syntax": (references(10_000), 1, strange.PRIVATE),
    "deflated": (references(30_000), 3, wire.DEFLATED),
    "deflated, more than a lane": (wire.element(0x00091010, b"OB", RANDOM), 3, wire.DEFLATED),
    "JPIP deflated": (references(3000), 3, JPIP[0]),
    "JPIP HTJ2K deflated": (references(3000), 3, JPIP[1]),
}


@pytest.mark.fault("F108")
@pytest.mark.parametrize("what", FAR)
def test_uids_behind_long_elements_are_found(gateway: Gateway, what: str) -> None:
    """Stored byte for byte, and described by what stands behind it."""
    middle, kind, syntax = FAR[what]
    study = new_uid()
    data = before_the_study(middle, study, min(kind, 1) if kind == 3 else kind)
    sent = deflated(data) if kind == 3 else data
    sent += b"\0" * (len(sent) % 2)
    assert status_of(send(gateway, sent, syntax)) == 0
    assert stored(gateway, study) == {"1.2.3.9": sent}
    _, reported = only(gateway, study)
    (series,) = reported["series"]
    assert reported["patient_name"]
    assert series["series_uid"] == f"{study}.1"
    assert series["instances"][0]["instance_number"] == 1


@pytest.mark.fault("F108")
def test_a_data_set_without_uids_is_refused_however_long(gateway: Gateway) -> None:
    """It was given to a packer before that was known: nothing of it stays, the association goes
    on."""
    study = new_uid()
    nothing = wire.element(0x00091010, b"OB", RANDOM) + wire.element(0x00091011, b"OB", b"xx")
    with Peer(gateway.dicom_port) as peer:
        peer.associate()
        assert peer.store(nothing) == 0xC001
        other = before_the_study(wire.element(0x00091010, b"OB", RANDOM), study)
        assert peer.store(other, "1.2.3.10") == 0xA900  # another SOP Instance UID than it says
        assert peer.store(nothing[:-1_000_000]) & 0xF000 == 0xC000
        assert peer.store(before_the_study(b"", study)) == 0
        peer.release()
    assert stored(gateway, study) == {"1.2.3.9": before_the_study(b"", study)}
    until(lambda: not list(gateway.spool.rglob("*spill*")), "no spill is left")


@pytest.mark.fault("F108")
@pytest.mark.parametrize("vr", [b"ZZ", b"QX", b"??", b"un", b"\0\0"])
@pytest.mark.parametrize("bits", [16, 32])
def test_unknown_vrs_are_read_as_dcmtk_or_pydicom_does(vr: bytes, bits: int) -> None:
    """A VR of the future has a 32-bit length; of the others most have one of 16 bits, and an
    element without VR one of 32."""
    value = b"v" * 30
    if not vr.isalpha() and bits == 32:
        middle = struct.pack("<HHL", 9, 0x1010, 30) + value
    elif bits == 32 and vr.isupper():
        middle = struct.pack("<HH2sHL", 9, 0x1010, vr, 0, 30) + value
    else:
        middle = struct.pack("<HH2sH", 9, 0x1010, vr if vr != b"\0\0" else b"??", 30) + value
    head = _core.read_head(before_the_study(middle, "1.2.3"), 1)
    assert head is not None
    assert head.study_instance_uid == b"1.2.3"


@pytest.mark.fault("F108")
@pytest.mark.parametrize("packers", [1, 3])
def test_the_longest_heads_and_several_packers(tmp_path: Path, packers: int) -> None:
    packing, processes = "release_grace_secs = 0", f"packers = {packers}"
    with contextlib.closing(
        Gateway(tmp_path / "own", 9, builder=packing, fastjmix=processes)
    ) as own:
        for _ in range(4):
            study = new_uid()
            data = before_the_study(wire.element(0x00091010, b"OB", RANDOM), study)
            assert status_of(send(own, data)) == 0
            assert stored(own, study) == {"1.2.3.9": data}


@pytest.mark.fault("F109")
def test_every_accepted_transfer_syntax_can_be_read(gateway: Gateway) -> None:
    """All that pydicom and PS3.6 know, and a private one: accepted and stored, or refused."""
    from pydicom.uid import UID_dictionary  # type: ignore[attr-defined]

    known = [uid for uid, row in UID_dictionary.items() if row[1] == "Transfer Syntax"]
    known += ["1.2.840.10008.1.2.8.1", "1.2.840.10008.1.20", strange.PRIVATE]
    refused = []
    for syntax in dict.fromkeys(known):
        study = new_uid()
        encoding = encoding_of(syntax)
        if encoding is None:
            refused.append(syntax)
            with Peer(gateway.dicom_port) as peer:
                _, body = peer.associate(wire.context(1, wire.CT, syntax), wire.context(3, wire.CT))
                assert b"\x21\0\0" in body
                at = body.index(b"\x21\0")
                assert body[at + 4 : at + 7] == b"\1\0\4", "transfer syntaxes not supported"
            continue
        inner = 1 if encoding.kind == 3 else encoding.kind
        data = wire.data_set("1.2.3.9", study=study, kind=inner)
        sent = deflated(data) if encoding.kind == 3 else data
        sent += b"\0" * (len(sent) % 2)
        assert status_of(send(gateway, sent, syntax)) == 0, syntax
        assert stored(gateway, study) == {"1.2.3.9": sent}
    assert {"1.2.840.10008.1.2.6.1", "1.2.840.10008.1.2.6.2"} <= set(refused)
    assert all(one.startswith(("1.2.840.10008.1.2.6.", "1.2.840.10008.1.2.7.")) for one in refused)


# -- F110, F111: what nobody can read --------------------------------------------------------------

PIXELS = wire.element(0x7FE00010, b"OW", bytes(64))
FRAGMENTS = item(0) + item(100) + bytes(100)
TEXT = wire.element(0x00400253, b"SH", b"abcd")
DAY = wire.element(0x00400244, b"DA", b"20200101")
TRAILING = wire.element(0xFFFCFFFC, b"OB", bytes(90))


def pixels(content: bytes) -> bytes:
    """Encapsulated Pixel Data."""
    return sequence(0x7FE00010, content, b"OB")


def short(content: bytes) -> bytes:
    """A sequence of defined length."""
    return struct.pack("<HH2sHL", 0x40, 0x275, b"SQ", 0, len(content)) + content


ENCAPSULATED = pixels(FRAGMENTS)
OPEN = struct.pack("<HH2sHL", 0x0040, 0x0275, b"SQ", 0, UNDEFINED)
PLAIN = wire.data_set("1.2.3.9", study="STUDY")

MALFORMED = {
    "cut in Pixel Data": (PIXELS[:-10], EXPLICIT, "(7FE0,0010)"),
    "cut in a header": (PIXELS[:10], EXPLICIT, "inside"),
    "cut in the first bytes of a header": (PIXELS[:6], EXPLICIT, "inside"),
    "cut in an element": (TEXT[:-2], EXPLICIT, "(0040,0253)"),
    "cut behind Pixel Data": (PIXELS + TRAILING[:-3], EXPLICIT, "(FFFC,FFFC)"),
    "cut in a fragment": (ENCAPSULATED[:-30], JPEG, "inside"),
    "fragments without an end": (ENCAPSULATED[:-8], JPEG, "inside"),
    "a sequence without an end": (OPEN + item(), EXPLICIT, "inside"),
    "native, and the syntax encapsulates": (PIXELS, JPEG, "not encapsulated"),
    "encapsulated, and the syntax does not": (ENCAPSULATED, EXPLICIT, "encapsulated"),
    "a fragment of undefined length": (pixels(item(0) + item() + bytes(8)), JPEG, "undefined"),
    "an item where no sequence is": (item(0) + PIXELS, EXPLICIT, "(FFFE,E000)"),
    "an end where no sequence is": (END + PIXELS, EXPLICIT, "(FFFE,E0DD)"),
    "no item in a sequence": (OPEN + PIXELS + END, EXPLICIT, "item"),
    "no item in a short sequence": (short(bytes(8)) + PIXELS, EXPLICIT, "item"),
    "the sequence ends in its item": (OPEN + item() + END, EXPLICIT, "(FFFE,E0DD)"),
    "a text of undefined length": (sequence(0x00400275, b"", b"UT"), EXPLICIT, "undefined"),
    "garbage behind Pixel Data": (PIXELS + b"\xff" * 100, EXPLICIT, "(FFFF,FFFF)"),
}  # fmt: skip
OTHER_SYNTAX = {
    "implicit, and the syntax is explicit": (0, EXPLICIT),
    "explicit, and the syntax is implicit": (1, wire.IMPLICIT),
    "big endian, and the syntax is little": (2, EXPLICIT),
    "little endian, and the syntax is big": (1, wire.BIG),
}


def malformed(what: str, study: str) -> tuple[bytes, str, str]:
    """The data set, its transfer syntax, and a word of what is said of it."""
    if what in OTHER_SYNTAX:
        kind, syntax = OTHER_SYNTAX[what]
        return wire.data_set("1.2.3.9", study=study, kind=kind), syntax, "not encoded as"
    if what == "a deflate stream without an end":
        data = deflated(wire.data_set("1.2.3.9", study=study, pixels=RANDOM[:50_000]))
        return data[:30_000], wire.DEFLATED, "cut off"
    if what == "a broken deflate stream":
        rng = random.Random(1)
        packer = zlib.compressobj(6, zlib.DEFLATED, -15)
        data = wire.data_set("1.2.3.9", study=study, pixels=rng.randbytes(50_000))
        good = packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH)
        return good + b"\xff" * (3000 + len(good) % 2), wire.DEFLATED, "broken"
    if what == "larger than a lane, and cut":
        pixels = wire.element(0x7FE00010, b"OW", RANDOM)[:-2]
        return wire.data_set("1.2.3.9", study=study) + pixels, EXPLICIT, "(7FE0,0010)"
    if what == "UIDs far away, and cut":
        middle = wire.element(0x00091010, b"OB", RANDOM)
        return before_the_study(middle, study)[:-6], EXPLICIT, "(7FE0,0010)"
    behind, syntax, reported = MALFORMED[what]
    return wire.data_set("1.2.3.9", study=study) + behind, syntax, reported


ALL_MALFORMED = (
    *MALFORMED, *OTHER_SYNTAX, "a deflate stream without an end", "a broken deflate stream",
    "larger than a lane, and cut", "UIDs far away, and cut",
)  # fmt: skip


OFFENDING = {
    "cut in an element": 0x00400253,
    "cut behind Pixel Data": 0xFFFCFFFC,
    "a sequence without an end": 0x00400275,
    "an item where no sequence is": 0xFFFEE000,
    "an end where no sequence is": 0xFFFEE0DD,
    "no item in a sequence": 0x00400275,
    "no item in a short sequence": 0x00400275,
    "the sequence ends in its item": 0x00400275,
    "a text of undefined length": 0x00400275,
    "garbage behind Pixel Data": 0xFFFFFFFF,
    **dict.fromkeys(OTHER_SYNTAX),
    "a deflate stream without an end": None,
    "a broken deflate stream": None,
}
"""The element at fault, in no sequence; Pixel Data where nothing else stands here."""


@pytest.mark.fault("F110")
@pytest.mark.parametrize("what", ALL_MALFORMED)
def test_a_malformed_data_set_is_refused_and_said_so(gateway: Gateway, what: str) -> None:
    """C000, with a comment that names the place, and the tag of the element at fault; the
    association goes on, and nothing of it is in the envelope."""
    study = new_uid()
    data, syntax, reported = malformed(what, study)
    answer = send(gateway, data, syntax)
    assert status_of(answer) == 0xC000
    comment = answer[0x0902].decode().strip()
    assert reported in comment
    assert len(comment) <= 64
    tag = OFFENDING.get(what, 0x7FE00010)
    expected = None if tag is None else struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    assert answer.get(0x0901) == expected
    good = wire.data_set("1.2.3.9", study=study)
    assert status_of(send(gateway, good)) == 0
    assert stored(gateway, study) == {"1.2.3.9": good}


@pytest.mark.fault("F111")
@pytest.mark.parametrize("what", ALL_MALFORMED)
def test_a_malformed_data_set_is_stored_where_that_is_wanted(tolerant: Gateway, what: str) -> None:
    """Byte for byte, logged, and marked in metadata; `envelope verify` reports it."""
    study = new_uid()
    data, syntax, reported = malformed(what, study)
    assert status_of(send(tolerant, data, syntax)) == 0
    assert stored(tolerant, study) == {"1.2.3.9": data}
    archive, metadata = only(tolerant, study)
    (instance,) = metadata["series"][0]["instances"]
    assert reported in instance["malformed"]
    assert metadata["patient_name"]
    tolerant.wait_for(r"instance_malformed .*" + "why=.*")
    report = verify(archive)
    assert not report.ok
    assert reported in str(report.faults[0])


@pytest.mark.fault("F111")
def test_a_sound_data_set_is_not_marked(tolerant: Gateway) -> None:
    study = new_uid()
    assert status_of(send(tolerant, wire.data_set("1.2.3.9", study=study) + PIXELS)) == 0
    archive, metadata = only(tolerant, study)
    assert "malformed" not in metadata["series"][0]["instances"][0]
    assert verify(archive).ok


@pytest.mark.fault("F111")
def test_the_mark_outlives_a_kill(tmp_path: Path) -> None:
    changed = "accept_malformed = true"
    one = Reception(tmp_path / "one", changes=f"[endpoints.dicom_receiver.options]\n{changed}")
    data = strange.encoded(malformed("cut in Pixel Data", "1.2.826.5")[0])
    assert one.store(data, "1.2.3.9") == 0
    left = one.as_a_kill_leaves_it(tmp_path / "left")
    assert not any(outcome.damages for outcome in recovered(left))
    for archive in (*one.seal(), *left.outbox.glob("*.zip")):
        assert images(archive) == {"1.2.3.9": data}
        with zipfile.ZipFile(archive) as opened:
            assert b'"malformed":"the data set ends' in opened.read("payload/metadata.json")
    left.release()
    one.close()


@pytest.mark.fault("F111")
@pytest.mark.parametrize(
    ("behind", "syntax", "told"),
    [
        (PIXELS, EXPLICIT, ""),
        (ENCAPSULATED, EXPLICIT, "Pixel Data is encapsulated"),
        (ENCAPSULATED[:-8], JPEG, "ends inside"),  # `cut_short` passes over a missing delimiter
        (item(0) + PIXELS, EXPLICIT, "(FFFE,E000)"),
    ],
)
def test_build_marks_what_is_malformed_and_verify_reports_it(
    tmp_path: Path, behind: bytes, syntax: str, told: str
) -> None:
    """Also in a folder, and in an envelope that is not compressed by us."""
    meta = reference.file_meta(wire.CT, "1.2.3.9", syntax, "A", "B", ("1.2", "X"))
    source = tmp_path / "one.dcm"
    source.write_bytes(meta + wire.data_set("1.2.3.9", study="1.2.3") + behind)
    (built,) = build([source], tmp_path / "one.zip")
    with zipfile.ZipFile(built.path) as opened:
        opened.extractall(tmp_path / "folder")
        metadata = json.loads(opened.read("payload/metadata.json"))
    (instance,) = metadata["studies"]["1.2.3"]["series"][0]["instances"]
    assert told in instance.get("malformed", "")
    assert ("malformed" in instance) == bool(told)
    for place in (built.path, tmp_path / "folder"):
        report = verify(place)
        assert report.ok == (not told)
        assert not told or told in str(report.faults[0])


@pytest.mark.fault("F112")
def test_build_does_not_take_what_is_cut_inside_an_element(tmp_path: Path) -> None:
    meta = reference.file_meta(wire.CT, "1.2.3.9", EXPLICIT, "A", "B", ("1.2", "X"))
    data = wire.data_set("1.2.3.9", study="1.2.3") + PIXELS
    (tmp_path / "cut.dcm").write_bytes(meta + data[:-10])
    with pytest.raises(IncompleteError, match=r"truncated.*7FE0,0010"):
        build([tmp_path / "cut.dcm"], tmp_path / "cut.zip")


IMPLICIT_TEXT = struct.pack("<HHL", 0x40, 0x253, 2) + b"ab"
WILD = {
    "trailing zeros": (PIXELS + bytes(100), EXPLICIT),
    "two trailing zeros": (PIXELS + bytes(2), EXPLICIT),
    "data set trailing padding": (PIXELS + TRAILING, EXPLICIT),
    "no offset table": (pixels(item(100) + bytes(100)), JPEG),
    "an end with a length": (ENCAPSULATED[:-4] + b"\4\0\0\0", JPEG),
    "an end of an item too many": (ITEM_END + PIXELS, EXPLICIT),
    "group FFFF": (PIXELS + wire.element(0xFFFF0010, b"SH", b"ab"), EXPLICIT),
    "descending": (TEXT + DAY + PIXELS, EXPLICIT),
    "Pixel Data twice": (PIXELS + PIXELS, EXPLICIT),
    "an unknown VR": (
        struct.pack("<HH2sHL", 0x41, 0x10, b"ZZ", 0, 4) + b"abcd" + PIXELS, EXPLICIT
    ),
    "a doubtful VR": (struct.pack("<HH2sH", 0x41, 0x10, b"??", 4) + b"abcd" + PIXELS, EXPLICIT),
    "UN with items": (
        sequence(0x00410010, item() + IMPLICIT_TEXT + ITEM_END, b"UN") + PIXELS, EXPLICIT
    ),
    "an item longer than its sequence": (short(item(100) + bytes(12)) + PIXELS, EXPLICIT),
    "no pixels": (b"", EXPLICIT),
    "nested ones": (
        sequence(0x00400275, item() + sequence(0x00400275, item(0) + item() + ITEM_END) + ITEM_END)
        + PIXELS, EXPLICIT
    ),
}  # fmt: skip


@pytest.mark.fault("F110")
def test_whatever_storescp_takes_and_reads_again_is_taken(gateway: Gateway, tmp_path: Path) -> None:
    """Wild and malformed data sets to DCMTK's storescp and to the gateway. Malformed ones it may
    take (a header that is cut at the very end), wild ones it must."""
    from fastjmix.tools.send import Peer as Address

    kept = tmp_path / "kept"
    kept.mkdir()
    cases = {name: (PLAIN.replace(b"STUDY\0", b"1.2.3\0") + one, syntax)
             for name, (one, syntax) in WILD.items()}  # fmt: skip
    with storescp(kept, "+xa", "--unique-filenames") as address:
        assert isinstance(address, Address)
        for name, (data, syntax) in cases.items():
            with Peer(address.port) as peer:
                peer.associate(wire.context(1, wire.CT, syntax))
                assert peer.store(data) == 0, f"{name}: storescp"
                peer.release()
            (file,) = kept.iterdir()
            read = subprocess.run(
                [dcmtk("dcmdump"), "-q", str(file)], capture_output=True, check=False
            )
            assert read.returncode == 0, name
            file.unlink()
            assert status_of(send(gateway, data, syntax)) == 0, name


# -- S44 to S46: what a stranger may make of it ----------------------------------------------------

UIDS = {
    "65 characters": "1.2." + "3" * 61,
    "letters": "1.2.ABC.4",
    "a blank before it": " 1.2.3.4.5",
    "blanks inside": "1.2. 3",
    "a path": "../../../etc/x",
    "128 characters": "1." + "4" * 126,
    "a device of Windows": "aux",
    "markup": "<b>&\"'",
}


@pytest.mark.fault("S44")
@pytest.mark.parametrize("what", UIDS)
@pytest.mark.parametrize("field", ["study", "series", "instance"])
def test_uids_that_others_store_are_tolerated(
    gateway: Gateway, tolerant: Gateway, what: str, field: str
) -> None:
    """With `tolerate_uids`: stored byte for byte, and never part of a path. Else refused."""
    unusual, study = UIDS[what], new_uid()
    uids = {"study": study, "series": f"{study}.1", "instance": "1.2.3.9"} | {field: unusual}
    data = wire.data_set(uids["instance"], study=uids["study"], series=uids["series"])
    for own, wanted in ((gateway, False), (tolerant, True)):
        with Peer(own.dicom_port) as peer:
            peer.associate()
            status = peer.store(data, uids["instance"])
            peer.release()
        assert (status == 0) == wanted
    shown = uids["study"].strip()
    archive, reported = only(tolerant, shown)
    assert data in images(archive).values()
    assert {name for name in zipfile.ZipFile(archive).namelist() if name.endswith(".dcm")} == {
        f"payload/series_{number + 1}/image_{count + 1:03d}.dcm"
        for number, series in enumerate(reported["series"])
        for count in range(len(series["instances"]))
    }
    assert reported["study_uid"] == shown
    assert verify(archive).ok


@pytest.mark.fault("S44")
@pytest.mark.parametrize("bad", ["1.2\\3", "1.2\x01", "1.2.\xe9", "5" * 129, ""])
def test_other_uids_are_refused_all_the_same(tolerant: Gateway, bad: str) -> None:
    parts = strange.parts("1.2.3.9", "1.2.3", "1.2.3.1", 1)
    parts[strange.STUDY_AT] = wire.element(0x0020000D, b"UI", bad.encode("latin-1"))
    assert status_of(send(tolerant, b"".join(parts))) == 0xC001


@pytest.mark.fault("S45")
def test_what_stands_before_the_uids_is_not_kept_in_memory(start: Gateways) -> None:
    """128 MB before the UIDs, and as much with none behind it."""
    own = start(builder="release_grace_secs = 0")
    study = new_uid()
    assert status_of(send(own, before_the_study(b"", new_uid()))) == 0
    before = {name: status_field(pid, "RssAnon") for name, pid in own.children().items()}
    large = struct.pack("<HH2sHL", 9, 0x1010, b"OB", 0, 128 << 20) + bytes(128 << 20)
    assert status_of(send(own, before_the_study(large, study))) == 0
    assert status_of(send(own, large)) == 0xC001
    for name in ("receiver-0", "packer-0"):
        assert status_field(own.children()[name], "RssAnon") < before[name] + 8192
    assert len(stored(own, study)["1.2.3.9"]) > 128 << 20


def whole(data: bytes, kind: int, pixels: int) -> tuple[bytes, object, object]:
    return split(data, kind, pixels, [len(data) or 1])


def split(data: bytes, kind: int, pixels: int, sizes: list[int]) -> tuple[bytes, object, object]:
    reader = _core.DataSetReader(kind, pixels, True)
    at = turn = 0
    while at < len(data):
        passable = min(reader.passable, len(data) - at)
        if passable and turn % 2:
            reader.pass_over(passable)
            at += passable
        else:
            reader.feed(data[at : at + sizes[turn % len(sizes)]])
            at += sizes[turn % len(sizes)]
        turn += 1
    reader.end()
    found = reader.head() if reader.found else None
    uids = found and (found.study_instance_uid, found.series_instance_uid, found.elements)
    return reader.fault, uids, found and found.length


@pytest.mark.fault("S46")
@settings(deadline=None, max_examples=150)
@given(
    what=st.sampled_from(ALL_MALFORMED[:-2]) | st.sampled_from(sorted(WILD)),
    pixels=st.sampled_from([0, 1, 2]),
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=6),
    cut=st.integers(0, 400),
    noise=st.binary(max_size=3),
)
def test_any_split_of_any_data_set_says_the_same(
    what: str, pixels: int, sizes: list[int], cut: int, noise: bytes
) -> None:
    """And a comment has 64 printable characters at most, whatever the bytes are."""
    if what in WILD:
        data, syntax = PLAIN + WILD[what][0], WILD[what][1]
    else:
        data, syntax, _ = malformed(what, "1.2.3")
    encoding = encoding_of(syntax)
    assert encoding is not None
    data = (data[: len(data) - cut] + noise)[:60_000]
    reported = whole(data, encoding.kind, pixels)
    assert split(data, encoding.kind, pixels, sizes) == reported
    assert len(reported[0]) <= 64
    assert reported[0].decode().isprintable()
    if encoding.kind != 3:
        twin = reference.Reading(data, encoding.kind, True, pixels)
        assert twin.fault == bool(reported[0])


@pytest.mark.fault("S45")
def test_what_is_kept_of_a_head_is_what_is_described() -> None:
    """Each element that describes anything, 1024 bytes of it."""
    assert WANTED <= _core.HEAD_TAGS
    head = b"".join(wire.element(tag, b"LO", b"v" * 3000) for tag in sorted(_core.HEAD_TAGS))
    found = _core.read_values(head, 1, set(_core.HEAD_TAGS))
    assert set(found) == _core.HEAD_TAGS
    assert set(map(len, found.values())) == {_core.HEAD_VALUE_MAX}


@pytest.mark.fault("S49")
@pytest.mark.parametrize("kind", [0, 1], ids=["announced as implicit", "explicit"])
@pytest.mark.parametrize("length", [0, 7, 8, 40, 100_000, UNDEFINED - 1])
@pytest.mark.parametrize("tag", sorted(_core.HEAD_TAGS))
def test_a_sequence_in_place_of_a_value_is_not_kept(tag: int, length: int, kind: int) -> None:
    """It was taken for a value that had come: up to 1024 bytes of the process's memory."""
    head = struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, b"SQ", 0, length)
    inside = (
        (item(min(length, 1000) - 8) + bytes(1000))[: min(length, 1000)] if length >= 8 else b""
    )
    for data in (head, head + inside, head + inside + wire.element(0x00200013, b"IS", b"7 ")):
        found = _core.read_values(data, kind, set(_core.HEAD_TAGS))
        assert found in ({}, {0x00200013: b"7 "}), found


@pytest.mark.fault("S49")
def test_nobodys_memory_is_in_an_envelope(gateway: Gateway) -> None:
    """Fields whose element is a sequence are absent from metadata.json."""
    study = new_uid()
    parts = strange.parts("1.2.3.9", study, f"{study}.1", 1, 1)
    wanted = (b"\x08\x00\x60\x00", b"\x10\x00\x10\x00", b"\x10\x00\x20\x00")
    kept = [part for part in parts if part[:4] not in wanted]
    named = [
        struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, b"SQ", 0, 8) + item(0)
        for tag in (0x00080060, 0x00100010, 0x00100020)
    ]
    at = next(n for n, part in enumerate(kept) if part[:2] == b"\x20\x00")
    data = b"".join((*kept[:at], *named, *kept[at:])) + PIXELS
    assert status_of(send(gateway, data)) == 0
    _, reported = only(gateway, study)
    assert not {"modality", "patient_name", "patient_id"} & {k for k, v in reported.items() if v}


@pytest.mark.fault("S45")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_what_is_known_ends_the_head(off: int) -> None:
    """With the UIDs first, an element that ends HEAD_KNOWN_MAX behind them is not waited for, and
    nothing behind it describes the instance."""
    parts = strange.parts("1.2.3.9", "1.2.3", "1.2.3.1", 7)
    uids = b"".join(parts[1:3] + parts[7:9])
    fill = _core.HEAD_KNOWN_MAX + off - 12
    head = uids + struct.pack("<HH2sHL", 9, 0x1010, b"OB", 0, fill)
    found = _core.read_head(head, 1, False)
    assert (found is not None) == (off > 0)
    whole_head = _core.read_head(head + bytes(fill) + parts[-1], 1)
    assert whole_head is not None
    assert whole_head.length == (len(uids) if off > 0 else len(head) + fill)


@pytest.mark.fault("S31")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_bytes_of_file_meta_information(off: int) -> None:
    """File Meta Information within META_BYTES_MAX is read; a longer one is not judged."""
    size = META_BYTES_MAX + off
    meta = reference.file_meta(wire.CT, "1.2.3.9", EXPLICIT, "A", "B", ("1.2", "X"))
    fill = size - len(meta) - 12
    private = struct.pack("<HH2sHL", 2, 0x0102, b"OB", 0, fill) + bytes(fill)
    length = int.from_bytes(meta[140:144], "little") + len(private)
    file = meta[:140] + length.to_bytes(4, "little") + meta[144:] + private
    check = InstanceCheck()
    for part in (file, (PLAIN + PIXELS)[:-10]):
        check.feed(part)
    assert bool(check.end()) == (off <= 0)
