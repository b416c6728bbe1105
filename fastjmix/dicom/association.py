"""The acceptor's half of an association: A-ASSOCIATE-RQ in, an answer out (PS3.8 §7.1, §9.3).

Wanted: every question of negotiation answered from bytes alone, so that a test or a fuzzer can
drive it. pynetdicom's PDU classes are the codec; the policy is here.
Guaranteed: whatever the bytes are, the outcome is an Accepted, a Rejected, or a ProtocolError
(which becomes an A-ABORT). Equal requests get equal answers, from a cache: some modalities open an
association per image.
Still wrong: user identity is acknowledged and logged by type, never checked; AE titles are not
authentication.

States (PS3.8 §9.2) and where they live: Sta2 (awaiting the RQ), Sta6 (data transfer) and Sta13
(awaiting the close) are the receiver's connection states, because timers and sockets are there; in
Sta6 `_core.PdvScanner` finds the PDUs.
"""

from __future__ import annotations

import struct
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pynetdicom import pdu, pdu_items, sop_class
from pynetdicom.service_class import ServiceClass, StorageServiceClass

from fastjmix.dicom.dataset import (
    DEFLATED,
    EXPLICIT_BIG,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    IMPLICIT_LITTLE,
)
from fastjmix.errors import ProtocolError

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
VERIFICATION: Final = "1.2.840.10008.1.1"

ASSOCIATE_RQ_MAX: Final = 1 << 18
"""Bytes of an A-ASSOCIATE-RQ. 128 contexts of 60 transfer syntaxes each are about 200 KB."""

CONTEXTS_MAX: Final = 256
"""Presentation contexts of a request. Their IDs are odd and one byte (PS3.8 §9.3.2.2): 128 make
sense, and those that repeat an ID are answered too."""

SYNTAXES_MAX: Final = 1024
"""Transfer syntaxes of one presentation context; DICOM defines about 60."""

ITEMS_MAX: Final = 8192
"""Items of a request, and items within them. Decoding takes about 8 µs each, and meanwhile nobody
else is served."""

CACHE_MAX: Final = 256
"""Answers remembered. A department has fewer different requests than this."""

CACHED_RQ_MAX: Final = 1 << 14
"""Bytes of a request whose answer is remembered: so the cache has an end in bytes too."""

PEER_PDU_MIN: Final = 128
"""A peer that takes smaller PDUs than this could not take its own responses sensibly."""

UID_MAX: Final = 64
"""PS3.5 §9.1: characters of a UID."""

RELEASE_RP: Final = b"\x06\x00\x00\x00\x00\x04\x00\x00\x00\x00"

# PS3.8 Table 9-18: result of a presentation context.
ACCEPTANCE, USER_REJECTION, NO_REASON, ABSTRACT_SYNTAX, TRANSFER_SYNTAXES = range(5)

_ITEM = struct.Struct(">BBH")
_KNOWN_ITEMS = frozenset((0x10, 0x20, 0x50))
# Maximum length, implementation class and version, window, role, extended negotiation, identity:
# what is answered or logged. Common extended negotiation (57H) has no answer.
_KNOWN_SUB_ITEMS = frozenset((0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x58))


@dataclass(frozen=True, slots=True)
class Policy:
    """What a listener accepts. `calling` None = any calling AE title."""

    ae_title: str
    accept_any_called_aet: bool
    calling: frozenset[str] | None
    max_pdu: int
    enable_store: bool
    enable_echo: bool


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context. `kind` as in `_core.read_head`; 3 = deflated."""

    abstract_syntax: bytes
    transfer_syntax: bytes
    kind: int
    stores: bool


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer is an A-ASSOCIATE-AC: `pdu`. `refused` lists the contexts that were not taken."""

    pdu: bytes
    called_ae: str
    calling_ae: str
    contexts: Mapping[int, Context]
    refused: tuple[str, ...]
    peer_max_pdu: int
    peer_implementation: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The answer is an A-ASSOCIATE-RJ: `pdu`; `why` in words, for the log."""

    pdu: bytes
    called_ae: str
    calling_ae: str
    why: str


def reject_pdu(result: int, source: int, reason: int) -> bytes:
    """A-ASSOCIATE-RJ (PS3.8 Table 9-21)."""
    return bytes((0x03, 0, 0, 0, 0, 4, 0, result, source, reason))


def abort_pdu(source: int, reason: int) -> bytes:
    """A-ABORT (PS3.8 Table 9-26). Source 0 = service user, 2 = service provider."""
    return bytes((0x07, 0, 0, 0, 0, 4, 0, 0, source, reason))


LOCAL_LIMIT: Final = reject_pdu(2, 3, 2)
CONGESTION: Final = reject_pdu(2, 3, 1)


def ae_title(field: bytes) -> str:
    """An AE title as people write it: up to the first NUL, spaces and control bytes removed."""
    text = field.split(b"\0", 1)[0].decode("latin-1")
    return "".join(c for c in text if c.isprintable()).strip()


def syntax_kind(transfer_syntax: str) -> int:
    """How the data set's head is encoded: 0 implicit LE, 1 explicit LE, 2 explicit BE, 3 deflated.

    Every other transfer syntax, private ones too, is explicit VR little endian (PS3.5 §A.4).
    """
    return {IMPLICIT_LITTLE: 0, EXPLICIT_BIG: 2, DEFLATED: 3}.get(transfer_syntax, 1)


def _items(data: bytes, what: str) -> Iterator[tuple[int, bytes]]:
    """Type and whole bytes of each item. Raises ProtocolError for lengths that do not fit."""
    at = 0
    while at < len(data):
        if len(data) - at < 4:
            raise ProtocolError(f"{what}: an item header is cut off", 6)
        kind, _, length = _ITEM.unpack_from(data, at)
        if length > len(data) - at - 4:
            raise ProtocolError(f"{what}: item {kind:02X}H is longer than its parent", 6)
        yield kind, data[at : at + 4 + length]
        at += 4 + length


def _bound(request: bytes) -> None:
    """Raises ProtocolError for more items than anyone needs: they are counted, not decoded."""
    contexts = items = 0
    for kind, item in _items(request[74:], "A-ASSOCIATE-RQ"):
        inner = 0
        if kind in (0x20, 0x50):
            body = item[8:] if kind == 0x20 else item[4:]
            inner = sum(1 for _ in _items(body, f"item {kind:02X}H"))
        contexts += kind == 0x20
        items += 1 + inner
        if kind == 0x20 and inner - 1 > SYNTAXES_MAX:  # one of them is the abstract syntax
            raise ProtocolError(f"more than {SYNTAXES_MAX} transfer syntaxes of one context", 6)
        if contexts > CONTEXTS_MAX:
            raise ProtocolError(f"more than {CONTEXTS_MAX} presentation contexts", 6)
        if items > ITEMS_MAX:
            raise ProtocolError(f"more than {ITEMS_MAX} items in an A-ASSOCIATE-RQ", 6)


def _known_only(request: bytes) -> bytes:
    """The request without items that we do not know, and with AE titles that always decode.

    PS3.8 §9.3.1: unrecognised items are ignored.
    """
    items = []
    for kind, item in _items(request[74:], "A-ASSOCIATE-RQ"):
        if kind == 0x50:
            subs = (s for k, s in _items(item[4:], "user information") if k in _KNOWN_SUB_ITEMS)
            body = b"".join(subs)
            items.append(_ITEM.pack(0x50, 0, len(body)) + body)
        elif kind in _KNOWN_ITEMS:
            items.append(item)
    body = request[6:10] + b"CALLED".ljust(16) + b"CALLING".ljust(16) + request[42:74]
    body += b"".join(items)
    return request[:2] + len(body).to_bytes(4, "big") + body


def _decode(request: bytes) -> Any:
    """The request as pynetdicom's PDU. Raises ProtocolError."""
    if len(request) < 74:
        raise ProtocolError("an A-ASSOCIATE-RQ of fewer than 74 bytes", 6)
    _bound(request)
    decoded = pdu.A_ASSOCIATE_RQ()
    try:
        decoded.decode(_known_only(request))
        # What is used later is looked at now, so that every fault is found in one place.
        for context in decoded.presentation_context:
            _ = context.context_id, context.abstract_syntax, context.transfer_syntax
    except ProtocolError:
        raise
    except Exception as problem:
        # The codec raises whatever its parts raise; each of them is the peer's fault.
        raise ProtocolError(f"an A-ASSOCIATE-RQ that cannot be decoded: {problem!r}", 6) from None
    return decoded


def _clean(uid: object) -> str:
    return "" if uid is None else str(uid).strip("\0 ")


def is_uid(text: bytes) -> bool:
    """PS3.5 §9.1: up to 64 digits and dots. Looser than the standard in what stands where."""
    return 0 < len(text) <= UID_MAX and not text.strip(b"0123456789.")


class Acceptor:
    """Answers A-ASSOCIATE-RQs by one policy. Pure but for its cache."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._answers: OrderedDict[bytes, Accepted | Rejected] = OrderedDict()

    def answer(self, request: bytes) -> Accepted | Rejected:
        """The answer to a whole A-ASSOCIATE-RQ PDU. Raises ProtocolError (→ A-ABORT)."""
        known = self._answers.get(request)
        if known is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a doubtful UID is refused with its context
                known = self._negotiate(request)
            if len(request) <= CACHED_RQ_MAX:
                self._answers[request] = known
            if len(self._answers) > CACHE_MAX:
                self._answers.popitem(last=False)
        else:
            self._answers.move_to_end(request)
        return known

    def _negotiate(self, request: bytes) -> Accepted | Rejected:
        decoded = _decode(request)
        called, calling = ae_title(request[10:26]), ae_title(request[26:42])
        refusal = self._refusal(decoded, called, calling)
        if refusal is not None:
            why, answer = refusal
            return Rejected(answer, called, calling, why)
        items, contexts, refused = self._contexts(decoded)
        user = decoded.user_information
        peer_max = 0 if user is None else user.maximum_length or 0
        if 0 < peer_max < PEER_PDU_MIN:
            raise ProtocolError(f"the peer takes PDUs of {peer_max} bytes only", 6)
        answer = self._accept_pdu(request, items, self._user_items(user, contexts))
        implementation = "" if user is None else _clean(user.implementation_version_name)
        return Accepted(answer, called, calling, contexts, refused, peer_max, implementation)

    def _refusal(self, decoded: Any, called: str, calling: str) -> tuple[str, bytes] | None:
        """PS3.8 Table 9-21, in the order in which one would knock at the door."""
        policy = self._policy
        if not decoded.protocol_version & 1:
            return "protocol version 1 is not offered", reject_pdu(1, 2, 2)
        if _clean(decoded.application_context_name) != APPLICATION_CONTEXT:
            return "application context is not DICOM's", reject_pdu(1, 1, 2)
        if called != policy.ae_title and not policy.accept_any_called_aet:
            return f"called AE title is not {policy.ae_title}", reject_pdu(1, 1, 7)
        if policy.calling is not None and calling not in policy.calling:
            return "calling AE title is not in aet_table", reject_pdu(1, 1, 3)
        return None

    def _contexts(self, decoded: Any) -> tuple[list[Any], dict[int, Context], tuple[str, ...]]:
        items: list[Any] = []
        contexts: dict[int, Context] = {}
        refused: list[str] = []
        for proposed in decoded.presentation_context:
            number = proposed.context_id
            abstract = _clean(proposed.abstract_syntax)
            syntaxes = [s for s in map(_clean, proposed.transfer_syntax) if is_uid(s.encode())]
            result = self._result(number, abstract, syntaxes, contexts)
            # A refused context repeats a syntax that is not significant (PS3.8 §9.3.3.2).
            chosen = syntaxes[0] if syntaxes else IMPLICIT_LITTLE
            if result == ACCEPTANCE:
                contexts[number] = Context(
                    abstract.encode(),
                    chosen.encode(),
                    syntax_kind(chosen),
                    abstract != VERIFICATION,
                )
            else:
                refused.append(abstract or "(none)")
            items.append(_context_item(number, result, chosen))
        return items, contexts, tuple(refused)

    def _result(
        self, number: int, abstract: str, syntaxes: list[str], taken: Mapping[int, Context]
    ) -> int:
        if number in taken or not number & 1 or not abstract:
            return NO_REASON
        if not is_uid(abstract.encode()):
            return ABSTRACT_SYNTAX
        if not syntaxes:
            return TRANSFER_SYNTAXES
        if abstract == VERIFICATION:
            return ACCEPTANCE if self._policy.enable_echo else USER_REJECTION
        if not is_storage(abstract):
            return ABSTRACT_SYNTAX
        return ACCEPTANCE if self._policy.enable_store else USER_REJECTION

    def _user_items(self, user: Any, contexts: Mapping[int, Context]) -> list[Any]:
        """User information of the answer (PS3.7 Annex D.3)."""
        length = pdu_items.MaximumLengthSubItem()
        length.maximum_length_received = self._policy.max_pdu
        implementation = pdu_items.ImplementationClassUIDSubItem()
        implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        version = pdu_items.ImplementationVersionNameSubItem()
        version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        answers: list[Any] = [length, implementation]
        asked = [] if user is None else user.user_data
        accepted = {context.abstract_syntax.decode(): context for context in contexts.values()}
        if any(isinstance(i, pdu_items.AsynchronousOperationsWindowSubItem) for i in asked):
            answers.append(_window())
        roles = _first_of_each(asked, pdu_items.SCP_SCU_RoleSelectionSubItem)
        answers += [_role(item) for uid, item in roles.items() if uid in accepted]
        answers.append(version)
        levels = _first_of_each(asked, pdu_items.SOPClassExtendedNegotiationSubItem)
        for uid, item in levels.items():
            if uid in accepted and accepted[uid].stores:
                answers.append(_storage_level(item))
        identities = (i for i in asked if isinstance(i, pdu_items.UserIdentitySubItemRQ))
        if any(item.response_requested for item in identities):
            answers.append(_identity())
        return answers

    def _accept_pdu(self, request: bytes, contexts: list[Any], user_items: list[Any]) -> bytes:
        name = pdu_items.ApplicationContextItem()
        name.application_context_name = APPLICATION_CONTEXT
        user = pdu_items.UserInformationItem()
        user.user_data = user_items
        answer = pdu.A_ASSOCIATE_AC()
        answer.variable_items = [name, *contexts, user]
        answer.reserved_aet = answer.reserved_aec = "X"
        encoded = bytearray(answer.encode())
        # PS3.8 Table 9-17: the AE title fields repeat the request's, byte for byte.
        encoded[10:42] = request[10:42]
        return bytes(encoded)


def is_storage(abstract_syntax: str) -> bool:
    """True for storage SOP classes, and for private and unknown ones: they may be storage."""
    service = sop_class.uid_to_service_class(abstract_syntax)
    return service in (ServiceClass, StorageServiceClass)


def _first_of_each(asked: list[Any], kind: type[Any]) -> dict[str, Any]:
    """The sub-items of a kind, one a SOP class: the answer must not outgrow its 16-bit length."""
    found: dict[str, Any] = {}
    for item in asked:
        if isinstance(item, kind):
            found.setdefault(_clean(item.uid), item)
    return found


def _context_item(number: int, result: int, transfer_syntax: str) -> Any:
    item = pdu_items.PresentationContextItemAC()
    item.presentation_context_id = number
    item.result_reason = result
    syntax = pdu_items.TransferSyntaxSubItem()
    syntax.transfer_syntax_name = transfer_syntax
    item.transfer_syntax_sub_item = [syntax]
    return item


def _window() -> Any:
    """One operation at a time, both ways (PS3.7 §D.3.3.3)."""
    window = pdu_items.AsynchronousOperationsWindowSubItem()
    window.maximum_number_operations_invoked = 1
    window.maximum_number_operations_performed = 1
    return window


def _role(asked: Any) -> Any:
    """We are SCP only: the requestor may be SCU, never SCP (PS3.7 §D.3.3.4)."""
    role = pdu_items.SCP_SCU_RoleSelectionSubItem()
    role.sop_class_uid = asked.uid
    role.scu_role = asked.scu_role
    role.scp_role = 0
    return role


def _storage_level(asked: Any) -> Any:
    """Level 2 (full): all elements are kept, none is coerced (PS3.4 §B.3.1)."""
    level = pdu_items.SOPClassExtendedNegotiationSubItem()
    level.sop_class_uid = asked.uid
    level.service_class_application_information = b"\x02\x00\x00\x00\x00\x00"
    return level


def _identity() -> Any:
    """A positive response; empty for user names, as PS3.7 §D.3.3.7.2 asks."""
    identity = pdu_items.UserIdentitySubItemAC()
    identity.server_response = b""
    return identity
