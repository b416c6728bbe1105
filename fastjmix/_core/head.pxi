# The data set: read once as it comes, from element to element, without decoding it (PS3.5 §7).
#
# PS3.5 §7.1: elements in ascending order of tag; implicit VR (§7.1.3) or explicit VR (§7.1.2),
# little or big endian. Sequences of undefined length (§7.5) and encapsulated Pixel Data (§A.4) are
# stepped through, iteratively. Values are skipped; only those of WANTED are kept, in part.
# Tolerant: order is not required, and an unknown VR is read as DCMTK or pydicom would (`_element`).

HEAD_DEPTH_MAX = HEAD_DEPTH
"""Sequences of undefined length inside each other that are stepped through."""
HEAD_FIRST_LOOK = FIRST_LOOK
"""Bytes of a data set in which nearly every head ends."""
HEAD_KNOWN_MAX = KNOWN_MAX
"""Once all four UIDs are known, nothing that ends so many bytes later belongs to the head: with
elements out of order, its end would not be seen before the data set's."""
HEAD_VALUE_MAX = VALUE_MAX
"""Bytes that are kept of a value: see `dataset.TEXT_BYTES_MAX`."""
INFLATE_MAX = INFLATED_MAX
"""Bytes of a deflated data set that are inflated: 80 ms of work, or less, whatever is sent. More are
neither searched for UIDs nor checked. It is the receiver that inflates: 1 MB of images is 10 ms of
work, 1 MB of a bomb 500 ms, and its other associations wait for that."""
HEAD_TAGS = frozenset([FJ_WANTED[i] for i in range(FJ_N_WANTED)])
"""The elements whose values are kept: the UIDs, and what describes patient, study and series."""
UID_TOLERATED_MAX = FJ_UID
"""Characters of a UID with `tolerate_uids`: twice what PS3.5 §9.1 allows."""

PIXELS_EITHER = 0
"""Pixel Data may be native or encapsulated: the transfer syntax is private."""
PIXELS_NATIVE = 1
"""Pixel Data has a defined length (PS3.5 §A.1 to A.3, A.5)."""
PIXELS_ENCAPSULATED = 2
"""Pixel Data has undefined length, and holds fragments (PS3.5 §A.4)."""

cdef enum:
    HEAD_DEPTH = 64
    FIRST_LOOK = 4096
    KNOWN_MAX = 65536
    VALUE_MAX = FJ_VALUE
    INFLATED_MAX = 1 << 24
    INFLATE_STEP = 65536    # bytes made by one call of zlib
    UID_CHARS = 64          # PS3.5 §9.1
    F_CLASS = 0             # (0008,0016) SOP Class UID
    F_INSTANCE = 1          # (0008,0018) SOP Instance UID
    F_STUDY = 2             # (0020,000D) Study Instance UID
    F_SERIES = 3            # (0020,000E) Series Instance UID
    F_NUMBER = 4            # (0020,0013) Instance Number
    N_FIELDS = 5            # the first of FJ_WANTED
    ALL_UIDS = 15

cdef enum:
    SOUND = 0
    CUT = 1                 # the bytes end inside an element, or a sequence
    STRAY_ITEM = 2          # an item or a delimiter where no sequence is
    NO_ITEM = 3             # something else where an item must begin
    OPEN_FRAGMENT = 4       # a fragment of Pixel Data with undefined length
    NOT_ENCAPSULATED = 5    # native Pixel Data, and the transfer syntax encapsulates it
    NOT_NATIVE = 6          # and the reverse
    TOO_DEEP = 7
    NO_STREAM = 8           # no deflate stream, or a broken one
    CUT_STREAM = 9          # a deflate stream without an end
    TOO_FAR = 10            # no UIDs in what may be inflated
    OPEN_VALUE = 11         # undefined length, and a VR that must not have it
    OTHER_SYNTAX = 12       # the data set is encoded, but not as its transfer syntax says

cdef enum:                  # what a VR says of its value
    PLAIN = 0
    UNKNOWN = 1             # UN: with undefined length it is a sequence (PS3.5 §6.2.2)
    SEQUENCE = 2
    DEFINED = 3             # its length must be defined (PS3.5 §7.1.2)

cdef struct data_walk:
    int kind                # of the elements: 0 implicit VR LE, 1 explicit VR LE, 2 explicit VR BE
    int pixels              # PIXELS_…
    bint implicit_met       # explicit VR, and an element without one was met
    bint other_syntax       # the first element shows that the transfer syntax is another
    uint32_t first_item     # bytes of a sequence of defined length whose first item is to come
    uint64_t position       # bytes taken
    uint64_t skip           # bytes of the value that are still to come
    uint32_t keep           # those of them that are kept
    uint32_t have           # bytes of a header that is not whole
    uint8_t[12] partial
    uint32_t tag            # the last element met
    uint64_t element        # offset of the last one that is in no sequence
    uint32_t outer          # and its tag
    int depth               # sequences of undefined length that are open
    int fragments           # the outermost is encapsulated Pixel Data: 1, and its items, up to 3
    int[HEAD_DEPTH] kinds
    bint[HEAD_DEPTH] in_item
    int keeping             # number of the element that is kept; -1: none
    uint32_t seen           # bit per element of FJ_WANTED that came whole
    uint64_t known_at       # bytes until all UIDs were known
    bint found              # the head is known: `length`
    int fault
    bint over               # what comes is not looked at
    uint64_t length         # of the head: offset of the first element behind it
    uint32_t[N_FIELDS] at   # fields, in `kept`
    uint32_t[N_FIELDS] size
    uint32_t kept_bytes     # of elements that came whole
    uint32_t kept_end       # with the one that is kept now
    uint8_t* kept           # elements of FJ_WANTED: a header of 8 bytes, and value up to VALUE_MAX;
                            # NULL when the head is known and was taken
    uint32_t kept_size      # bytes that there is memory for; FJ_KEPT at most


cdef inline int _vr(uint8_t a, uint8_t b) noexcept nogil:
    """PS3.5 Table 7.1-1: 32 for VRs with two reserved bytes and a 32-bit length, 16 for the others,
    0 for what is no VR."""
    if a == c'O':
        return 32 if b == c'B' or b == c'W' or b == c'F' or b == c'D' or b == c'L' or b == c'V' else 0
    if a == c'U':
        if b == c'N' or b == c'C' or b == c'R' or b == c'T' or b == c'V':
            return 32
        return 16 if b == c'I' or b == c'L' or b == c'S' else 0
    if a == c'S':
        if b == c'Q' or b == c'V':
            return 32
        return 16 if b == c'H' or b == c'L' or b == c'S' or b == c'T' else 0
    if a == c'A':
        return 16 if b == c'E' or b == c'S' or b == c'T' else 0
    if a == c'D':
        return 16 if b == c'A' or b == c'S' or b == c'T' else 0
    if a == c'L':
        return 16 if b == c'O' or b == c'T' else 0
    if a == c'F':
        return 16 if b == c'D' or b == c'L' else 0
    return 16 if (a == c'C' and b == c'S' or a == c'I' and b == c'S' or a == c'P' and b == c'N'
                  or a == c'T' and b == c'M') else 0


cdef inline int _element(const uint8_t* p, uint64_t n, int kind, bint* implicit_met, uint32_t* tag,
                         uint32_t* header, uint32_t* length, int* form) noexcept nogil:
    """One element's header at `p`: 1 read, 0 more bytes are needed.

    Two capitals that are no VR: a VR of the future, with a 32-bit length (PS3.5 §7.1.2, DCMTK) where
    the two bytes behind it are zero, else a 16-bit one (pydicom). Two other printable characters
    ("??", "  "): a 16-bit length (DCMTK), unless it is zero or elements without VR were met. All
    else: the element has no VR, in spite of the transfer syntax (pydicom).
    """
    cdef uint8_t a, b
    cdef int bits
    if n < 8:
        return 0
    if kind == 2:
        tag[0] = (<uint32_t>fj_be16(p) << 16) | fj_be16(p + 2)
    else:
        tag[0] = (<uint32_t>fj_le16(p) << 16) | fj_le16(p + 2)
    header[0] = 8
    form[0] = PLAIN
    bits = 0
    if kind and (tag[0] >> 16) != 0xFFFE:
        a = p[4]
        b = p[5]
        bits = _vr(a, b)
        if bits == 32:
            if a == c'S' and b == c'Q':
                form[0] = SEQUENCE
            elif a == c'U' and b == c'N':
                form[0] = UNKNOWN
            elif not (a == c'O' and (b == c'B' or b == c'W')):
                form[0] = DEFINED
        if not bits and not implicit_met[0]:
            if 65 <= a <= 90 and 65 <= b <= 90:
                bits = 16 if p[6] or p[7] else 32
            elif 32 <= a <= 126 and 32 <= b <= 126 and (p[6] or p[7]):
                bits = 16
        if not bits:
            implicit_met[0] = True
    if bits == 16:
        length[0] = fj_be16(p + 6) if kind == 2 else fj_le16(p + 6)
        return 1
    if bits == 32:
        if n < 12:
            return 0
        header[0] = 12
        length[0] = fj_be32(p + 8) if kind == 2 else fj_le32(p + 8)
        return 1
    length[0] = fj_be32(p + 4) if kind == 2 else fj_le32(p + 4)
    return 1


cdef inline int _wanted(uint32_t tag) noexcept nogil:
    cdef int i
    cdef uint32_t group = tag >> 16
    if group != 0x0008 and group != 0x0010 and group != 0x0018 and group != 0x0020:
        return -1
    for i in range(FJ_N_WANTED):
        if FJ_WANTED[i] == tag:
            return i
    return -1


cdef void _fail(data_walk* w, int fault) noexcept nogil:
    """Ends the walk. The UIDs that were found count."""
    w.fault = fault
    w.over = True
    if not w.found and (w.seen & ALL_UIDS) == ALL_UIDS:
        w.found = True
        w.length = w.element if w.skip or w.depth or w.first_item else w.position


cdef bint _grow(data_walk* w, uint32_t needed) noexcept nogil:
    """Gives `kept` so many bytes: an association that stops inside a head holds little more."""
    cdef uint32_t size = min(<uint32_t>FJ_KEPT, 2 * needed)
    cdef uint8_t* more
    if needed <= w.kept_size:
        return True
    more = <uint8_t*>realloc(w.kept, size)
    if more == NULL:
        return False
    w.kept = more
    w.kept_size = size
    return True


cdef void _keep_value(data_walk* w, uint32_t length, int which) noexcept nogil:
    """Begins to keep an element: explicit VR little endian, 16-bit length, whatever it was.

    Without memory it counts as absent: an instance whose UID is missed so is refused.
    """
    cdef uint32_t keep = min(length, <uint32_t>VALUE_MAX)
    cdef uint8_t* to
    if not _grow(w, w.kept_bytes + 8 + keep):
        return
    to = w.kept + w.kept_bytes
    w.keep = keep
    w.keeping = which
    to[0] = <uint8_t>(w.tag >> 16)
    to[1] = <uint8_t>(w.tag >> 24)
    to[2] = <uint8_t>w.tag
    to[3] = <uint8_t>(w.tag >> 8)
    to[4] = c'L'
    to[5] = c'O'
    to[6] = <uint8_t>w.keep
    to[7] = <uint8_t>(w.keep >> 8)
    w.kept_end = w.kept_bytes + 8
    if which < N_FIELDS:
        w.at[which] = w.kept_end
        w.size[which] = w.keep


cdef inline void _value_is_over(data_walk* w) noexcept nogil:
    if w.keeping >= 0:
        if (w.seen & ALL_UIDS) != ALL_UIDS:
            w.known_at = w.position
        w.seen |= <uint32_t>1 << w.keeping
        w.kept_bytes = w.kept_end
        w.keeping = -1


cdef void _detect(data_walk* w, const uint8_t* p) noexcept nogil:
    """By the first element's first 8 bytes: is the data set encoded as its transfer syntax says?

    Most begin with group 0008, and none with 0800; a length of 16 KB that looks like a VR (PS3.5
    §6.2) does not stand there either.
    """
    cdef int kind = w.kind
    cdef uint16_t group = fj_be16(p) if kind == 2 else fj_le16(p)
    if not _vr(p[4], p[5]):
        w.other_syntax = kind != 0
        return
    if kind and group == 0x0800:
        w.kind = 3 - kind
    elif kind == 0:
        w.kind = 1
    w.other_syntax = w.kind != kind


cdef bint _top_level(data_walk* w, uint32_t header, uint32_t length, int form) noexcept nogil:
    """An element that is in no sequence. `position` is where it begins. False: the walk is over."""
    cdef uint32_t tag = w.tag
    cdef int which
    cdef bint known
    w.element = w.position
    w.outer = tag
    if (tag >> 16) == 0xFFFE:
        if tag == FJ_ITEM_END and not length:
            return True             # DCMTK passes over it
        _fail(w, STRAY_ITEM)
        return False
    if not w.found:
        known = (w.seen & ALL_UIDS) == ALL_UIDS
        if tag == FJ_PIXEL_DATA or known and (
                tag > 0x00200013 or w.position + header + length > w.known_at + KNOWN_MAX):
            w.found = True
            w.length = w.position
        elif length != FJ_UNDEFINED and form != SEQUENCE:   # a sequence is no value
            which = _wanted(tag)
            if which >= 0 and not w.seen & (<uint32_t>1 << which):
                _keep_value(w, length, which)
    if tag == FJ_PIXEL_DATA:
        if length == FJ_UNDEFINED and w.pixels == 1:
            _fail(w, NOT_NATIVE)
            return False
        if length != FJ_UNDEFINED and length and w.pixels == 2:
            _fail(w, NOT_ENCAPSULATED)
            return False
    if length == FJ_UNDEFINED:
        w.depth = 1
        if form == DEFINED:
            _fail(w, OPEN_VALUE)
            return False
        w.kinds[0] = 0 if form == UNKNOWN else w.kind
        w.in_item[0] = False
        w.fragments = tag == FJ_PIXEL_DATA
        return True
    _defined(w, length, form)
    return True


cdef inline void _defined(data_walk* w, uint32_t length, int form) noexcept nogil:
    """A value of defined length is skipped; of a sequence, the first item is looked at."""
    if form == SEQUENCE and length >= 8:
        w.first_item = length
    else:
        w.skip = length


cdef bint _in_sequence(data_walk* w, uint32_t length, int form) noexcept nogil:
    """An element, item or delimiter inside a sequence of undefined length; the same.

    A value of VR UN and undefined length holds implicit VR little endian (PS3.5 §6.2.2).
    """
    cdef int top = w.depth - 1
    cdef uint32_t tag = w.tag
    if tag == FJ_ITEM and not w.in_item[top]:
        if length != FJ_UNDEFINED:
            w.skip = length
            if 0 < w.fragments < 3:
                w.fragments += 1
        elif w.fragments:
            _fail(w, OPEN_FRAGMENT)
        else:
            w.in_item[top] = True
    elif tag == FJ_ITEM_END and w.in_item[top]:
        w.in_item[top] = False
    elif tag == FJ_SEQUENCE_END and not w.in_item[top]:
        w.depth -= 1
    elif tag == FJ_ITEM or tag == FJ_ITEM_END or tag == FJ_SEQUENCE_END:
        _fail(w, STRAY_ITEM)
    elif not w.in_item[top]:
        _fail(w, NO_ITEM)
    elif length != FJ_UNDEFINED:
        _defined(w, length, form)
    elif form == DEFINED:
        _fail(w, OPEN_VALUE)
    elif w.depth == HEAD_DEPTH:
        if w.found:
            w.over = True       # how deep it goes is no fault
        else:
            _fail(w, TOO_DEEP)
    else:
        w.kinds[w.depth] = 0 if form == UNKNOWN else w.kinds[top]
        w.in_item[w.depth] = False
        w.depth += 1
    return not w.over


cdef void walk_begin(data_walk* w, int kind, int pixels) noexcept nogil:
    w.kind = kind
    w.pixels = pixels
    w.implicit_met = w.found = w.over = w.other_syntax = False
    w.first_item = w.fragments = 0
    w.position = w.skip = w.length = w.element = w.known_at = 0
    w.keep = w.have = w.tag = w.outer = w.seen = w.kept_bytes = w.kept_end = 0
    w.keeping = -1
    w.depth = w.fault = 0


cdef void walk_on(data_walk* w, const uint8_t* p, uint64_t n) noexcept nogil:
    """Takes the next `n` bytes of a data set. Any split of it comes to the same."""
    cdef uint64_t at = 0, step
    cdef uint32_t header, length
    cdef int kind, form
    while at < n and not w.over:
        if w.skip:
            step = min(w.skip, n - at)
            if w.keep:
                step = min(step, <uint64_t>w.keep)
                memcpy(w.kept + w.kept_end, p + at, step)
                w.kept_end += <uint32_t>step
                w.keep -= <uint32_t>step
            at += step
            w.skip -= step
            w.position += step
            if not w.skip:
                _value_is_over(w)
            continue
        if not w.have and n - at >= 12:
            if not w.position:
                _detect(w, p + at)
            kind = w.kinds[w.depth - 1] if w.depth else w.kind
            _element(p + at, 12, kind, &w.implicit_met, &w.tag, &header, &length, &form)
            at += header
        else:                   # byte by byte: a header that is cut by what came
            w.partial[w.have] = p[at]
            w.have += 1
            at += 1
            if w.have == 8 and not w.position:
                _detect(w, w.partial)
            kind = w.kinds[w.depth - 1] if w.depth else w.kind
            if not _element(w.partial, w.have, kind, &w.implicit_met, &w.tag, &header, &length, &form):
                continue
            w.have = 0
        if w.first_item:
            if w.tag != FJ_ITEM:
                _fail(w, NO_ITEM)
                break
            w.skip = w.first_item - 8
            w.first_item = 0
        elif not (_in_sequence(w, length, form) if w.depth else _top_level(w, header, length, form)):
            break
        w.position += header
        if w.keeping >= 0 and not w.skip:       # an empty value
            _value_is_over(w)


cdef void walk_end(data_walk* w) noexcept nogil:
    """There is no more: the head is known, or it cannot be read (`fault`)."""
    cdef uint32_t i, zeros = 0
    if w.over:
        return
    for i in range(w.have):
        zeros += w.partial[i] == 0
    # Fewer zeros than a header has are padding; but one is the first byte of a big endian tag.
    if (w.skip or w.depth or w.first_item or zeros != w.have or
            w.have == 1 and w.kind == 2):
        _fail(w, CUT)
        return
    if not w.found:
        w.found = True
        w.length = w.position
    w.over = True
    if w.other_syntax:
        w.fault = OTHER_SYNTAX


cdef bytes _uid_at(const data_walk* w, int field, bint tolerant):
    """A UID without its padding; b"" when it is absent, too long, or not digits and dots.

    `tolerant`: up to UID_TOLERATED_MAX printable ASCII characters that are not "\\", blanks before
    and behind left out.
    """
    cdef uint32_t size
    cdef const uint8_t* text
    cdef uint32_t i
    if not w.seen & (1 << field):
        return b""
    size = w.size[field]
    text = w.kept + w.at[field]
    while size and (text[size - 1] == 0 or text[size - 1] == 32):
        size -= 1
    while tolerant and size and (text[0] == 32 or text[0] == 0):
        text += 1
        size -= 1
    if size > (<uint32_t>FJ_UID if tolerant else <uint32_t>UID_CHARS):
        return b""
    for i in range(size):
        if not (48 <= text[i] <= 57 or text[i] == 46) and not (
                tolerant and 32 <= text[i] <= 126 and text[i] != 92):
            return b""
    return PyBytes_FromStringAndSize(<const char*>text, size)


cdef int64_t _number_at(const data_walk* w) noexcept:
    """Instance Number (IS, PS3.5 §6.2: at most 12 characters); NO_NUMBER when it is not one."""
    cdef uint32_t i = 0, size
    cdef const uint8_t* text
    cdef int64_t value = 0
    cdef bint negative = False, any = False
    if not w.seen & (1 << F_NUMBER):
        return NO_NUMBER
    size = w.size[F_NUMBER]
    if size > 16:
        return NO_NUMBER
    text = w.kept + w.at[F_NUMBER]
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
    """The UIDs of a data set and what describes it. Absent or unusable UIDs are b"".

    `elements`: those of HEAD_TAGS that stand in the head, HEAD_VALUE_MAX bytes of each value, in
    explicit VR little endian: what `dataset.describe` reads.
    """

    cdef readonly bytes sop_class_uid
    cdef readonly bytes sop_instance_uid
    cdef readonly bytes study_instance_uid
    cdef readonly bytes series_instance_uid
    cdef readonly int64_t number
    cdef readonly uint64_t length
    cdef readonly bytes elements

    @property
    def instance_number(self):
        """Instance Number, or None."""
        return None if self.number == NO_NUMBER else self.number


cdef class DataSetReader:
    """Reads a data set from its first byte on, in pieces of any size, and keeps little of it.

    `kind`: 0 implicit VR little endian, 1 explicit VR little endian, 2 explicit VR big endian, 3
    deflated (PS3.5 §A.5). `pixels`: PIXELS_…. `tolerant`: UIDs that PS3.5 §9.1 does not allow count.
    `inflate_all`: INFLATE_MAX does not hold, for who waits for nobody else.

    `feed` it, then say that it is the `end`. The head is `found` as soon as what shows it has come;
    a `fault` ends the reading. Every split of the same bytes comes to the same.
    """

    cdef data_walk _walk
    cdef bint _tolerant
    cdef uint64_t taken         # bytes, deflated where they are
    cdef object _inflater       # None: not deflated, or over
    cdef bint _deflated
    cdef uint64_t _inflated
    cdef uint64_t _inflate_most

    def __init__(self, int kind=0, int pixels=PIXELS_EITHER, bint tolerant=False,
                 bint inflate_all=False):
        self.begin(kind, pixels, tolerant)
        if inflate_all:
            self._inflate_most = <uint64_t>-1

    def __dealloc__(self):
        self.let_go()

    cdef void let_go(self) noexcept:
        """Gives back what the head was kept in. It is taken, or will not be: nothing more is kept."""
        free(self._walk.kept)
        self._walk.kept = NULL
        self._walk.kept_size = 0

    cdef int begin(self, int kind, int pixels, bint tolerant) except -1:
        if not _grow(&self._walk, 512):     # most heads need no more than the 1 KB of this
            raise MemoryError()
        self._deflated = kind == 3
        self._tolerant = tolerant
        self._inflated = self.taken = 0
        self._inflate_most = INFLATED_MAX
        self._inflater = _decompressobj(-15) if self._deflated else None
        walk_begin(&self._walk, 1 if self._deflated else kind, pixels)
        return 0

    cdef int take(self, const uint8_t* p, uint64_t n) except -1:
        """Takes the next `n` bytes."""
        self.taken += n
        if not self._deflated:
            walk_on(&self._walk, p, n)
        elif self._inflater is not None and n:
            self._inflate(PyBytes_FromStringAndSize(<const char*>p, n))
        return 0

    cdef int _inflate(self, bytes data) except -1:
        """Inflates in steps. Before a fault in the stream every byte counts, however it was cut."""
        cdef bytes made
        while self._inflater is not None:
            before = self._inflater.copy()
            try:
                made = self._inflater.decompress(data, INFLATE_STEP)
            except _zlib_error:
                self._inflate_to_the_fault(before, data)
                return 0
            self._made(made)
            if self._inflater is None:
                return 0
            data = self._inflater.unconsumed_tail
            if self._inflater.eof:
                self._inflater = None
            elif not data and len(made) < INFLATE_STEP:
                return 0
        return 0

    cdef int _inflate_to_the_fault(self, object inflater, bytes data) except -1:
        cdef Py_ssize_t i
        try:
            for i in range(len(data)):
                self._made(inflater.decompress(data[i:i + 1]))
        except _zlib_error:
            pass
        self._inflater = None
        if not self._walk.over:
            _fail(&self._walk, NO_STREAM)
        return 0

    cdef int _made(self, bytes made) except -1:
        cdef uint64_t n = min(<uint64_t>len(made), self._inflate_most - self._inflated)
        walk_on(&self._walk, <const uint8_t*><const char*>made, n)
        self._inflated += n
        if self._inflated == self._inflate_most and not self._walk.over:
            _fail(&self._walk, TOO_FAR)
            if self._walk.found:
                self._walk.fault = SOUND    # what is behind is not known
        if self._walk.over:
            self._inflater = None
        return 0

    cdef void stop(self) noexcept:
        """There are no more bytes."""
        if self._inflater is not None:
            _fail(&self._walk, CUT_STREAM)
        walk_end(&self._walk)

    def feed(self, const uint8_t[::1] data):
        """Takes the next bytes of the data set."""
        if data.shape[0]:
            self.take(&data[0], data.shape[0])

    @property
    def passable(self):
        """How many of the next bytes need not be fed: `pass_over` them."""
        return 0 if self._deflated or self._walk.keep or self._walk.over else self._walk.skip

    def pass_over(self, uint64_t count):
        """Skips so many bytes of a value, `passable` at most."""
        if count > self.passable:
            raise ValueError("bytes that must be read")
        self.taken += count
        self._walk.skip -= count
        self._walk.position += count
        if not self._walk.skip:
            _value_is_over(&self._walk)

    def end(self):
        """Says that there are no more bytes."""
        self.stop()

    @property
    def found(self):
        """True when the head is known."""
        return self._walk.found

    @property
    def over(self):
        """True when nothing that may still come would be looked at."""
        return self._walk.over or (self._deflated and self._inflater is None)

    @property
    def fault(self):
        """The fault of the data set, as far as it was read: b"" when there is none."""
        return _fault_text(&self._walk)

    @property
    def cut(self):
        """True when the bytes provably end too early. It is not proved where an element has no VR,
        in spite of the transfer syntax; nor where only the last delimiter of Pixel Data is missing,
        as some writers omit it."""
        return _is_cut(&self._walk)

    @property
    def broken_at(self):
        """Offset and tag of the element that is in no sequence and has the `fault`, or holds it. The
        tag is None where the data set ends inside it; None for a fault that is not in one element."""
        return _broken_at(&self._walk)

    cdef Head make_head(self):
        cdef data_walk* w = &self._walk
        cdef Head head = Head.__new__(Head)
        head.sop_class_uid = _uid_at(w, F_CLASS, False)
        head.sop_instance_uid = _uid_at(w, F_INSTANCE, self._tolerant)
        head.study_instance_uid = _uid_at(w, F_STUDY, self._tolerant)
        head.series_instance_uid = _uid_at(w, F_SERIES, self._tolerant)
        head.number = _number_at(w)
        head.length = w.length
        head.elements = PyBytes_FromStringAndSize(<const char*>w.kept, w.kept_bytes)
        return head

    def head(self):
        """The Head, when it is `found`."""
        if not self._walk.found:
            raise ValueError("the head is not known")
        return self.make_head()


cdef bint _is_cut(const data_walk* w) noexcept:
    if w.fault != CUT:
        return w.fault == CUT_STREAM
    if w.other_syntax or w.implicit_met:
        return False
    # The first item of Pixel Data is its offset table, and the second a fragment.
    return w.skip > 0 or w.have > 0 or w.depth != 1 or w.fragments < 3


cdef object _broken_at(const data_walk* w):
    cdef const uint8_t* p = w.partial
    if w.fault not in (CUT, STRAY_ITEM, NO_ITEM, OPEN_FRAGMENT, NOT_ENCAPSULATED, NOT_NATIVE,
                       OPEN_VALUE):
        return None
    if not w.have or w.depth or w.first_item:
        return w.element, w.outer
    if w.have < 4:
        return w.position, None
    if w.kind == 2:
        return w.position, (<uint32_t>fj_be16(p) << 16) | fj_be16(p + 2)
    return w.position, (<uint32_t>fj_le16(p) << 16) | fj_le16(p + 2)


cdef bytes _fault_text(const data_walk* w):
    """At most 64 characters: it is an Error Comment (0000,0902)."""
    cdef str tag = f"({w.tag >> 16:04X},{w.tag & 0xFFFF:04X})"
    if w.fault == SOUND:
        return b""
    if w.fault == CUT:
        if 0 < w.have < 8:
            return b"the data set ends inside an element behind " + tag.encode()
        return b"the data set ends inside " + tag.encode()
    if w.fault == STRAY_ITEM:
        return tag.encode() + b" where no sequence or item is open"
    if w.fault == NO_ITEM:
        return tag.encode() + b" where an item must begin"
    if w.fault == OPEN_FRAGMENT:
        return b"a fragment of Pixel Data has undefined length"
    if w.fault == NOT_ENCAPSULATED:
        return b"Pixel Data is not encapsulated; its transfer syntax is"
    if w.fault == NOT_NATIVE:
        return b"Pixel Data is encapsulated; its transfer syntax is not"
    if w.fault == OPEN_VALUE:
        return tag.encode() + b" has undefined length, which its VR forbids"
    if w.fault == OTHER_SYNTAX:
        return b"the data set is not encoded as its transfer syntax says"
    if w.fault == TOO_DEEP:
        return b"sequences are nested too deeply before the UIDs"
    if w.fault == NO_STREAM:
        return b"the deflate stream is broken"
    if w.fault == CUT_STREAM:
        return b"the deflate stream is cut off"
    return b"no UIDs in the part that is inflated"


def read_head(const uint8_t[::1] data, int kind, bint complete=True):
    """The head of a data set held in one buffer; `kind` as in DataSetReader.

    Returns a Head, or None when more bytes are needed (only if not `complete`). Raises ValueError
    when it is not a data set.
    """
    cdef DataSetReader reader = DataSetReader(kind)
    reader.feed(data)
    if complete and not reader.found:
        reader.end()
    if reader.found:
        return reader.make_head()
    if reader._walk.fault:
        raise ValueError("not a data set: " + reader.fault.decode())
    return None


def read_values(const uint8_t[::1] data, int kind, set tags):
    """Returns the values of the top-level elements in `tags` (of HEAD_TAGS) that stand whole in the
    head, the first of each: {tag: bytes}, HEAD_VALUE_MAX bytes of a value at most.
    """
    cdef DataSetReader reader = DataSetReader(kind)
    cdef data_walk* w = &reader._walk
    cdef uint32_t at = 0, tag = 0, header = 0, length = 0
    cdef int form = PLAIN
    cdef bint met = False
    cdef dict found = {}
    reader.feed(data)
    while at < w.kept_bytes:
        _element(w.kept + at, 8, 1, &met, &tag, &header, &length, &form)
        if tag in tags:
            found[tag] = PyBytes_FromStringAndSize(<const char*>w.kept + at + header, length)
        at += header + length
    return found
