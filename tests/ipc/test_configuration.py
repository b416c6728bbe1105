"""A configuration reaches a child whole, with its sockets; a successor passes over old ones."""

from __future__ import annotations

import os
import resource
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastjmix.config import Config, load
from fastjmix.ipc.configuration import SOCKETS_MAX, Announcer, Inbox, make_pair, write
from fastjmix.ipc.ingest_rules import tabulate


@pytest.fixture
def config() -> Config:
    return load(Path(__file__).parents[2] / "config.toml")


@pytest.fixture
def file(config: Config) -> Iterator[int]:
    """A memory file that holds the configuration."""
    made = os.memfd_create("test")
    write(made, config, tabulate(config))
    yield made
    os.close(made)


@pytest.fixture
def ends() -> Iterator[tuple[Announcer, Inbox]]:
    supervisor, child = make_pair()
    announcer, inbox = Announcer(supervisor), Inbox(child, 1)
    yield announcer, inbox
    announcer.close()
    inbox.close()


def descriptors() -> list[int]:
    """The open descriptors of this process, and the one that lists them."""
    return [int(one.name) for one in Path("/proc/self/fd").iterdir()]


def readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def test_a_configuration_arrives_with_its_sockets_in_order(
    ends: tuple[Announcer, Inbox], config: Config, file: int
) -> None:
    announcer, inbox = ends
    assert not readable(inbox.descriptor)
    assert inbox.take() is None
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    announcer.send(2, file, listening[:1], listening[1:])
    assert readable(inbox.descriptor)
    new = inbox.take()
    assert new is not None
    assert (new.generation, new.config, new.rules) == (2, config, tabulate(config))
    ours = [one.getsockname() for one in listening]
    assert [one.getsockname() for one in new.dicom] == ours[:1]
    assert [one.getsockname() for one in new.http] == ours[1:]
    assert inbox.take() is None
    for one in listening:  # the child's copies listen on
        one.close()
    for taken, address in zip((*new.dicom, *new.http), ours, strict=True):
        with taken, socket.create_connection(address):
            assert not taken.getblocking()


def test_the_supervisor_learns_what_was_adopted(ends: tuple[Announcer, Inbox]) -> None:
    announcer, inbox = ends
    assert announcer.adopted() == 0
    inbox.adopted(2)
    assert readable(announcer.descriptor)
    assert announcer.adopted() == 2
    inbox.adopted(3)
    inbox.adopted(4)
    assert announcer.adopted() == 4
    assert announcer.adopted() == 4


def test_a_configuration_counts_as_adopted_behind_its_adoption(
    ends: tuple[Announcer, Inbox], file: int
) -> None:
    announcer, inbox = ends
    announcer.send(2, file)
    announcer.send(3, file)
    said = [(new.generation, announcer.adopted()) for new in inbox.each()]
    assert said == [(2, 0), (3, 2)]
    assert announcer.adopted() == 3
    announcer.send(4, file)
    for _ in inbox.each():
        break  # as an exception would
    assert announcer.adopted() == 3


def test_a_successor_passes_over_what_it_has(file: int) -> None:
    supervisor, child = make_pair()
    announcer = Announcer(supervisor)
    listening = socket.create_server(("127.0.0.1", 0))
    for generation in (2, 3, 4):
        announcer.send(generation, file, [listening])
    before = len(descriptors())
    inbox = Inbox(child, 3)  # it was forked with the third
    new = inbox.take()
    assert new is not None
    assert new.generation == 4
    assert inbox.take() is None
    for taken in (listening, *new.dicom):
        taken.close()
    assert len(descriptors()) == before - 1
    announcer.close()
    inbox.close()


def test_a_child_without_descriptors_gets_it_again(
    ends: tuple[Announcer, Inbox], config: Config, file: int
) -> None:
    announcer, inbox = ends
    listening = socket.create_server(("127.0.0.1", 0))
    announcer.send(2, file, [listening])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(descriptors())
    held = [os.dup(file) for _ in range(highest)]  # no number below the limit is free
    limit = max(held) + 2  # one more, and not two
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        assert inbox.take() is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in held:
            os.close(one)
    announcer.send(2, file, [listening])
    new = inbox.take()
    assert new is not None
    assert new.config == config
    for taken in (listening, *new.dicom):
        taken.close()


def test_as_many_sockets_as_a_message_has(ends: tuple[Announcer, Inbox], file: int) -> None:
    announcer, inbox = ends
    with socket.create_server(("127.0.0.1", 0)) as listening:
        announcer.send(2, file, [listening] * SOCKETS_MAX)
        new = inbox.take()
        assert new is not None
        assert len(new.dicom) == SOCKETS_MAX
        for one in new.dicom:
            one.close()


def test_a_child_that_reads_nothing_is_an_error_and_no_wait(
    ends: tuple[Announcer, Inbox], file: int
) -> None:
    announcer, _ = ends

    def send_on() -> None:
        for generation in range(2, 100_000):
            announcer.send(generation, file)

    with pytest.raises(BlockingIOError):
        send_on()
