"""Our acceptor beside pynetdicom's, on the same bytes: the same contexts get the same results.

pynetdicom's side is its own AE's decision: its PDU decoder, its ServiceUser-less primitive, and
`negotiate_as_acceptor` with the SOP classes that we take. Where the two differ for a reason, the
reason stands here, and nowhere else:

- Which transfer syntax is taken: we take the first that the requestor proposes, whatever it is
  (PS3.8 §9.3.3.2 leaves the choice to the acceptor); pynetdicom its own first. It is therefore
  given the requestor's list, in the requestor's order.
- A context ID that is proposed twice: we refuse the second (PS3.8 §9.3.2.2: IDs are unique),
  pynetdicom answers both. Only the first of each is compared.
- An even context ID, and a UID that is not one: pynetdicom's decoder refuses the whole request;
  we refuse the context, or the request.
- A request that only one of the two can decode: pynetdicom trips over items that PS3.8 §9.3.1 has
  an acceptor ignore. So what pynetdicom can decode we must answer, and not the other way round.
"""

from __future__ import annotations

import struct
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor

from fastjmix.dicom.association import Accepted, Acceptor, Policy
from fastjmix.errors import ProtocolError
from tests.support import wire
from tests.support.nightly import by_form

OURS = Policy("JMIX_RECEIVER", True, None, 131072, True, True)
MR, WORKLIST, PRIVATE = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.31", "1.3.12.2.1107.5.9.1"
TAKEN = (wire.CT, MR, PRIVATE, wire.VERIFICATION)
SYNTAXES = (wire.EXPLICIT, wire.IMPLICIT, wire.BIG, wire.DEFLATED, "1.2.840.10008.1.2.4.90")


@st.composite
def contexts(draw: st.DrawFn) -> bytes:
    abstract = draw(st.sampled_from((*TAKEN, WORKLIST)))
    syntaxes = draw(st.lists(st.sampled_from(SYNTAXES), min_size=1, max_size=4))
    pad = "\0" * draw(st.integers(0, 1))
    return wire.context(draw(st.integers(0, 127)) * 2 + 1, abstract + pad, *syntaxes)


def named(uid: str) -> bytes:
    return struct.pack(">H", len(uid)) + uid.encode()


@st.composite
def sub_items(draw: st.DrawFn) -> bytes:
    uid = draw(st.sampled_from((*TAKEN, WORKLIST)))
    byte = st.integers(0, 1)
    return draw(
        st.sampled_from(
            [
                wire.item(0x53, struct.pack(">HH", draw(byte) * 8, 1)),
                wire.item(0x54, named(uid) + bytes((draw(byte), draw(byte)))),
                wire.item(0x55, b"PEER_1"),
                wire.item(0x56, named(uid) + b"\2\0\0\0\1\0"),
                wire.item(0x57, named(uid) + named("1.2.840.10008.4.2") + b"\0\0"),
                wire.item(0x58, struct.pack(">BBH", 1, draw(byte), 4) + b"user\0\0"),
                wire.item(draw(st.integers(0x5A, 0x6F)), draw(st.binary(max_size=9))),
            ]
        )
    )


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request, in which some length may be wrong."""
    odd = st.binary(max_size=9).map(lambda body: wire.item(0x77, body))
    items = draw(st.lists(st.one_of(contexts(), contexts(), contexts(), odd), max_size=9))
    user = b"".join(draw(st.lists(sub_items(), max_size=5)))
    request = bytearray(wire.associate_rq(*items, user=user))
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2)))):
        at = draw(st.integers(74, len(request) - 1))
        request[at] = draw(st.integers(0, 255))
    return bytes(request)


def theirs(request: bytes) -> list[PresentationContext] | None:
    """pynetdicom's results; None when it cannot decode the request."""
    decoded = A_ASSOCIATE_RQ()
    try:
        decoded.decode(request)
        proposed = decoded.to_primitive().presentation_context_definition_list
        user: Any = decoded.user_information
        roles = user.role_selection
        asked: dict[Any, Any] = {
            uid: (bool(r.scu_role), bool(r.scp_role)) for uid, r in roles.items()
        }
    except Exception:  # whatever its parts raise
        return None
    results: list[PresentationContext] = []
    for one in proposed:
        taken = []
        for uid in TAKEN:
            own = PresentationContext()
            own.abstract_syntax, own.transfer_syntax = uid, list(one.transfer_syntax)
            own.scu_role, own.scp_role = True, False  # the requestor may be SCU
            taken.append(own)
        try:
            results += negotiate_as_acceptor([one], taken, asked)[0]
        except Exception:  # a context without a transfer syntax
            return None
    return results


def clean(uid: Any) -> str:
    return str(uid).strip("\0 ")


@pytest.mark.fault("S01")
@settings(deadline=None, max_examples=by_form(400, 40_000))
@given(requests())
def test_the_same_bytes_get_the_results_that_pynetdicom_gives(request: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs(request)
        try:
            answer = Acceptor(OURS).answer(request)
        except ProtocolError:
            assert expected is None or damaged(request)
            return
        if not isinstance(answer, Accepted):
            assert damaged(request)
            return
        read = A_ASSOCIATE_AC()
        read.decode(answer.pdu)  # a second hand reads what we wrote
    if expected is None:
        return
    results = {c.context_id: c for c in reversed(read.presentation_context)}
    bodies = [body for kind, body in wire.parse_items(request[74:]) if kind == 0x20]
    whole = {body[0] for body in bodies if intact(body)} - {b[0] for b in bodies if not intact(b)}
    compared = 0
    for one in {c.context_id: c for c in reversed(expected)}.values():
        if one.context_id not in whole:
            continue  # what is left of a UID is a private class to us, and unknown to them
        ours = results[one.context_id]
        compared += 1
        if ours.result == 0 and declines_to_be_scu(one, request):
            continue
        assert ours.result == one.result, (one.context_id, ours.result, one.result)
        if one.result == 0:
            assert clean(ours.transfer_syntax) == clean(one.transfer_syntax[0])
    if not damaged(request):
        assert compared == len({c.context_id for c in expected})


def declines_to_be_scu(one: PresentationContext, request: bytes) -> bool:
    """Role selection without SCU: pynetdicom refuses the context (result 1). We take it and answer
    with the role: PS3.7 §D.3.3.4 refuses roles, not contexts, and such a peer sends nothing."""
    return one.result == 1 and named(clean(one.abstract_syntax)) + b"\0" in request


def damaged(request: bytes) -> bool:
    """True when a byte was changed: the generator writes nothing else than these."""
    try:
        items = list(wire.parse_items(request[74:]))
        known = {0x10, 0x20, 0x50, 0x77}
        whole = sum(4 + len(body) for _, body in items) == len(request) - 74
        user = [body for kind, body in items if kind == 0x50]
        contexts = [body for kind, body in items if kind == 0x20]
        return not (
            whole
            and {kind for kind, _ in items} <= known
            and len(user) == 1
            and dict(items)[0x10] == wire.APPLICATION_CONTEXT.encode()
            and all(intact(body) for body in contexts)
        )
    except (struct.error, IndexError, KeyError):
        return True


def intact(body: bytes) -> bool:
    """A context whose UIDs are among those that are generated."""
    uids = [
        (kind, text.rstrip(b"\0").decode("latin-1")) for kind, text in wire.parse_items(body[4:])
    ]
    abstract = [u for k, u in uids if k == 0x30]
    syntaxes = [u for k, u in uids if k == 0x40]
    return (
        body[0] % 2 == 1
        and len(abstract) == 1
        and set(abstract) <= {*TAKEN, WORKLIST}
        and bool(syntaxes)
        and set(syntaxes) <= set(SYNTAXES)
        and len(abstract) + len(syntaxes) == len(uids)
    )
