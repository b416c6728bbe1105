"""The requestor's side of an association, on one blocking socket (PS3.8 §9, PS3.7 §9.3).

Guaranteed: a data set is sent from the file as it is, in fragments of the peer's maximum PDU
length, with no more of it in memory than one PDU. `timeout` bounds each connect, each write and
each wait, so that a slow link is not taken for a dead peer. An error says how the association
ended.
Still wrong: one operation at a time, as every acceptor allows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from collections.abc import Sequence
from typing import BinaryIO, Final

from fastjmix.dicom.association import abort_pdu
from fastjmix.dicom.dimse import P_DATA_TF, p_data
from fastjmix.dicom.requests import (
    A_ASSOCIATE_AC_TYPE,
    A_RELEASE_RP_TYPE,
    A_RELEASE_RQ_TYPE,
    ANSWER_MAX_PDU,
    RELEASE_RQ,
    UNLIMITED_PDU,
    VERIFICATION,
    accepted,
    associate_rq,
    echo_rq,
    fragment_bytes,
    fragment_header,
    store_rq,
)
from fastjmix.dicom.responses import Gathering, read_response
from fastjmix.errors import ProtocolError
from fastjmix.tools.send.files import Instance
from fastjmix.tools.send.other_servers import other_protocol
from fastjmix.tools.send.peer import NoAssociation, Peer, Unanswered

IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"

A_ASSOCIATE_RJ_TYPE: Final = 0x03
A_ABORT: Final = 0x07

ABSURD_PDU: Final = UNLIMITED_PDU
"""No PDU may be longer: the stream is not DICOM then, or a length was misread."""

LARGEST_FRAGMENT: Final = 1 << 18
"""Bytes that a PDU carries when the peer sets no limit, or a very large one: bounds memory."""

RELEASE_SECS: Final = 10.0
"""Seconds in which A-RELEASE-RP is awaited."""


class Lost(Exception):
    """The association has ended. The text says how."""


class Association:
    """Established by the constructor, which raises NoAssociation; ended by release or abort.

    `answer` is the peer's. Its `contexts`, which are `accepted`, map abstract syntax and transfer
    syntax to the presentation context ID; the peer does not accept a pair that is not in them.
    """

    def __init__(self, peer: Peer, pairs: Sequence[tuple[str, str]]) -> None:
        self._peer = peer
        self._wire = self._connect()
        try:
            self._wire.settimeout(_first(peer.acse_timeout, peer.timeout))
            self._wire.sendall(
                associate_rq(
                    tuple(pairs), peer.called, peer.calling, peer.max_pdu or ANSWER_MAX_PDU
                )
            )
            kind, body = self._pdu()
            self._wire.settimeout(peer.timeout)
        except Lost as how:
            self._wire.close()
            raise self._unanswered(str(how)) from None
        except OSError as error:
            self._wire.close()
            raise self._unanswered(_reason(error)) from None
        if kind != A_ASSOCIATE_AC_TYPE:
            self._wire.close()
            raise _refusal(peer, kind, body)
        try:
            self.answer = accepted(body, tuple(pairs))
            self.accepted, limit = self.answer.contexts, self.answer.max_pdu
            self._max_pdu = min(limit, peer.max_pdu) if peer.max_pdu else limit
        except Exception as error:  # pynetdicom names no common base for a PDU that makes no sense
            self.abort()
            raise self._unanswered(f"its answer makes no sense ({error})") from None

    def _connect(self) -> socket.socket:
        peer = self._peer
        try:
            seconds = _first(peer.connect_timeout, peer.timeout)
            wire = socket.create_connection((peer.host, peer.port), seconds)
        except OSError as error:
            hint = "Check the host, the port and whether the SCP is running."
            raise NoAssociation(f"{peer}: {_reason(error)}", hint) from None
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return wire

    def _unanswered(self, how: str) -> Unanswered:
        message = f"{self._peer} took the connection, but not the association: {how}"
        return Unanswered(message, "Is there a DICOM acceptor on that port, and without TLS?")

    # -- operations ----------------------------------------------------------------------------

    def ended(self) -> bool:
        """Returns whether the peer has aborted, released or closed since the last operation."""
        waiting = select.poll()
        waiting.register(self._wire, select.POLLIN)
        return bool(waiting.poll(0))

    def echo(self, message: int) -> int:
        """Sends a C-ECHO (PS3.7 §9.3.5). Returns the status. Raises Lost."""
        context = self.accepted[VERIFICATION, IMPLICIT_LITTLE]
        self._send(p_data(context, echo_rq(message), self._max_pdu))
        return self._answer(message)[0]

    def store(self, instance: Instance, message: int) -> tuple[int, str]:
        """Sends an instance with C-STORE (PS3.7 §9.3.1). Returns status and Error Comment.

        Raises Lost, and OSError for the file (before anything was sent).
        """
        context = self.accepted[instance.pair]
        command = store_rq(instance.sop_class, instance.sop_instance, message)
        most = min(fragment_bytes(self._max_pdu), LARGEST_FRAGMENT)
        with instance.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != instance.offset + instance.size:
                raise OSError(errno.ESTALE, "the file has changed since it was found")
            file.seek(instance.offset)
            left = instance.size
            # The command set leaves with the first fragment: one write, one segment.
            head = p_data(context, command, self._max_pdu)
            while left > 0 or head:
                fragment = _read_on(file, min(most, left))
                left -= len(fragment)
                self._send(head + fragment_header(context, len(fragment), last=not left) + fragment)
                head = b""
        return self._answer(message)

    def release(self) -> None:
        """Sends A-RELEASE-RQ, waits for the answer for some seconds, and closes."""
        with contextlib.suppress(Lost, OSError):
            self._wire.settimeout(_first(self._peer.acse_timeout, RELEASE_SECS, self._peer.timeout))
            self._send(RELEASE_RQ)
            while self._pdu()[0] != A_RELEASE_RP_TYPE:
                pass  # late answers (PS3.8 §9.2.2, AR-6)
        self._wire.close()

    def break_off(self) -> None:
        """Ends the connection under an operation of another thread, which then raises Lost."""
        with contextlib.suppress(OSError):
            self._wire.shutdown(socket.SHUT_RDWR)

    def abort(self) -> None:
        """Sends A-ABORT as the service user, and closes. Also for an association that is lost."""
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
            raise Lost(self._abort_read() or _reason(error)) from None
        # Many SCPs answer in two writes with Nagle's algorithm on. The second write waits for the
        # acknowledgement of the first: 40 ms an instance if it is delayed. Sending resets this
        # option.
        self._wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _abort_read(self) -> str:
        """Returns how the association ended if an A-ABORT had come before the failed write, else
        ""."""
        with contextlib.suppress(OSError, Lost):
            self._wire.settimeout(0)
            if self._pdu()[0] == A_ABORT:
                return _ENDS[A_ABORT]
        return ""

    def _pdu(self) -> tuple[int, bytes]:
        """Returns type and body of the next PDU. Raises Lost."""
        head = self._read(6)
        length = int.from_bytes(head[2:], "big")
        if length > ABSURD_PDU or not 1 <= head[0] <= 7:
            raise Lost(f"what the peer sends is not DICOM{other_protocol(head)}")
        return head[0], self._read(length)

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            try:
                part = self._wire.recv(length - len(data))
            except TimeoutError:
                raise Lost(f"no answer within {self._wire.gettimeout():g} s") from None
            except OSError as error:
                raise Lost(_reason(error)) from None
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


def _first(given: float | None, *others: float) -> float:
    """Returns `given`, or the least of the others."""
    return min(others) if given is None else given


# --- refusals and errors ------------------------------------------------------------------------


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


_ENDS: Final = {A_ABORT: "aborted by the peer", A_RELEASE_RQ_TYPE: "released by the peer"}


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "the connection timed out"
    return (error.strerror or str(error)).lower()


def _read_on(file: BinaryIO, length: int) -> bytes:
    """Reads so many bytes. Raises Lost: a message that has begun cannot be taken back."""
    try:
        data = file.read(length)
    except OSError as error:
        raise Lost(f"the file could not be read to its end: {_reason(error)}") from None
    if len(data) < length:
        raise Lost("the file has become shorter while it was sent")
    return data
