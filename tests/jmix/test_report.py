"""jmix/read/report.py: so many findings are kept, and all are counted."""

from __future__ import annotations

import pytest

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.read import report


@pytest.mark.fault("S31")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_faults_and_remarks_that_are_kept(off: int) -> None:
    count = report.FINDINGS_MAX + off
    found = report.Report()
    for number in range(count):
        found.add_fault(EnvelopeError(f"member: fault {number}"))
        found.add_remark("member", f"remark {number}")
    assert (len(found.faults), len(found.remarks)) == (min(count, report.FINDINGS_MAX),) * 2
    assert (found.more_faults, found.more_remarks) == (max(0, off),) * 2
    assert not found.ok
