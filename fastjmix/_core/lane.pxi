# The receiver's end of a lane: reserve → commit (bytes arrived) → publish (pieces of an instance).

cdef enum:
    GATHER = 16384          # publish a piece when it has so many bytes; smaller ones wait for more
    SMALL = 4096            # a fragment below this is moved to its predecessor: fewer pieces
    WAKE = 262144           # wake a sleeping packer after so many bytes (ARCHITECTURE.md, "Waking")


cdef class LaneWriter:
    """One lane, held by one association.

    `reserve()` gives memory to receive into, `commit(n)` says how much came. Between `begin` and
    `end` the bytes that `keep` names become pieces of the instance. Positions are absolute and
    grow; while no instance is in the lane it starts over at offset 0, where the memory is warm.
    """

    cdef Lanes _lanes
    cdef fj_lane* _lane
    cdef uint8_t* _ring
    cdef object _view
    cdef readonly Py_ssize_t index
    cdef uint64_t _capacity
    cdef uint64_t _head             # bytes that arrived
    cdef uint64_t _scan             # bytes that were looked at
    cdef uint64_t _floor            # where the instance began; bytes before it are free
    cdef bint _held                 # the lane's memory belongs to an instance (until `resume`)
    cdef bint _inside               # its data set is still arriving
    cdef bint _routed               # it has a packer: pieces are published
    cdef uint32_t _packer           # its process number
    cdef uint64_t _piece            # the piece being gathered: position
    cdef uint64_t _piece_length
    cdef uint64_t _unannounced      # bytes published since the packer was last notified
    cdef readonly uint64_t data_bytes   # of the instance so far
    cdef readonly uint64_t arrived      # bytes since the association began
    cdef public bint wake           # the packer sleeps: the caller must write its eventfd

    def __cinit__(self, Lanes lanes, Py_ssize_t index, *_args, **_kwargs):
        lanes._check(index)
        if lanes._ring == NULL:
            raise ValueError("only the control blocks of these lanes are mapped")
        self._lanes = lanes
        self._lane = lanes.lane(index)
        self._ring = lanes.bytes_of(index)
        self._view = PyMemoryView_FromMemory(<char*>self._ring, lanes.capacity, PyBUF_WRITE)
        self.index = index
        self._capacity = lanes.capacity

    # -- memory ------------------------------------------------------------------------------

    cdef uint64_t _free(self) noexcept:
        cdef uint64_t low = self._scan
        if self._held:
            low = self._floor
            if self._routed:
                # Never beyond what was looked at, whatever stands in the shared memory.
                low = min(max(low, fj_load_u64(&self._lane.released)), self._scan)
        return self._capacity - (self._head - low)

    cdef int _restart(self) except -1:
        """No instance holds the lane: unscanned bytes move to offset 0, where the memory is warm."""
        cdef uint64_t rest = self._head - self._scan
        cdef uint64_t offset = self._scan % self._capacity
        cdef uint64_t first = self._capacity - offset
        cdef uint64_t base = (self._head // self._capacity + 1) * self._capacity
        cdef bytes kept
        if offset == 0:
            return 0
        if rest <= first:
            memmove(self._ring, self._ring + offset, rest)
        else:                           # they wrap around the ring's end: a peer that runs ahead
            kept = PyBytes_FromStringAndSize(<char*>self._ring + offset, first)
            memmove(self._ring + first, self._ring, rest - first)
            memcpy(self._ring, <const char*>kept, first)
        self._scan = base
        self._head = base + rest
        return 0

    cdef void _close_gap(self) noexcept:
        """Moves what follows the gathered piece over the header bytes between them."""
        cdef uint64_t end = self._piece + self._piece_length
        cdef uint64_t rest = self._head - self._scan
        if end >= self._scan or rest > 64:
            return
        if end % self._capacity + rest > self._capacity or (
                self._scan % self._capacity + rest > self._capacity):
            return
        memmove(self._ring + end % self._capacity, self._ring + self._scan % self._capacity, rest)
        self._scan = end
        self._head = end + rest

    cdef Py_ssize_t _reserve(self, Py_ssize_t most) except -1:
        """Bytes that may be received at the ring's head; 0 when the lane is full."""
        if not self._held:
            self._restart()
        elif self._inside and self._piece_length:
            self._close_gap()
        return min(self._capacity - self._head % self._capacity, self._free(), <uint64_t>most)

    def reserve(self, Py_ssize_t most=1 << 20):
        """Memory for the next bytes: a writable view, empty when the lane is full."""
        cdef Py_ssize_t space = self._reserve(most)
        cdef uint64_t offset = self._head % self._capacity
        return self._view[offset:offset + space]

    def commit(self, Py_ssize_t length):
        """So many bytes were received into the memory that `reserve` gave."""
        if length < 0 or <uint64_t>length > self._free():
            raise ValueError("more bytes than were reserved")
        self._head += length
        self._count(length)

    cdef void _count(self, uint64_t length) noexcept:
        """Counts bytes that arrived, and shows the count to those who look (Lanes.live)."""
        self.arrived += length
        fj_store_u64(&self._lane.arrived, self.arrived)

    # -- an instance -------------------------------------------------------------------------

    cdef int _begin(self) except -1:
        self._restart()
        self._held = self._inside = True
        self._routed = False
        self._piece_length = 0
        self._unannounced = 0
        self.data_bytes = 0
        self._floor = self._scan
        return 0

    cdef bint _fits_another_piece(self) noexcept:
        return self._lane.published - fj_load_u64(&self._lane.taken) < FJ_PIECES

    cdef void _flush(self) noexcept:
        """The gathered piece is published."""
        cdef fj_piece* piece
        if not self._piece_length:
            return
        piece = &self._lane.pieces[self._lane.published % FJ_PIECES]
        piece.position = self._piece
        piece.length = <uint32_t>self._piece_length
        fj_store_u64(&self._lane.published, self._lane.published + 1)
        self._unannounced += self._piece_length
        self._piece_length = 0
        if self._unannounced >= WAKE:
            self._ring_packer()

    cdef void _ring_packer(self) noexcept:
        self._unannounced = 0
        if self._lanes.mark_pending(self._packer, self.index):
            self.wake = True

    cdef bint _keep(self, uint64_t position, uint64_t length) noexcept:
        """Bytes of the data set. False: nothing was kept, for want of space for a piece.

        Until there is a packer everything is joined to one piece.
        """
        cdef uint64_t end = self._piece + self._piece_length
        cdef uint64_t target = end % self._capacity
        if not self._piece_length:
            self._piece = position
        elif end != position:
            # At the ring's end (target 0) nothing can be joined: a piece is contiguous.
            if self._routed and (
                    length >= SMALL or target == 0 or target + length > self._capacity):
                if not self._fits_another_piece():
                    return False
                self._flush()
                self._piece = position
            elif target == 0 or target + length > self._capacity:
                return False            # not reached: the head is bounded, see PdvScanner
            else:                       # between the two lie only headers: dead bytes
                memmove(self._ring + target, self._ring + position % self._capacity, length)
        elif self._routed and self._piece_length and target == 0:
            if not self._fits_another_piece():
                return False
            self._flush()               # the ring's end: a piece is contiguous
            self._piece = position
        self._piece_length += length
        self.data_bytes += length
        if self._routed and self._piece_length >= GATHER and self._fits_another_piece():
            self._flush()
        return True

    def route(self, uint32_t packer, uint32_t settings, Head head, bytes prefix,
              bytes sop_class, bytes sop_instance, bytes transfer_syntax):
        """Names the packer of the instance, and what it must know. Pieces flow from now on.

        `packer` is its process number. `head`: None when it is not known yet; then `describe` says
        it, or the instance is retracted. `prefix` is what stands before the data set in the member:
        preamble, DICM, File Meta Information. Raises ValueError for what a lane cannot announce.
        """
        cdef fj_lane* lane = self._lane
        if not self._inside or self._routed:
            raise ValueError("no instance waits for a packer")
        if len(prefix) > FJ_PREFIX:
            raise ValueError(f"File Meta Information of {len(prefix)} bytes; {FJ_PREFIX} are possible")
        _set_uid(&lane.sop_class, sop_class)
        _set_uid(&lane.sop_instance, sop_instance)
        _set_uid(&lane.transfer_syntax, transfer_syntax)
        lane.study.length = lane.series.length = lane.fault_length = 0
        lane.kept_length = 0
        if head is not None:
            self.describe(head)
        lane.settings = settings
        lane.prefix_length = <uint32_t>len(prefix)
        memcpy(lane.prefix, <const char*>prefix, len(prefix))
        lane.start = lane.released = self._piece
        lane.first_piece = lane.published
        self._packer = packer
        fj_store_u32(&lane.packer, packer)
        fj_store_u32(&lane.begun, lane.begun + 1)
        self._routed = True
        if self._lanes.mark_pending(packer, self.index):
            self.wake = True
        if self._piece_length >= GATHER and self._fits_another_piece():
            self._flush()

    cpdef describe(self, Head head):
        """Says where the instance belongs. Its packer reads it when the instance is complete."""
        cdef fj_lane* lane = self._lane
        _set_uid(&lane.study, head.study_instance_uid)
        _set_uid(&lane.series, head.series_instance_uid)
        lane.instance_number = head.number
        lane.head_length = head.length
        lane.kept_length = <uint32_t>min(<uint32_t>len(head.elements), <uint32_t>FJ_KEPT)
        memcpy(lane.kept, <const char*>head.elements, lane.kept_length)

    cdef void _note_fault(self, bytes fault):
        """The instance is stored although it is malformed."""
        self._lane.fault_length = <uint8_t>min(<uint32_t>len(fault), <uint32_t>FJ_COMMENT)
        memcpy(self._lane.fault, <const char*>fault, self._lane.fault_length)

    cdef void _retract(self) noexcept:
        """The packer is to forget the instance, whose data set is over. It grants it all the same."""
        self._inside = False
        fj_store_u32(&self._lane.aborted, self._lane.begun)
        self._ring_packer()

    cdef bint _end(self) noexcept:
        """The data set is complete. False: no space for the last piece yet."""
        if self._routed:
            if self._piece_length and not self._fits_another_piece():
                return False
            self._flush()
            fj_store_u32(&self._lane.ended, self._lane.begun)
            self._ring_packer()
        self._inside = False
        return True

    def abort(self):
        """The association ended: an instance that has no status yet must be forgotten.

        Returns True when a packer holds it: wait until `granted` before the lane is given back.
        """
        if not self._routed or self.granted:
            return False
        if self._inside:
            self._retract()
        return True

    @property
    def granted(self):
        """True when the last instance begun has its status."""
        return fj_load_u32(&self._lane.done) == self._lane.begun

    def grant(self):
        """(status, Error Comment) of the last instance; only when `granted`."""
        cdef bytes comment = b""
        if self._lane.comment[0]:
            comment = PyBytes_FromStringAndSize(self._lane.comment, FJ_COMMENT).rstrip(b"\0")
        return self._lane.status, comment

    @property
    def stalled(self):
        """True while there is no space for more: stop reading the socket."""
        if self._free() == 0:
            return True
        return self._inside and self._routed and not self._fits_another_piece()

    def request_space(self):
        """Asks the packer to wake this receiver once there is space in the lane."""
        if self.stalled:
            fj_store_u32(&self._lane.full, 1)
        fj_exchange_u32(&self._lane.awaits_space, 1)


cdef _set_uid(fj_uid* target, bytes uid):
    if len(uid) > FJ_UID:
        raise ValueError(f"a UID of more than {FJ_UID} characters")
    memcpy(target.text, <const char*>uid, len(uid))
    target.length = <uint8_t>len(uid)


def await_grants(list waiting, uint32_t turns):
    """Spins until one of the lanes in `waiting` (LaneWriters) has its status; its index in the list.

    Gives up after `turns` looks with -1. Releases the GIL. Looks at the first 64 only.
    """
    cdef fj_lane* watched[64]
    cdef int count = min(len(waiting), 64), i, found = -1
    cdef uint32_t turn
    for i in range(count):
        watched[i] = (<LaneWriter?>waiting[i])._lane
    with nogil:
        for turn in range(turns):
            for i in range(count):
                if fj_load_u32(&watched[i].done) == watched[i].begun:
                    found = i
                    break
            if found >= 0:
                break
            fj_relax(turn)
    return found
