"""receiver/listener.py: how many peers are listed in a second."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fastjmix.receiver import listener
from fastjmix.receiver.peer_log import LINES_A_SECOND, PeerLog
from tests.limits.test_http import log_lines
from tests.support.dicom_peers import open_sockets, works
from tests.support.gateway import Gateways, Peer, until


@pytest.mark.parametrize("off", [-1, 0, 1, 2])
def test_rejected_peers_that_are_logged_in_one_second(off: int) -> None:
    count = LINES_A_SECOND + off
    with log_lines() as lines:
        peer_log = PeerLog()
        for number in range(count):
            peer_log.warning("association_rejected", peer=str(number))
        assert [line["peer"] for line in lines] == [
            str(number) for number in range(min(count, LINES_A_SECOND))
        ]
        assert peer_log.unlisted == max(off, 0)
        now = time.monotonic()
        peer_log.tick(now + 1.0)  # the next second: the others are counted in one line
        logged = [line["count"] for line in lines if line["event"] == "peers_not_listed"]
        assert logged == [off][: max(off, 0)]
        assert peer_log.unlisted == 0
        del lines[:]
        peer_log.warning("association_rejected", peer="again")
        assert [line["peer"] for line in lines] == ["again"]


def test_connections_that_do_not_close(start: Gateways) -> None:
    """CLOSING_MAX of them may wait after a rejection; then who waited longest is closed."""
    own = start(fastjmix="lane_bytes = 1048576", endpoint="acse_timeout_secs = 3600")
    works(own)
    until(lambda: open_sockets(own) == 0, "nobody is connected")
    receiver = Path(f"/proc/{own.children()['receiver-0']}/fd")
    base = len(list(receiver.iterdir()))
    peers: list[Peer] = []

    def one_more() -> int:
        """Is rejected and stays; how many connections the receiver has then."""
        peer = Peer(own.dicom_port)
        peers.append(peer)
        assert peer.associate(called=b"SOMEONE")[0] == 3
        return len(list(receiver.iterdir())) - base

    assert [one_more() for _ in range(listener.CLOSING_MAX)] == [
        number + 1 for number in range(listener.CLOSING_MAX)
    ]
    assert one_more() == listener.CLOSING_MAX
    until(lambda: is_reset(peers[0]), "the first of them is closed")
    assert one_more() == listener.CLOSING_MAX
    until(lambda: is_reset(peers[1]), "and then the second")
    for peer in peers:
        peer.socket.close()
    until(lambda: len(list(receiver.iterdir())) == base, "all are closed")


def is_reset(peer: Peer) -> bool:
    """Whoever has closed answers bytes with a reset; whoever waits takes them, and says nothing."""
    try:
        peer.send(b"x")
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False
