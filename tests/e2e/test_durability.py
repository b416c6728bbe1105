"""The instructions of docs/durability.md to an administrator, carried out."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import wire
from tests.support.gateway import Gateway, Peer, Store, images, running, until


@contextlib.contextmanager
def refusing(status: int) -> Iterator[int]:
    """Runs an upstream that reads each body and answers with this status; yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_error(status)

        def log_message(self, *_: object) -> None:
            """Writes nothing to stderr."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_a_rejected_envelope_goes_back_once_the_cause_is_repaired(tmp_path: Path) -> None:
    """After a refusal: the record says why; both files are moved back, the record first."""
    data = wire.data_set("1.2.3.4")
    builder = "release_grace_secs = 0.1"
    with (
        refusing(413) as port,
        running(Gateway(tmp_path / "own", port, builder=builder)) as own,
    ):
        with Peer(own.dicom_port) as peer:
            peer.associate()
            assert peer.store(data, "1.2.3.4") == 0
            peer.release()
        until(lambda: own.envelopes("rejected"), "the envelope in rejected/")
        assert own.stop() == 0
    [archive] = own.envelopes("rejected")
    record = archive.with_suffix(".json")
    kept = json.loads(record.read_text())
    assert (kept["refusal"]["status"], kept["calling_ae"]) == (413, "PEER")
    assert kept["instances"] == 1
    with (
        running(Store(tmp_path / "upstream")) as upstream,
        running(Gateway(tmp_path / "own", upstream.port, builder=builder)) as own,
    ):
        record.rename(own.spool / "outbox" / record.name)
        archive.rename(own.spool / "outbox" / archive.name)
        [sent] = own.wait_sent()
        assert sent.name == archive.name
        assert [held["id"] for held in upstream.wait_held(1)] == [sent.stem]
        assert images(sent) == {"1.2.3.4": data}


@pytest.mark.fault("F32")
def test_an_envelope_too_large_for_its_upstream_is_kept_and_says_what_to_do(tmp_path: Path) -> None:
    data = wire.data_set("1.2.3.5")
    with (
        refusing(413) as port,
        running(Gateway(tmp_path / "own", port, builder="release_grace_secs = 0.1")) as own,
    ):
        with Peer(own.dicom_port) as peer:
            peer.associate()
            assert peer.store(data, "1.2.3.5") == 0
            peer.release()
        own.wait_for("error .*envelope_rejected .*status=413")
        [archive] = until(lambda: own.envelopes("rejected"), "the envelope in rejected/")
        refusal = json.loads(archive.with_suffix(".json").read_text())["refusal"]
        assert refusal["status"] == 413
        assert "max_envelope_bytes" in refusal["reason"]
        assert images(archive) == {"1.2.3.5": data}
