"""Passage supervisor → each child: a configuration that replaces the one that it has.

Wanted: a child goes on with its work and takes a new configuration between two steps of it.
Guaranteed: this module alone encodes and decodes the messages. A message is a small JSON object.
The configuration itself, pickled in an unnamed memory file, and the listening sockets come beside
it as descriptors (SCM_RIGHTS, unix(7)). The supervisor passes the file on and does not read it: it
may hold secrets. Nothing here waits. A pair belongs to a child's number and outlives the child: a
successor that began with a later configuration passes over what its predecessor has not taken.

A child uses it so. It waits for `Inbox.descriptor` beside what else it waits for. When that is
readable, it goes through `Inbox.each`: it gives what it gets to its parts, and closes the sockets
that it no longer needs.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson

from fastjmix import log
from fastjmix.config import Config, LogSettings
from fastjmix.ipc.ingest_rules import IngestRulesTable

MESSAGE_BYTES_MAX: Final = 4096

SOCKETS_MAX: Final = 250
"""Listening sockets of one message. The kernel passes 253 descriptors at once (SCM_MAX_FD)."""


@dataclass(frozen=True, slots=True)
class NewConfiguration:
    """A configuration, as a child gets it.

    `generation` counts from 1, the start, with each configuration that was applied. `rules` numbers
    the rules of instances; only receivers and packers get more than an empty table. `dicom` and
    `http` are listening sockets of the child's own, in the order of `config.dicom` and
    `config.http`: those that listened before are among them, as copies. A child that does not
    listen has none.
    """

    generation: int
    config: Config
    rules: IngestRulesTable = field(default_factory=IngestRulesTable)
    dicom: tuple[socket.socket, ...] = ()
    http: tuple[socket.socket, ...] = ()


class Announcer:
    """The supervisor's end, of one child."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._adopted = 0

    @property
    def descriptor(self) -> int:
        """Becomes readable when the child has said something."""
        return self._link.fileno()

    def send(
        self,
        generation: int,
        file: int,
        dicom: Sequence[socket.socket] = (),
        http: Sequence[socket.socket] = (),
    ) -> None:
        """Sends a configuration, which is in the memory file with that descriptor (`write`). The
        child gets copies of all descriptors.

        Raises OSError: the child has not read what was sent before, or the kernel has no memory or
        no room for more descriptors under way.
        """
        about = {"generation": generation, "dicom": len(dicom), "http": len(http)}
        descriptors = [file, *(one.fileno() for one in (*dicom, *http))]
        socket.send_fds(self._link, [orjson.dumps(about)], descriptors)

    def adopted(self) -> int:
        """Returns the latest generation that the child, or one before it, said to have adopted; 0
        while there is none."""
        with contextlib.suppress(BlockingIOError):
            while message := self._link.recv(MESSAGE_BYTES_MAX):
                self._adopted = max(self._adopted, orjson.loads(message)["adopted"])
        return self._adopted

    def close(self) -> None:
        """Closes this end in this process."""
        self._link.close()


class Inbox:
    """A child's end. `generation` is that of the configuration which the child has."""

    def __init__(self, link: socket.socket, generation: int) -> None:
        self._link = link
        self._generation = generation

    @property
    def descriptor(self) -> int:
        """Becomes readable when a configuration has come."""
        return self._link.fileno()

    def each(self) -> Iterator[NewConfiguration]:
        """Yields the configurations that have come (`take`). Each counts as adopted when the next
        is asked for; one whose adoption raises does not.
        """
        while (new := self.take()) is not None:
            yield new
            self.adopted(new.generation)

    def take(self) -> NewConfiguration | None:
        """Returns a configuration that has come and is new here; None when there is none. From then
        on this process logs as it says.

        One for which this process has no descriptor left is passed over, with an error in the log:
        the supervisor sends it again.
        """
        while (received := self._receive()) is not None:
            message, descriptors = received
            about = orjson.loads(message)
            count = 1 + about["dicom"] + about["http"]
            if about["generation"] > self._generation and len(descriptors) == count:
                return self._opened(about["generation"], about["dicom"], descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            if len(descriptors) != count:
                why = "no descriptor is left in this process; it is sent again"
                log.get().error("configuration_not_taken", why=why)
        return None

    def _receive(self) -> tuple[bytes, list[int]] | None:
        try:
            message, descriptors, _, _ = socket.recv_fds(
                self._link, MESSAGE_BYTES_MAX, 1 + SOCKETS_MAX, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        return (message, descriptors) if message else None

    def _opened(self, generation: int, dicom: int, descriptors: list[int]) -> NewConfiguration:
        file, *listening = descriptors
        try:
            config, rules = read(file)
        finally:
            os.close(file)
        sockets = [socket.socket(fileno=descriptor) for descriptor in listening]
        for one in sockets:
            one.setblocking(False)
        self._generation = generation
        change_log(config.log)
        at_dicom, at_http = tuple(sockets[:dicom]), tuple(sockets[dicom:])
        return NewConfiguration(generation, config, rules, at_dicom, at_http)

    def adopted(self, generation: int) -> None:
        """Says that this process goes by that configuration from now on."""
        with contextlib.suppress(OSError):  # what it says is read late: a later one says more
            self._link.send(orjson.dumps({"adopted": generation}))

    def close(self) -> None:
        """Closes this end in this process."""
        self._link.close()


def change_log(own: LogSettings) -> None:
    """Has this process log by its new configuration; as before where the file cannot be opened."""
    try:
        log.change(own.level, own.file, own.format, own.study_uids)
    except OSError as problem:
        log.get().error("log_file_failed", file=own.file, why=problem.strerror)


def write(file: int, config: Config, rules: IngestRulesTable | None = None) -> None:
    """Writes a configuration, and the rules of instances, to an empty memory file."""
    os.write(file, pickle.dumps((config, rules or IngestRulesTable())))


def read(file: int) -> tuple[Config, IngestRulesTable]:
    """Returns what `write` wrote."""
    found: tuple[Config, IngestRulesTable] = pickle.loads(os.pread(file, os.fstat(file).st_size, 0))
    return found


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Returns the two ends, non-blocking: the supervisor's, the child's. Raises OSError."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setblocking(False)
    return pair
