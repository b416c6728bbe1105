"""The associations that a running node shows on its control socket."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from tests.support import wire
from tests.support.gateway import Gateways, Peer, until


def status(control: Path) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connected:
        connected.connect(str(control))
        client = http.client.HTTPConnection("localhost")
        client.sock = connected
        client.request("GET", "/api/node/status")
        answer: dict[str, Any] = json.loads(client.getresponse().read())
        return answer


def test_an_open_association_is_seen_by_the_api(start: Gateways) -> None:
    """The api maps the control blocks, and not the rings."""
    own = start()
    control = own.spool / "control.sock"
    until(control.exists, "the control socket is there")
    with Peer(own.dicom_port) as peer:
        peer.associate(calling=b"CT_ONE")
        assert peer.store(wire.data_set("1.2.826.32.1"), instance="1.2.826.32.1") == 0
        (seen,) = status(control)["associations"]
        assert (seen["calling_ae"], seen["instances"]) == ("CT_ONE", 1)
        assert (seen["waits_for"], seen["bytes"] > 100) == ("peer", True)
        maps = Path(f"/proc/{own.children()['api']}/maps").read_text()
        assert "fastjmix-control" in maps
        assert "fastjmix-lanes" not in maps
        peer.release()
    until(lambda: not status(control)["associations"], "it has ended")
