"""receiver/connection.py: a message that is too slow, and many of one turn."""

from __future__ import annotations

import pytest

from fastjmix.config import PeerLimits
from fastjmix.receiver import connection
from tests.core.test_core import Pair
from tests.support.dicom_peers import message


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_bytes_per_second_inside_a_message(off: int) -> None:
    limits = PeerLimits(30, 60, 300, 1000, 512)
    pair = Pair()
    pace = connection.Pace()

    def is_kept(now: float) -> bool:
        return pace.is_kept(limits, pair.scanner, now)

    assert is_kept(0.0)  # between messages
    data = message(b"x" * 200_000)[: 1000 * 60 + off]
    view = pair.scanner.reserve(len(data))
    view[:] = data
    pair.scanner.commit(len(data))
    assert pair.scanner.hungry
    assert is_kept(59.9)  # not a whole dimse_timeout_secs yet
    assert is_kept(60.0) == (off >= 0)
    assert is_kept(119.9)  # and from there anew
    assert not is_kept(120.0)
