"""Costs that come once a message or once an association, beside what they replace.

Each group's floor is what fastjmix does not do, though it gives the same answer: negotiate again,
decode with pydicom, encode with pynetdicom, describe each instance instead of each series.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.uid import UID
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import decode
from pynetdicom.sop_class import _STORAGE_CLASSES

from bench.study import CT_STUDY, EXPLICIT
from fastjmix import _core
from fastjmix.dicom import dimse
from fastjmix.dicom.association import Accepted, Acceptor, Policy
from fastjmix.dicom.dataset import describe
from fastjmix.ipc.metrics import MetricsPage
from fastjmix.receiver.measures import BETWEEN, DISK, INSIDE, Measures
from tests.support import wire

POLICY = Policy("JMIX_RECEIVER", False, None, 131_072, True, True)
CONTEXTS = [
    wire.context(2 * number + 1, str(uid), wire.EXPLICIT, wire.IMPLICIT)
    for number, uid in enumerate(list(_STORAGE_CLASSES.values())[:120])
]
REQUEST = wire.associate_rq(*CONTEXTS)
STORE = wire.store_rq("1.2.826.0.1.3680043.2.1125.1.1")


def bench_answer_again(benchmark: Any) -> None:
    """A request of 120 contexts whose bytes are known (most modalities repeat theirs)."""
    acceptor = Acceptor(POLICY)
    acceptor.answer(REQUEST)
    benchmark.group = "negotiation of 120 contexts"
    answer = benchmark(acceptor.answer, REQUEST)
    assert isinstance(answer, Accepted)
    assert len(answer.contexts) == len(CONTEXTS)


def bench_floor_negotiate(benchmark: Any) -> None:
    benchmark.group = "negotiation of 120 contexts"
    answer = benchmark(lambda: Acceptor(POLICY).answer(REQUEST))
    assert isinstance(answer, Accepted)
    assert len(answer.contexts) == len(CONTEXTS)


def bench_parse_command(benchmark: Any) -> None:
    benchmark.group = "C-STORE-RQ command set"
    assert benchmark(_core.parse_command, STORE).message_id == 1


def bench_floor_pydicom(benchmark: Any) -> None:
    benchmark.group = "C-STORE-RQ command set"
    found = benchmark(lambda: decode(BytesIO(STORE), True, True))
    assert found.MessageID == 1


def bench_response(benchmark: Any) -> None:
    request = _core.parse_command(STORE)
    benchmark.group = "C-STORE-RSP"
    data = benchmark(lambda: dimse.p_data(1, dimse.response(request, 0), 16_384))
    assert b"1.2.826.0.1.3680043.2.1125.1.1" in data


def bench_floor_pynetdicom(benchmark: Any) -> None:
    def encoded() -> bytes:
        primitive = C_STORE()
        primitive.MessageIDBeingRespondedTo = 1
        primitive.AffectedSOPClassUID = UID(wire.CT)
        primitive.AffectedSOPInstanceUID = UID("1.2.826.0.1.3680043.2.1125.1.1")
        primitive.Status = 0
        message = C_STORE_RSP()
        message.primitive_to_message(primitive)
        return b"".join(
            bytes(value[1])
            for pdata in message.encode_msg(1, 16_384)
            for value in pdata.presentation_data_value_list
        )

    benchmark.group = "C-STORE-RSP"
    assert b"1.2.826.0.1.3680043.2.1125.1.1" in benchmark(encoded)


def bench_read_head(benchmark: Any) -> None:
    """Each instance: UIDs and Instance Number, compiled."""
    head = CT_STUDY.head(0) + wire.element(0x7FE00010, b"OW", b"\0" * 64)
    benchmark.group = "a data set's head"
    assert benchmark(_core.read_head, head, 1).study_instance_uid


def bench_describe(benchmark: Any) -> None:
    """Once a series: names and descriptions, stepped to in compiled code, with pydicom's character
    sets."""
    head = CT_STUDY.head(0)
    benchmark.group = "a data set's head"
    assert benchmark(describe, head, EXPLICIT).modality == "CT"


def bench_floor_dcmread(benchmark: Any) -> None:
    head = CT_STUDY.head(0)
    benchmark.group = "a data set's head"

    def read() -> str:
        found = dcmread(BytesIO(head), force=True)
        return f"{found.StudyInstanceUID} {found.SeriesInstanceUID} {found.PatientName}"

    assert benchmark(read)


def bench_measures(benchmark: Any) -> None:
    """All that the receiver measures of an instance that comes in two pieces (measures.py)."""
    measures = Measures()

    def instance() -> None:
        measures.wake(1.0)
        measures.wait(INSIDE, 1.1)
        measures.wake(1.2)
        measures.wait(DISK, 1.3)
        measures.wake(1.301)
        measures.count_stored(500_000)
        measures.wait(BETWEEN, 1.4)

    benchmark.group = "measures of an instance"
    benchmark(instance)


def bench_observe(benchmark: Any) -> None:
    """A time that goes into a histogram of the shared page (ipc/metrics.py): one an instance."""
    observe = MetricsPage(2).row(1).histogram("response_seconds").observe
    benchmark.group = "measures of an instance"
    benchmark(observe, 0.0031)


def bench_measures_floor(benchmark: Any) -> None:
    """Floor: a function that does nothing, called as often as measures.py is."""

    def nothing() -> None:
        pass

    def instance() -> None:
        nothing()
        nothing()
        nothing()
        nothing()
        nothing()
        nothing()
        nothing()

    benchmark.group = "measures of an instance"
    benchmark(instance)
