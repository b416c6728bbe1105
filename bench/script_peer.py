"""A straightforward script that does what fastjmix does, with the libraries one would reach for.

    python -m bench.script_peer receive DIRECTORY           a file an instance (pynetdicom)
    python -m bench.script_peer deliver DIRECTORY URL       and hashlib, zipfile, aiohttp at release

Prints its port, and after each association "instances" or "instances status". It is a peer to
be measured against, written as one would write it in an afternoon; it is not used by fastjmix.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import uuid
import zipfile
from pathlib import Path
from typing import Any

import aiohttp
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, Verification  # type: ignore[attr-defined]

held: dict[int, list[Path]] = {}


def store(event: Any, directory: Path) -> int:
    """EVT_C_STORE: one Part 10 file; the data set is not decoded."""
    path = directory / f"{uuid.uuid4()}.dcm"
    path.write_bytes(event.encoded_dataset())
    held.setdefault(id(event.assoc), []).append(path)
    return 0x0000


def deliver(files: list[Path], directory: Path, url: str) -> int:
    """Packs a study, posts it, and gives the status of the answer."""
    envelope = str(uuid.uuid4())
    archive = directory / f"{envelope}.zip"
    listing = []
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for number, path in enumerate(files, 1):
            data, name = path.read_bytes(), f"payload/series_1/image_{number:03d}.dcm"
            digest = hashlib.sha256(data).hexdigest()
            listing.append({"path": name, "size_bytes": len(data), "hash": f"sha256:{digest}"})
            packed.writestr(name, data)
        about = {"id": envelope, "studies": {"1.2.3": {"study_uid": "1.2.3", "series": []}}}
        packed.writestr("payload/metadata.json", json.dumps(about))
        manifest = {
            "id": envelope,
            "type": "envelope",
            "version": 1,
            "content": {"type": "directory", "path": "payload"},
            "files": listing,
        }
        packed.writestr("manifest.json", json.dumps(manifest))
    return asyncio.run(_post(archive, url))


async def _post(archive: Path, url: str) -> int:
    async with aiohttp.ClientSession() as session:
        with archive.open("rb") as body:
            headers = {"Content-Type": "application/zip"}
            async with session.post(url, data=body, headers=headers) as answer:
                await answer.read()
                return answer.status


def main() -> None:
    verb, directory = sys.argv[1], Path(sys.argv[2])

    def released(event: Any) -> None:
        files = held.pop(id(event.assoc), [])
        said = f" {deliver(files, directory, sys.argv[3])}" if verb == "deliver" else ""
        print(f"{len(files)}{said}", flush=True)

    node = AE("ANY-SCP")
    node.maximum_pdu_size = 131072
    node.maximum_associations = 100
    node.add_supported_context(CTImageStorage, "1.2.840.10008.1.2.1")
    node.add_supported_context(Verification)
    server = node.start_server(
        ("127.0.0.1", 0),
        block=False,
        evt_handlers=[(evt.EVT_C_STORE, store, [directory]), (evt.EVT_RELEASED, released)],
    )
    print(server.server_address[1] if server else 0, flush=True)
    sys.stdin.read()  # ends with the process that started it
    if server:
        server.shutdown()


if __name__ == "__main__":
    main()
