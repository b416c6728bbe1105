# The packer's end of the lanes: peek, CRC-32 (and digest) as the bytes arrive, grant, release.

cdef enum:
    STEP = 524288               # bytes of one lane before the next lane is looked at
    HELD_PIECES = 1000          # one pwritev(2) takes 1024 buffers

ARRIVED = 1
"""Intake: an instance is complete: `arrival`, `buffers`, then `grant`."""
FORGOTTEN = 2
"""Intake: its association ended inside an instance: drop what was spilled, then `grant`."""
SPILL = 3
"""Intake: an instance larger than its lane: write `buffers` away, then `release`."""
CLOSED = 4
"""Intake: an association that sent instances to this packer has ended: `association`."""
LOST = 5
"""Intake: an instance whose former packer died: `grant` a failure."""
SPACE_FREED = 6
"""Intake: a receiver waited for space in this lane, and there is some: wake it."""

cdef enum:
    NOTHING_LIVE = 99   # no event: the lane carries no association that sends to this packer

cdef enum:
    RESTING = 0
    TAKING = 1
    REPORTED = 2        # the caller has the event, and has not granted yet
    LOSING = 3          # of a packer that died: its pieces are released

cdef struct intake_lane:
    int state
    bint listed         # among the lanes that are looked at
    uint32_t number     # of the instance
    uint64_t association
    double began        # monotonic seconds
    uint64_t data_bytes
    uint32_t prefix_length
    uint32_t settings
    uint32_t crc
    uint32_t held       # pieces in the lane, not written away
    bint spilled
    fj_piece pieces[HELD_PIECES]


cdef class Arrival:
    """An instance, as its lane announced it. UIDs are bytes; sizes in bytes."""

    cdef readonly uint32_t settings
    cdef readonly uint64_t association
    cdef readonly double began              # monotonic seconds: when its head was here
    cdef readonly bytes study_instance_uid
    cdef readonly bytes series_instance_uid
    cdef readonly bytes sop_class_uid
    cdef readonly bytes sop_instance_uid
    cdef readonly bytes transfer_syntax_uid
    cdef readonly object instance_number
    cdef readonly uint64_t head_length      # of the data set: as far as its head
    cdef readonly bytes elements            # see Head.elements
    cdef readonly bytes fault               # b"" unless it is malformed, and stored all the same
    cdef readonly uint32_t prefix_length
    cdef readonly uint64_t data_bytes       # of the data set
    cdef readonly uint64_t size             # of the member: with its prefix
    cdef readonly uint32_t crc              # of the member
    cdef readonly bytes digest              # of the member; None when it is to be made, or never
    cdef readonly bint spilled
    cdef readonly int64_t arrived_ms        # Unix milliseconds: when it was whole
    cdef readonly bytes association_facts   # see Lanes.open


cdef bytes _get_uid(fj_uid* uid):
    cdef uint8_t length = fj_load_u8(&uid.length)      # once: the other side can change it
    return PyBytes_FromStringAndSize(uid.text, min(length, <uint8_t>FJ_UID))


cdef class Intake:
    """All lanes, as one packer sees them.

    `process` is the packer's number among the processes; `hashers[settings]` makes a hash object for
    an instance, or is None when it is not hashed; `crc32(data, value)` continues a CRC-32.

    An instance is digested while it arrives when another one is in a lane as it begins: the packer
    is what all wait for then, and bytes are digested cheapest while they are in the cache. So is
    one that is larger than half its lane, from its first SPILL on: it may be gigabytes. Any other is
    left to the caller, behind its status.
    Fields that the other side can change are copied once and compared with the lane's bounds.
    """

    cdef Lanes _lanes
    cdef Py_ssize_t _process
    cdef Py_ssize_t _words
    cdef list _hashers
    cdef list _hash
    cdef object _crc32
    cdef intake_lane* _of
    cdef object _memory
    cdef list _listed
    cdef uint64_t _spill_at
    cdef readonly uint64_t association      # of the CLOSED event

    def __cinit__(self, Lanes lanes, Py_ssize_t process, list hashers, crc32):
        cdef Py_ssize_t index
        if not 0 <= process < lanes.processes:
            raise IndexError(f"process {process} of {lanes.processes}")
        if lanes._ring == NULL:
            raise ValueError("only the control blocks of these lanes are mapped")
        self._lanes = lanes
        self._process = process
        self._words = (lanes.count + 63) // 64
        self._hashers = hashers
        self._hash = [None] * lanes.count
        self._crc32 = crc32
        self._memory = bytearray(lanes.count * sizeof(intake_lane))
        self._of = <intake_lane*><char*>self._memory
        self._listed = []
        self._spill_at = lanes.capacity // 2
        for index in range(lanes.count):
            self._adopt(index)

    cdef void _adopt(self, Py_ssize_t index):
        """An instance that a former process of this number left without a status.

        While all of it is still in the lane it is taken from its first piece again; else it is lost.
        """
        cdef fj_lane* lane = self._lanes.lane(index)
        cdef uint32_t begun = fj_load_u32(&lane.begun)
        self._of[index].number = fj_load_u32(&lane.done)
        if lane.packer != <uint32_t>self._process or begun == self._of[index].number:
            return
        self._list(index)
        if fj_load_u64(&lane.released) == lane.start and lane.adopted != begun:
            lane.adopted = begun            # once: an instance that kills packers is given up
            fj_store_u64(&lane.taken, lane.first_piece)
            fj_fence()
            # One piece may be on its way by a receiver that still saw the old cursor.
            if fj_load_u64(&lane.published) - lane.first_piece < FJ_PIECES - 1:
                return
        self._of[index].number = begun
        self._of[index].state = LOSING

    cdef void _list(self, Py_ssize_t index):
        if not self._of[index].listed:
            self._of[index].listed = True
            self._listed.append(index)

    @property
    def listening(self):
        """How many lanes are looked at: 0 = nothing is live, sleep at once."""
        return len(self._listed)

    # -- the loop ----------------------------------------------------------------------------

    def poll(self, uint32_t turns):
        """Works until there is something to report: (event, lane). None after `turns` idle looks.

        With `turns` 0 each lane is looked at once, however much is there: the caller has
        something of its own to do.
        """
        cdef Py_ssize_t position, index
        cdef int event
        cdef bint progress
        while True:
            self._list_pending_lanes()
            progress = False
            position = 0
            while position < len(self._listed):
                index = self._listed[position]
                event = self._look(index, &progress)
                if event == NOTHING_LIVE:
                    self._of[index].listed = False
                    self._listed.pop(position)
                    continue
                if event:
                    # The next poll begins behind this lane: each gets its turn.
                    self._listed.append(self._listed.pop(position))
                    return event, index
                position += 1
            if turns == 0 or not (progress or self._spin(turns)):
                return None

    cdef void _list_pending_lanes(self):
        cdef fj_process* words = self._lanes.process(self._process)
        cdef Py_ssize_t word, bit
        cdef uint64_t bits
        for word in range(self._words):
            if not fj_load_u64(&words.pending_lanes[word]):
                continue
            bits = fj_exchange_u64(&words.pending_lanes[word], 0)
            for bit in range(64):
                if bits & (<uint64_t>1 << bit) and word * 64 + bit < self._lanes.count:
                    self._list(word * 64 + bit)

    cdef bint _spin(self, uint32_t turns):
        cdef fj_process* words = self._lanes.process(self._process)
        cdef fj_lane* watched[64]
        cdef uint64_t published[64]
        cdef uint32_t begun[64]
        cdef uint32_t ended[64]
        cdef Py_ssize_t count = min(len(self._listed), 64), i, n_words = self._words
        cdef uint32_t turn
        cdef bint found = False
        for i in range(count):
            watched[i] = self._lanes.lane(self._listed[i])
            published[i] = fj_load_u64(&watched[i].taken)
            begun[i] = self._of[<Py_ssize_t>self._listed[i]].number
            ended[i] = self._of[<Py_ssize_t>self._listed[i]].state
        with nogil:
            for turn in range(turns):
                for i in range(n_words):
                    if fj_load_u64(&words.pending_lanes[i]):
                        found = True
                for i in range(count):
                    if ended[i] == REPORTED:
                        continue
                    if fj_load_u32(&watched[i].begun) != begun[i]:
                        found = True
                    elif ended[i] != RESTING and (
                            fj_load_u64(&watched[i].published) != published[i]
                            or fj_load_u32(&watched[i].ended) == begun[i]):
                        found = True
                if found:
                    break
                fj_relax(turn)
        return found

    cdef int _look(self, Py_ssize_t index, bint* progress) except -1:
        """One lane: takes what is there. 0, NOTHING_LIVE, or the event to report."""
        cdef intake_lane* mine = &self._of[index]
        cdef fj_lane* lane = self._lanes.lane(index)
        cdef uint64_t association
        cdef uint32_t begun
        cdef bint complete
        if mine.state == REPORTED:
            return 0
        if mine.state == LOSING:
            return self._lose(index)
        if mine.state == RESTING:
            # Once: the lane may go on to its next instance while we look.
            begun = fj_load_u32(&lane.begun)
            association = fj_load_u64(&lane.association)
            if mine.association and association != mine.association:
                self.association = mine.association
                mine.association = 0
                return CLOSED
            if begun == mine.number:
                # The next instance marks the lane; until then there is nothing to await.
                return 0 if mine.association else NOTHING_LIVE
            # The packer may be the next instance's already: then this one has its status.
            if (fj_load_u32(&lane.packer) != <uint32_t>self._process
                    or fj_load_u32(&lane.done) == begun):
                mine.number = begun     # another packer's instance
                return 0
            self._begin(index, association, begun)
            progress[0] = True
        # `aborted` and `ended` are read before the pieces: what is published later is not missed.
        if fj_load_u32(&lane.aborted) == mine.number:
            mine.state = REPORTED
            return FORGOTTEN
        complete = fj_load_u32(&lane.ended) == mine.number
        self._take(index, progress)
        if fj_load_u32(&lane.awaits_space) and self._has_space(lane):
            fj_exchange_u32(&lane.awaits_space, 0)
            return SPACE_FREED
        if complete and lane.taken == fj_load_u64(&lane.published):
            mine.state = REPORTED
            return ARRIVED
        if self._must_spill(index):
            self._digest_from_here(index)
            mine.state = REPORTED
            return SPILL
        return 0

    cdef int _lose(self, Py_ssize_t index):
        cdef intake_lane* mine = &self._of[index]
        cdef fj_lane* lane = self._lanes.lane(index)
        cdef bint over = (fj_load_u32(&lane.ended) == mine.number
                          or fj_load_u32(&lane.aborted) == mine.number)
        cdef uint64_t published = fj_load_u64(&lane.published)
        cdef fj_piece last
        if published != lane.taken:
            last = lane.pieces[(published - 1) % FJ_PIECES]
            fj_store_u64(&lane.released, last.position + last.length)
            fj_store_u64(&lane.taken, published)
        if not over:
            return 0
        mine.state = REPORTED
        return LOST

    cdef int _begin(self, Py_ssize_t index, uint64_t association, uint32_t number) except -1:
        cdef intake_lane* mine = &self._of[index]
        cdef fj_lane* lane = self._lanes.lane(index)
        cdef uint32_t settings = fj_load_u32(&lane.settings)
        reach("packer.midway")
        mine.number = number
        mine.association = association
        mine.began = fj_now()
        mine.state = TAKING
        mine.data_bytes = 0
        mine.held = 0
        mine.spilled = False
        if settings >= <uint32_t>len(self._hashers):
            raise ValueError(f"lane {index} names settings {settings} of {len(self._hashers)}")
        mine.settings = settings
        mine.prefix_length = min(fj_load_u32(&lane.prefix_length), <uint32_t>FJ_PREFIX)
        mine.crc = _digest_all(None, self._crc32, lane.prefix, mine.prefix_length, 0)
        self._hash[index] = None
        if self._others_wait(index):
            self._digest_from_here(index)
        return 0

    cdef int _digest_from_here(self, Py_ssize_t index) except -1:
        """Digests what is held of an instance, and from now on what comes."""
        make = self._hashers[self._of[index].settings]
        if make is not None and self._hash[index] is None:
            self._hash[index] = make()
            for view in self.buffers(index):
                self._hash[index].update(view)
        return 0

    cdef bint _others_wait(self, Py_ssize_t index):
        """Is there an instance without a status in another lane?"""
        cdef Py_ssize_t other
        for other in self._listed:
            if other != index and (self._of[other].state != RESTING or fj_load_u32(
                    &self._lanes.lane(other).begun) != self._of[other].number):
                return True
        return False

    cdef bint _has_space(self, fj_lane* lane) noexcept:
        return fj_load_u64(&lane.published) - lane.taken < FJ_PIECES // 2

    cdef bint _must_spill(self, Py_ssize_t index) noexcept:
        """By the span of positions, not by bytes: the headers between fragments take space too."""
        cdef intake_lane* mine = &self._of[index]
        cdef fj_piece* last
        if not mine.held:
            return False
        last = &mine.pieces[mine.held - 1]
        return (mine.held >= HELD_PIECES - 1 or last.position + last.length
                - self._lanes.lane(index).released >= self._spill_at)

    cdef int _take(self, Py_ssize_t index, bint* progress) except -1:
        """Takes published pieces: all, or a step's share, or as many as can be held."""
        cdef intake_lane* mine = &self._of[index]
        cdef fj_lane* lane = self._lanes.lane(index)
        cdef uint64_t published = fj_load_u64(&lane.published)
        cdef uint64_t taken = lane.taken
        cdef uint64_t share = 0
        cdef fj_piece piece
        cdef fj_piece* shared
        if published - taken > FJ_PIECES:
            raise ValueError(f"lane {index} counts more pieces than it can hold")
        while taken != published and share < STEP and not self._must_spill(index):
            shared = &lane.pieces[taken % FJ_PIECES]
            piece.position = fj_load_u64(&shared.position)
            piece.length = fj_load_u32(&shared.length)
            if piece.position % self._lanes.capacity + piece.length > <uint64_t>self._lanes.capacity:
                raise ValueError(f"lane {index} holds a piece that is not inside it")
            mine.crc = _digest_all(
                self._hash[index], self._crc32,
                self._lanes.bytes_of(index) + piece.position % self._lanes.capacity,
                piece.length, mine.crc)
            self._hold(mine, piece)
            taken += 1
            fj_store_u64(&lane.taken, taken)
            share += piece.length
            progress[0] = True
        return 0

    cdef void _hold(self, intake_lane* mine, fj_piece piece) noexcept:
        cdef fj_piece* last
        mine.data_bytes += piece.length
        if mine.held:
            last = &mine.pieces[mine.held - 1]
            if (last.position + last.length == piece.position
                    and piece.position % self._lanes.capacity):
                last.length += piece.length
                return
        mine.pieces[mine.held] = piece
        mine.held += 1

    def inside(self):
        """The instances that are arriving, from their heads on, or wait for their status:
        (association, settings, Study Instance UID) of each."""
        cdef list found = []
        cdef intake_lane* mine
        for index in self._listed:
            mine = &self._of[<Py_ssize_t>index]
            if mine.state == TAKING or mine.state == REPORTED:
                found.append((mine.association, mine.settings,
                              _get_uid(&self._lanes.lane(index).study)))
        return found

    # -- what the caller does with a report --------------------------------------------------

    def arrival(self, Py_ssize_t index):
        """The instance in a lane, after ARRIVED."""
        self._lanes._check(index)
        cdef intake_lane* mine = &self._of[index]
        cdef fj_lane* lane = self._lanes.lane(index)
        cdef Arrival arrival = Arrival.__new__(Arrival)
        arrival.settings = mine.settings
        arrival.association = mine.association
        arrival.began = mine.began
        arrival.study_instance_uid = _get_uid(&lane.study)
        arrival.series_instance_uid = _get_uid(&lane.series)
        arrival.sop_class_uid = _get_uid(&lane.sop_class)
        arrival.sop_instance_uid = _get_uid(&lane.sop_instance)
        arrival.transfer_syntax_uid = _get_uid(&lane.transfer_syntax)
        arrival.instance_number = None if lane.instance_number == NO_NUMBER else lane.instance_number
        arrival.head_length = lane.head_length
        arrival.elements = PyBytes_FromStringAndSize(
            <const char*>lane.kept, min(fj_load_u32(&lane.kept_length), <uint32_t>FJ_KEPT))
        arrival.fault = PyBytes_FromStringAndSize(
            lane.fault, min(fj_load_u8(&lane.fault_length), <uint8_t>FJ_COMMENT))
        arrival.prefix_length = mine.prefix_length
        arrival.data_bytes = mine.data_bytes
        arrival.size = mine.data_bytes + arrival.prefix_length
        arrival.crc = mine.crc
        arrival.spilled = mine.spilled
        arrival.arrived_ms = fj_unix_ms()
        arrival.association_facts = PyBytes_FromStringAndSize(
            lane.facts, min(fj_load_u32(&lane.facts_length), <uint32_t>FJ_FACTS))
        arrival.digest = None if self._hash[index] is None else self._hash[index].digest()
        return arrival

    def buffers(self, Py_ssize_t index):
        """Returns the part of the member that is in the lane and not written away: views, in order.

        They are valid until `release` or `grant`.
        """
        self._lanes._check(index)
        cdef intake_lane* mine = &self._of[index]
        cdef fj_lane* lane = self._lanes.lane(index)
        cdef uint8_t* ring = self._lanes.bytes_of(index)
        cdef list views = []
        cdef uint32_t i
        if not mine.spilled:
            views.append(PyMemoryView_FromMemory(
                <char*>lane.prefix, mine.prefix_length, PyBUF_READ))
        for i in range(mine.held):
            views.append(PyMemoryView_FromMemory(
                <char*>ring + mine.pieces[i].position % self._lanes.capacity,
                mine.pieces[i].length, PyBUF_READ))
        return views

    cdef bint _wake_receiver(self, fj_lane* lane) noexcept:
        cdef uint32_t owner = fj_load_u32(&lane.owner)
        if owner == 0 or owner > <uint32_t>self._lanes.processes:
            return False
        return self._lanes.must_wake(owner - 1)

    def owner(self, Py_ssize_t index):
        """The process number of the receiver that holds a lane; -1 = nobody."""
        self._lanes._check(index)
        cdef uint32_t owner = fj_load_u32(&self._lanes.lane(index).owner)
        return <int64_t>owner - 1 if owner <= <uint32_t>self._lanes.processes else -1

    def release(self, Py_ssize_t index):
        """After SPILL: the bytes of `buffers` are free. True: wake the lane's receiver."""
        self._lanes._check(index)
        cdef intake_lane* mine = &self._of[index]
        cdef fj_lane* lane = self._lanes.lane(index)
        if mine.held:
            fj_store_u64(&lane.released, mine.pieces[mine.held - 1].position
                         + mine.pieces[mine.held - 1].length)
        mine.held = 0
        mine.spilled = True
        mine.state = TAKING
        return self._wake_receiver(lane)

    def grant(self, Py_ssize_t index, uint32_t status, bytes comment=b""):
        """Gives an instance its status; the lane is free for the next. True: wake its receiver."""
        self._lanes._check(index)
        cdef intake_lane* mine = &self._of[index]
        cdef fj_lane* lane = self._lanes.lane(index)
        cdef Py_ssize_t length = min(len(comment), <Py_ssize_t>FJ_COMMENT)
        if mine.state != REPORTED:
            raise ValueError(f"lane {index} has no instance that waits for a status")
        fj_store_u64(&lane.taken, fj_load_u64(&lane.published))
        memset(lane.comment, 0, FJ_COMMENT)
        memcpy(lane.comment, <const char*>comment, length)
        lane.status = status
        self._hash[index] = None
        mine.state = RESTING
        fj_store_u32(&lane.done, mine.number)
        return self._wake_receiver(lane)
