"""packer/digests.py: digests behind the statuses are bounded, complete before a seal, and of the
bytes in the file."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import zlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from blake3 import blake3

from fastjmix.dicom.dataset import Description
from fastjmix.jmix.write.archive import Member, data_offset, local_header
from fastjmix.jmix.write.envelope import Instance
from fastjmix.packer.digests import BEHIND_BYTES, STEP_BYTES, Digests
from fastjmix.packer.open_envelope import OpenEnvelope
from fastjmix.spool import Spool
from fastjmix.spool.recipe import UNKNOWN

CT = "1.2.840.10008.5.1.4.1.1.2"


class Envelope:
    """An open envelope in a real spool."""

    def __init__(self, spool: Spool, digest: str = "sha256") -> None:
        self.draft = spool.drafts.new(UNKNOWN, durable=False)
        rules: Any = SimpleNamespace(
            builder=SimpleNamespace(digest=digest, profile="harmony"),
            listener=SimpleNamespace(endpoint="/"),
            upstreams=(),
            route_class=None,
        )
        self.open = OpenEnvelope(self.draft, "1.2", rules)

    def put(self, data: bytes) -> Instance:
        one = self.open.contents.add(
            "1.2", "1.2.1", CT, f"1.2.{len(self.open.members)}", "1.2.840.10008.1.2.1", None,
            len(data), None, Description(),
        )  # fmt: skip
        crc = zlib.crc32(data)
        offset = self.draft.append([local_header(one.name, crc, len(data)), data])
        self.open.members.append(Member(one.name, crc, len(data), offset))
        return one


def waiting(spool: Spool, *data: bytes, digest: str = "sha256") -> tuple[Digests, Envelope]:
    digests, envelope = Digests(), Envelope(spool, digest)
    for one in data:
        digests.add(envelope.open, envelope.put(one))
    return digests, envelope


@pytest.mark.parametrize(("digest", "make"), [("sha256", hashlib.sha256), ("blake3", blake3)])
@pytest.mark.parametrize("size", [1, STEP_BYTES - 1, STEP_BYTES, STEP_BYTES + 1, 5 * STEP_BYTES])
def test_steps_are_bounded_and_digests_are_of_the_members(
    spool: Spool, size: int, digest: str, make: Callable[[bytes], Any]
) -> None:
    members = [random.Random(size).randbytes(size), b"another"]
    digests, envelope = waiting(spool, *members, digest=digest)
    while digests.oldest is envelope.open:
        before = digests.bytes
        digests.step(envelope.open)
        assert 0 < before - digests.bytes <= STEP_BYTES
    assert digests.oldest is None
    assert digests.bytes == 0
    found = [one.digest for one in envelope.open.contents.instances()]
    assert found == [make(data).digest() for data in members]


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_bytes_that_may_wait(spool: Spool, off: int) -> None:
    digests, _ = waiting(spool, bytes(BEHIND_BYTES // 2), bytes(BEHIND_BYTES // 2 + off))
    assert digests.too_many == (off > 0)


def test_an_envelope_is_finished_before_its_seal_and_others_wait(spool: Spool) -> None:
    digests, first = waiting(spool, bytes(STEP_BYTES * 2))
    second = Envelope(spool)
    digests.add(second.open, second.put(b"second"))
    digests.finish(second.open)
    assert [one.digest for one in second.open.contents.instances()] == [
        hashlib.sha256(b"second").digest()
    ]
    assert digests.oldest is first.open
    digests.forget(first.open)
    assert digests.oldest is None
    assert digests.bytes == 0


def test_a_member_that_is_not_what_arrived_makes_its_file_suspect(spool: Spool) -> None:
    digests, envelope = waiting(spool, b"as it arrived")
    member = envelope.open.members[0]
    os.pwrite(envelope.draft.descriptor, b"A", data_offset(member))
    with pytest.raises(OSError, match="not what was written") as caught:
        digests.finish(envelope.open)
    assert caught.value.errno == errno.EIO
    assert envelope.draft.suspect
    assert next(envelope.open.contents.instances()).digest is None


def test_a_file_that_lost_its_end_is_suspect(spool: Spool) -> None:
    digests, envelope = waiting(spool, bytes(1000))
    os.ftruncate(envelope.draft.descriptor, 500)
    with pytest.raises(OSError, match="shorter"):
        digests.finish(envelope.open)
    assert envelope.draft.suspect
