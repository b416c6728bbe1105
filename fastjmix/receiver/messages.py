"""DIMSE messages of an open association (Sta6): what each event of the PDV scanner asks for.

Wanted: an instance is routed to its study's packer as soon as its head is known, or refused with
the status that says why (PS3.4 Table B.2-1); whatever else is asked is answered civilly.
Guaranteed: exactly one response a request, in order; a refused instance's data set is passed over,
so that the association stays usable. No socket here: the loop sends.
"""

from __future__ import annotations

import time
from typing import Final, Protocol

import xxhash

from fastjmix import _core, log
from fastjmix._core import Command, Head, PdvScanner
from fastjmix.dicom import dimse
from fastjmix.dicom.association import PADDING, Context, is_storage, is_uid
from fastjmix.dicom.dataset import file_meta_prefix
from fastjmix.dicom.dimse import Status
from fastjmix.dicom.refusals import why_malformed, why_uids, why_unreadable
from fastjmix.failpoints import reach
from fastjmix.ipc.metrics import Stats
from fastjmix.ipc.wiring import Wiring
from fastjmix.receiver.connection import ANSWERS_A_TURN, Connection, State

UID_SHOWN_MAX: Final = 128
"""Characters of a refused instance's UID in the log: twice what a UID may have, so that one that is
too long can be found at its sender."""


class Loop(Protocol):
    """What a message may ask of the event loop."""

    def send(self, connection: Connection, data: bytes) -> None: ...
    def abort(self, connection: Connection, source: int, reason: int, why: str) -> None: ...
    def released(self, connection: Connection) -> None: ...
    def aborted_by_peer(self, connection: Connection) -> None: ...
    def await_grant(self, connection: Connection) -> None: ...


class Messages:
    """Handles the messages of all associations of one receiver."""

    def __init__(self, wiring: Wiring, stats: Stats, loop: Loop) -> None:
        self._wiring = wiring
        self._stats = stats
        self._loop = loop
        self._log = log.get()

    def advance(self, connection: Connection, scanner: PdvScanner, event: int) -> None:
        """Does what each event of the scanner asks for, until more bytes are needed."""
        while event != _core.MORE:
            if event == _core.COMMAND:
                event = self._command(connection, scanner)
            elif event == _core.HEAD:
                event = self._head(connection, scanner)
            elif event == _core.END:
                event = self._end(connection, scanner)
            elif event == _core.LONG_HEAD:
                event = self._long_head(connection, scanner)
            elif event == _core.BAD_HEAD:
                event = self._unreadable(connection, scanner)
            else:
                self._leave(connection, scanner, event)
                return
        if scanner.wake:
            self.wake_packers(scanner)

    def wake_packers(self, scanner: PdvScanner) -> None:
        """A packer sleeps, and something is in its lane."""
        scanner.wake = False
        # All of them: waking one too many is harmless, one too few is not.
        for packer in range(self._wiring.receivers, len(self._wiring.wake)):
            self._wiring.wake_up(packer)

    def _leave(self, connection: Connection, scanner: PdvScanner, event: int) -> None:
        if event == _core.RELEASE:
            self._loop.released(connection)
        elif event == _core.ABORTED:
            self._loop.aborted_by_peer(connection)
        else:
            self._loop.abort(connection, 2, scanner.reason, scanner.problem)

    def _command(self, connection: Connection, scanner: PdvScanner) -> int:
        """A command set is complete: PS3.7 §9."""
        assert connection.accepted is not None
        context = connection.accepted.contexts.get(scanner.context)
        if context is None:
            return self._broken(
                connection, f"presentation context {scanner.context} was not accepted"
            )
        try:
            request = _core.parse_command(scanner.take_command())
        except ValueError as problem:
            return self._broken(connection, str(problem))
        if request.field == dimse.C_CANCEL_RQ or request.field & dimse.RESPONSE:
            return self._next(connection, scanner)
        if request.message_id < 0 or request.data_set_type < 0:
            return self._broken(connection, "a command set without Message ID or Data Set Type")
        connection.request = request
        listener = connection.door.listener
        connection.refusal = _refusal(request, context, tolerant=listener.tolerate_uids)
        if request.data_set_type == dimse.NO_DATA_SET:
            return self._answer(connection, scanner)
        # What a C-ECHO or a refused request carries is passed over.
        wanted = connection.refusal is None and request.field == dimse.C_STORE_RQ
        scanner.expect_data_set(
            context.encoding.kind if wanted else -1,
            context.encoding.pixels,
            listener.tolerate_uids,
            listener.accept_malformed,
        )
        return scanner.scan()

    def _broken(self, connection: Connection, why: str) -> int:
        self._loop.abort(connection, 2, 6, why)
        return _core.MORE

    def _head(self, connection: Connection, scanner: PdvScanner) -> int:
        """The data set's head is known: the instance gets its packer, or is refused."""
        assert connection.request is not None
        head = scanner.head
        problem = _mismatch(connection.request, head)
        if problem is not None and problem[0] is Status.MISSING_UID:
            tolerant = connection.door.listener.tolerate_uids
            problem = Status.MISSING_UID, *why_uids(head.elements, tolerant=tolerant)
        if problem is not None:
            return self._refuse(connection, scanner, *problem)
        if scanner.late:
            scanner.describe(head)
        else:
            self._route(connection, scanner, self._packer(head.study_instance_uid), head)
        return scanner.accept()

    def _long_head(self, connection: Connection, scanner: PdvScanner) -> int:
        """No UIDs in as much as the lane should hold: a packer keeps the data set meanwhile.

        Most likely it is of the same study as the instance before it, whose packer keeps its
        envelope.
        """
        assert connection.request is not None
        packer = connection.packer
        if packer < 0:
            packer = self._packer(connection.request.sop_instance_uid)
        self._route(connection, scanner, packer, None)
        return scanner.seek()

    def _route(
        self, connection: Connection, scanner: PdvScanner, packer: int, head: Head | None
    ) -> None:
        request, accepted = connection.request, connection.accepted
        assert request is not None
        assert accepted is not None
        context = accepted.contexts[scanner.context]
        meta = file_meta_prefix(
            request.sop_class_uid.decode(),
            context.transfer_syntax.decode(),
            accepted.calling_ae,
            accepted.called_ae,
        )
        sop_instance = request.sop_instance_uid.strip(PADDING)
        scanner.route(
            packer,
            connection.settings,
            request.message_id,
            head,
            meta.render(sop_instance),
            request.sop_class_uid,
            sop_instance,
            context.transfer_syntax,
        )
        connection.packer = packer
        reach("receiver.pdv")

    def _packer(self, study_instance_uid: bytes) -> int:
        """A study has one packer, so that an envelope has one writer and needs no locks."""
        which = xxhash.xxh3_64_intdigest(study_instance_uid) % self._wiring.packers
        return self._wiring.receivers + which

    def _unreadable(self, connection: Connection, scanner: PdvScanner) -> int:
        """Refuses an instance whose elements cannot be followed, and says which."""
        reason = why_unreadable(scanner.fault, scanner.broken_at)
        return self._refuse(connection, scanner, Status.UNREADABLE_HEAD, *reason)

    def _refuse(
        self,
        connection: Connection,
        scanner: PdvScanner,
        status: Status,
        comment: bytes = b"",
        offending: int | None = None,
    ) -> int:
        connection.refusal = (status, comment or dimse.MEANING[status].encode(), offending)
        return scanner.refuse()

    def _end(self, connection: Connection, scanner: PdvScanner) -> int:
        """The data set is complete: its status is known already, or the packer will grant it."""
        request = connection.request
        if scanner.retracted:
            if connection.refusal is None:
                reason = why_malformed(scanner.fault, scanner.broken_at)
                connection.refusal = (Status.CANNOT_UNDERSTAND, *reason)
            self._loop.await_grant(connection)
            return _core.MORE
        if connection.refusal is not None or (request and request.field != dimse.C_STORE_RQ):
            return self._answer(connection, scanner)
        assert request is not None
        # While the packer works: what will most likely be answered.
        connection.prepared = self._encoded(connection, scanner, request, Status.SUCCESS)
        self._loop.await_grant(connection)
        return _core.MORE

    def _answer(self, connection: Connection, scanner: PdvScanner) -> int:
        """Answers the request at hand with `refusal`, or with success, and goes on scanning."""
        request = connection.request
        assert request is not None
        status, comment, offending = connection.refusal or (Status.SUCCESS, b"", None)
        self._respond(connection, scanner, request, status, comment, offending)
        scanner.resume()
        return self._next(connection, scanner)

    def _next(self, connection: Connection, scanner: PdvScanner) -> int:
        """Goes on scanning behind a message that is done with, if it is still this peer's turn."""
        connection.answered += 1
        return scanner.scan() if self._goes_on(connection) else _core.MORE

    def _goes_on(self, connection: Connection) -> bool:
        """False: who does not read its responses, or has had its turn, waits with what it sent."""
        return (
            connection.state is State.OPEN
            and not connection.outgoing
            and connection.answered < ANSWERS_A_TURN
        )

    def granted(self, connection: Connection, scanner: PdvScanner) -> None:
        """The packer has given the instance its status: the response goes out, and on it goes."""
        request = connection.request
        assert request is not None
        reach("receiver.granted")
        status, comment, offending = connection.refusal or (*scanner.grant(), None)
        self._respond(connection, scanner, request, status, comment, offending)
        if connection.state is not State.OPEN:
            return
        scanner.resume()
        if self._goes_on(connection):
            self.advance(connection, scanner, scanner.scan())

    def _respond(
        self,
        connection: Connection,
        scanner: PdvScanner,
        request: Command,
        status: int,
        comment: bytes,
        offending: int | None = None,
    ) -> None:
        prepared = b"" if status else connection.prepared
        connection.request = connection.refusal = None
        connection.prepared = b""
        if request.field == dimse.C_STORE_RQ and status == Status.SUCCESS:
            self._count(connection, scanner)
        elif request.field == dimse.C_ECHO_RQ and not status:
            self._stats.add("echoes_total")
        else:
            self._log_refusal(connection, request, status, comment)
        self._loop.send(
            connection,
            prepared or self._encoded(connection, scanner, request, status, comment, offending),
        )

    def _encoded(
        self,
        connection: Connection,
        scanner: PdvScanner,
        request: Command,
        status: int,
        comment: bytes = b"",
        offending: int | None = None,
    ) -> bytes:
        assert connection.accepted is not None
        command = dimse.response(request, status, comment, offending)
        return dimse.p_data(scanner.context, command, connection.accepted.peer_max_pdu)

    def _count(self, connection: Connection, scanner: PdvScanner) -> None:
        connection.stored += 1
        connection.stored_at = time.monotonic()
        self._stats.add("instances_received_total")
        self._stats.add("instance_bytes_total", scanner.data_bytes)
        if scanner.fault:
            self._tell_malformed(connection, scanner)

    def _log_refusal(
        self, connection: Connection, request: Command, status: int, comment: bytes
    ) -> None:
        """Logs which request was refused, of whom, and why; log/rates.py bounds the lines."""
        of = {
            "association": connection.association,
            "calling_ae": connection.accepted.calling_ae if connection.accepted else "",
            "peer": connection.peer,
            "status": f"{status:04X}H",
            "why": comment.decode("latin-1"),
            "sop_instance": _shown(request.sop_instance_uid),
            "sop_class": _shown(request.sop_class_uid),
        }
        if request.field == dimse.C_STORE_RQ:
            connection.refused += 1
            self._stats.add("instances_refused_total")
            self._log.warning("instance_refused", **of)
        else:
            name = dimse.OPERATIONS.get(request.field, "unknown")
            self._log.warning("operation_refused", operation=f"{name} ({request.field:04X}H)", **of)

    def _tell_malformed(self, connection: Connection, scanner: PdvScanner) -> None:
        self._log.warning(
            "instance_malformed",
            association=connection.association,
            calling_ae=connection.accepted.calling_ae if connection.accepted else "",
            sop_instance=scanner.head.sop_instance_uid.decode(),
            why=scanner.fault.decode(),
        )


def _shown(uid: bytes) -> str | None:
    """A peer's UID for the log, cut to UID_SHOWN_MAX; None where there is none."""
    return uid[:UID_SHOWN_MAX].decode("latin-1") or None


def _refusal(
    request: Command, context: Context, *, tolerant: bool
) -> tuple[int, bytes, int | None] | None:
    """The status of a request that is refused whatever its data set holds."""
    status: Status | None = None
    if request.field == dimse.C_ECHO_RQ:
        return None
    if request.field != dimse.C_STORE_RQ:
        status = Status.UNRECOGNISED_OPERATION
    elif not context.stores or not _stores(request.sop_class_uid, context):
        status = Status.SOP_CLASS_NOT_SUPPORTED
    elif not is_uid(request.sop_instance_uid, tolerant=tolerant):
        status = Status.INVALID_INSTANCE
    elif request.data_set_type == dimse.NO_DATA_SET:
        status = Status.CANNOT_UNDERSTAND
        return status, dimse.MEANING[Status.MISTYPED_ARGUMENT].encode(), None
    return None if status is None else (status, dimse.MEANING[status].encode(), None)


def _stores(sop_class_uid: bytes, context: Context) -> bool:
    """Tells whether instances of a SOP class may come in a storage context. Senders are known to
    use the context of another storage SOP class, and are taken by others."""
    if sop_class_uid == context.abstract_syntax:
        return True
    return is_uid(sop_class_uid) and is_storage(sop_class_uid.decode())


def _mismatch(request: Command, head: Head) -> tuple[Status, bytes, int | None] | None:
    """PS3.4 Table B.2-1: A900 when data set and command disagree, C000 when a UID is missing."""
    if not head.study_instance_uid or not head.series_instance_uid:
        return Status.MISSING_UID, b"", None
    if not head.sop_instance_uid or not head.sop_class_uid:
        return Status.MISSING_UID, b"", None
    if head.sop_class_uid != request.sop_class_uid:
        return Status.MISMATCH, b"SOP Class UID is not the command's", dimse.SOP_CLASS_UID
    if head.sop_instance_uid != request.sop_instance_uid.strip(PADDING):
        return Status.MISMATCH, b"SOP Instance UID is not the command's", dimse.SOP_INSTANCE_UID
    return None
