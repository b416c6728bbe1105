"""A modality's study in a directory and in a bucket, by a whole gateway and its commands."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastjmix import verify
from fastjmix.tools import launch
from tests.support import wire
from tests.support.gateway import (
    NOT_LISTENING,
    Peer,
    Process,
    Store,
    run_command,
    running,
    until,
    write_config,
)
from tests.support.places import KEYS, S3Service, names

BACKEND = """
[backends.archive]
service = "jmix_backend"
target_ref = "archive"
"""


@pytest.fixture
def service() -> Iterator[S3Service]:
    made = S3Service()
    yield made
    made.close()


def configured(
    at: Path, target: str, upstream: int = NOT_LISTENING, backends: str = '"archive"'
) -> Path:
    """A gateway whose targets are `backends`, of which [targets.archive] is one; returns the main
    file."""
    builder = "release_grace_secs = 0.1"
    return write_config(
        at, upstream, fastjmix=target, backend=BACKEND, builder=builder, backends=backends
    )


@contextmanager
def taking_an_image(main: Path) -> Iterator[Process]:
    """Runs the gateway, which has then taken an image."""
    own = Process("run", "-c", str(main), cwd=main.parent)
    try:
        port = int(own.wait_for(launch.listening("dicom"))[1])
        with Peer(port) as peer:
            assert peer.associate()[0] == 2
            assert peer.store(wire.data_set(pixels=bytes(100_000))) == 0
            peer.release()
        yield own
    finally:
        own.stop(signal.SIGINT)
        own.close()


def sent_by(main: Path) -> tuple[str, dict[str, object]]:
    """Sends an image through the gateway; the envelope's id, and what `status` says of it."""
    with taking_an_image(main) as own:
        (envelope,) = own.wait_for(r" envelope_uploaded envelope=(\S+)").groups()
        until(lambda: list((main.parent / "spool" / "sent").glob("*.zip")), "it is in sent/")
        done = run_command("status", "--json", "-c", main, cwd=main.parent)
        return envelope, json.loads(done.stdout)


def test_a_study_is_in_the_directory(tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    target = f'[targets.archive]\ntype = "directory"\npath = "{share}"\n'
    main = configured(tmp_path / "node", target)
    live = run_command("check", "--live", "--json", "-c", main, cwd=main.parent)
    found = [one for one in json.loads(live.stdout)["live"] if one["what"] == "directory"]
    assert [one["state"] for one in found] == ["ok"]
    assert names(share) == set()
    envelope, status = sent_by(main)
    assert names(share) == {f"{envelope}.zip"}
    assert verify(share / f"{envelope}.zip").ok
    assert '"archive"' in json.dumps(status)
    assert share.as_uri() in json.dumps(status)


def test_a_study_is_at_a_server_and_in_the_directory(tmp_path: Path) -> None:
    """The directory is missing at first, which keeps nothing from the server."""
    share = tmp_path / "share"
    target = f'[targets.archive]\ntype = "directory"\npath = "{share}"\n'
    with running(Store(tmp_path)) as store:
        main = configured(tmp_path / "node", target, store.port, '"jmix_upstream", "archive"')
        with taking_an_image(main) as own:
            own.wait_for(r" upstream_held .*upstream=archive")
            own.wait_for(r" envelope_uploaded envelope=(\S+) upstream=jmix_upstream")
            share.mkdir()
            done = run_command("outbox", "retry", "--all", "-c", main, cwd=main.parent)
            assert done.returncode == 0, done.stdout + done.stderr
            found = own.wait_for(r" envelope_uploaded envelope=(\S+) upstream=archive")
            assert names(share) == {f"{found[1]}.zip"}


def test_a_study_is_in_the_bucket(tmp_path: Path, service: S3Service) -> None:
    bucket = service.make_bucket()
    secret = tmp_path / "secret"
    secret.write_text(f"{KEYS.password.reveal()}\n")
    secret.chmod(0o600)
    target = f"""
[targets.archive]
type = "s3"
bucket = "{bucket}"
endpoint = "{service.url}"
authentication = "key"

[authentications.key]
method = "s3"
options.access_key_id = "{KEYS.username.reveal()}"
options.secret_access_key_file = "{secret}"
"""
    main = configured(tmp_path / "node", target)
    shown = run_command("check", "-c", main, cwd=main.parent)
    assert shown.returncode == 0, shown.stderr
    assert KEYS.password.reveal() not in shown.stdout
    envelope, status = sent_by(main)
    assert service.names(bucket) == [f"{envelope}.zip"]
    kept = main.parent / "spool" / "sent" / f"{envelope}.zip"
    assert service.get(bucket, f"{envelope}.zip") == kept.read_bytes()
    assert '"archive"' in json.dumps(status)
