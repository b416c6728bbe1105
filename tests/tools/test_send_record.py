"""tools/send/record.py: a record that cannot be written is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from fastjmix.tools.send import record as records
from tests.support.acceptors import Acceptor
from tests.tools.test_send_command import images


def test_a_record_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    images(tmp_path / "a", 2)
    with Acceptor().listening() as peer:
        command = ["send", peer.host, str(peer.port), str(tmp_path / "a"), "--resume", "record"]
        limited = f"ulimit -f 0; exec {sys.executable} -m fastjmix {' '.join(command)}"
        first = f"{sys.executable} -m fastjmix {' '.join(command)} --aet FIRST --dry-run"
        assert subprocess.run(first, shell=True, cwd=tmp_path, check=False).returncode == 0
        (tmp_path / "record").write_text(json.dumps(records.HEADER) + "\n")
        done = subprocess.run(
            ["bash", "-c", f"trap '' XFSZ; {limited}"],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert "2 of 2 instances accepted" in done.stdout
    assert done.returncode == 1
    assert "--resume: record: File too large" in done.stderr
