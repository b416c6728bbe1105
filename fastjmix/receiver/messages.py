"""DIMSE messages of an open association (Sta6): what each finding of the PDV scanner asks for.

Wanted: an instance is routed to its study's packer as soon as its head is known, or refused with
the status that says why (PS3.4 Table B.2-1); every other request gets the response of PS3.7.
Guaranteed: exactly one response a request, in order. A refused instance's data set is passed over,
so that the association stays usable. Nothing is sent here: the loop learns what is needed next
(`Need`), or which event ends the association (states.py), and sends.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

import xxhash

from fastjmix import log
from fastjmix._core import (
    ABORTED,
    BAD_HEAD,
    BROKEN,
    COMMAND,
    END,
    HEAD,
    LONG_HEAD,
    MORE,
    RELEASE,
    Command,
    Head,
    parse_command,
)
from fastjmix.dicom import dimse
from fastjmix.dicom.association import PADDING, Context, is_storage, is_uid
from fastjmix.dicom.dataset import file_meta_prefix
from fastjmix.dicom.dimse import Status
from fastjmix.dicom.refusals import why_malformed, why_uids, why_unreadable
from fastjmix.dicom.uid_names import name_of
from fastjmix.failpoints import reach
from fastjmix.ipc.metrics import Metrics
from fastjmix.ipc.shared_lanes import SharedLanes
from fastjmix.receiver.connection import ANSWERS_A_TURN, Association
from fastjmix.receiver.reports import Reports
from fastjmix.receiver.states import Event

UID_SHOWN_MAX: Final = 128
"""Characters of a refused instance's UID in the log: twice what a UID may have, so that one that is
too long can be found at its sender."""


class Need(Enum):
    """The next thing that an association needs before its messages go on."""

    DATA = auto()
    """The peer's next bytes, or (with `answered` at ANSWERS_A_TURN) its next turn."""

    SEND = auto()
    """Its `response` is to be sent."""

    STATUS = auto()
    """The packer's status for the instance that is complete."""


_SEND, _STATUS, _VIOLATION = -1, -2, -3
"""Beside the scanner's findings, which are positive: what a message may come to."""

_OUTCOMES: Final[Mapping[int, Need | Event]] = {
    MORE: Need.DATA,
    _SEND: Need.SEND,
    _STATUS: Need.STATUS,
    _VIOLATION: Event.INVALID_PDU,
    RELEASE: Event.RELEASE_RQ,
    ABORTED: Event.ABORT_RECEIVED,
}


class Messages:
    """Handles the messages of all associations of one receiver."""

    def __init__(self, shared_lanes: SharedLanes, metrics: Metrics, reports: Reports) -> None:
        self._reports = reports
        self._shared_lanes = shared_lanes
        self._metrics = metrics
        self._log = log.get()

    def advance(self, association: Association, found: int) -> Need | Event:
        """Does what each finding of the scanner asks for, until something is needed, or until an
        event of the peer's ends the association.
        """
        while found > MORE:
            if found == COMMAND:
                found = self._command(association)
            elif found == HEAD:
                found = self._head(association)
            elif found == END:
                found = self._end(association)
            elif found == LONG_HEAD:
                found = self._long_head(association)
            elif found == BAD_HEAD:
                found = self._unreadable(association)
            elif found == BROKEN:
                scanner = association.scanner
                found = _violation(association, scanner.problem, scanner.reason)
            else:
                break
        if association.scanner.wake:
            association.scanner.wake = False
            self._shared_lanes.wake_packers()
        return _OUTCOMES[found]

    def _command(self, association: Association) -> int:
        """Handles a complete command set: PS3.7 §9."""
        scanner = association.scanner
        context = association.accepted.contexts.get(scanner.context)
        if context is None:
            return _violation(
                association, f"presentation context {scanner.context} was not accepted"
            )
        try:
            request = parse_command(scanner.take_command())
        except ValueError as problem:
            return _violation(association, str(problem))
        if request.field == dimse.C_CANCEL_RQ or request.field & dimse.RESPONSE:
            association.answered += 1
            return scanner.scan() if association.answered < ANSWERS_A_TURN else MORE
        if request.message_id < 0 or request.data_set_type < 0:
            return _violation(association, "a command set without Message ID or Data Set Type")
        association.request, association.head = request, None
        listener = association.listener
        association.refusal = _refusal(request, context, tolerant=listener.tolerate_uids)
        if request.data_set_type == dimse.NO_DATA_SET:
            return self._answer(association)
        # The data set of a C-ECHO or of a refused request is passed over.
        wanted = association.refusal is None and request.field == dimse.C_STORE_RQ
        scanner.expect_data_set(
            context.encoding.kind if wanted else -1,
            context.encoding.pixels,
            listener.tolerate_uids,
            listener.accept_malformed,
        )
        return scanner.scan()

    def _head(self, association: Association) -> int:
        """Gives the instance its packer, now that the data set's head is known, or refuses it."""
        assert association.request is not None
        scanner = association.scanner
        association.head = head = scanner.head
        problem = _mismatch(association.request, head)
        if problem is not None and problem[0] is Status.MISSING_UID:
            tolerant = association.listener.tolerate_uids
            problem = Status.MISSING_UID, *why_uids(head.elements, tolerant=tolerant)
        if problem is not None:
            return _refuse(association, *problem)
        if scanner.late:
            scanner.describe(head)
        else:
            self._route(association, self._packer(head.study_instance_uid), head)
        return scanner.accept()

    def _long_head(self, association: Association) -> int:
        """Lets a packer keep the data set, whose UIDs are not in as much as the lane should hold.

        Most likely it is of the same study as the instance before it, whose packer keeps its
        envelope.
        """
        assert association.request is not None
        packer = association.packer
        if packer < 0:
            packer = self._packer(association.request.sop_instance_uid)
        self._route(association, packer, None)
        return association.scanner.seek()

    def _route(self, association: Association, packer: int, head: Head | None) -> None:
        request, accepted = association.request, association.accepted
        assert request is not None
        context = accepted.contexts[association.scanner.context]
        meta = file_meta_prefix(
            request.sop_class_uid.decode(),
            context.transfer_syntax.decode(),
            accepted.calling_ae,
            accepted.called_ae,
        )
        sop_instance = request.sop_instance_uid.strip(PADDING)
        association.scanner.route(
            packer,
            association.rules,
            head,
            meta.render(sop_instance),
            request.sop_class_uid,
            sop_instance,
            context.transfer_syntax,
        )
        association.packer = packer
        reach("receiver.pdv")

    def _packer(self, study_instance_uid: bytes) -> int:
        """Returns the packer of a study. It is one, so that an envelope has one writer and needs no
        locks.
        """
        which = xxhash.xxh3_64_intdigest(study_instance_uid) % self._shared_lanes.packers
        return self._shared_lanes.receivers + which

    def _unreadable(self, association: Association) -> int:
        """Refuses an instance whose elements cannot be followed, and says which."""
        scanner = association.scanner
        reason = why_unreadable(scanner.fault, scanner.broken_at)
        return _refuse(association, Status.UNREADABLE_HEAD, *reason)

    def _end(self, association: Association) -> int:
        """Handles the end of a data set: its status is known, or the packer will give it."""
        request, scanner = association.request, association.scanner
        if scanner.retracted:
            if association.refusal is None:
                reason = why_malformed(scanner.fault, scanner.broken_at)
                association.refusal = (Status.CANNOT_UNDERSTAND, *reason)
            return _STATUS
        if association.refusal is not None or (request and request.field != dimse.C_STORE_RQ):
            return self._answer(association)
        assert request is not None
        # While the packer works, the response that is most likely is encoded.
        association.prepared = _encoded(association, request, Status.SUCCESS)
        return _STATUS

    def _answer(self, association: Association) -> int:
        """Answers the request at hand with its refusal, or with success."""
        status, comment, offending = association.refusal or (Status.SUCCESS, b"", None)
        association.response = self._respond(association, status, comment, offending)
        association.answered += 1
        return _SEND

    def granted(self, association: Association) -> bytes:
        """Returns the response for an instance to which the packer has given its status."""
        reach("receiver.granted")
        status, comment, offending = association.refusal or (*association.scanner.grant(), None)
        return self._respond(association, status, comment, offending)

    def _respond(
        self, association: Association, status: int, comment: bytes, offending: int | None
    ) -> bytes:
        """Returns the response to the request at hand, which is done with then."""
        request, prepared = association.request, b"" if status else association.prepared
        assert request is not None
        association.request = association.refusal = None
        association.prepared = b""
        if request.field == dimse.C_STORE_RQ and status == Status.SUCCESS:
            self._count(association)
        elif request.field == dimse.C_ECHO_RQ and not status:
            self._metrics.add("echoes_total")
        else:
            self._log_refusal(association, request, status, comment)
        association.scanner.resume(request.field == dimse.C_STORE_RQ)
        return prepared or _encoded(association, request, status, comment, offending)

    def _count(self, association: Association) -> None:
        association.measures.count_stored(association.scanner.data_bytes)
        association.stored_at = time.monotonic()
        self._metrics.add("instances_received_total")
        self._metrics.add("instance_bytes_total", association.scanner.data_bytes)
        if association.scanner.fault:
            self._log.warning(
                "instance_malformed",
                association=association.number,
                calling_ae=association.accepted.calling_ae,
                sop_instance=association.scanner.head.sop_instance_uid.decode(),
                why=association.scanner.fault.decode(),
            )

    def _log_refusal(
        self, association: Association, request: Command, status: int, comment: bytes
    ) -> None:
        """Logs which request was refused, of which peer, and why; log/rates.py bounds the lines."""
        of = {
            "association": association.number,
            "calling_ae": association.accepted.calling_ae,
            "peer": association.peer,
            "status": f"{status:04X}H",
            "why": comment.decode("latin-1"),
            "sop_instance": _shown(request.sop_instance_uid),
            "sop_class": (sop_class := _shown(request.sop_class_uid)),
            "called_ae": association.accepted.called_ae,
            "sop_class_name": sop_class and name_of(sop_class),
        }
        if request.field == dimse.C_STORE_RQ:
            study = association.head.study_instance_uid if association.head is not None else b""
            of["study"] = self._log.study(study.decode("latin-1"))
            association.measures.count_refused(status)
            self._metrics.add("instances_refused_total")
            self._metrics.count("refusals_total", f"{status:04X}")
            self._log.warning("instance_refused", **of)
            shown = _shown(request.sop_instance_uid) or "", sop_class or ""
            self._reports.refusal(association, status, str(of["why"]), *shown)
        else:
            name = dimse.OPERATIONS.get(request.field, "unknown")
            self._log.warning("operation_refused", operation=f"{name} ({request.field:04X}H)", **of)


def _violation(association: Association, why: str, reason: int = 6) -> int:
    """Notes how the peer has broken PS3.8 or PS3.7. Reason 6: invalid PDU parameter value."""
    association.violation = reason, why
    return _VIOLATION


def _refuse(
    association: Association, status: Status, comment: bytes = b"", offending: int | None = None
) -> int:
    """Refuses the instance that is arriving; returns the scanner's next finding."""
    association.refusal = (status, comment or dimse.MEANING[status].encode(), offending)
    return association.scanner.refuse()


def _encoded(
    association: Association,
    request: Command,
    status: int,
    comment: bytes = b"",
    offending: int | None = None,
) -> bytes:
    command = dimse.response(request, status, comment, offending)
    return dimse.p_data(association.scanner.context, command, association.accepted.peer_max_pdu)


def _shown(uid: bytes) -> str | None:
    """Returns a peer's UID for the log, cut to UID_SHOWN_MAX; None where there is none."""
    return uid[:UID_SHOWN_MAX].decode("latin-1") or None


def _refusal(
    request: Command, context: Context, *, tolerant: bool
) -> tuple[int, bytes, int | None] | None:
    """Returns the status of a request that is refused whatever its data set holds."""
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
    """Returns True when instances of a SOP class may come in a storage context. Some senders use
    the context of another storage SOP class; other receivers accept that.
    """
    if sop_class_uid == context.abstract_syntax:
        return True
    return is_uid(sop_class_uid) and is_storage(sop_class_uid.decode())


def _mismatch(request: Command, head: Head) -> tuple[Status, bytes, int | None] | None:
    """Returns why an instance is refused by its head (PS3.4 Table B.2-1): A900 when data set and
    command disagree, C000 when a UID is missing.
    """
    if not head.study_instance_uid or not head.series_instance_uid:
        return Status.MISSING_UID, b"", None
    if not head.sop_instance_uid or not head.sop_class_uid:
        return Status.MISSING_UID, b"", None
    if head.sop_class_uid != request.sop_class_uid:
        return Status.MISMATCH, b"SOP Class UID is not the command's", dimse.SOP_CLASS_UID
    if head.sop_instance_uid != request.sop_instance_uid.strip(PADDING):
        return Status.MISMATCH, b"SOP Instance UID is not the command's", dimse.SOP_INSTANCE_UID
    return None
