"""The questions of an administrator at night, each asked of a node in which something is broken.

An answer is found as a user finds it: by a command, on /readyz, on /metrics, in the log, by a
query. docs/operations.md, "Questions", has the same in words.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import wire
from tests.support.dicom_peers import new_uid
from tests.support.disks import Disk, rejection
from tests.support.gateway import Gateway, Gateways, Peer, get, run_command, until
from tests.support.upstreams import Reply, Small, names_it

QUICK = "release_grace_secs = 0.1"
SLOW = "release_grace_secs = 3600\nquiet_secs = 3600"


@pytest.fixture
def gateway_defaults() -> dict[str, Any]:
    return {"builder": QUICK}


class Upstream(Small):
    """A small upstream with its port. `manner` is what is wrong with it."""

    def __init__(self, manner: Callable[[bytes, str | None], Reply] = names_it) -> None:
        super().__init__(manner)
        self.port = 0

    def refuse(self, status: int, text: str) -> None:
        self.manner = lambda *_: (status, json.dumps({"error": text}).encode())

    def accept(self) -> None:
        self.manner = names_it


@pytest.fixture
def small() -> Iterator[Upstream]:
    upstream = Upstream()
    with upstream.open() as url:
        upstream.port = int(url.split(":")[2].split("/")[0])
        yield upstream


def command(own: Gateway, *arguments: object) -> tuple[int, str]:
    """Runs a command where the node runs; returns its exit code, and all that it prints."""
    done = run_command(*arguments, cwd=own.spool.parent)
    return done.returncode, done.stdout + done.stderr


def shown(own: Gateway, *arguments: object, until_it_has: str) -> str:
    """Runs a command until a pattern is in what it prints: the ledger is a moment behind."""
    last = ""

    def found() -> bool:
        nonlocal last
        last = command(own, *arguments)[1]
        return re.search(until_it_has, last) is not None

    try:
        until(found, f"fastjmix {arguments} prints {until_it_has!r}", 20)
    except AssertionError as problem:
        raise AssertionError(f"{problem}\n{last}") from None
    return last


def warnings(own: Gateway) -> list[str]:
    found: list[str] = json.loads(get(f"{own.http}/readyz")[2]).get("warnings", [])
    return found


def metric(own: Gateway, sample: str) -> float:
    text = get(f"{own.http}/metrics")[2].decode()
    lines = [one for one in text.splitlines() if one.startswith(f"fastjmix_{sample} ")]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0


def data_set(
    study: str, uid: str, accession: str = "A-1", patient: str = "P-1", size: int = 64
) -> bytes:
    parts = [
        (0x00080016, b"UI", wire.CT),
        (0x00080018, b"UI", uid),
        (0x00080050, b"SH", accession),
        (0x00080060, b"CS", "CT"),
        (0x00100010, b"PN", "Yamada^Taro"),
        (0x00100020, b"LO", patient),
        (0x0020000D, b"UI", study),
        (0x0020000E, b"UI", f"{study}.1"),
    ]
    data = b"".join(wire.element(tag, vr, value.encode()) for tag, vr, value in parts)
    return data + wire.element(0x7FE00010, b"OW", bytes(size))


def send(own: Gateway, study: str, calling: str = "CT_1", count: int = 1, **facts: Any) -> None:
    with Peer(own.dicom_port) as peer:
        assert peer.associate(calling=calling.encode())[0] == 2
        for _ in range(count):
            uid = new_uid()
            assert peer.store(data_set(study, uid, **facts), uid) == 0
        peer.release()


# -- an association is rejected --------------------------------------------------------------------


def test_who_was_rejected_for_a_wrong_called_ae_title(start: Gateways) -> None:
    own = start()
    with Peer(own.dicom_port) as peer:
        assert peer.associate(calling=b"CT_1", called=b"JMIX_OLD")[0] == 3
    text = shown(own, "status", until_it_has="called AE title is not JMIX_RECEIVER")
    row = next(one for one in text.splitlines() if "JMIX_OLD" in one)
    assert re.search(r"1 times? +CT_1 +127\.0\.0\.1:\d+ +JMIX_OLD ", row)
    for word in ("CT_1", "JMIX_OLD", "127.0.0.1"):
        code, text = command(own, "trace", word)
        assert (code, "1 rejected" in text) == (0, True)
        assert re.search(r"CT_1 at 127.0.0.1:\d+ called JMIX_OLD: called AE title is not", text)
    assert metric(own, 'rejections_total{reason="called_ae"}') == 1


def test_who_was_rejected_because_it_is_not_in_the_table(start: Gateways) -> None:
    own = start(
        endpoint='[endpoints.dicom_receiver.options.aet_table]\nCT_1 = { ae_title = "CT_1" }'
    )
    for _ in range(3):
        with Peer(own.dicom_port) as peer:
            assert peer.associate(calling=b"MR_NEW")[0] == 3
    text = shown(own, "trace", "MR_NEW", until_it_has="3 times")
    assert "calling AE title is not in aet_table" in text
    assert metric(own, 'rejections_total{reason="calling_ae"}') == 3


def test_who_was_rejected_because_there_are_too_many(start: Gateways) -> None:
    own = start(endpoint="max_associations = 1")
    with Peer(own.dicom_port) as first:
        assert first.associate(calling=b"CT_1")[0] == 2
        assert first.store(data_set("1.2.3.4", "1.2.3.4.1"), "1.2.3.4.1") == 0
        with Peer(own.dicom_port) as second:
            assert second.associate(calling=b"CT_2")[0] == 3
        text = shown(own, "status", until_it_has="CT_2")
        assert re.search(
            r"CT_2 +127\.0\.0\.1:\d+ +JMIX_RECEIVER +max_associations of the lis", text
        )
        assert re.search(r"CT_1 +127\.0\.0\.1:\d+ ", text), "the one that is open is there, too"


# -- a study is missing ----------------------------------------------------------------------------


def test_a_study_that_waits_for_an_upstream_that_is_away(start: Gateways) -> None:
    own = start()  # nobody listens there
    send(own, "1.2.3.4")
    for word in ("A-1", "P-1", "yamada"):
        text = shown(own, "trace", word, until_it_has="attempt")
        assert re.search(r"^envelope \S+: outbox since ", text, re.MULTILINE)
        assert "jmix_upstream: retry, no answer" in text
    shown(own, "status", until_it_has="jmix_upstream: paused since .*, 1 envelope waiting")
    assert any("upstream jmix_upstream is paused" in one for one in warnings(own))


def test_a_study_that_is_still_being_packed(start: Gateways) -> None:
    own = start(builder=SLOW)
    send(own, "1.2.3.4")
    for word in ("A-1", "P-1", "taro"):
        text = shown(own, "trace", word, until_it_has="ended")
        assert re.search(r"^envelope \S+: building since ", text, re.MULTILINE)
        assert "study: 1.2.3.4\n" in text
    status, headers, _ = get(f"{own.http}/jmix/api/jmix?studyInstanceUid=1.2.3.4")
    assert (status, headers["X-Envelope-State"]) == (202, "building")


def test_a_study_of_which_an_instance_was_refused(start: Gateways, small: Upstream) -> None:
    own = start(small.port)
    broken = data_set("1.2.3.4", "1.2.3.4.2")[:-20]
    with Peer(own.dicom_port) as peer:
        assert peer.associate(calling=b"CT_1")[0] == 2
        assert peer.store(data_set("1.2.3.4", "1.2.3.4.1"), "1.2.3.4.1") == 0
        status = peer.store(broken, "1.2.3.4.2")
        assert status >> 12 == 0xC
        peer.release()
    for word in ("A-1", "P-1", "1.2.3.4"):
        text = shown(own, "trace", word, until_it_has="delivered")
        assert f"1.2.3.4.2 was answered {status:04X}: " in text
        assert "1 stored, 1 refused" in text


def test_a_study_of_which_all_was_refused_is_found_by_its_modality(start: Gateways) -> None:
    own = start()
    with Peer(own.dicom_port) as peer:
        assert peer.associate(calling=b"CT_1")[0] == 2
        assert peer.store(data_set("1.2.3.4", "1.2.3.4.2")[:-20], "1.2.3.4.2") >> 12 == 0xC
        peer.release()
    shown(own, "trace", "CT_1", until_it_has="1.2.3.4.2 was answered C")
    code, text = command(own, "trace", "A-1")
    assert (code, "nothing is known of it" in text, "trace AE-TITLE" in text) == (1, True, True)


# -- the token has expired -------------------------------------------------------------------------


def test_a_token_that_expired_with_500_waiting(start: Gateways, small: Upstream) -> None:
    small.refuse(401, "token expired")
    own = start(small.port, builder=f'{QUICK}\ndurability = "page-cache"')
    with Peer(own.dicom_port) as peer:
        assert peer.associate(calling=b"CT_1")[0] == 2
        for number in range(500):
            uid = f"1.2.3.{number}.1"
            assert peer.store(data_set(f"1.2.3.{number}", uid), uid) == 0
        peer.release()
    text = shown(own, "status", until_it_has="held since .*, 500 envelopes waiting")
    assert re.search(r"HTTP 401 .*token expired", text)
    assert "the upstream does not accept our credentials" in text
    waiting = "jmix_upstream is on hold, 500 wait for it"
    until(lambda: any(waiting in one for one in warnings(own)), "a warning of /readyz")
    small.accept()
    code, text = command(own, "outbox", "retry", "--all")
    assert (code, text.splitlines()[0]) == (0, "retry: 500 envelopes")
    own.wait_sent(500)
    until(lambda: not warnings(own), "no warning is left")
    assert command(own, "outbox", "list") == (1, "0 envelopes\n")


# -- an envelope is rejected -----------------------------------------------------------------------


def requeued(own: Gateway, status: int, words: str) -> None:
    """The rest of both tests: why it was rejected, and that it arrives once that is mended."""
    _, text = command(own, "outbox", "list", "--rejected")
    assert f"HTTP {status}: " in text
    assert words in text
    assert "1 envelope\n" in text
    assert any("1 envelope is in rejected/" in one for one in warnings(own))
    assert metric(own, 'envelopes{state="rejected"}') == 1
    envelope = own.envelopes("rejected")[0].stem
    said = command(own, "outbox", "requeue", "--rejected", "--dry-run")[1]
    assert envelope in said
    code, text = command(own, "outbox", "requeue", "--rejected", "--why", "put right")
    assert (code, text.splitlines()[0]) == (0, "requeue: 1 envelope")
    until(lambda: envelope in {one.stem for one in own.envelopes("sent")}, "it has arrived")
    story = shown(own, "trace", envelope[:8], until_it_has="delivered, HTTP 201")
    for part in (f"refused, HTTP {status}", words, "requeue by uid", "put right"):
        assert part in story


def test_an_envelope_that_is_rejected_by_400(start: Gateways, small: Upstream) -> None:
    small.refuse(400, "unknown facility")
    own = start(small.port)
    send(own, "1.2.3.4")
    until(lambda: own.envelopes("rejected"), "it is rejected")
    own.wait_for("envelope_rejected .*status=400 .*unknown facility")
    small.accept()
    requeued(own, 400, "unknown facility")


def test_an_envelope_that_is_rejected_by_404(start: Gateways, small: Upstream) -> None:
    """Others are taken: so it is the envelope's fault, and not the address's."""

    def manner(body: bytes, envelope_id: str | None) -> Reply:
        if b"1.2.3.404" in body:
            return 404, b'{"error": "no such department"}'
        return names_it(body, envelope_id)

    small.manner = manner
    own = start(small.port)
    send(own, "1.2.3.404")
    for number in range(20):
        send(own, f"1.2.3.{number}")
        if own.envelopes("rejected"):
            break
        command(own, "outbox", "retry", "--all")
    until(lambda: own.envelopes("rejected"), "it is rejected")
    small.accept()
    requeued(own, 404, "no such department")


# -- the disk is full ------------------------------------------------------------------------------


def fill(disk: Disk, filled: float) -> Path:
    """Fills a disk to a part of its size; returns the file that does it."""
    return disk.fill(int(shutil.disk_usage(disk.at).total * (1 - filled)))


def test_a_disk_at_90_and_at_96_percent(start: Gateways, tmp_path: Path) -> None:
    disk = Disk(tmp_path / "own" / "spool", "ext4", size=256 << 20)
    with contextlib.closing(disk):
        own = start()
        assert not [one for one in warnings(own) if "fills up" in one]
        filler = fill(disk, 0.90)
        text = until(lambda: [one for one in warnings(own) if "fills up" in one], "a warning")[0]
        assert re.search(r"GB \(\d+\.\d %\) free of \d+\.\d GB", text)
        assert "no association is accepted" in text
        assert "free some" in text
        assert rejection(own) is None, "at 90 % it still takes images"
        with Peer(own.dicom_port) as peer:
            assert peer.associate(calling=b"CT_1")[0] == 2
            filler.unlink()
            filler = fill(disk, 0.96)
            assert until(lambda: rejection(own), "no association is accepted") == (2, 3, 1)
            text = shown(own, "status", until_it_has="little space is left in the storage")
            assert re.search(r"! .*free", text), "the node is not ready, and says why"
            assert re.search(r"disk: \d+\.\d MB of \d+\.\d MB free, marks ", text)
            own.wait_for("disk_below_mark")
            filler.unlink()
            filler = fill(disk, 0.995)
            statuses = [peer.store(data_set("1.2.3.4", "1.2.3.4.1"), "1.2.3.4.1")]
            peer.release()
        assert statuses == [0xA700]
        filler.unlink()
        shown(own, "trace", "CT_1", until_it_has=r"1\.2\.3\.4\.1 was answered A700: ")
        until(lambda: rejection(own) is None, "there is space again")
        assert metric(own, 'refusals_total{status="A700"}') == 1
        assert own.stop() == 0


# -- a modality is slow ----------------------------------------------------------------------------

SLOW_DISK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
int fdatasync(int descriptor) {
    static int (*real)(int);
    if (!real) real = (int (*)(int)) dlsym(RTLD_NEXT, "fdatasync");
    usleep(400000);
    return real(descriptor);
}
"""
"""A disk that needs 0.4 seconds for each sync."""


def number_in(text: str, pattern: str) -> float:
    """Returns the number that the group of a pattern finds; 0 where it is not there."""
    found = re.search(pattern, text)
    return float(found[1]) if found else 0.0


def seconds_for(cause: str, text: str) -> float:
    """Returns how long an association waited, as its story says."""
    return number_in(text, rf"([0-9.]+) s for the {cause}\b")


def test_a_sender_that_is_slow(start: Gateways, small: Upstream) -> None:
    own = start(small.port)
    with Peer(own.dicom_port) as peer:
        assert peer.associate(calling=b"CT_1")[0] == 2
        for number in range(3):
            data = data_set("1.2.3.4", f"1.2.3.4.{number}", size=4000)
            command_set = wire.p_data(wire.pdvs(1, wire.store_rq(f"1.2.3.4.{number}"), True))
            for part in (
                command_set,
                *wire.fragments(wire.p_data(wire.pdvs(1, data, False)), [900, 900]),
            ):
                peer.send(part)
                time.sleep(0.15)
            assert peer.status() == 0
        text = command(own, "status")[1]
        assert re.search(r"^  CT_1 .* peer$", text, re.MULTILINE), "while it lasts, it is seen"
        peer.release()
    text = shown(own, "trace", "CT_1", until_it_has="ended")
    assert seconds_for("peer", text) > 3 * (seconds_for("disk", text) + seconds_for("packer", text))
    line = own.wait_for("association_ended .*")[0]
    assert number_in(line, r"wait_peer_secs=([0-9.]+)") > 1


def test_a_disk_that_is_slow(start: Gateways, small: Upstream, tmp_path: Path) -> None:
    (tmp_path / "slow.c").write_text(SLOW_DISK)
    library = tmp_path / "slow.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "slow.c", "-ldl"], check=True
    )
    own = start(small.port, env={"LD_PRELOAD": str(library)})
    send(own, "1.2.3.4", calling="CT_1", count=4)
    text = shown(own, "trace", "CT_1", until_it_has="ended")
    assert seconds_for("disk", text) > 1.5
    assert seconds_for("disk", text) > 3 * (seconds_for("peer", text) + seconds_for("packer", text))
    assert number_in(text, r"answers took ([0-9.]+) ms") > 350
    assert metric(own, 'commit_seconds_bucket{le="0.25"}') == 0


def test_an_upstream_that_is_slow(start: Gateways, small: Upstream) -> None:
    def manner(body: bytes, envelope_id: str | None) -> Reply:
        time.sleep(2)
        return names_it(body, envelope_id)

    small.manner = manner
    own = start(small.port)
    send(own, "1.2.3.4", calling="CT_1", count=4, size=100_000)
    text = shown(own, "trace", "1.2.3.4", until_it_has="delivered")
    attempt = re.search(r"delivered, HTTP 201, 40\d\.\d kB in ([0-9.]+) s \(([0-9.]+) MB/s\)", text)
    assert attempt is not None
    assert float(attempt[1]) >= 2
    assert float(attempt[2]) < 0.5
    assert seconds_for("peer", text) + seconds_for("disk", text) + seconds_for("packer", text) < 2


# -- an auditor asks -------------------------------------------------------------------------------


def test_what_an_auditor_asks_when_the_envelopes_are_gone(start: Gateways, small: Upstream) -> None:
    own = start(small.port, fastjmix="retention = { max_age_days = 0 }")
    send(own, "1.2.3.4", calling="CT_1", count=3)
    own.wait_for("envelopes_expired")
    assert not own.envelopes("sent")
    text = shown(own, "trace", "A-1", "--instances", until_it_has="gone since")
    assert re.search(r"CT_1 at 127\.0\.0\.1:\d+ called JMIX_RECEIVER", text)
    assert len(re.findall(r"Z  1\.2\.826\S+ +0000 ", text)) == 3
    assert re.search(r"jmix_upstream: delivered, HTTP 201, .*; it said: .*stored", text)
    assert own.stop() == 0
    code, stopped = command(own, "trace", "A-1", "--json")
    (story,) = json.loads(stopped)["traces"][0]["envelopes"]
    assert code == 0
    assert (story["state"], story["attempts"][-1]["status"]) == ("gone", 201)
    assert {one["status"] for one in story["parts"]} == {"0000"}


# -- what docs/operations.md says ------------------------------------------------------------------


def test_the_commands_of_the_document(start: Gateways, small: Upstream) -> None:
    """Each command of "Questions" is typed; there is nothing to requeue, so 1 is an answer, too."""
    page = Path(__file__).parents[2] / "docs" / "operations.md"
    section = page.read_text("utf-8").partition("## Questions")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\d\. \*\*", section, re.MULTILINE)) == 8
    typed = dict.fromkeys(re.findall(r"`fastjmix ([^`]+)`", section))
    own = start(small.port)
    send(own, "1.2.3.4")
    (archive,) = own.wait_sent()
    words = {"AE-TITLE": "CT_1", "ACCESSION": "A-1", "ID": archive.stem}
    shown(own, "trace", "A-1", until_it_has="delivered")
    for line in typed:
        if "--watch" in line:
            continue  # until interrupted
        code, text = command(own, *(words.get(word, word) for word in line.split()))
        assert code == (0 if line.startswith(("status", "trace", "reload")) else 1), text
        assert "Usage" not in text
