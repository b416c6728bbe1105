"""Answers an A-ASSOCIATE-RQ as an acceptor (PS3.8 §7.1, §9.3).

Negotiation needs bytes only, so that a test or a fuzzer can drive it. associate_rq.py reads the
request, pynetdicom's PDU classes write the answer; the policy is here.

Guaranteed: for any bytes the outcome is an Accepted, a Rejected, or a ProtocolError (which becomes
an A-ABORT). Equal requests get equal answers, from a cache: some modalities open an association per
image.
Still wrong: user identity is acknowledged and logged by type, never checked; AE titles are not
authentication.

The states (PS3.8 §9.2) Sta2 (awaiting the RQ), Sta6 (data transfer) and Sta13 (awaiting the close)
are the receiver's connection states, because timers and sockets are there. In Sta6
`_core.PdvScanner` finds the PDUs.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from pynetdicom import pdu, pdu_items, sop_class
from pynetdicom.service_class import ServiceClass, StorageServiceClass

from fastjmix._core import UID_TOLERATED_MAX
from fastjmix.dicom.associate_rq import AssociateRq, Proposal, read_associate_rq
from fastjmix.dicom.dataset import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from fastjmix.dicom.syntaxes import IMPLICIT_LITTLE, Encoding, encoding_of

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
VERIFICATION: Final = "1.2.840.10008.1.1"

CACHE_MAX: Final = 256
"""Answers that are kept. A department has fewer different requests than this."""

CACHED_RQ_MAX: Final = 1 << 14
"""Bytes of a request whose answer is kept. It bounds the cache in bytes."""

PEER_PDU_MIN: Final = 8
"""Bytes of the smallest P-DATA-TF: a PDV header and two bytes, as fragments are of even length. A
peer that announces less is sent this much."""

UID_MAX: Final = 64
"""PS3.5 §9.1: characters of a UID."""

PADDING: Final = b" \0"
"""Characters around a UID that are not part of it. PS3.5 §9.1 pads with NUL, some with blanks."""

RELEASE_RP: Final = b"\x06\x00\x00\x00\x00\x04\x00\x00\x00\x00"

# PS3.8 Table 9-18: result of a presentation context.
ACCEPTANCE, USER_REJECTION, NO_REASON, ABSTRACT_SYNTAX, TRANSFER_SYNTAXES = range(5)


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of a listener. `calling` None: any calling AE title is accepted."""

    ae_title: str
    accept_any_called_aet: bool
    calling: frozenset[str] | None
    max_pdu: int
    enable_store: bool
    enable_echo: bool


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context."""

    abstract_syntax: bytes
    transfer_syntax: bytes
    encoding: Encoding
    stores: bool


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer is an A-ASSOCIATE-AC, `pdu`. `refused` lists the contexts that were refused."""

    pdu: bytes
    called_ae: str
    calling_ae: str
    contexts: Mapping[int, Context]
    refused: tuple[str, ...]
    peer_max_pdu: int
    peer_implementation: str
    peer_implementation_uid: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The answer is an A-ASSOCIATE-RJ, `pdu`; `why` is the reason in words, for the log."""

    pdu: bytes
    called_ae: str
    calling_ae: str
    why: str


def reject_pdu(result: int, source: int, reason: int) -> bytes:
    """Returns an A-ASSOCIATE-RJ (PS3.8 Table 9-21)."""
    return bytes((0x03, 0, 0, 0, 0, 4, 0, result, source, reason))


def abort_pdu(source: int, reason: int) -> bytes:
    """Returns an A-ABORT (PS3.8 Table 9-26). Source 0 = service user, 2 = service provider."""
    return bytes((0x07, 0, 0, 0, 0, 4, 0, 0, source, reason))


LOCAL_LIMIT: Final = reject_pdu(2, 3, 2)
CONGESTION: Final = reject_pdu(2, 3, 1)


def ae_title(field: bytes) -> str:
    """Returns an AE title up to the first NUL, without spaces around it and control bytes."""
    text = field.split(b"\0", 1)[0].decode("latin-1")
    return "".join(c for c in text if c.isprintable()).strip()


def ae_titles(request: bytes) -> tuple[str, str]:
    """Returns the called and the calling AE title of an A-ASSOCIATE-RQ (PS3.8 Table 9-11)."""
    return ae_title(request[10:26]), ae_title(request[26:42])


def is_uid(text: bytes, *, tolerant: bool = False) -> bool:
    """Returns whether a text is a UID: up to 64 digits and dots (PS3.5 §9.1), in any order.

    `tolerant`: up to twice as many printable ASCII characters, blanks around them not counted.
    """
    if not tolerant:
        return 0 < len(text) <= UID_MAX and not text.strip(b"0123456789.")
    text = text.strip(PADDING)
    printable = all(32 <= character <= 126 for character in text) and b"\\" not in text
    return 0 < len(text) <= UID_TOLERATED_MAX and printable


def _can_be_read(transfer_syntax: str) -> bool:
    """Returns whether data sets in it can be scanned for their UIDs. Else each would be refused."""
    return is_uid(transfer_syntax.encode()) and encoding_of(transfer_syntax) is not None


class Acceptor:
    """Answers A-ASSOCIATE-RQs by one policy. Its only state is a cache of answers."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._answers: OrderedDict[bytes, Accepted | Rejected] = OrderedDict()

    def answer(self, request: bytes) -> Accepted | Rejected:
        """Returns the answer to a whole A-ASSOCIATE-RQ PDU. Raises ProtocolError (→ A-ABORT)."""
        known = self._answers.get(request)
        if known is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pynetdicom warns of UIDs; a wrong one is refused
                known = self._negotiate(request)
            if len(request) <= CACHED_RQ_MAX:
                self._answers[request] = known
            if len(self._answers) > CACHE_MAX:
                self._answers.popitem(last=False)
        else:
            self._answers.move_to_end(request)
        return known

    def _negotiate(self, request: bytes) -> Accepted | Rejected:
        asked = read_associate_rq(request)
        called, calling = ae_titles(request)
        refusal = self._refusal(asked, called, calling)
        if refusal is not None:
            why, answer = refusal
            return Rejected(answer, called, calling, why)
        items, contexts, refused = self._contexts(asked.contexts)
        peer_max = asked.max_length and max(asked.max_length, PEER_PDU_MIN)
        answer = self._accept_pdu(request, items, self._user_items(asked, contexts))
        return Accepted(
            answer,
            called,
            calling,
            contexts,
            refused,
            peer_max,
            asked.implementation,
            asked.implementation_uid,
        )

    def _refusal(self, asked: AssociateRq, called: str, calling: str) -> tuple[str, bytes] | None:
        """Returns the reason of a rejection, and its PDU (PS3.8 Table 9-21); None: no rejection."""
        policy = self._policy
        if not asked.protocol_version & 1:
            return "protocol version 1 is not offered", reject_pdu(1, 2, 2)
        if asked.application_context != APPLICATION_CONTEXT:
            return "application context is not DICOM's", reject_pdu(1, 1, 2)
        if called != policy.ae_title and not policy.accept_any_called_aet:
            return f"called AE title is not {policy.ae_title}", reject_pdu(1, 1, 7)
        if policy.calling is not None and calling not in policy.calling:
            return "calling AE title is not in aet_table", reject_pdu(1, 1, 3)
        return None

    def _contexts(
        self, proposed: list[Proposal]
    ) -> tuple[list[Any], dict[int, Context], tuple[str, ...]]:
        items: list[Any] = []
        contexts: dict[int, Context] = {}
        refused: list[str] = []
        for one in proposed:
            number, abstract = one.number, one.abstract_syntax
            syntaxes = [s for s in one.transfer_syntaxes if _can_be_read(s)]
            result = self._result(one, syntaxes, contexts)
            # A refused context repeats a syntax that is not significant (PS3.8 §9.3.3.2).
            chosen = syntaxes[0] if syntaxes else IMPLICIT_LITTLE
            encoding = encoding_of(chosen)
            if result == ACCEPTANCE and encoding is not None:
                contexts[number] = Context(
                    abstract.encode(),
                    chosen.encode(),
                    encoding,
                    abstract != VERIFICATION,
                )
            else:
                refused.append(abstract or "(none)")
            items.append(_context_item(number, result, chosen))
        return items, contexts, tuple(refused)

    def _result(self, proposed: Proposal, syntaxes: list[str], taken: Mapping[int, Context]) -> int:
        abstract = proposed.abstract_syntax
        # An even ID breaks PS3.8 §9.3.2.2. It is accepted, as other acceptors do.
        if proposed.number in taken or not abstract or not proposed.whole:
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

    def _user_items(self, asked: AssociateRq, contexts: Mapping[int, Context]) -> list[Any]:
        """Returns the user information of the answer (PS3.7 Annex D.3)."""
        length = pdu_items.MaximumLengthSubItem()
        length.maximum_length_received = self._policy.max_pdu
        implementation = pdu_items.ImplementationClassUIDSubItem()
        implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        version = pdu_items.ImplementationVersionNameSubItem()
        version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        answers: list[Any] = [length, implementation]
        # One answer a SOP class: user information must not outgrow its 16-bit length.
        accepted = {context.abstract_syntax.decode(): context for context in contexts.values()}
        if asked.window:
            answers.append(_window())
        answers += [_role(uid, scu) for uid, scu in asked.roles.items() if uid in accepted]
        answers.append(version)
        answers += [
            _storage_level(uid)
            for uid in asked.extended
            if uid in accepted and accepted[uid].stores
        ]
        if asked.wants_identity:
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


@lru_cache(maxsize=CACHE_MAX)
def is_storage(abstract_syntax: str) -> bool:
    """Returns True for storage SOP classes, and for private and unknown ones, which may be."""
    service = sop_class.uid_to_service_class(abstract_syntax)
    return service in (ServiceClass, StorageServiceClass)


def _context_item(number: int, result: int, transfer_syntax: str) -> Any:
    item = pdu_items.PresentationContextItemAC()
    item.presentation_context_id = number
    item.result_reason = result
    syntax = pdu_items.TransferSyntaxSubItem()
    syntax.transfer_syntax_name = transfer_syntax
    item.transfer_syntax_sub_item = [syntax]
    return item


def _window() -> Any:
    """Returns a window of one operation at a time, both ways (PS3.7 §D.3.3.3)."""
    window = pdu_items.AsynchronousOperationsWindowSubItem()
    window.maximum_number_operations_invoked = 1
    window.maximum_number_operations_performed = 1
    return window


def _role(uid: str, scu_role: int) -> Any:
    """Returns the roles of a SOP class: the requestor may be SCU, never SCP (PS3.7 §D.3.3.4)."""
    role = pdu_items.SCP_SCU_RoleSelectionSubItem()
    role.sop_class_uid = uid
    role.scu_role = scu_role
    role.scp_role = 0
    return role


def _storage_level(uid: str) -> Any:
    """Returns storage level 2 (full): all elements are kept, none is coerced (PS3.4 §B.3.1)."""
    level = pdu_items.SOPClassExtendedNegotiationSubItem()
    level.sop_class_uid = uid
    level.service_class_application_information = b"\x02\x00\x00\x00\x00\x00"
    return level


def _identity() -> Any:
    """Returns a positive response; empty for user names, as PS3.7 §D.3.3.7.2 asks."""
    identity = pdu_items.UserIdentitySubItemAC()
    identity.server_response = b""
    return identity
