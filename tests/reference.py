"""Slow twins: what the fast code does, done again by libraries or from the standards' tables.

Wanted: an authority for the property tests. Nothing here shares code with fastjmix.
Guaranteed: plain, and slow where plain is slow.
Still wrong: `describe` is pydicom's opinion, and pydicom also feeds the fast one; the character set
tests therefore have literal answers too.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import blake3
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

# -- ZIP -------------------------------------------------------------------------------------


def local_header(name: bytes, crc: int, size: int) -> bytes:
    """APPNOTE 4.3.7, field by field."""
    wide = size >= 0xFFFFFFFF
    shown = 0xFFFFFFFF if wide else size
    extra = b""
    if wide:
        extra = _le(1, 2) + _le(16, 2) + _le(size, 8) + _le(size, 8)
    return b"".join(
        (
            b"PK\x03\x04",
            _le(45 if wide else 20, 2),  # version needed
            _le(0x0800, 2),  # flags: UTF-8
            _le(0, 2),  # method: stored
            _le(0, 2),  # time
            _le(0x21, 2),  # date: 1980-01-01
            _le(crc, 4),
            _le(shown, 4),  # compressed
            _le(shown, 4),  # uncompressed
            _le(len(name), 2),
            _le(len(extra), 2),
            name,
            extra,
        )
    )


def _le(value: int, length: int) -> bytes:
    return value.to_bytes(length, "little")


def zip_by_zipfile(members: Iterable[tuple[str, bytes]]) -> bytes:
    """The same members, time, attributes and method, written by the standard library."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o100644 << 16
            info.create_system = 3
            archive.writestr(info, data)
    return out.getvalue()


def read_forward(archive: bytes) -> list[tuple[str, bytes]]:
    """The members as a strict reader of a stream sees them, which never looks at the end first.

    Like java.util.zip.ZipInputStream: local headers only, no data descriptors, CRC compared.
    """
    found = []
    stream = io.BytesIO(archive)
    while (signature := stream.read(4)) == b"PK\x03\x04":
        rest = stream.read(26)
        _, flags, method, _, _, crc, packed, size, name_length, extra_length = struct.unpack(
            "<5H3I2H", rest
        )
        assert not flags & 0x0009, "encrypted, or sizes unknown until the data has been read"
        assert method == 0
        name = stream.read(name_length)
        extra = stream.read(extra_length)
        if size == 0xFFFFFFFF:
            assert extra[:4] == b"\x01\x00\x10\x00"
            size, packed = struct.unpack("<2Q", extra[4:20])
        assert packed == size
        data = stream.read(size)
        assert len(data) == size
        assert zlib.crc32(data) == crc
        found.append((name.decode("utf-8" if flags & 0x0800 else "cp437"), data))
    assert signature in (b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06")
    return found


# -- JMIX ------------------------------------------------------------------------------------


def digest(algorithm: str, data: bytes) -> bytes:
    """SHA-256 or BLAKE3 of a whole file."""
    if algorithm == "blake3":
        return blake3.blake3(data).digest()
    return hashlib.sha256(data).digest()


def payload_hash(files: dict[str, bytes], algorithm: str) -> str:
    """TREE: from the files' contents; directories are every proper prefix of a path."""
    entries: list[tuple[bytes, str]] = []
    directories = set()
    for path, data in files.items():
        shown = digest(algorithm, data).hex()
        entries.append((path.encode(), f"file:{path}:{len(data)}:{shown}\n"))
        parts = path.split("/")
        directories |= {"/".join(parts[:depth]) for depth in range(1, len(parts))}
    entries += [(path.encode(), f"dir:{path}\n") for path in directories]
    text = "".join(line for _, line in sorted(entries))
    return f"{algorithm}:{digest(algorithm, text.encode()).hex()}"


def harmony_tree(arrivals: Sequence[tuple[str, str]]) -> list[str]:
    """Member names for (study, series) pairs in order of arrival, by counting them again."""
    names = []
    for index, arrival in enumerate(arrivals):
        before = list(arrivals[: index + 1])
        order = sorted(set(before), key=before.index)
        series, image = order.index(arrival) + 1, before.count(arrival)
        names.append(f"payload/series_{series}/image_{str(image).zfill(3)}.dcm")
    return names


# -- DICOM -----------------------------------------------------------------------------------


def file_meta(
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    calling_ae: str,
    called_ae: str,
    implementation: tuple[str, str],
) -> bytes:
    """Preamble and File Meta Information by pydicom's writer."""
    meta = FileMetaDataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        meta.MediaStorageSOPClassUID = UID(sop_class_uid)
        meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
        meta.TransferSyntaxUID = UID(transfer_syntax_uid)
        meta.ImplementationClassUID = UID(implementation[0])
        meta.ImplementationVersionName = implementation[1]
        meta.SourceApplicationEntityTitle = calling_ae
        meta.SendingApplicationEntityTitle = calling_ae
        meta.ReceivingApplicationEntityTitle = called_ae
        out = DicomBytesIO()
        write_file_meta_info(out, meta, enforce_standard=True)
    return bytes(128) + b"DICM" + out.getvalue()


def split_file(file: bytes) -> tuple[str, bytes] | None:
    """(transfer syntax, data set as on the wire) of a DICOM file; None without File Meta."""
    if file[128:132] != b"DICM" or file[132:136] != b"\x02\x00\x00\x00":
        return None
    length = struct.unpack_from("<I", file, 140)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        meta = pydicom.dcmread(io.BytesIO(file[: 144 + length]), force=True).file_meta
    syntax = meta.get("TransferSyntaxUID")
    if syntax is None:
        return None
    data_set = file[144 + length :]
    if syntax.is_deflated:
        data_set = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data_set)
    return str(syntax), data_set


def describe(file: bytes) -> dict[str, Any]:
    """The descriptive elements of a whole DICOM file, decoded by pydicom's own Dataset."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pydicom.dcmread(io.BytesIO(file), force=True, stop_before_pixels=True)
        number = found.get("SeriesNumber")
        instance = found.get("InstanceNumber")
        return {
            "study_instance_uid": str(found.get("StudyInstanceUID", "")),
            "series_instance_uid": str(found.get("SeriesInstanceUID", "")),
            "patient_name": str(found.get("PatientName") or ""),
            "study_date": str(found.get("StudyDate") or ""),
            "modality": str(found.get("Modality") or ""),
            "series_number": None if number in (None, "") else int(number),
            "series_description": str(found.get("SeriesDescription") or "").strip(),
            "body_part": str(found.get("BodyPartExamined") or ""),
            "instance_number": None if instance in (None, "") else int(instance),
        }
