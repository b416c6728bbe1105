# The data set's head: the UIDs that decide where an instance goes, without decoding the data set.
#
# PS3.5 §7.1: elements in ascending order of tag; implicit VR (§7.1.3) or explicit VR (§7.1.2),
# little or big endian. Sequences of undefined length (§7.5) are stepped through, iteratively.
# Tolerant: an element whose VR is not two capitals is read as implicit VR; order is not required.


HEAD_DEPTH_MAX = HEAD_DEPTH
"""Sequences of undefined length inside each other that are stepped through."""
HEAD_BYTES_MAX = 1 << 20
"""Bytes of a data set that are searched for its UIDs, or an eighth of the lane if that is less:
private elements that stand before them may be large."""
HEAD_FIRST_LOOK = FIRST_LOOK
"""Bytes of a data set in which nearly every head ends: it is looked at when so many are there, then
when there are twice as many, and so on."""

cdef enum:
    HEAD_DEPTH = 64
    FIRST_LOOK = 4096
    HEAD_MORE = 0
    HEAD_FOUND = 1
    HEAD_BAD = -1
    F_CLASS = 0         # (0008,0016) SOP Class UID
    F_INSTANCE = 1      # (0008,0018) SOP Instance UID
    F_STUDY = 2         # (0020,000D) Study Instance UID
    F_SERIES = 3        # (0020,000E) Series Instance UID
    F_NUMBER = 4        # (0020,0013) Instance Number

cdef struct head_scan:
    int kind            # 0 implicit VR LE, 1 explicit VR LE, 2 explicit VR BE
    uint64_t position   # offset of the next top-level element
    uint32_t seen       # bit per field
    uint32_t length     # of the head: offset of the first top-level element behind the fields
    uint64_t at[5]
    uint32_t size[5]


cdef inline bint _long_vr(uint8_t a, uint8_t b) noexcept nogil:
    """PS3.5 Table 7.1-1: VRs with two reserved bytes and a 32-bit length."""
    if a == c'O':
        return b == c'B' or b == c'W' or b == c'F' or b == c'D' or b == c'L' or b == c'V'
    if a == c'U':
        return b == c'N' or b == c'C' or b == c'R' or b == c'T' or b == c'V'
    return a == c'S' and (b == c'Q' or b == c'V')


cdef inline int _element(const uint8_t* p, uint64_t n, uint64_t at, int kind,
                         uint32_t* tag, uint32_t* header, uint32_t* length, bint* unknown) noexcept nogil:
    """One element's header at `at`: 1 read, 0 more bytes are needed."""
    cdef uint8_t a, b
    if n - at < 8:
        return 0
    if kind == 2:
        tag[0] = (<uint32_t>fj_be16(p + at) << 16) | fj_be16(p + at + 2)
    else:
        tag[0] = (<uint32_t>fj_le16(p + at) << 16) | fj_le16(p + at + 2)
    header[0] = 8
    unknown[0] = False
    a = p[at + 4]
    b = p[at + 5]
    if kind == 0 or (tag[0] >> 16) == 0xFFFE or not (65 <= a <= 90 and 65 <= b <= 90):
        length[0] = fj_be32(p + at + 4) if kind == 2 else fj_le32(p + at + 4)
        return 1
    if _long_vr(a, b):
        if n - at < 12:
            return 0
        header[0] = 12
        length[0] = fj_be32(p + at + 8) if kind == 2 else fj_le32(p + at + 8)
        unknown[0] = a == c'U' and b == c'N'
        return 1
    length[0] = fj_be16(p + at + 6) if kind == 2 else fj_le16(p + at + 6)
    return 1


cdef int _skip_sequence(const uint8_t* p, uint64_t n, uint64_t* at, int kind) noexcept nogil:
    """Steps over a sequence of undefined length whose first item would stand at `at`.

    A value of VR UN and undefined length holds implicit VR little endian (PS3.5 §6.2.2).
    """
    cdef int kinds[HEAD_DEPTH]
    cdef bint in_item[HEAD_DEPTH]
    cdef int depth = 1
    cdef uint64_t here = at[0]
    cdef uint32_t tag, header, length
    cdef bint unknown
    kinds[0] = kind
    in_item[0] = False
    while depth:
        if not _element(p, n, here, kinds[depth - 1], &tag, &header, &length, &unknown):
            return HEAD_MORE
        here += header
        if tag == FJ_ITEM:                           # item
            if in_item[depth - 1]:
                return HEAD_BAD
            if length == FJ_UNDEFINED:
                in_item[depth - 1] = True
                continue
        elif tag == FJ_ITEM_END:                         # item delimitation
            if not in_item[depth - 1]:
                return HEAD_BAD
            in_item[depth - 1] = False
            continue
        elif tag == FJ_SEQUENCE_END:                         # sequence delimitation
            if in_item[depth - 1]:
                return HEAD_BAD
            depth -= 1
            continue
        elif not in_item[depth - 1]:
            return HEAD_BAD
        elif length == FJ_UNDEFINED:                      # a sequence inside an item
            if depth == HEAD_DEPTH:
                return HEAD_BAD
            kinds[depth] = 0 if unknown else kinds[depth - 1]
            in_item[depth] = False
            depth += 1
            continue
        if n - here < length:
            return HEAD_MORE
        here += length
    at[0] = here
    return HEAD_FOUND


cdef inline int _field(uint32_t tag) noexcept nogil:
    if tag == 0x00080016:
        return F_CLASS
    if tag == 0x00080018:
        return F_INSTANCE
    if tag == 0x0020000D:
        return F_STUDY
    if tag == 0x0020000E:
        return F_SERIES
    return F_NUMBER if tag == 0x00200013 else -1


cdef int scan_head(const uint8_t* p, uint64_t n, bint complete, head_scan* s) noexcept nogil:
    """Looks for the fields in the first `n` bytes of a data set; goes on where it stopped.

    HEAD_FOUND: all four UIDs are known, or the data set is `complete` and no more will come.
    HEAD_MORE: more bytes are needed. HEAD_BAD: not a data set.
    """
    cdef uint64_t at
    cdef uint32_t tag, header, length
    cdef int field, result
    cdef bint unknown
    while True:
        at = s.position
        if complete and at == n:
            s.length = <uint32_t>at
            return HEAD_FOUND
        if not _element(p, n, at, s.kind, &tag, &header, &length, &unknown):
            break
        if tag > 0x00200013 and (s.seen & 15) == 15:
            s.length = <uint32_t>at
            return HEAD_FOUND
        if (tag >> 16) == 0xFFFE:
            return HEAD_BAD
        if tag == FJ_PIXEL_DATA:                           # pixel data: nothing we need comes behind it
            s.length = <uint32_t>at
            return HEAD_FOUND
        if length == FJ_UNDEFINED:
            at += header
            result = _skip_sequence(p, n, &at, 0 if unknown else s.kind)
            if result == HEAD_MORE:
                break
            if result == HEAD_BAD:
                return HEAD_BAD
            s.position = at
            continue
        if n - at - header < length:
            break
        field = _field(tag)
        if field >= 0 and not (s.seen & (1 << field)):
            s.seen |= 1 << field
            s.at[field] = at + header
            s.size[field] = length
        s.position = at + header + length
    if complete:                                        # cut short, yet perhaps enough is known
        s.length = <uint32_t>s.position
        return HEAD_FOUND if (s.seen & 15) == 15 else HEAD_BAD
    return HEAD_MORE


cdef int find_head(const uint8_t* p, uint64_t n, bint complete, uint64_t most,
                   head_scan* s) noexcept nogil:
    """Does as `scan_head`, but ends once more than `most` bytes are there: found UIDs count."""
    cdef int result = scan_head(p, n, complete, s)
    if result == HEAD_MORE and n > most:
        # Elements out of order may hide the head's end; its UIDs are what is needed.
        s.length = <uint32_t>s.position
        result = HEAD_FOUND if (s.seen & 15) == 15 else HEAD_BAD
    return result


cdef bytes _uid_at(const uint8_t* p, head_scan* s, int field):
    """A UID without its padding; b"" when it is absent, too long, or not digits and dots."""
    cdef uint32_t size
    cdef const uint8_t* text
    cdef uint32_t i
    if not s.seen & (1 << field):
        return b""
    size = s.size[field]
    text = p + s.at[field]
    while size and (text[size - 1] == 0 or text[size - 1] == 32):
        size -= 1
    if size > FJ_UID:
        return b""
    for i in range(size):
        if not (48 <= text[i] <= 57 or text[i] == 46):
            return b""
    return PyBytes_FromStringAndSize(<const char*>text, size)


cdef int64_t _number_at(const uint8_t* p, head_scan* s) noexcept:
    """Instance Number (IS, PS3.5 §6.2: at most 12 characters); NO_NUMBER when it is not one."""
    cdef uint32_t i = 0, size
    cdef const uint8_t* text
    cdef int64_t value = 0
    cdef bint negative = False, any = False
    if not s.seen & (1 << F_NUMBER):
        return NO_NUMBER
    size = s.size[F_NUMBER]
    if size > 16:
        return NO_NUMBER
    text = p + s.at[F_NUMBER]
    while size and (text[size - 1] == 32 or text[size - 1] == 0):
        size -= 1
    while i < size and text[i] == 32:
        i += 1
    if i < size and (text[i] == 45 or text[i] == 43):
        negative = text[i] == 45
        i += 1
    while i < size:
        if not 48 <= text[i] <= 57:
            return NO_NUMBER
        value = value * 10 + (text[i] - 48)
        any = True
        i += 1
    if not any:
        return NO_NUMBER
    return -value if negative else value


cdef class Head:
    """What the head of a data set says. Absent or unusable UIDs are b""."""

    cdef readonly bytes sop_class_uid
    cdef readonly bytes sop_instance_uid
    cdef readonly bytes study_instance_uid
    cdef readonly bytes series_instance_uid
    cdef readonly int64_t number
    cdef readonly uint32_t length

    @property
    def instance_number(self):
        """Instance Number, or None."""
        return None if self.number == NO_NUMBER else self.number


cdef Head _make_head(const uint8_t* p, head_scan* s):
    cdef Head head = Head.__new__(Head)
    head.sop_class_uid = _uid_at(p, s, F_CLASS)
    head.sop_instance_uid = _uid_at(p, s, F_INSTANCE)
    head.study_instance_uid = _uid_at(p, s, F_STUDY)
    head.series_instance_uid = _uid_at(p, s, F_SERIES)
    head.number = _number_at(p, s)
    head.length = s.length
    return head


def read_head(const uint8_t[::1] data, int kind, bint complete=True,
              uint64_t most=0xFFFFFFFFFFFFFFFF):
    """The head of a data set held in one buffer.

    `kind` is 0 for implicit VR little endian, 1 for explicit VR little endian, 2 for explicit VR
    big endian. Returns a Head, or None when more bytes are needed (only if not `complete`, and not
    beyond `most` bytes: what these show counts). Raises ValueError when it is not a data set.
    """
    cdef head_scan s
    cdef const uint8_t* p = &data[0] if data.shape[0] else <const uint8_t*>b""
    memset(&s, 0, sizeof(s))
    s.kind = kind
    cdef int result = find_head(p, data.shape[0], complete, most, &s)
    if result == HEAD_BAD:
        raise ValueError("not a data set: its elements cannot be followed")
    return _make_head(p, &s) if result == HEAD_FOUND else None


def read_values(const uint8_t[::1] data, int kind, set tags):
    """Returns the values of the top-level elements in `tags` that are whole, the first of each:
    {tag: bytes}.

    Ends where the elements cannot be followed, at pixel data, and behind (0020,0013) once Study and
    Series Instance UID were met. Neither stack nor time depends on how elements are nested.
    """
    cdef const uint8_t* p = &data[0] if data.shape[0] else <const uint8_t*>b""
    cdef uint64_t n = data.shape[0], at = 0, value
    cdef uint32_t tag, header, length
    cdef bint unknown, study = False, series = False
    cdef dict found = {}
    while _element(p, n, at, kind, &tag, &header, &length, &unknown):
        if (tag >> 16) == 0xFFFE or tag == FJ_PIXEL_DATA or (tag > 0x00200013 and study and series):
            break
        value = at + header
        if length == FJ_UNDEFINED:
            if _skip_sequence(p, n, &value, 0 if unknown else kind) != HEAD_FOUND:
                break
            at = value
            continue
        if n - value < length:
            break
        if tag <= 0x00200013:           # none of those that anyone wants stands behind it
            study = study or tag == 0x0020000D
            series = series or tag == 0x0020000E
            if tag in tags and tag not in found:
                found[tag] = PyBytes_FromStringAndSize(<const char*>p + value, length)
        at = value + length
    return found
