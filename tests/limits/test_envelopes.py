"""Bounds of an envelope at limit - 1, limit and limit + 1: docs/limits.md."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from fastjmix.ipc.ingest_rules import IngestRules
from fastjmix.jmix.write.parties import Encryption, Entity, Published
from fastjmix.packer.open_envelope import CIPHER_BYTES_EACH, CIPHER_BYTES_MAX, OpenEnvelope
from fastjmix.spool import Spool
from tests.core.test_core import Pair
from tests.core.test_core import message as core_message
from tests.support import wire
from tests.support.dicom_peers import archives, new_uid
from tests.support.gateway import Gateway, Gateways, Peer, images, running, until
from tests.support.nodes import to
from tests.uploader.test_process import whole_config

STUDY = "1.2.826.0.1.1234567"
AT_ONCE = "release_grace_secs = 0.1"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(Gateway(tmp_path_factory.mktemp("gateway"), 9, builder=AT_ONCE)) as process:
        yield process


def send(own: Gateway, study: str, count: int) -> None:
    """So many instances of a study, all of one length, in one association."""
    with Peer(own.dicom_port) as peer:
        peer.associate()
        for number in range(1, count + 1):
            instance = f"1.2.3.{number}"
            assert peer.store(wire.data_set(instance, study=study), instance) == 0
        peer.release()


def sizes(own: Gateway, study: str, instances: int) -> list[int]:
    """How many instances each envelope of a study has, once all are sealed."""

    def found() -> list[int]:
        return sorted(len(images(archive)) for archive in archives(own, study))

    until(lambda: sum(found()) == instances, f"{instances} instances are sealed")
    return found()


# -- max_envelope_bytes, max_envelope_instances ----------------------------------------------------


def two_members(own: Gateway) -> int:
    """Returns the bytes that the bound counts.

    They reach from an envelope's first byte to the end of its first member, and are the second
    member's data.
    """
    study = new_uid()[: len(STUDY)]
    send(own, study, 1)
    until(lambda: archives(own, study), "an envelope of one")
    (archive,) = archives(own, study)
    with archive.open("rb") as file, zipfile.ZipFile(file) as opened:
        (image,) = [one for one in opened.infolist() if one.filename.endswith(".dcm")]
        file.seek(image.header_offset)
        header = struct.unpack("<4s5H3L2H", file.read(30))
    return image.header_offset + 30 + int(header[-2] + header[-1]) + 2 * image.file_size


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_bytes_of_an_envelope(gateway: Gateway, start: Gateways, off: int) -> None:
    """The second instance of a study goes into the first one's envelope if there is room for its
    last byte."""
    own = start(builder=f"{AT_ONCE}\nmax_envelope_bytes = {two_members(gateway) + off}")
    send(own, STUDY, 2)
    assert sizes(own, STUDY, 2) == ([1, 1] if off < 0 else [2])


def test_an_instance_larger_than_an_envelope_has_one_of_its_own(start: Gateways) -> None:
    own = start(builder=f"{AT_ONCE}\nmax_envelope_bytes = 1")
    send(own, STUDY, 2)
    assert sizes(own, STUDY, 2) == [1, 1]


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_instances_of_an_envelope(start: Gateways, off: int) -> None:
    own = start(builder=f"{AT_ONCE}\nmax_envelope_instances = 3")
    send(own, STUDY, 3 + off)
    assert sizes(own, STUDY, 3 + off) == {-1: [2], 0: [3], 1: [1, 3]}[off]


# -- what AES-GCM can encrypt ----------------------------------------------------------------------


@pytest.fixture
def open_envelope(tmp_path: Path) -> Iterator[Callable[[Published | None], OpenEnvelope]]:
    """Makes open envelopes with one member, in a spool of their own."""
    spool = Spool(tmp_path, durable=False)
    spool.prepare()
    listener = whole_config(tmp_path, to("http://127.0.0.1:9/")).dicom[0]
    pair = Pair()
    pair.feed(core_message(wire.data_set()))
    data, arrival = pair.stored[0]
    made: list[OpenEnvelope] = []

    def one(published: Published | None) -> OpenEnvelope:
        profile: Literal["harmony", "jmix-1.0"] = "harmony" if published is None else "jmix-1.0"
        builder = replace(
            listener.builder, durability="page-cache", profile=profile, published=published
        )
        opened = OpenEnvelope.create(
            spool, IngestRules(listener, builder, None), 0, arrival, "PEER"
        )
        made.append(opened)
        assert opened.full_with(1 << 60) is False  # the first member is always taken
        opened.append(arrival, [memoryview(data)])
        return opened

    yield one
    for opened in made:
        opened.draft.abandon()
    spool.release()


ENCRYPTED = Published(
    Entity("org:a", "A"), (Entity("org:b"),), encryption=Encryption("A" * 43 + "=")
)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_bytes_of_an_envelope_that_one_key_encrypts(
    open_envelope: Callable[[Published | None], OpenEnvelope], off: int
) -> None:
    """Less than max_envelope_bytes allows here: of what AES-GCM can, each member's share of the
    tar is kept free. What is not encrypted has no such bound."""
    most = CIPHER_BYTES_MAX - CIPHER_BYTES_EACH
    encrypted, plain = open_envelope(ENCRYPTED), open_envelope(None)
    assert encrypted.builder.max_envelope_bytes > CIPHER_BYTES_MAX
    assert encrypted.full_with(most - encrypted.draft.end + off) == (off > 0)
    assert not plain.full_with(most - plain.draft.end + off)
