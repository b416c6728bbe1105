"""F85: recovery reads every instance that reception accepted, with bounded work."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from isal.isal_zlib import crc32

from fastjmix import _core
from fastjmix.dicom import dataset
from fastjmix.dicom.dataset import file_meta_prefix, read_file_meta
from fastjmix.dicom.head import data_set_head, reader_for
from fastjmix.errors import UnreadableHead
from fastjmix.jmix.write.archive import data_offset, local_header, walk
from fastjmix.packer import instances
from fastjmix.packer.recovery import Outcome, recover
from fastjmix.spool import Spool, journal
from fastjmix.spool.recipe import UNKNOWN
from tests.support import strange, wire
from tests.support.gateway import images
from tests.support.nightly import by_form
from tests.support.reception import HEAD_BYTES, Reception, recovered
from tests.support.strange import encoded

SYNTAX = {0: wire.IMPLICIT, 1: wire.EXPLICIT, 2: wire.BIG, 3: wire.DEFLATED}
METADATA = "payload/metadata.json"


@pytest.fixture
def reception(tmp_path: Path) -> Iterator[Reception]:
    one = Reception(tmp_path)
    yield one
    one.close()


def documents(archives: list[Path]) -> dict[str, dict[str, Any]]:
    """Returns, by envelope, the statements of its metadata."""
    found = {}
    for archive in archives:
        with zipfile.ZipFile(archive) as opened:
            found[archive.stem] = json.loads(opened.read(METADATA))
    return found


def held(archives: list[Path]) -> dict[str, list[bytes]]:
    """Returns, by envelope, its members, sorted."""
    found = {}
    for archive in archives:
        with zipfile.ZipFile(archive) as opened:
            names = [name for name in opened.namelist() if name.endswith(".dcm")]
            found[archive.stem] = sorted(opened.read(name) for name in names)
    return found


# -- any data set ----------------------------------------------------------------------------------

UIDS = {0x00080016: 1, 0x00080018: 2, 0x0020000D: 7, 0x0020000E: 8}

fillers = st.one_of(
    st.integers(0, 40).map(lambda size: ("private", size)),
    st.sampled_from([3000, 4070, 4096, 9000]).map(lambda size: ("private", size)),
    st.sampled_from([66_000, 80_000, 110_000]).map(lambda size: ("private", size)),
    st.integers(-3, 3).map(lambda off: ("to the limit", off)),
    st.just(("sequence", 0)),
    st.just(("group 2", 0)),
    st.just(("odd", 7)),
    st.just(("late", 0)),
    st.just(("implicit", 12)),
)


def filler(form: str, size: int, at: int, behind: int, kind: int, rng: random.Random) -> bytes:
    """Returns an element of this form, at offset `at`; a UID ends `behind` bytes later."""
    if form == "to the limit":
        form, size = (
            "private",
            max(0, HEAD_BYTES + 1 + size - at - behind - (8 if kind == 0 else 12)),
        )
        if size % 2:
            form = "odd"
    if form == "private":
        return strange.private(size // 2 * 2, rng, kind)
    if form == "odd":
        order = ">" if kind == 2 else "<"
        if kind == 0:
            return struct.pack("<HHL", 9, 0x1011, size) + rng.randbytes(size)
        return struct.pack(f"{order}HH2sHL", 9, 0x1011, b"OB", 0, size) + rng.randbytes(size)
    if form == "sequence":
        order = ">" if kind == 2 else "<"
        head = struct.pack(f"{order}HH", 8, 0x1140)
        head += b"\xff" * 4 if kind == 0 else b"SQ\0\0" + b"\xff" * 4
        item = struct.pack(f"{order}HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
        inner = wire.element(0x0020000D, b"UI", b"9.9", kind)
        ends = struct.pack(f"{order}HHL", 0xFFFE, 0xE00D, 0)
        return head + item + inner + ends + struct.pack(f"{order}HHL", 0xFFFE, 0xE0DD, 0)
    if form == "group 2":
        return wire.element(0x00020003, b"UI", b"9.9.9", kind)
    if form == "late":
        return wire.element(0x00280010, b"US", b"\1\0", kind)
    return wire.element(0x00091012, b"", rng.randbytes(size), 0 if kind != 2 else 2)


@st.composite
def data_sets(draw: st.DrawFn, uid: str, study: str, number: int) -> bytes:
    """Draws a data set of any kind, or nearly one."""
    kind = draw(st.sampled_from([1, 0, 2, 3, 3]))
    inner = 1 if kind == 3 else kind
    rng = random.Random(draw(st.integers(0, 1 << 30)))
    series = draw(st.sampled_from([f"{study}.1", f"{study}.2", "1." + "2" * 62] * 2 + [""]))
    elements = strange.parts(uid, study, series, number, inner)
    pad = draw(st.sampled_from([b"", b"", b"\0\0", b"  ", b" \0"]))
    for tag, at in ((0x0020000D, 7), (0x00080018, 2)):
        value = (study if at == 7 else uid).encode()
        elements[at] = wire.element(tag, b"UI", value + pad, inner)
    if draw(st.booleans()):
        elements[10] = wire.element(
            0x00200013, b"IS", draw(st.sampled_from([b" 7", b"-3 ", b"x", b"", b"9" * 20])), inner
        )
    if draw(st.booleans()):
        del elements[draw(st.sampled_from([0, 3, 4, 5, 6, 9, 10]))]
    if draw(st.integers(0, 5)) == 0:
        rng.shuffle(elements)
    for form, size in draw(st.lists(fillers, max_size=3)):
        place = draw(st.integers(0, len(elements)))
        before = sum(map(len, elements[:place]))
        behind = len(elements[place]) if place < len(elements) else 0
        elements.insert(place, filler(form, size, before, behind, inner, rng))
    if draw(st.booleans()):
        size = draw(st.sampled_from([10, 5000, 600_000]))
        elements.append(wire.element(0x7FE00010, b"OW", rng.randbytes(size), inner))
    whole = b"".join(elements)
    if draw(st.integers(0, 6)) == 0:
        whole = whole[: draw(st.integers(len(whole) // 2, len(whole)))]
    if kind < 3:
        syntax = draw(st.sampled_from([strange.ENCAPSULATED, strange.PRIVATE, SYNTAX[1]]))
        return encoded(whole, syntax if kind == 1 else SYNTAX[kind])
    stream = strange.deflated(whole, level=draw(st.sampled_from([0, 1, 9])))
    spoilt = draw(st.integers(0, 4)) == 0 and len(stream) > 3000
    return encoded(stream[:-1500] + b"\xff" * 1500, wire.DEFLATED) if spoilt else stream


@pytest.mark.fault("F85")
@settings(
    deadline=None,
    max_examples=by_form(80, 3000),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow,
                           HealthCheck.data_too_large],
)  # fmt: skip
@given(data=st.data(), count=st.integers(1, 4))
def test_recovery_understands_whatever_reception_took(
    tmp_path: Path, data: st.DataObject, count: int
) -> None:
    """Reception seals an envelope, and recovery a copy of its draft: both describe every instance
    alike. So they do without the keys that older drafts lack."""
    shutil.rmtree(tmp_path, ignore_errors=True)
    one = Reception(tmp_path / "one")
    try:
        accepted = {}
        for number in range(count):
            uid = f"1.2.826.5.{number}"
            if data.draw(st.booleans()):
                made = data.draw(data_sets(uid, "1.2.826.5", number))
            else:  # any form that is known to be taken, in any company
                form = data.draw(st.sampled_from(strange.FORMS))
                made = form(random.Random(number), uid, "1.2.826.5", f"1.2.826.5.{number}", number)
            if one.store(made, uid) == 0:
                accepted[uid] = bytes(made)
        left = one.as_a_kill_leaves_it(tmp_path / "left")
        older = one.as_a_kill_leaves_it(tmp_path / "older", {"study": None})
        expected = one.seal()
        for spool in (left, older):
            assert not any(outcome.damages for outcome in recovered(spool))
            found = sorted(spool.outbox.glob("*.zip"))
            assert held(found) == held(expected)
            assert {
                uid: one for archive in found for uid, one in images(archive).items()
            } == accepted
            spool.release()
            if spool is left:
                assert documents(found) == documents(expected)
    finally:
        one.close()


def at_the_edge(kind: int, off: int) -> bytes:
    """Makes a data set whose last UID ends at byte number HEAD_BYTES + 1 + off; more comes behind
    it.
    """
    elements = strange.parts("1.2.826.6.1", "1.2.826.6", "1.2.826.6.0", 1, kind)
    before, behind = sum(map(len, elements[:7])), sum(map(len, elements[7:9]))
    rng = random.Random(off)
    elements.insert(7, filler("to the limit", off, before, behind, kind, rng))
    whole = b"".join(elements)
    assert sum(map(len, elements[:10])) == HEAD_BYTES + 1 + off
    return encoded(whole + wire.element(0x00204000, b"LT", b"x" * 5000, kind), SYNTAX[kind])


@pytest.mark.fault("F85")
@pytest.mark.parametrize("off", [-2, -1, 0, 1, 2])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_uids_at_the_edge_of_what_waits_for_them(
    reception: Reception, tmp_path: Path, kind: int, off: int
) -> None:
    data = at_the_edge(kind, off)
    assert reception.store(data, "1.2.826.6.1") == 0
    left = reception.as_a_kill_leaves_it(tmp_path / "left")
    assert not any(outcome.damages for outcome in recovered(left))
    assert documents(sorted(left.outbox.glob("*.zip"))) == documents(reception.seal())
    left.release()


@pytest.mark.fault("F85")
@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("far", [False, True], ids=["in one look", "in several looks"])
def test_uids_at_the_edge_of_what_is_inflated(tmp_path: Path, far: bool, off: int) -> None:
    elements = strange.parts("1.2.826.6.1", "1.2.826.6", "1.2.826.6.0", 1)
    size = _core.INFLATE_MAX + off - sum(map(len, elements[:9])) - 12
    value = random.Random(off).randbytes(size) if far else bytes(size)
    large = struct.pack("<HH2sHL", 9, 0x1010, b"OB", 0, size) + value
    elements.insert(7, large)
    data = strange.deflated(b"".join(elements) + wire.element(0x00204000, b"LT", b"x" * 5000))
    one = Reception(tmp_path, 8 << 20)
    assert (one.store(data, "1.2.826.6.1") == 0) == (off <= 0)
    left = one.as_a_kill_leaves_it(tmp_path / "left")
    assert not any(outcome.damages for outcome in recovered(left))
    assert documents(sorted(left.outbox.glob("*.zip"))) == documents(one.seal())
    left.release()
    one.close()


@pytest.mark.fault("F85")
@pytest.mark.parametrize("form", strange.FORMS, ids=lambda form: form.__name__)
def test_every_strange_form_is_taken_and_recovered(
    reception: Reception, tmp_path: Path, form: strange.Form
) -> None:
    """In the smallest lane; an ordinary instance before it and one behind it."""
    rng = random.Random(5)
    sent = {
        "1.2.826.7.1": wire.data_set("1.2.826.7.1", study="1.2.826.7"),
        "1.2.826.7.2": form(rng, "1.2.826.7.2", "1.2.826.7", "1.2.826.7.0", 2),
        "1.2.826.7.3": wire.data_set("1.2.826.7.3", study="1.2.826.7"),
    }
    for uid, data in sent.items():
        assert reception.store(data, uid) == 0
    left = reception.as_a_kill_leaves_it(tmp_path / "left")
    assert not any(outcome.damages for outcome in recovered(left))
    (archive,) = left.outbox.glob("*.zip")
    assert images(archive) == sent
    assert documents([archive]) == documents(reception.seal())
    left.release()


# -- instances that cannot be read -----------------------------------------------------------------


@pytest.fixture
def mixed(reception: Reception) -> dict[str, bytes]:
    """Stores three ordinary instances of a study, one with a long head and one deflated."""
    rng = random.Random(9)
    study = "1.2.826.8"
    sent: dict[str, bytes] = {
        f"{study}.{n}": wire.data_set(f"{study}.{n}", study=study, number=n) for n in range(3)
    }
    sent[f"{study}.3"] = strange._long_head(rng, f"{study}.3", study, f"{study}.0", 3)
    sent[f"{study}.4"] = strange._deflated_far(rng, f"{study}.4", study, f"{study}.0", 4)
    for uid, data in sent.items():
        assert reception.store(data, uid) == 0
    return sent


@pytest.fixture
def lesser_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes recovery read ordinary heads only, as another version might."""

    def read(read_at: Any, offset: int, size: int, syntax: str, **options: bool) -> Any:
        found = data_set_head(read_at, offset, size, syntax, **options)
        if found.head.length > 5000 or syntax == wire.DEFLATED:
            raise UnreadableHead("not by this version")
        return found

    monkeypatch.setattr(instances, "data_set_head", read)


@pytest.mark.fault("F85")
def test_what_reception_noted_places_a_member_that_is_not_understood(
    reception: Reception, mixed: dict[str, bytes], lesser_reader: None, tmp_path: Path
) -> None:
    left = reception.as_a_kill_leaves_it(tmp_path / "left")
    assert [outcome.damages for outcome in recovered(left)] == [[]]
    (archive,) = left.outbox.glob("*.zip")
    assert images(archive) == mixed
    (found,) = documents([archive]).values()
    (expected,) = documents(reception.seal()).values()

    def places(metadata: dict[str, Any]) -> list[tuple[object, ...]]:
        (study,) = metadata["studies"].values()
        return [
            (study["study_uid"], series["series_uid"], instance)
            for series in study["series"]
            for instance in series["instances"]
        ]

    assert places(found) == places(expected)
    left.release()


@pytest.mark.fault("F85")
@pytest.mark.parametrize("without", ["the journal", "the study"])
def test_a_member_that_nothing_explains_costs_itself(
    reception: Reception, mixed: dict[str, bytes], lesser_reader: None, tmp_path: Path, without: str
) -> None:
    """The others are delivered, and its bytes are kept for a person."""
    changed = {"study": None} if without == "the study" else {}
    left = reception.as_a_kill_leaves_it(tmp_path / "left", changed)
    (draft,) = left.building.iterdir()
    if without == "the journal":
        (draft / "promised").unlink()
    damages = [damage for outcome in recovered(left) for damage in outcome.damages]
    assert len(damages) == 2
    assert all("cannot be understood" in damage.why for damage in damages)
    (archive,) = left.outbox.glob("*.zip")
    assert images(archive) == {uid: data for uid, data in mixed.items() if uid < "1.2.826.8.3"}
    (kept,) = left.rejected.glob("*.zip")
    assert all(mixed[f"1.2.826.8.{n}"] in kept.read_bytes() for n in (3, 4))
    assert kept.stem == draft.name
    left.release()


@pytest.mark.fault("F85")
def test_a_copy_keeps_the_notes(
    reception: Reception, mixed: dict[str, bytes], lesser_reader: None, tmp_path: Path
) -> None:
    """The archive is suspect, its members go to a fresh draft, and are read there once more."""
    left = reception.as_a_kill_leaves_it(tmp_path / "left")
    (draft,) = left.building.iterdir()
    (draft / "suspect").touch()
    assert not any(outcome.damages for outcome in recovered(left))
    (archive,) = left.outbox.glob("*.zip")
    assert images(archive) == mixed
    assert archive.stem != draft.name
    left.release()


# -- bounds ----------------------------------------------------------------------------------------


RECOVER = """
import resource, sys, time
from pathlib import Path
from fastjmix.packer.recovery import recover
from fastjmix.spool import Spool
import fastjmix.jmix.write.profiles, hashlib
spool = Spool(Path(sys.argv[1]), durable=False)
spool.prepare()
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + (48 << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for left in spool.drafts.leftovers():
    assert not recover(spool, left, "packer-0").damages
"""


@pytest.mark.fault("F85")
def test_recovery_takes_no_more_memory_than_a_head(reception: Reception, tmp_path: Path) -> None:
    """One element of 2.2 GB is among the first, and another behind the UIDs; beside it is an
    ordinary study. (The element is a hole in the file: only its zeros are read.)"""
    assert reception.store(wire.data_set("1.2.826.9.9", study="1.2.826.9"), "1.2.826.9.9") == 0
    study, size = "1.2.826.10", 2_200_000_000
    elements = strange.parts(f"{study}.1", study, f"{study}.0", 1)
    uids = b"".join(elements[1:3] + elements[7:9])
    head = uids + struct.pack("<HH2sHL", 9, 0x1010, b"OB", 0, size)
    assert reception.store(encoded(uids), f"{study}.1") == 0
    left = reception.as_a_kill_leaves_it(tmp_path / "left")
    left.release()
    grow_member(left.root, head, size)
    done = subprocess.run(
        [sys.executable, "-c", RECOVER, str(left.root)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.stat().st_size > size for path in left.outbox.glob("*.zip")) == [False, True]
    assert not list(left.rejected.iterdir())


def grow_member(root: Path, head: bytes, hole: int) -> None:
    """Gives the only member of the second study's draft another data set: `head`, and zeros."""
    for draft in (root / "building").iterdir():
        if json.loads((draft / "draft.json").read_text())["study"] == "1.2.826.10":
            break
    archive = draft / "envelope.zip"
    whole = archive.read_bytes()
    (member,) = (one for one, _ in walk(lambda at, n: whole[at : at + n], len(whole)))
    start = data_offset(member)
    _, length = read_file_meta(whole[start:])
    content = whole[start : start + length] + head
    checksum, block = crc32(content), bytes(1 << 20)
    for at in range(0, hole, len(block)):
        checksum = crc32(block[: min(len(block), hole - at)], checksum)
    archive.write_bytes(local_header(member.name, checksum, len(content) + hole) + content)
    end = archive.stat().st_size + hole
    os.truncate(archive, end)
    (draft / journal.NAME).write_bytes(journal.record(0, end))


def secs_of(work: Callable[[], object]) -> float:
    """Returns the processor time of this thread."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


HOSTILE = {
    "many small elements": struct.pack("<HH2sH", 8, 0x1030, b"LO", 0) * 131_000,
    "many empty sequences": (
        struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF)
        + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    )
    * 50_000,
    "many items": struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    + struct.pack("<HHL", 0xFFFE, 0xE000, 8)
    + b"x" * 8 * 1
    + (struct.pack("<HHL", 0xFFFE, 0xE000, 0)) * 130_000,
    "many elements in an item": struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    + struct.pack("<HH2sH", 8, 0x1030, b"LO", 0) * 130_000,
    "nested without end": (
        struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF)
        + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    )
    * 50_000,
    "a text of a megabyte": struct.pack("<HH2sHL", 16, 16, b"UT", 0, 1_000_000) + b"^=" * 500_000,
    "a character set of a megabyte": struct.pack("<HH2sHL", 8, 5, b"UT", 0, 1_000_000)
    + b"\\ISO_IR 1" * 111_000
    + b"x",
    "group 2 without end": struct.pack("<HH2sH", 2, 3, b"UI", 0) * 131_000,
}


@pytest.mark.fault("F85")
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_a_hostile_head_is_described_at_once(name: str, kind: int) -> None:
    data = HOSTILE[name]
    if kind == 3:
        data = strange.deflated(data)
    secs = min(secs_of(lambda: described(data, SYNTAX[kind])) for _ in range(3))
    assert secs < 0.1, f"{secs:.2f} s"


def described(data: bytes, syntax: str) -> None:
    """Reads a head and describes it, as reception does."""
    reader = reader_for(syntax)
    reader.feed(data)
    reader.end()
    if reader.found:
        dataset.describe(reader.head().elements, wire.EXPLICIT)


def left_draft(root: Path, members: list[bytes], promised: bytes) -> Spool:
    """Makes a spool with one draft of these bytes and this journal."""
    spool = Spool(root, durable=False)
    spool.prepare()
    recipe = replace(UNKNOWN, pipeline="p", upstreams=("u",), profile="harmony", calling_ae="PEER")
    draft = spool.drafts.new(recipe)
    draft.append(members)
    draft.close()
    (draft.directory / journal.NAME).write_bytes(promised)
    return spool


def member_of(number: int) -> bytes:
    uid = f"1.2.826.11.{number}"
    content = file_meta_prefix(wire.CT, wire.EXPLICIT, "PEER", "JMIX").render(uid.encode())
    content += wire.data_set(uid)
    name = b"payload/series_1/image_%03d.dcm" % (number + 1)
    return local_header(name, crc32(content), len(content)) + content


@pytest.mark.fault("F85")
def test_a_journal_that_promises_what_no_disk_holds(tmp_path: Path) -> None:
    whole = member_of(0)
    written = journal.record(0, len(whole)) + journal.record(len(whole), 1 << 59)
    spool = left_draft(tmp_path, [whole], written)
    (first, _) = recovered(spool)
    assert ["missing" in damage.why for damage in first.damages] == [True]
    (archive,) = spool.outbox.glob("*.zip")
    assert len(images(archive)) == 1
    spool.release()


@pytest.mark.fault("F85")
def test_a_member_with_another_name_than_it_would_get_is_copied(tmp_path: Path) -> None:
    """Documents and central directory use the same names, whichever version wrote the draft."""
    spool = left_draft(tmp_path, [member_of(4), member_of(2)], b"")
    assert not any(outcome.damages for outcome in recovered(spool))
    (archive,) = spool.outbox.glob("*.zip")
    with zipfile.ZipFile(archive) as opened:
        listed = {entry["path"] for entry in json.loads(opened.read("manifest.json"))["files"]}
        assert listed == set(opened.namelist()) - {"manifest.json"}
    assert len(images(archive)) == 2
    spool.release()


@pytest.mark.fault("F85")
def test_a_draft_that_has_gone_is_over(
    reception: Reception, mixed: dict[str, bytes], tmp_path: Path
) -> None:
    left = reception.as_a_kill_leaves_it(tmp_path / "left")
    (leftover,) = left.drafts.leftovers()
    assert recover(left, leftover, "packer-0").ticket is not None
    assert not leftover.directory.exists()
    assert recover(left, leftover, "packer-0") == Outcome()
    left.release()
