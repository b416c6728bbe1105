"""Independent Storage SCPs for tests (pynetdicom, DCMTK), and files to send to them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt

from fastjmix.tools import send

PYDICOM_FILES = Path(pydicom.__file__).parent / "data"
PRIVATE_SYNTAX = "1.2.826.0.1.3680043.8.498.99.1"
UNKNOWN_SYNTAX = "1.2.840.10008.1.2.4.999"


def data_set_bytes(path: Path) -> bytes:
    """All that follows the File Meta Information in a file."""
    return data_set_in(path.read_bytes())


def data_set_in(data: bytes) -> bytes:
    """All that follows the File Meta Information, which is Explicit VR Little Endian."""
    assert data[128:132] == b"DICM"
    at = 132
    while struct.unpack_from("<H", data, at)[0] == 0x0002:
        long_form = data[at + 4 : at + 6] in (b"OB", b"UN", b"UT", b"SQ", b"OW")
        length = struct.unpack_from("<I" if long_form else "<H", data, at + (8 if long_form else 6))
        at += (12 if long_form else 8) + length[0]
    return data[at:]


def write_instance(
    path: Path,
    sop_class: str = CTImageStorage,
    transfer_syntax: str = ExplicitVRLittleEndian,
    **elements: Any,
) -> Path:
    """A Part 10 file of a few elements; the body is always explicit VR little endian."""
    body = Dataset()
    body.SOPClassUID, body.SOPInstanceUID = UID(sop_class), generate_uid()
    for keyword, value in elements.items():
        setattr(body, keyword, value)
    body.file_meta = FileMetaDataset()
    body.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    body.file_meta.MediaStorageSOPInstanceUID = body.SOPInstanceUID
    body.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    body.save_as(path, enforce_file_format=True)
    if transfer_syntax != ExplicitVRLittleEndian:
        _put_transfer_syntax(path, transfer_syntax)
    return path


def _put_transfer_syntax(path: Path, uid: str) -> None:
    whole, body = path.read_bytes(), data_set_bytes(path)
    value = uid.encode() + b"\0" * (len(uid) % 2)
    at = whole.index(b"\x02\x00\x10\x00UI")
    old = 8 + struct.unpack_from("<H", whole, at + 6)[0]
    element = struct.pack("<HH2sH", 2, 0x10, b"UI", len(value)) + value
    head = whole[:at] + element + whole[at + old : len(whole) - len(body)]
    head = head[:140] + struct.pack("<I", len(head) - 144) + head[144:]
    path.write_bytes(head + body)


class Acceptor:
    """A pynetdicom Storage SCP on a port of the system's choice, which keeps what it gets."""

    def __init__(self, answer: Callable[[evt.Event], Any] = lambda _: 0x0000) -> None:
        self.answer = answer
        self.received: list[tuple[str, str, bytes]] = []  # SOP class, transfer syntax, data set
        self.priorities: set[int] = set()
        self.associations = 0
        self.ae = AE("JMIX_RECEIVER")
        self.ae.maximum_associations = 16
        for context in AllStoragePresentationContexts:
            self.ae.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
        self.ae.add_supported_context(send.VERIFICATION)

    def _store(self, event: evt.Event) -> Any:
        request: Any = event.request
        syntax = str(event.context.transfer_syntax)
        sop_class = str(request.AffectedSOPClassUID)
        self.received.append((sop_class, syntax, request.DataSet.getvalue()))
        self.priorities.add(request.Priority)
        return self.answer(event)

    def _established(self, _: evt.Event) -> None:
        self.associations += 1

    @contextmanager
    def listening(
        self,
        called: str = "JMIX_RECEIVER",
        timeout: float = 10.0,
        handlers: Sequence[tuple[Any, Any]] = (),
    ) -> Iterator[send.Peer]:
        server = self.ae.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_ESTABLISHED, self._established),
                *handlers,
            ],
        )
        assert server is not None
        port = server.server_address[1]
        with warnings.catch_warnings():
            # pynetdicom drops a socket that was reset under it without closing it.
            own = rf"unclosed <socket.*laddr=\('127.0.0.1', {port}\)"
            warnings.filterwarnings("ignore", own, ResourceWarning)
            try:
                yield send.Peer("127.0.0.1", port, called, timeout=timeout)
            finally:
                server.shutdown()


def dcmtk(program: str) -> str:
    """DCMTK's program, not the one of the same name that pynetdicom puts beside our Python."""
    ours = str(Path(sys.executable).parent)
    path = os.pathsep.join(d for d in os.environ["PATH"].split(os.pathsep) if d != ours)
    found = shutil.which(program, path=path)
    assert found, f"the tests need DCMTK's {program}: apt-get install dcmtk"
    return found


@contextmanager
def storescp(directory: Path, *options: str) -> Iterator[send.Peer]:
    """DCMTK's storescp, ready to be called."""
    command = [dcmtk("storescp"), *options, "-od", str(directory)]
    with _listening(lambda port: [*command, str(port)]) as port:
        yield send.Peer("127.0.0.1", port, timeout=10.0)


@contextmanager
def orthanc(directory: Path, **settings: Any) -> Iterator[send.Peer]:
    """Orthanc, if it is installed, ready to be called; its folder is in `directory`."""
    program = shutil.which("Orthanc")
    assert program, "Orthanc is not installed"
    taken = {
        "StorageDirectory": str(directory / "orthanc"),
        "IndexDirectory": str(directory / "orthanc"),
        "Plugins": [],
        "HttpServerEnabled": False,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "SyncStorageArea": False,
        "MaximumPduLength": 131072,
    }

    def command(port: int) -> list[str]:
        file = directory / "orthanc.json"
        file.write_text(json.dumps(taken | settings | {"DicomPort": port}))
        return [program, str(file)]

    with _listening(command) as port:
        yield send.Peer("127.0.0.1", port, timeout=10.0)


@contextmanager
def _listening(command: Callable[[int], list[str]]) -> Iterator[int]:
    """A program on a port of its own, once it answers there."""
    for _ in range(5):  # it cannot be told port 0; a port found free may be taken meanwhile
        with socket.socket() as found:  # without SO_REUSEADDR, and for any address, as it does
            found.bind(("", 0))
            port = found.getsockname()[1]
        process = subprocess.Popen(
            command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            if _answers(process, port):
                yield port
                return
        finally:
            process.terminate()
            process.wait(10)
    pytest.fail(f"{command(0)[0]} did not start")


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            time.sleep(0.01)
    return False
