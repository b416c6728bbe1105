"""Bytes of an envelope's archive: ZIP members and the central directory.

Wanted: a ZIP that every reader opens, whose members can be appended one by one, and which can be
walked from the front, by sizes alone, after a crash.
Guaranteed: members are STORED, with final sizes and CRC in the local file header (no data
descriptor); ZIP64 exactly where a field would otherwise hold its sentinel; equal members give
equal bytes (constant time, attributes and flags, no comment). Nothing is searched for by signature,
because a DICOM instance may contain a ZIP.
Still wrong: `central_directory` builds one block (about 90 bytes a member), not a stream.

Sources: PKWARE APPNOTE 6.3.10, sections 4.3.7 (local file header), 4.3.12 (central directory),
4.3.14 to 4.3.16 (the three end records), 4.5.3 (ZIP64 extra field). All little-endian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from typing import Final, NamedTuple

ReadAt = Callable[[int, int], bytes]
"""(offset, length in bytes) → the bytes there; fewer only at the end, as pread(2)."""

MAX16: Final = 0xFFFF
MAX32: Final = 0xFFFFFFFF
"""Sentinels: a field for this value or more has the sentinel, and ZIP64 has the value (4.4.1.4)."""

CLASSIC: Final = 20  # version needed: 2.0
ZIP64: Final = 45  # version needed: 4.5
UNIX: Final = 3 << 8  # of "version made by": the upper byte says whose attributes these are
MADE_BY: Final = UNIX | CLASSIC
MADE_BY64: Final = UNIX | ZIP64
"""A member states no newer version than it needs (4.4.2): some readers refuse newer ones."""
UTF8: Final = 0x0800  # general purpose flag, bit 11
STORED: Final = 0
TIME: Final = 0
DATE: Final = 1 << 5 | 1  # 1980-01-01, the earliest DOS date
ATTRIBUTES: Final = 0o100644 << 16  # a regular file, in the Unix half

LOCAL: Final = 0x04034B50
CENTRAL: Final = 0x02014B50
END: Final = 0x06054B50
END64: Final = 0x06064B50
LOCATOR64: Final = 0x07064B50

# signature, version needed, flags, method, time, date, CRC, compressed and uncompressed size,
# lengths of name and extra field
_local = Struct("<I5H3I2H")
_local64 = Struct("<2H2Q")  # id 1, length 16, uncompressed size, compressed size
# signature, made by, version needed, flags, method, time, date, CRC, compressed and uncompressed
# size, lengths of name, extra field and comment, disk, internal and external attributes, offset
_central = Struct("<I6H3I5H2I")
# signature, disk, disk of the directory, entries here, entries, size, offset, comment length
_end = Struct("<I4H2IH")
# signature, length of the rest, made by, version needed, two disks, entries here, entries, size,
# offset
_end64 = Struct("<IQ2H2I4Q")
_locator64 = Struct("<2IQI")  # signature, disk, offset of the ZIP64 end record, disks

END64_REST: Final = _end64.size - 12  # 4.3.14.1: neither the signature nor this field counts
PEEK: Final = _local.size + 226
"""Bytes read at once for a local file header: those of fastjmix are far shorter."""

WINDOW: Final = 1 << 18
"""Bytes of a central directory read at once: its largest possible entry is 196,651."""

pack_local = _local.pack
pack_local64 = _local64.pack
pack_central = _central.pack


class Member(NamedTuple):
    """One member: its name (UTF-8), CRC-32, size in bytes, and the offset of its local header."""

    name: bytes
    crc: int
    size: int
    offset: int


def local_header(name: bytes, crc: int, size: int) -> bytes:
    """Returns the local file header (4.3.7) of a STORED member; its `size` bytes of data follow.

    `name` is UTF-8, at most 65,535 bytes. Raises struct.error when a value does not fit.
    """
    if size < MAX32:
        return (
            pack_local(LOCAL, CLASSIC, UTF8, STORED, TIME, DATE, crc, size, size, len(name), 0)
            + name
        )
    # 4.5.3: in a local header the extra field holds both sizes.
    return (
        pack_local(LOCAL, ZIP64, UTF8, STORED, TIME, DATE, crc, MAX32, MAX32, len(name), 20)
        + name
        + pack_local64(1, 16, size, size)
    )


def data_offset(member: Member) -> int:
    """Returns the offset of a member's data, behind its local header as `local_header` makes it."""
    extra = 0 if member.size < MAX32 else _local64.size
    return member.offset + _local.size + len(member.name) + extra


def _entry(member: Member, made_by: int = MADE_BY) -> bytes:
    """Returns a central directory header (4.3.12); ZIP64 where a value needs 64 bits (4.5.3).

    `made_by` is of a member that needs no ZIP64.
    """
    name, crc, size, offset = member
    if size < MAX32 and offset < MAX32:
        return (
            pack_central(
                CENTRAL, made_by, CLASSIC, UTF8, STORED, TIME, DATE, crc, size, size,
                len(name), 0, 0, 0, 0, ATTRIBUTES, offset,
            )
            + name
        )  # fmt: skip
    wide: tuple[int, ...] = ()
    if size >= MAX32:
        wide = (size, size)
    if offset >= MAX32:
        wide = (*wide, offset)
    extra = Struct(f"<2H{len(wide)}Q").pack(1, 8 * len(wide), *wide)
    head = pack_central(
        CENTRAL, MADE_BY64, ZIP64, UTF8, STORED, TIME, DATE, crc, min(size, MAX32),
        min(size, MAX32), len(name), len(extra), 0, 0, 0, ATTRIBUTES, min(offset, MAX32),
    )  # fmt: skip
    return head + name + extra


def central_directory(members: Iterable[Member], start: int) -> bytes:
    """Returns everything behind the last member: central directory, ZIP64 end records if needed,
    EOCD.

    `start` is the offset at which these bytes will be written. Readers list the members in the
    caller's order. Raises struct.error when a value does not fit.
    """
    entries = [_entry(member) for member in members]
    directory = b"".join(entries)
    return directory + _end_records(len(entries), len(directory), start)


def _end_records(count: int, size: int, start: int) -> bytes:
    """Returns the end records (4.3.14 to 4.3.16) of `count` entries in `size` bytes at `start`."""
    end = _end.pack(
        END, 0, 0, min(count, MAX16), min(count, MAX16), min(size, MAX32), min(start, MAX32), 0
    )
    if count < MAX16 and size < MAX32 and start < MAX32:
        return end
    end64 = _end64.pack(END64, END64_REST, MADE_BY64, ZIP64, 0, 0, count, count, size, start)
    return end64 + _locator64.pack(LOCATOR64, 0, start + size, 1) + end


def member_at(read_at: ReadAt, offset: int, end: int) -> Member | None:
    """Returns the member at `offset`, if its local header is exactly as `local_header` writes it
    and it ends at `end` or before. Does not read its data.
    """
    head = read_at(offset, max(0, min(PEEK, end - offset)))
    member = _local_member(head, offset, read_at)
    if member is None or data_offset(member) + member.size > end:
        return None
    return member


def walk(read_at: ReadAt, end: int) -> Iterator[tuple[Member, int]]:
    """Yields the members from offset 0 on, each with the offset of its data, found by their sizes.

    Stops behind the last that `member_at` finds.
    """
    offset = 0
    while (member := member_at(read_at, offset, end)) is not None:
        start = data_offset(member)
        yield member, start
        offset = start + member.size


def _local_member(head: bytes, offset: int, read_at: ReadAt) -> Member | None:
    """Returns the member of the local header in `head`, if that is as `local_header` writes it."""
    if len(head) < _local.size:
        return None
    signature, *_, crc, size, _, name_length, extra_length = _local.unpack_from(head)
    if signature != LOCAL:
        return None
    length = _local.size + name_length + extra_length
    if length > len(head):
        head = read_at(offset, length)
        if len(head) < length:
            return None
    name = head[_local.size : _local.size + name_length]
    if extra_length == _local64.size:
        size = _local64.unpack_from(head, _local.size + name_length)[2]
    if local_header(name, crc, size) != head[:length]:
        return None
    return Member(name, crc, size, offset)


def check_structure(read_at: ReadAt, size: int) -> None:
    """Checks that an archive of `size` bytes has the structure that fastjmix gave it, all of it.

    The EOCD must be the last 22 bytes, the central directory must end where the end records begin
    and be, byte for byte, as `central_directory` writes it; the local headers, from 0 on and with
    nothing between them, must agree with it. One flipped bit outside the members' data is found.
    The data are not read: compare each CRC-32 where they are read. Reads WINDOW bytes at most at
    once. Only for archives that were sealed here: jmix/read/unzip.py reads all others.

    Raises ValueError that names the member and the offset.
    """
    count, length, start, records = _read_end(read_at, size)
    if start + length + records != size:
        raise _damaged(
            f"the central directory should end at {size - records}, not at {start + length}"
        )
    members = list(_entries(read_at, start, length))
    if len(members) != count:
        raise _damaged(f"{count} entries are announced, {len(members)} are there")
    if len({member.name for member in members}) != count:
        raise _damaged("a member's name occurs twice")
    position = 0
    for member in sorted(members, key=lambda member: member.offset):
        header = local_header(member.name, member.crc, member.size)
        if member.offset != position or read_at(position, len(header)) != header:
            raise _damaged(f"the local file header at {position} is not that of {member.name!r}")
        position += len(header) + member.size
        if position > start:
            raise _damaged(f"{member.name!r} at {member.offset} reaches into the central directory")
    if position != start:
        raise _damaged(f"{start - position} bytes before the central directory belong to no member")
    if _end_records(count, length, start) != read_at(size - records, records):
        raise _damaged(f"the end records at {size - records} are not as fastjmix writes them")


def _read_end(read_at: ReadAt, size: int) -> tuple[int, int, int, int]:
    """Returns (entries, size of the central directory, its offset, bytes of the end records)."""
    length = _end.size
    end = read_at(size - length, length) if size >= length else b""
    if len(end) != length:
        raise _damaged(f"{size} bytes are too few")
    signature, _, _, _, count, directory, start, comment = _end.unpack(end)
    if signature != END or comment:
        raise _damaged("it does not end with an end of central directory record")
    if count < MAX16 and directory < MAX32 and start < MAX32:
        return count, directory, start, length
    length += _locator64.size + _end64.size
    end = read_at(size - length, length) if size >= length else b""
    if len(end) != length or _end64.unpack_from(end)[0] != END64:
        raise _damaged("its ZIP64 end of central directory record is not where it should be")
    # The caller rebuilds these records, which compares their other fields.
    *_, count, directory, start = _end64.unpack_from(end)
    return count, directory, start, length


def _entries(read_at: ReadAt, start: int, length: int) -> Iterator[Member]:
    """Yields the entries of the central directory. Raises ValueError for one that fastjmix would
    have written otherwise."""
    position, end = start, start + length
    forms = {MADE_BY, MADE_BY64}
    while position < end:
        piece = read_at(position, min(WINDOW, end - position))
        at = 0
        while (found := _entry_in(piece, at)) is not None:
            member, following = found
            # Earlier versions of fastjmix wrote MADE_BY64 in every entry of an archive.
            forms = {form for form in forms if _entry(member, form) == piece[at:following]}
            if not forms:
                raise _damaged(
                    f"the central directory's entry at {position + at} for {member.name!r} is not "
                    "as fastjmix writes it"
                )
            yield member
            at = following
        if not at:
            raise _damaged(f"the central directory has no entry at {position}")
        position += at


def _entry_in(piece: bytes, at: int) -> tuple[Member, int] | None:
    """Returns the central directory header at `at`, and its end; None when it is cut short."""
    if at + _central.size > len(piece):
        return None
    fields = _central.unpack_from(piece, at)
    crc, _, size, name_length, extra_length = fields[7:12]
    offset = fields[16]
    name_end = at + _central.size + name_length
    end = name_end + extra_length
    if fields[0] != CENTRAL or end > len(piece):
        return None
    extra = piece[name_end + 4 : end]
    wide = [int.from_bytes(extra[i : i + 8], "little") for i in range(0, len(extra), 8)]
    if size == MAX32 and len(wide) >= 2:
        size = wide[0]
        del wide[:2]
    if offset == MAX32 and wide:
        offset = wide[0]
    return Member(piece[at + _central.size : name_end], crc, size, offset), end


def _damaged(what: str) -> ValueError:
    return ValueError(f"not an archive that fastjmix sealed: {what}")
