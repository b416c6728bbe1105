# Stepping over PDU and PDV headers where they lie, in the lane (PS3.8 §9.3.5, Annex E.2).
#
#   PDU header   1 type, 2 reserved, 3-6 length of what follows
#   PDV item     1-4 length (context ID, control header and fragment), 5 presentation context ID,
#                6 message control header: bit 0 command, bit 1 last fragment; the others are not
#                checked by a receiver (Annex E.2)

cdef enum:
    COMMAND_BYTES = 16384

COMMAND_BYTES_MAX = COMMAND_BYTES
"""Bytes of a command set. One is about 150 bytes; peers may fragment it."""

MORE = 0
"""Scan: everything that arrived was looked at."""
COMMAND = 1
"""Scan: a command set is complete: `command`, `context`."""
HEAD = 2
"""Scan: the head of the data set is known: `head`. Route or refuse the instance; with `late`,
`describe` or refuse it."""
END = 3
"""Scan: the data set is complete. With `retracted` it is refused, when its packer has granted."""
RELEASE = 4
"""Scan: A-RELEASE-RQ."""
ABORTED = 5
"""Scan: A-ABORT."""
BROKEN = 6
"""Scan: the peer broke PS3.8: `problem`, `reason` (of A-ABORT, PS3.8 Table 9-26)."""
BAD_HEAD = 7
"""Scan: the data set's head cannot be followed (`fault`); refuse the instance."""
LONG_HEAD = 8
"""Scan: `head_max` bytes are here without the UIDs: `route` the instance to any packer that will do."""

cdef enum:
    IDLE = 0            # between messages
    SCANNING = 1        # the head of a data set
    STORING = 2         # behind the head: pieces go to the packer
    SEEKING = 3         # the same, and the head is still looked for
    CONDEMNED = 4       # the same, and it will be retracted at its end
    DISCARDING = 5      # the instance was refused: its data set is passed over
    WAITING = 6         # complete; its status is awaited: nothing more is scanned


cpdef uint64_t head_limit(uint64_t capacity):
    """Returns how many bytes of a data set are held in a lane of `capacity` without a packer."""
    return capacity // 2


cdef class PdvScanner(LaneWriter):
    """Reads P-DATA-TF in a lane. `scan()` says what came; see the constants above.

    One message at a time: after END (or a command without a data set) call `resume()` when its
    response has been sent. `max_pdu` is the length announced in the A-ASSOCIATE-AC, `head_max` the
    most bytes of a data set that wait in the lane for its UIDs.
    """

    cdef uint32_t _max_pdu
    cdef uint32_t _pdu_left         # of a P-DATA-TF, behind what was looked at
    cdef uint32_t _pdv_left         # of a fragment
    cdef bint _in_fragment
    cdef uint8_t _control
    cdef int _mode
    cdef DataSetReader _reader
    cdef bint _lenient
    cdef bint _last
    cdef bytearray _command
    cdef readonly int context
    cdef readonly Head head
    cdef readonly uint64_t head_max     # bytes of a data set that wait for its UIDs
    cdef readonly bytes fault       # of the data set
    cdef readonly bint late         # the instance was routed before its head was known
    cdef readonly bint retracted    # the instance is refused, and its packer knows it already
    cdef readonly uint32_t largest_pdu  # the longest P-DATA-TF that began, without its header
    cdef readonly str problem
    cdef readonly int reason
    cdef readonly bint blocked      # no space for more bytes or for a piece: scan again later
    cdef readonly bint drained      # receive() took all that the socket had
    cdef readonly bint closed       # receive() found the peer's end of the stream

    def __init__(self, Lanes lanes, Py_ssize_t index, uint32_t max_pdu, uint64_t head_max=0xFFFFFFFFFFFFFFFF):
        self._max_pdu = max_pdu
        self.head_max = min(head_max, head_limit(lanes.capacity))
        self._reader = DataSetReader()
        self._reader.let_go()   # until a data set comes: most associations are idle
        self.fault = b""
        self._command = bytearray()
        self._mode = IDLE
        self.context = 0

    cdef int _broken(self, str problem, int reason):
        self.problem = problem
        self.reason = reason
        return BROKEN

    cdef uint8_t _byte(self, uint64_t at) noexcept:
        return self._ring[(self._scan + at) % self._capacity]

    cdef uint32_t _length(self, uint64_t at) noexcept:
        return (<uint32_t>self._byte(at) << 24 | <uint32_t>self._byte(at + 1) << 16
                | <uint32_t>self._byte(at + 2) << 8 | self._byte(at + 3))

    def scan(self):
        """Looks at what arrived, up to the next thing that the caller must know."""
        cdef int event
        self.blocked = False
        if self._lane.full:
            fj_store_u32(&self._lane.full, 0)
        if self._mode == WAITING:
            return MORE
        while True:
            if self._in_fragment:
                event = self._fragment()
            elif self._pdu_left:
                event = self._pdv_header()
            else:
                event = self._pdu_header()
            if event >= 0:
                return event

    def receive(self, int socket, Py_ssize_t most, int reads):
        """Takes what a non-blocking socket has, `most` bytes a recv(2), and scans after each.

        Stops at the first event but MORE, after `reads` reads, when the packer must be woken, when
        the socket has nothing more, or when the lane is full (`drained`, `closed`, `blocked`).
        Returns the event. Raises OSError.
        """
        cdef Py_ssize_t space, got
        cdef int event = MORE
        cdef int one = 1
        self.drained = self.closed = self.blocked = False
        while reads and event == MORE and not self.blocked and not self.wake:
            space = self._reserve(most)
            if not space:
                self.blocked = True
                break
            got = recv(socket, self._ring + self._head % self._capacity, space, MSG_DONTWAIT)
            if got <= 0:
                self.closed = got == 0
                if got < 0 and errno not in (EAGAIN, EINTR):
                    PyErr_SetFromErrno(OSError)
                self.drained = True
                break
            # Linux leaves quick acknowledgement mode by itself; without it a sender with Nagle's
            # algorithm on waits 40 ms for each image.
            setsockopt(socket, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof(one))
            self._head += got
            self._count(got)
            event = self.scan()
            reads -= 1
            if got < space:
                self.drained = True
                break
        return event

    cdef int _pdu_header(self):
        """PDU header: 6 bytes. -1 = go on."""
        cdef uint8_t kind
        cdef uint32_t length
        if self._head == self._scan:
            return MORE
        kind = self._byte(0)
        if kind != 4 and not 1 <= kind <= 7:
            return self._broken(f"a PDU of unknown type {kind:02X}H", 1)
        if self._head - self._scan < 6:
            return MORE
        length = self._length(2)
        if kind == 4:
            if length > self._max_pdu:
                return self._broken(f"a P-DATA-TF of {length} bytes; {self._max_pdu} were announced", 6)
            if length < 6:
                return self._broken(f"a P-DATA-TF of {length} bytes holds no PDV", 6)
            self._scan += 6
            self._pdu_left = length
            if length > self.largest_pdu:
                self.largest_pdu = length
            return -1
        if kind == 5 or kind == 7:
            # Four bytes follow, reserved, or (A-ABORT) not passed on: however many they are, the
            # association is over, and they are thrown away with what comes behind.
            if self._head - self._scan < 6 + min(length, 4):
                return MORE
            if kind == 5 and (self._mode != IDLE or len(self._command)):
                return self._broken("A-RELEASE-RQ inside a message", 2)
            self._scan += 6 + min(length, 4)
            return RELEASE if kind == 5 else ABORTED
        return self._broken(f"a PDU of type 0{kind}H on an established association", 2)

    cdef int _pdv_header(self):
        """PDV item header: 6 bytes. -1 = go on."""
        cdef uint32_t length
        cdef uint8_t context, control
        if self._pdu_left < 6:
            return self._broken("a PDV header is cut off by the end of its PDU", 6)
        if self._head - self._scan < 6:
            return MORE
        length = self._length(0)
        context = self._byte(4)
        control = self._byte(5)
        if length < 2 or length > self._pdu_left - 4:
            return self._broken(f"a PDV of {length} bytes in the last {self._pdu_left} of its PDU", 6)
        if control & 1:
            if self._mode != IDLE:
                return self._broken("a command fragment inside a data set", 6)
            if len(self._command) and context != self.context:
                return self._broken("the presentation context changes inside a command set", 6)
        elif self._mode == IDLE:
            return self._broken("a data set fragment without a command set before it", 6)
        elif context != self.context:
            return self._broken("a data set fragment in another presentation context than its command", 6)
        self.context = context
        self._control = control
        self._scan += 6
        self._pdu_left -= 4 + length
        self._pdv_left = length - 2
        self._in_fragment = True
        return -1

    cdef int _fragment(self):
        """Bytes of a fragment. -1 = go on."""
        cdef uint64_t here = self._head - self._scan
        cdef uint64_t offset
        if here > self._pdv_left:
            here = self._pdv_left
        # A range never crosses the ring's end, so that each piece is contiguous.
        offset = self._scan % self._capacity
        if here > self._capacity - offset:
            here = self._capacity - offset
        if not here and self._pdv_left:
            return MORE
        if self._control & 1:
            if len(self._command) + here > COMMAND_BYTES:
                return self._broken(f"a command set of more than {COMMAND_BYTES} bytes", 6)
            self._command += PyBytes_FromStringAndSize(<char*>self._ring + offset, here)
        elif self._mode != DISCARDING and here:
            if self._mode == SCANNING:
                here = min(here, self.head_max - self.data_bytes)
            # Bytes that could not be kept when they came were read then.
            self._reader.take(self._ring + offset + (self._reader.taken - self.data_bytes),
                              here - (self._reader.taken - self.data_bytes))
            if not self._keep(self._scan, here):
                self.blocked = True     # the packer is behind
                return MORE
        self._scan += here
        self._pdv_left -= <uint32_t>here
        if not self._pdv_left:
            self._in_fragment = False
        return self._after_fragment(self._control & 2 and not self._pdv_left)

    cdef int _after_fragment(self, bint last):
        if self._control & 1:
            return COMMAND if last else -1
        if self._mode == SCANNING or self._mode == SEEKING:
            return self._look_for_head(last)
        if not last:
            return -1
        return self._finish()

    @property
    def broken_at(self):
        """With `fault`: see DataSetReader."""
        return self._reader.broken_at

    cdef int _look_for_head(self, bint last):
        self._last = last
        if last:
            self._reader.stop()
        if self._reader._walk.found:
            if self._reader._walk.kept != NULL:
                self.head = self._reader.make_head()
                self._reader.let_go()
            return HEAD
        if self._reader._walk.fault:
            self.fault = self._reader.fault
            self._reader.let_go()
            return BAD_HEAD
        if self._mode == SCANNING and self.data_bytes >= self.head_max:
            return LONG_HEAD
        return -1

    cdef int _finish(self):
        reach("receiver.last")
        if self._mode == STORING:
            self._reader.stop()
            self.fault = self._reader.fault
            if self.fault and not self._lenient:
                self._mode = CONDEMNED
            elif self.fault:
                self._note_fault(self.fault)
        if self._mode == CONDEMNED:
            self._retract()
            self.retracted = True
        elif self._mode == STORING and not self._end():
            self._in_fragment = True    # come back here: an empty rest of the last fragment
            self.blocked = True
            return MORE
        self._mode = WAITING
        return END

    # -- the caller's answers ----------------------------------------------------------------

    def take_command(self):
        """The bytes of the command set that COMMAND announced."""
        command = bytes(self._command)
        self._command.clear()
        return command

    def expect_data_set(self, int kind, int pixels=PIXELS_EITHER, bint tolerant=False,
                        bint lenient=False):
        """The command was a C-STORE-RQ: its data set follows.

        `kind`, `pixels` and `tolerant` as in DataSetReader; kind -1 = refuse the instance whatever
        it holds. `lenient`: store it although it is malformed, if its head can be read.
        """
        self._begin()
        self._last = self.late = self.retracted = False
        self._lenient = lenient
        self.fault = b""
        self._reader.begin(kind, pixels, tolerant)
        self._mode = SCANNING if kind >= 0 else DISCARDING
        if kind < 0:
            self._reader.let_go()
            self._held = self._inside = False

    def accept(self):
        """After HEAD and `route` (or `describe`): the rest of the data set flows."""
        self._mode = STORING
        return self._go_on()

    def seek(self):
        """After LONG_HEAD and `route`: the data set flows, and its head is looked for."""
        self._mode = SEEKING
        self.late = True
        return self.scan()

    def refuse(self):
        """After HEAD or BAD_HEAD: the rest of the data set is passed over."""
        if self.late:
            self._mode = CONDEMNED      # the lane's memory is the packer's until it grants
        else:
            self._mode = DISCARDING
            self._held = self._inside = False
        return self._go_on()

    def _go_on(self):
        return self._finish() if self._last else self.scan()

    def resume(self, bint instance=False):
        """The response is there: the next message may come. `instance`: it was a C-STORE."""
        if instance:
            fj_store_u32(&self._lane.answered, self._lane.answered + 1)
        self._mode = IDLE
        self._held = self._inside = self._routed = False

    @property
    def unscanned(self):
        """Bytes that arrived and were not looked at."""
        return self._head - self._scan

    @property
    def hungry(self):
        """True inside a message whose next bytes are the peer's to send."""
        return self._mode != WAITING and self.midway

    @property
    def midway(self):
        """True inside a PDU, a command set or a data set: silence now is a stall."""
        return (self._mode != IDLE or self._in_fragment or self._pdu_left != 0
                or self._head != self._scan or len(self._command) != 0)
