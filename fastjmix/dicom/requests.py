"""PDUs and command sets of a requestor, for `fastjmix send`, `fastjmix tune` and bench/.

A-ASSOCIATE-RQ, A-ASSOCIATE-AC   PS3.8 §9.3.2, §9.3.3 (pynetdicom's classes)
A-RELEASE-RQ, A-RELEASE-RP       PS3.8 §9.3.6, §9.3.7
C-STORE-RQ, C-ECHO-RQ            PS3.7 §9.3.1.1, §9.3.5.1
fragments of a data set          PS3.8 §9.3.5, Annex E
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple

from pynetdicom import build_context
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)

from fastjmix.dicom.dataset import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from fastjmix.dicom.dimse import (
    C_ECHO_RQ,
    C_STORE_RQ,
    NO_DATA_SET,
    P_DATA_TF,
    PDV_OVERHEAD,
    command_set,
)

Pair = tuple[str, str]
"""Abstract syntax and transfer syntax of a presentation context."""

VERIFICATION: Final = "1.2.840.10008.1.1"
APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"

A_ASSOCIATE_AC_TYPE: Final = 0x02
A_RELEASE_RQ_TYPE: Final = 0x05
A_RELEASE_RP_TYPE: Final = 0x06
RELEASE_RQ: Final = bytes((A_RELEASE_RQ_TYPE, 0, 0, 0, 0, 4, 0, 0, 0, 0))
RELEASE_RP: Final = bytes((A_RELEASE_RP_TYPE, 0, 0, 0, 0, 4, 0, 0, 0, 0))

ANSWER_MAX_PDU: Final = 16_384
"""Bytes of a PDU body that a requestor announces: it receives answers of some hundred bytes."""

UNLIMITED_PDU: Final = 1 << 20
"""Bytes of a PDU body that are sent where the acceptor sets no limit."""

SMALLEST_PDU: Final = 128
"""Bytes of a PDU body that are sent to a peer that announces less: a UID would not fit in less."""

MEDIUM: Final = 0
"""Priority (0000,0700), PS3.7 §9.3.1.1."""

DATA_SET_FOLLOWS: Final = 0x0001
DATA_MORE: Final = 0x00
DATA_LAST: Final = 0x02
"""Message control headers of a data set's fragments (PS3.8 Annex E.2)."""

_US = struct.Struct("<HHLH")
_ELEMENT = struct.Struct("<HHL")
_P_DATA = struct.Struct(">BBLLBB")


@lru_cache(maxsize=64)
def associate_rq(
    pairs: tuple[Pair, ...], called: str, calling: str, max_pdu: int = ANSWER_MAX_PDU
) -> bytes:
    """Returns an A-ASSOCIATE-RQ with one presentation context for each pair, numbered 1, 3, 5 …

    `max_pdu` is the length that is announced for answers. Raises ValueError for an invalid AE
    title.
    """
    asked: Any = A_ASSOCIATE()
    asked.application_context_name = APPLICATION_CONTEXT
    asked.called_ae_title, asked.calling_ae_title = called, calling
    contexts = [build_context(*pair) for pair in pairs]
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    asked.presentation_context_definition_list = contexts
    limit, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    version = ImplementationVersionNameNotification()
    limit.maximum_length_received = max_pdu
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    asked.user_information = [limit, implementation, version]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(asked)
    return bytes(pdu.encode())


class Accepted(NamedTuple):
    """An A-ASSOCIATE-AC.

    `contexts` has the context ID of each pair that is accepted. `max_pdu` is the length of a PDU
    that may be sent, in bytes; `announced` is the acceptor's own number, 0 for no limit.
    """

    contexts: dict[Pair, int]
    max_pdu: int
    announced: int
    implementation_uid: str
    implementation_version: str


def accepted(body: bytes, pairs: tuple[Pair, ...]) -> Accepted:
    """Reads an A-ASSOCIATE-AC.

    Raises the errors of pynetdicom for a malformed one: they have no common base.
    """
    pdu = A_ASSOCIATE_AC()
    pdu.decode(bytes((A_ASSOCIATE_AC_TYPE, 0)) + len(body).to_bytes(4, "big") + body)
    answer: Any = pdu.to_primitive()
    found = {}
    for context in answer.presentation_context_definition_results_list:
        asked = pairs[context.context_id // 2] if context.context_id // 2 < len(pairs) else None
        if context.result == 0 and asked and [asked[1]] == list(context.transfer_syntax):
            found[asked] = context.context_id
    limit = int(answer.maximum_length_received or 0)
    uid = version = ""
    for item in answer.user_information:
        if isinstance(item, ImplementationClassUIDNotification):
            uid = str(item.implementation_class_uid or "")
        elif isinstance(item, ImplementationVersionNameNotification):
            version = str(item.implementation_version_name or "")
    most = max(limit, SMALLEST_PDU) if limit else UNLIMITED_PDU
    return Accepted(found, most, limit, uid, version)


def store_rq(sop_class: str, sop_instance: str, message: int) -> bytes:
    """Returns the command set of a C-STORE-RQ. `message` is 1 to 65535."""
    elements = _uid(0x0002, sop_class) + _us(0x0100, C_STORE_RQ) + _us(0x0110, message)
    elements += _us(0x0700, MEDIUM) + _us(0x0800, DATA_SET_FOLLOWS) + _uid(0x1000, sop_instance)
    return command_set(elements)


def echo_rq(message: int) -> bytes:
    """Returns the command set of a C-ECHO-RQ."""
    elements = _uid(0x0002, VERIFICATION) + _us(0x0100, C_ECHO_RQ)
    return command_set(elements + _us(0x0110, message) + _us(0x0800, NO_DATA_SET))


def fragment_bytes(max_pdu: int) -> int:
    """Returns how much of a data set fits in a PDU. Fragments are even (PS3.8 Annex E.1)."""
    return (max_pdu - PDV_OVERHEAD) & ~1


def fragment_header(context: int, size: int, *, last: bool) -> bytes:
    """Returns the headers of a P-DATA-TF PDU with one PDV that holds `size` bytes of a data set."""
    control = DATA_LAST if last else DATA_MORE
    return _P_DATA.pack(P_DATA_TF, 0, size + PDV_OVERHEAD, size + 2, context, control)


def fragments(context: int, data: memoryview, max_pdu: int) -> Iterator[tuple[bytes, memoryview]]:
    """Yields a data set in memory as headers and fragments, without a copy."""
    step = fragment_bytes(max_pdu)
    for start in range(0, len(data) or 1, step):
        part = data[start : start + step]
        yield fragment_header(context, len(part), last=start + step >= len(data)), part


def message_id(number: int) -> int:
    """Returns the Message ID of the `number`-th message, from 0: they are 1 to 65535."""
    return number % 0xFFFF + 1


def _us(element: int, value: int) -> bytes:
    return _US.pack(0, element, 2, value)


def _uid(element: int, uid: str) -> bytes:
    value = uid.encode("ascii") + b"\0" * (len(uid) % 2)
    return _ELEMENT.pack(0, element, len(value)) + value
