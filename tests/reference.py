"""Slow twins: what the fast code does, done again by libraries or from the standards' tables.

Wanted: an authority for the property tests. Nothing here shares code with fastjmix.
Guaranteed: plain, and slow where plain is slow.
Still wrong: `describe` is pydicom's opinion, and pydicom also decodes the texts of the fast one;
the character set tests therefore have literal answers too.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
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


def stream_hash(files: dict[str, bytes], algorithm: str) -> str:
    """STREAM: all paths and contents as one text, in the order of the paths' UTF-8."""
    ordered = sorted((path.encode(), data) for path, data in files.items())
    text = b"".join(path + b"\n" + data for path, data in ordered)
    return f"{algorithm}:{digest(algorithm, text).hex()}"


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
            "patient_id": str(found.get("PatientID") or "").strip(),
            "patient_birth_date": str(found.get("PatientBirthDate") or ""),
            "patient_sex": str(found.get("PatientSex") or ""),
            "study_description": str(found.get("StudyDescription") or "").strip(),
            "accession_number": str(found.get("AccessionNumber") or "").strip(),
        }


# -- the head of a data set (PS3.5 §7.1, §7.5), by recursion ----------------------------------

FIELDS = {
    0x00080016: "sop_class_uid",
    0x00080018: "sop_instance_uid",
    0x0020000D: "study_instance_uid",
    0x0020000E: "series_instance_uid",
    0x00200013: "instance_number",
}
UIDS = tuple(name for name in FIELDS.values() if name != "instance_number")
LONG_VRS = (b"OB OW OF OD OL OV SQ SV UC UN UR UT UV").split()
ITEM, ITEM_END, SEQUENCE_END, PIXEL_DATA = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x7FE00010
UNDEFINED = 0xFFFFFFFF
DEPTH_MAX = 64


VRS = (b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US").split()
WANTED = {*FIELDS, 0x00080005, 0x00080020, 0x00080050, 0x00080060, 0x00081030, 0x0008103E}
WANTED |= {0x00100010, 0x00100020, 0x00100030, 0x00100040, 0x00180015, 0x00200011}
KNOWN_MAX = 65536
VALUE_MAX = 1024


class _CutOffError(Exception):
    """More bytes are needed."""


class _FaultError(Exception):
    """These bytes are no data set, whatever follows."""


class _OverError(Exception):
    """Nothing more is looked at."""


class Reading:
    """The bytes of a data set that came, read from their beginning. `head`: None = not known.

    `fault`: they are no data set, or (`complete`) the end is missing. `pixels`: 1 native, 2
    encapsulated, 0 either.
    """

    def __init__(self, data: bytes, kind: int, complete: bool = False, pixels: int = 0) -> None:
        self.found: dict[int, bytes] = {}
        self.head: dict[str, Any] | None = None
        self.fault = False
        self._data, self._kind, self._pixels = data, kind, pixels
        self._implicit_met = False
        self._other_syntax = False
        self._detect()
        self._at = self._known_at = 0
        try:
            while self._at < len(data):
                self._step()
            if complete and self.head is None:
                self._know(True)
            self.fault = complete and self._other_syntax
        except _CutOffError:
            rest = data[self._at :]
            padding = self._top and not any(rest) and (len(rest) > 1 or self._kind != 2)
            self.fault = complete and (self._other_syntax or not padding)
            if complete and padding and self.head is None:
                self._know(True)
        except _FaultError:
            self.fault = True
        except _OverError:
            pass
        if self.fault and self.head is None:
            self._know(self._uids())

    def _uids(self) -> bool:
        return all(tag in self.found for tag, name in FIELDS.items() if name in UIDS)

    def _know(self, known: bool) -> None:
        if known:
            self.head = {name: _uid(self.found.get(tag, b"")) for tag, name in FIELDS.items()}
            self.head["instance_number"] = _number(self.found.get(0x00200013, b""))
            self.head["length"] = self._at

    def _detect(self) -> None:
        """Is the first element encoded as the transfer syntax says?"""
        kind, data = self._kind, self._data
        if len(data) < 8:
            return
        if data[4:6] not in VRS and data[4:6] not in LONG_VRS:
            self._other_syntax = kind != 0
        elif kind == 0:
            self._other_syntax, self._kind = True, 1
        elif data[:2] == (b"\0\x08" if kind == 1 else b"\x08\0"):
            self._other_syntax, self._kind = True, 3 - kind

    def _step(self) -> None:
        """One element that is in no sequence."""
        self._top = True
        tag, start, length, form = self._element(self._at, self._kind)
        self._top = False
        if tag == ITEM_END and length == 0:
            self._at = start
            return
        if tag >> 16 == 0xFFFE:
            raise _FaultError
        far = tag > 0x00200013 or start + length > self._known_at + KNOWN_MAX
        if self.head is None:
            self._know(tag == PIXEL_DATA or (self._uids() and far))
        if tag == PIXEL_DATA and length == UNDEFINED and self._pixels == 1:
            raise _FaultError
        if tag == PIXEL_DATA and length not in (0, UNDEFINED) and self._pixels == 2:
            raise _FaultError
        if length == UNDEFINED:
            self._open(form)
            inner = 0 if form == b"UN" else self._kind
            self._at = self._sequence(start, inner, 1, fragments=tag == PIXEL_DATA)
            return
        end = self._defined(start, length, form, self._kind)
        if tag in WANTED and self.head is None and form != b"SQ":
            if not self._uids():
                self._known_at = end
            self.found.setdefault(tag, self._data[start:end][:VALUE_MAX])
        self._at = end

    def _open(self, form: bytes) -> None:
        if form not in (b"", b"SQ", b"UN", b"OB", b"OW"):
            raise _FaultError

    def _defined(self, start: int, length: int, form: bytes, kind: int) -> int:
        if form == b"SQ" and length >= 8:
            tag, _, _, _ = self._element(start, kind)
            if tag != ITEM:
                raise _FaultError
        return self._behind(start, length)

    def _element(self, at: int, kind: int) -> tuple[int, int, int, bytes]:
        """Tag, offset of the value, length, and the VR if it has a 32-bit length."""
        data, order = self._data, ">" if kind == 2 else "<"
        if len(data) - at < 8:
            raise _CutOffError
        group, number = struct.unpack_from(order + "HH", data, at)
        vr, behind_vr = data[at + 4 : at + 6], data[at + 6 : at + 8] != b"\0\0"
        tag = group << 16 | number
        size = 0
        if kind and group != 0xFFFE:
            if vr in VRS or vr in LONG_VRS:
                size = 4 if vr in LONG_VRS else 2
            elif not self._implicit_met and vr.isalpha() and vr.isupper():
                size = 2 if behind_vr else 4
            elif not self._implicit_met and all(32 <= one <= 126 for one in vr) and behind_vr:
                size = 2
            else:
                self._implicit_met = True
        if size == 2:
            return tag, at + 8, struct.unpack_from(order + "H", data, at + 6)[0], b""
        if size == 0:
            return tag, at + 8, struct.unpack_from(order + "L", data, at + 4)[0], b""
        if len(data) - at < 12:
            raise _CutOffError
        return (
            tag,
            at + 12,
            struct.unpack_from(order + "L", data, at + 8)[0],
            vr if vr in LONG_VRS else b"",
        )

    def _behind(self, at: int, length: int) -> int:
        if len(self._data) - at < length:
            raise _CutOffError
        return at + length

    def _sequence(self, at: int, kind: int, depth: int, *, fragments: bool = False) -> int:
        if depth > DEPTH_MAX:
            raise _FaultError if self.head is None else _OverError
        while True:
            tag, at, length, _ = self._element(at, kind)
            if tag == SEQUENCE_END:
                return at
            if tag != ITEM or (fragments and length == UNDEFINED):
                raise _FaultError
            at = self._item(at, kind, depth) if length == UNDEFINED else self._behind(at, length)

    def _item(self, at: int, kind: int, depth: int) -> int:
        while True:
            tag, at, length, form = self._element(at, kind)
            if tag == ITEM_END:
                return at
            if tag in (ITEM, SEQUENCE_END):
                raise _FaultError
            if length == UNDEFINED:
                self._open(form)
                at = self._sequence(at, 0 if form == b"UN" else kind, depth + 1)
            else:
                at = self._defined(at, length, form, kind)


def head(data: bytes, kind: int, complete: bool = True) -> dict[str, Any] | None:
    """Returns what `_core.read_head` says: a dictionary, None, or ValueError."""
    reading = Reading(data, kind, complete)
    if reading.head is None and reading.fault:
        raise ValueError("not a data set")
    return reading.head


def values(data: bytes, kind: int, tags: set[int]) -> dict[int, bytes]:
    """Returns the result that `_core.read_values` gives."""
    found = Reading(data, kind).found
    return {tag: value for tag, value in found.items() if tag in tags}


def _uid(value: bytes) -> bytes:
    value = value.rstrip(b"\0 ")
    return b"" if len(value) > 64 or value.strip(b"0123456789.") else value


def _number(value: bytes) -> int | None:
    text = value.rstrip(b"\0 ").lstrip(b" ") if len(value) <= 16 else b""
    digits = text[1:] if text[:1] in (b"+", b"-") else text
    return int(text) if digits.isdigit() else None


# -- command sets (PS3.7 §6.3.1) ---------------------------------------------------------------


def command(data: bytes) -> dict[str, Any]:
    """Returns what `_core.parse_command` says: a dictionary, or ValueError."""
    met: dict[int, bytes] = {}
    while len(data) >= 8:
        group, number, length = struct.unpack_from("<HHL", data)
        value, data = data[8 : 8 + length], data[8 + length :]
        if len(value) < length:
            break
        usable = value.split(b"\0")[0].strip(b" ") if number in _UIDS else value[1:]
        if group == 0 and usable:
            met.setdefault(number, value)
    if 0x0100 not in met:
        raise ValueError("no Command Field")
    found: dict[str, Any] = {}
    numbers = {0x0100: "field", 0x0110: "message_id", 0x0800: "data_set_type"}
    for number, name in numbers.items():
        found[name] = int.from_bytes(met[number][:2], "little") if number in met else -1
    for name, affected, requested in (
        ("sop_class_uid", 0x0002, 0x0003),
        ("sop_instance_uid", 0x1000, 0x1001),
    ):
        value = met.get(affected, met.get(requested, b""))
        found[name] = value.split(b"\0")[0].strip(b" ")
    return found


_UIDS = (0x0002, 0x0003, 0x1000, 0x1001)


def elements(data: bytes) -> list[tuple[int, bytes]]:
    """Element numbers and values of a well-formed command set, in order."""
    found = []
    while data:
        group, number, length = struct.unpack_from("<HHL", data)
        assert group == 0
        assert len(data) >= 8 + length
        found.append((number, data[8 : 8 + length]))
        data = data[8 + length :]
    return found


# -- P-DATA-TF (PS3.8 §9.3.5, Annex E.2), of a whole stream -------------------------------------

COMMAND_MAX = 16384
INFLATE_MAX = 1 << 24


def deflated(data: bytes, complete: bool) -> Reading:
    """The reading of a deflated data set: inflated byte by byte, so that each counts before a
    fault in the stream."""
    stream, found, broken = zlib.decompressobj(-zlib.MAX_WBITS), b"", False
    for at in range(len(data)):
        if stream.eof or len(found) >= INFLATE_MAX:
            break
        try:
            found += stream.decompress(data[at : at + 1])
        except zlib.error:
            broken = True
            break
    if len(found) >= INFLATE_MAX:
        reading = Reading(found[:INFLATE_MAX], 1)
        reading.fault = reading.fault or reading.head is None
        return reading
    reading = Reading(found, 1, complete and stream.eof)
    over = broken or (complete and not stream.eof)
    if over and not reading.fault:
        reading.fault = True
        if reading.head is None:
            reading._know(reading._uids())
    return reading


class _BrokenError(Exception):
    """PS3.8 was broken; the reason is A-ABORT's."""


class _DataSet:
    """A data set that arrives; `kind` as in `head`, 3 deflated, -1 refused whatever it is."""

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.data = b""
        self.open = kind >= 0  # its head is being looked for
        self.refused = kind < 0

    def take(self, part: bytes, last: bool) -> list[tuple[Any, ...]]:
        """The events of one fragment."""
        events: list[tuple[Any, ...]] = []
        self.data += part
        reading = self._read(last)
        if self.open and reading.head is not None:
            self.open = False
            self.refused = not reading.head["study_instance_uid"]
            events.append(("head", reading.head))
        elif self.open and reading.fault:
            self.open, self.refused = False, True
            events.append(("bad head",))
        if last:
            refused = self.refused or reading.fault
            events.append(("end", None if refused else self.data))
        return events

    def _read(self, last: bool) -> Reading:
        if self.kind == 3:
            return deflated(self.data, last)
        return Reading(self.data, max(self.kind, 0), last)


def messages(
    stream: bytes, max_pdu: int, kind_of: Callable[[int], int | None]
) -> list[tuple[Any, ...]]:
    """Every event of a stream that a scanner must see, however the stream is cut.

    `kind_of(context)` is the kind of data set that follows a command; None: none follows.
    """
    events: list[tuple[Any, ...]] = []
    try:
        _messages(stream, max_pdu, kind_of, events)
    except _CutOffError:
        pass
    except _BrokenError as reason:
        events.append(("broken", reason.args[0]))
    return events


def largest_pdu(stream: bytes) -> int:
    """The longest P-DATA-TF of a stream of whole PDUs, without its header."""
    at, largest = 0, 0
    while at < len(stream):
        kind, _, length = struct.unpack_from(">BBL", stream, at)
        at += 6 + length
        largest = max(largest, length if kind == 4 else 0)
    return largest


def _require(stream: bytes, at: int, length: int) -> None:
    if len(stream) - at < length:
        raise _CutOffError


def _messages(
    stream: bytes,
    max_pdu: int,
    kind_of: Callable[[int], int | None],
    events: list[tuple[Any, ...]],
) -> None:
    at = 0
    command, data_set, current = b"", None, 0
    while True:
        _require(stream, at, 1)
        if not 1 <= stream[at] <= 7:
            raise _BrokenError(1)
        _require(stream, at, 6)
        kind, _, length = struct.unpack_from(">BBL", stream, at)
        at += 6
        if kind in (5, 7):
            _require(stream, at, min(length, 4))
            if kind == 5 and (data_set or command):
                raise _BrokenError(2)
            events.append(("release",) if kind == 5 else ("abort",))
            return
        if kind != 4:
            raise _BrokenError(2)
        if not 6 <= length <= max_pdu:
            raise _BrokenError(6)
        end = at + length
        while at < end:
            if end - at < 6:
                raise _BrokenError(6)
            _require(stream, at, 6)
            size, number, control = struct.unpack_from(">LBB", stream, at)
            if not 2 <= size <= end - at - 4:
                raise _BrokenError(6)
            in_message = bool(command or data_set)
            if in_message and number != current:
                raise _BrokenError(6)
            if (data_set is None) != bool(control & 1):
                raise _BrokenError(6)
            current = number
            part = stream[at + 6 : at + 4 + size]
            at += 4 + size
            last = bool(control & 2) and at <= len(stream)
            if data_set:
                events += data_set.take(part, last)
                data_set = None if last else data_set
            else:
                command += part
                if len(command) > COMMAND_MAX:
                    raise _BrokenError(6)
                if last:
                    events.append(("command", number, command))
                    follows, command = kind_of(number), b""
                    data_set = None if follows is None else _DataSet(follows)
            _require(stream, at, 0)
