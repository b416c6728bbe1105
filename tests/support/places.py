"""Targets that are no JMIX server: a directory's configuration, and a running S3 service."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import obstore
from obstore.store import S3Store

from fastjmix.config import Credentials, Secret, Upstream
from fastjmix.config.tree import BucketPlace, DirectoryPlace
from tests.support.nodes import to


def to_directory(path: Path, *, require_mount: bool = False, **changes: Any) -> Upstream:
    """The configuration of a directory as a target."""
    place = DirectoryPlace(path, require_mount, 0o640)
    return replace(to(path.as_uri()), place=place, **changes)


def names(directory: Path) -> set[str]:
    """Returns the names in a directory."""
    return {path.name for path in directory.iterdir()}


KEYS = Credentials(
    "s3", username=Secret("the-id-of-a-key"), password=Secret("the-secret-access-key")
)


def to_bucket(endpoint: str, bucket: str, *, conditional: bool = True, **changes: Any) -> Upstream:
    """The configuration of a bucket as a target."""
    place = BucketPlace(bucket, "radiology/", "us-east-1", endpoint, True, conditional)
    given = {"credentials": KEYS, **changes}
    return replace(to(f"s3://{bucket}/radiology/"), place=place, **given)


_SERVICE = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class S3Service:
    """A running S3 service: moto's, as a process of its own. Buckets are asked for over HTTP."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", _SERVICE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._child.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._child.stdout.readline())}"

    def close(self) -> None:
        self._child.kill()
        self._child.communicate()

    def make_bucket(self) -> str:
        """Makes a bucket of a name of its own."""
        name = f"envelopes-{uuid.uuid4()}"
        self.ask("PUT", name)
        return name

    def put(self, bucket: str, name: str, data: bytes) -> None:
        obstore.put(self._store(bucket), name, data, use_multipart=False)

    def get(self, bucket: str, name: str) -> bytes:
        return obstore.get(self._store(bucket), name).bytes().to_bytes()

    def names(self, bucket: str) -> list[str]:
        """The names of all objects."""
        return re.findall(r"<Key>([^<]*)</Key>", self.ask("GET", f"{bucket}?list-type=2").decode())

    def unfinished(self, bucket: str) -> list[str]:
        """The names of objects of which parts are there only."""
        return re.findall(r"<Key>([^<]*)</Key>", self.ask("GET", f"{bucket}?uploads").decode())

    def _store(self, bucket: str) -> S3Store:
        return S3Store(
            bucket,
            config={
                "endpoint": self.url,
                "access_key_id": KEYS.username.reveal(),
                "secret_access_key": KEYS.password.reveal(),
                "virtual_hosted_style_request": False,
            },
            client_options={"allow_http": True},
        )

    def ask(self, method: str, path: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{self.url}/{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: bytes = answer.read()
            return found
