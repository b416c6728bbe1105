"""The requestor's side of an association, on one blocking socket (PS3.8 §9, PS3.7 §9.3).

Wanted: one thread, one association; every way in which it can end is told apart in words.
Guaranteed: a data set leaves from the file as it is, fragmented to the peer's maximum PDU length,
never more of it in memory than one PDU. `timeout` bounds each connect, each write and each wait,
so that a slow link is not taken for a dead peer.
Still wrong: one operation at a time, as every acceptor allows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
from collections.abc import Sequence
from typing import Any, BinaryIO, Final

from pynetdicom import build_context
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)

from fastjmix.dicom.association import abort_pdu
from fastjmix.dicom.dataset import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from fastjmix.dicom.dimse import C_ECHO_RQ, NO_DATA_SET, P_DATA_TF, command_set, p_data
from fastjmix.dicom.responses import Gathering, read_response
from fastjmix.errors import ProtocolError
from fastjmix.tools.send.files import Instance
from fastjmix.tools.send.peer import NoAssociation, Peer

VERIFICATION: Final = "1.2.840.10008.1.1"
IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"

A_ASSOCIATE_AC_TYPE: Final = 0x02
A_ASSOCIATE_RJ_TYPE: Final = 0x03
A_RELEASE_RQ: Final = 0x05
A_RELEASE_RP: Final = 0x06
A_ABORT: Final = 0x07

DATA_SET_FOLLOWS: Final = 0x0001
DATA_MORE: Final = 0x00
DATA_LAST: Final = 0x02
PDV_OVERHEAD: Final = 6

# What we receive are answers of some hundred bytes.
OUR_MAX_PDU: Final = 16_384
# A PDU longer than any that may come: the stream is not DICOM, or has lost its step.
ABSURD_PDU: Final = 1 << 20
# A peer that says less would not get even a UID across; it is not taken at its word.
SMALLEST_PDU: Final = 128
# What a PDU carries at most when the peer sets no limit, or a very large one: bounds memory.
LARGEST_FRAGMENT: Final = 1 << 18

RELEASE_SECS: Final = 10.0  # for the courtesy of A-RELEASE-RP


class Lost(Exception):
    """The association is gone. The text says how, in words."""


class Association:
    """Established by the constructor, which raises NoAssociation; ended by release or abort.

    `accepted` maps (abstract syntax, transfer syntax) to the presentation context ID; what was
    proposed and is not in there, the peer does not take.
    """

    def __init__(self, peer: Peer, pairs: Sequence[tuple[str, str]]) -> None:
        self._peer = peer
        self._wire = self._connect()
        try:
            self._wire.settimeout(_first(peer.acse_timeout, peer.timeout))
            self._wire.sendall(_request(peer, pairs))
            kind, body = self._pdu()
            self._wire.settimeout(peer.timeout)
        except Lost as how:
            self._wire.close()
            raise self._unanswered(str(how)) from None
        except OSError as error:
            self._wire.close()
            raise self._unanswered(_words(error)) from None
        if kind != A_ASSOCIATE_AC_TYPE:
            self._wire.close()
            raise _refusal(peer, kind, body)
        try:
            self.accepted, room = _accepted(body, pairs)
            self._room = min(room, peer.max_pdu) if peer.max_pdu else room
        except Exception as error:  # pynetdicom names no common base for a PDU that makes no sense
            self.abort()
            raise self._unanswered(f"its answer makes no sense ({error})") from None

    def _connect(self) -> socket.socket:
        peer = self._peer
        try:
            patience = _first(peer.connect_timeout, peer.timeout)
            wire = socket.create_connection((peer.host, peer.port), patience)
        except OSError as error:
            hint = "Check the host, the port and whether the SCP is running."
            raise NoAssociation(f"{peer}: {_words(error)}", hint) from None
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return wire

    def _unanswered(self, how: str) -> NoAssociation:
        told = f"{self._peer} took the connection, but not the association: {how}"
        return NoAssociation(told, "Is there a DICOM acceptor on that port, and without TLS?")

    # -- operations ----------------------------------------------------------------------------

    def ended(self) -> bool:
        """Whether the peer has aborted, released or closed while nothing was asked of it."""
        waiting = select.poll()
        waiting.register(self._wire, select.POLLIN)
        return bool(waiting.poll(0))

    def echo(self, message: int) -> int:
        """C-ECHO (PS3.7 §9.3.5). The status. Raises Lost."""
        context = self.accepted[VERIFICATION, IMPLICIT_LITTLE]
        elements = _uid(0x0002, VERIFICATION) + _us(0x0100, C_ECHO_RQ)
        elements += _us(0x0110, message) + _us(0x0800, NO_DATA_SET)
        self._send(p_data(context, command_set(elements), self._room))
        return self._answer(message)[0]

    def store(self, instance: Instance, message: int) -> tuple[int, str]:
        """C-STORE (PS3.7 §9.3.1) of an instance. Returns status and Error Comment.

        Raises Lost, and OSError for the file (before anything was sent).
        """
        context = self.accepted[instance.pair]
        elements = _uid(0x0002, instance.sop_class) + _us(0x0100, 0x0001) + _us(0x0110, message)
        elements += _us(0x0700, 0) + _us(0x0800, DATA_SET_FOLLOWS)
        elements += _uid(0x1000, instance.sop_instance)
        room = min(self._room - PDV_OVERHEAD, LARGEST_FRAGMENT) & ~1  # fragments are even
        with instance.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != instance.offset + instance.size:
                raise OSError(errno.ESTALE, "the file has changed since it was found")
            file.seek(instance.offset)
            left = instance.size
            # The command set leaves with the first fragment: one write, one segment.
            head = p_data(context, command_set(elements), self._room)
            while left > 0 or head:
                fragment = _read_on(file, min(room, left))
                left -= len(fragment)
                kind = DATA_MORE if left else DATA_LAST
                self._send(head + _fragment(context, kind, fragment))
                head = b""
        return self._answer(message)

    def release(self) -> None:
        """A-RELEASE; then, or if the peer will not answer, closes."""
        with contextlib.suppress(Lost, OSError):
            self._wire.settimeout(_first(self._peer.acse_timeout, RELEASE_SECS, self._peer.timeout))
            self._send(bytes((A_RELEASE_RQ, 0, 0, 0, 0, 4, 0, 0, 0, 0)))
            while self._pdu()[0] != A_RELEASE_RP:
                pass  # answers that nobody waits for any more (PS3.8 §9.2.2, AR-6)
        self._wire.close()

    def break_off(self) -> None:
        """Ends the connection under an operation of another thread, which then raises Lost."""
        with contextlib.suppress(OSError):
            self._wire.shutdown(socket.SHUT_RDWR)

    def abort(self) -> None:
        """A-ABORT as the service user; closes. Also for an association that is lost."""
        with contextlib.suppress(OSError):
            self._wire.settimeout(0)
            self._wire.send(abort_pdu(0, 0))
        self._wire.close()

    # -- bytes -----------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        try:
            self._wire.sendall(data)
        except TimeoutError:
            raise Lost(f"the peer took nothing for {self._peer.timeout:g} s") from None
        except OSError as error:
            raise Lost(self._last_words() or _words(error)) from None
        # Many an SCP answers in two writes with Nagle on, and its second write waits for the
        # acknowledgement of the first: 40 ms an instance if it is delayed. Sending undoes this.
        self._wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _last_words(self) -> str:
        """An A-ABORT that had come before the connection broke under a write."""
        with contextlib.suppress(OSError, Lost):
            self._wire.settimeout(0)
            if self._pdu()[0] == A_ABORT:
                return _ENDS[A_ABORT]
        return ""

    def _pdu(self) -> tuple[int, bytes]:
        """Type and body of the next PDU. Raises Lost."""
        head = self._read(6)
        length = int.from_bytes(head[2:], "big")
        if length > ABSURD_PDU or not 1 <= head[0] <= 7:
            raise Lost("what the peer sends is not DICOM")
        return head[0], self._read(length)

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            try:
                part = self._wire.recv(length - len(data))
            except TimeoutError:
                raise Lost(f"no answer within {self._wire.gettimeout():g} s") from None
            except OSError as error:
                raise Lost(_words(error)) from None
            if not part:
                raise Lost("the peer closed the connection")
            data += part
        return data

    def _answer(self, message: int) -> tuple[int, str]:
        """Returns status and Error Comment of the response. Raises Lost."""
        gathering, command = Gathering(), None
        try:
            while command is None:
                kind, body = self._pdu()
                if kind != P_DATA_TF:
                    raise Lost(_ENDS.get(kind, f"the peer sent a PDU of type {kind}"))
                command = gathering.take(body)
            response = read_response(command)
        except ProtocolError as problem:
            raise Lost(f"the peer's response makes no sense: {problem.message}") from None
        if response.message != message:
            raise Lost("the peer answered something else than what it was asked")
        return response.status, response.comment


def echo(peer: Peer) -> int:
    """One C-ECHO over an association of its own (PS3.7 §9.1.5). The status, 0x0000 being Success.

    Raises NoAssociation, also when Verification is not accepted or no answer comes.
    """
    association = Association(peer, [(VERIFICATION, IMPLICIT_LITTLE)])
    if not association.accepted:
        association.release()
        raise NoAssociation(f"{peer} does not accept the Verification SOP class")
    try:
        status = association.echo(1)
    except Lost as how:
        association.abort()
        raise NoAssociation(f"{peer} did not answer the C-ECHO: {how}") from None
    association.release()
    return status


def _first(given: float | None, *others: float) -> float:
    """Returns what was given, or the least of the others."""
    return min(others) if given is None else given


# --- PDUs and command sets ----------------------------------------------------------------------


def _request(peer: Peer, pairs: Sequence[tuple[str, str]]) -> bytes:
    """A-ASSOCIATE-RQ with one presentation context for each pair (PS3.8 §9.3.2)."""
    asked: Any = A_ASSOCIATE()
    asked.application_context_name = APPLICATION_CONTEXT
    asked.called_ae_title, asked.calling_ae_title = peer.called, peer.calling
    contexts = [build_context(*pair) for pair in pairs]
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    asked.presentation_context_definition_list = contexts
    limit, who = MaximumLengthNotification(), ImplementationClassUIDNotification()
    version = ImplementationVersionNameNotification()
    limit.maximum_length_received = peer.max_pdu or OUR_MAX_PDU
    who.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    asked.user_information = [limit, who, version]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(asked)
    return bytes(pdu.encode())


def _accepted(
    body: bytes, pairs: Sequence[tuple[str, str]]
) -> tuple[dict[tuple[str, str], int], int]:
    """From an A-ASSOCIATE-AC: context IDs by pair, and the peer's maximum PDU length in bytes."""
    pdu = A_ASSOCIATE_AC()
    pdu.decode(bytes((A_ASSOCIATE_AC_TYPE, 0)) + len(body).to_bytes(4, "big") + body)
    answer: Any = pdu.to_primitive()
    accepted = {}
    for context in answer.presentation_context_definition_results_list:
        asked = pairs[context.context_id // 2] if context.context_id // 2 < len(pairs) else None
        if context.result == 0 and asked and [asked[1]] == list(context.transfer_syntax):
            accepted[asked] = context.context_id
    limit = int(answer.maximum_length_received or 0)
    return accepted, max(limit, SMALLEST_PDU) if limit else ABSURD_PDU


def _refusal(peer: Peer, kind: int, body: bytes) -> NoAssociation:
    if kind != A_ASSOCIATE_RJ_TYPE or len(body) != 4:
        return NoAssociation(f"{peer} aborted the association before it was one")
    result, source, reason = body[1:]
    how = "for now" if result == 2 else "permanently"
    by = f"its service {_SOURCES[source]}" if source in _SOURCES else f"source {source}"
    words = _REASONS.get((source, reason), f"reason {reason}")
    hint = "The called and calling AE titles must be those which the peer expects."
    if result == 2:
        hint = "Try again later, or with fewer associations."
    return NoAssociation(f"{peer} rejected the association {how}, by {by}: {words}", hint)


# A-ASSOCIATE-RJ: (source, reason) → words (PS3.8 Table 9-21); the others are reserved.
_REASONS: Final = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognized",
    (1, 7): "called AE title not recognized",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}
_SOURCES: Final = {1: "user", 2: "provider (ACSE)", 3: "provider (presentation)"}


_ENDS: Final = {A_ABORT: "aborted by the peer", A_RELEASE_RQ: "released by the peer"}


def _words(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "the connection timed out"
    return (error.strerror or str(error)).lower()


def _fragment(context: int, header: int, data: bytes) -> bytes:
    """A P-DATA-TF PDU with one PDV of a data set (PS3.8 Annex E)."""
    length = len(data)
    return struct.pack(">BBLLBB", P_DATA_TF, 0, length + 6, length + 2, context, header) + data


def _read_on(file: BinaryIO, length: int) -> bytes:
    """Reads so many bytes. Raises Lost: a message that has begun cannot be taken back."""
    try:
        data = file.read(length)
    except OSError as error:
        raise Lost(f"the file could not be read to its end: {_words(error)}") from None
    if len(data) < length:
        raise Lost("the file has become shorter while it was sent")
    return data


def _us(element: int, value: int) -> bytes:
    return struct.pack("<HHLH", 0, element, 2, value)


def _uid(element: int, uid: str) -> bytes:
    value = uid.encode("ascii") + b"\0" * (len(uid) % 2)
    return struct.pack("<HHL", 0, element, len(value)) + value
