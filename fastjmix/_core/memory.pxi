# The shared layout of a lane, and the atomics that make it one.
#
# A lane has a control block and a byte ring. One instance at a time is in a lane: the receiver
# begins it, publishes pieces of it, ends it; the packer takes the pieces, then grants a status.
# Positions are 64-bit and only grow; the offset in the ring is position % capacity. Both sides
# write only their own cache lines. A field is written before the counter that announces it
# (release), and read after that counter (acquire).

cdef extern from *:
    """
    #include <stdint.h>
    #include <sched.h>
    #include <time.h>

    #define FJ_PIECES 512u          /* a power of two; about 128 KB each on the wire */
    #define FJ_UID 128u             /* PS3.5 §9.1: 64 characters; twice as many with tolerate_uids */
    #define FJ_COMMENT 64u          /* Error Comment (0000,0902): at most 64 characters */
    #define FJ_VALUE 1024u          /* bytes kept of a value: see dataset.TEXT_BYTES_MAX */
    #define FJ_N_WANTED 17u
    #define FJ_KEPT (FJ_N_WANTED * (8 + FJ_VALUE))
    #define FJ_PREFIX 1024u         /* preamble, DICM, File Meta Information: about 500 bytes */
    #define FJ_FACTS 512u           /* facts of an association: spool/association_facts.py */

    typedef struct { uint64_t position; uint32_t length; uint32_t unused; } fj_piece;
    typedef struct { uint8_t length; char text[FJ_UID]; } fj_uid;

    typedef struct {
        /* written by the receiver that leases the lane */
        _Alignas(64) uint32_t owner;    /* receiver's index + 1; 0 = free */
        uint32_t listener;
        uint32_t backed;                /* the ring has memory: touching it cannot fail */
        uint64_t association;           /* unique number; 0 = none */
        uint32_t begun, ended, aborted; /* numbers of instances, counted from 1 */
        uint32_t packer;
        uint64_t published;             /* pieces, counted since the lane was made */
        char calling_ae[16];
        /* the same receiver: for those who only look, on lines that no packer waits for */
        _Alignas(64) uint64_t arrived;  /* bytes since the association began */
        uint32_t answered;              /* instances that have their response */
        uint32_t full;                  /* the socket is not read: the lane has no space */
        uint32_t facts_length;
        char facts[FJ_FACTS];           /* before `association` */
        /* written by the packer of the instance */
        _Alignas(64) uint64_t released; /* bytes of the instance before this position are free */
        uint64_t taken;                 /* pieces */
        uint32_t done;                  /* number of the last instance that has its status */
        uint32_t status;
        uint32_t adopted;               /* number of the last instance that a successor took over */
        uint32_t awaits_space;          /* the receiver waits for space (both write) */
        _Alignas(64) char comment[FJ_COMMENT];
        /* the instance: written by the receiver before `begun` */
        _Alignas(64) fj_uid study, series, sop_class, sop_instance, transfer_syntax;
        uint32_t settings;              /* which listener, calling AE and builder: see ipc/ingest_rules.py */
        uint64_t start;                 /* position of the first data set byte */
        uint64_t first_piece;           /* `published` when the instance began */
        int64_t instance_number;        /* INT64_MIN: none */
        uint64_t head_length;           /* bytes of the data set's head */
        uint32_t prefix_length;
        uint32_t kept_length;
        uint8_t prefix[FJ_PREFIX];
        uint8_t kept[FJ_KEPT];          /* elements of the head: see Head.elements */
        uint8_t fault_length;           /* of an instance that is stored although it is malformed */
        char fault[FJ_COMMENT];
        _Alignas(64) fj_piece pieces[FJ_PIECES];
    } fj_lane;

    /* One word a process, on lines of their own: is it asleep, which lanes have something for it. */
    typedef struct {
        _Alignas(64) uint32_t asleep;
        uint64_t associations;              /* counted by all receivers, in process 0's words */
        _Alignas(64) uint64_t pending_lanes[16];    /* one bit a lane: at most 1024 lanes */
    } fj_process;

    /* Elements whose values are kept: first the fields, by their numbers (F_…), then what describes
       patient, study and series. */
    static const uint32_t FJ_WANTED[FJ_N_WANTED] = {
        0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00200013,
        0x00080005, 0x00080020, 0x00080050, 0x00080060, 0x00081030, 0x0008103E, 0x00100010,
        0x00100020, 0x00100030, 0x00100040, 0x00180015, 0x00200011 };

    #define FJ_CONTROL ((sizeof(fj_lane) + 4095) / 4096 * 4096)

    #define FJ_UNDEFINED 0xFFFFFFFFu        /* PS3.5 §7.1: undefined length */
    #define FJ_ITEM 0xFFFEE000u             /* PS3.5 §7.5: item and delimitation tags */
    #define FJ_ITEM_END 0xFFFEE00Du
    #define FJ_SEQUENCE_END 0xFFFEE0DDu
    #define FJ_PIXEL_DATA 0x7FE00010u

    #define fj_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define fj_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define fj_exchange(p, v) __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
    #define fj_next(p) __atomic_add_fetch((p), 1, __ATOMIC_SEQ_CST)
    #define fj_or(p, v) __atomic_fetch_or((p), (v), __ATOMIC_SEQ_CST)
    #define fj_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)

    static inline int fj_claim(uint32_t *p, uint32_t expected, uint32_t value) {
        return __atomic_compare_exchange_n(p, &expected, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    static inline void fj_relax(uint32_t turn) {
        /* sched_yield now and then: with fewer cores than processes the other side must run */
        if (turn % 50 == 49) { sched_yield(); return; }
    #if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
    #elif defined(__aarch64__)
        __asm__ __volatile__("yield");
    #endif
    }
    static inline double fj_now(void) {      /* as time.monotonic(); 20 ns */
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    }
    static inline int64_t fj_unix_ms(void) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    }
    static inline void fj_clean_vectors(void) {
    #if defined(__x86_64__)
        if (__builtin_cpu_supports("avx")) __asm__ __volatile__("vzeroupper" ::: "memory");
    #endif
    }
    static inline uint32_t fj_be32(const uint8_t *p) {
        return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    }
    static inline uint32_t fj_le32(const uint8_t *p) {
        return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
    }
    static inline uint16_t fj_le16(const uint8_t *p) { return (uint16_t)(p[1] << 8 | p[0]); }
    static inline uint16_t fj_be16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
    """
    const uint32_t FJ_UNDEFINED, FJ_ITEM, FJ_ITEM_END, FJ_SEQUENCE_END, FJ_PIXEL_DATA
    enum: FJ_PIECES
    const uint32_t FJ_WANTED[17]
    enum: FJ_UID
    enum: FJ_COMMENT
    enum: FJ_VALUE
    enum: FJ_N_WANTED
    enum: FJ_KEPT
    enum: FJ_PREFIX
    enum: FJ_FACTS
    enum: FJ_CONTROL
    ctypedef struct fj_piece:
        uint64_t position
        uint32_t length
    ctypedef struct fj_uid:
        uint8_t length
        char* text
    ctypedef struct fj_lane:
        uint32_t owner, listener, backed
        uint64_t association
        uint32_t begun, ended, aborted, packer
        uint64_t published
        char* calling_ae
        uint64_t arrived
        uint32_t answered, full, facts_length
        char* facts
        uint64_t released, taken
        uint32_t done, status, adopted, awaits_space
        char* comment
        fj_uid study, series, sop_class, sop_instance, transfer_syntax
        uint32_t settings
        uint64_t start, first_piece
        int64_t instance_number
        uint64_t head_length
        uint32_t prefix_length, kept_length
        uint8_t* prefix
        uint8_t* kept
        uint8_t fault_length
        char* fault
        fj_piece* pieces
    ctypedef struct fj_process:
        uint32_t asleep
        uint64_t associations
        uint64_t* pending_lanes
    uint8_t fj_load_u8 "fj_load"(uint8_t*) nogil
    uint32_t fj_load_u32 "fj_load"(uint32_t*) nogil
    uint64_t fj_load_u64 "fj_load"(uint64_t*) nogil
    void fj_store_u32 "fj_store"(uint32_t*, uint32_t) nogil
    void fj_store_u64 "fj_store"(uint64_t*, uint64_t) nogil
    uint32_t fj_exchange_u32 "fj_exchange"(uint32_t*, uint32_t) nogil
    uint64_t fj_exchange_u64 "fj_exchange"(uint64_t*, uint64_t) nogil
    uint64_t fj_next(uint64_t*) nogil
    void fj_or(uint64_t*, uint64_t) nogil
    void fj_fence() nogil
    bint fj_claim(uint32_t*, uint32_t, uint32_t) nogil
    void fj_relax(uint32_t) nogil
    double fj_now() nogil
    int64_t fj_unix_ms() nogil
    void fj_clean_vectors() nogil
    uint32_t fj_be32(const uint8_t*) nogil
    uint32_t fj_le32(const uint8_t*) nogil
    uint16_t fj_le16(const uint8_t*) nogil
    uint16_t fj_be16(const uint8_t*) nogil

cdef int64_t NO_NUMBER = <int64_t>-9223372036854775807 - 1

LANES_MAX = 1024
"""Lanes that a process can be woken for; the most associations of one node."""
ASSOCIATION_FACTS_MAX = FJ_FACTS
"""Bytes of the facts of an association in its lane."""
WAITS_FOR_PEER = "peer"
"""Lanes.live: the peer's next bytes are awaited."""
WAITS_FOR_PACKER = "packer"
"""Lanes.live: the lane is full, and its socket is not read."""
WAITS_FOR_DISK = "disk"
"""Lanes.live: an instance is whole, and its packer has not given its status."""


cdef object _pointer(object buffer, Py_ssize_t needed, uint8_t** out):
    """The address of a writable buffer, which the caller keeps alive."""
    cdef Py_buffer view
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    out[0] = <uint8_t*>view.buf
    length = view.len
    PyBuffer_Release(&view)
    if length < needed:
        raise ValueError(f"the shared memory has {length} bytes, {needed} are needed")
    return None


cdef class Lanes:
    """The shared memory of all lanes, mapped: geometry, leases, pending lanes.

    `control` holds `lanes` control blocks and then `processes` words; `ring` holds `lanes` rings of
    `capacity` bytes. Both are writable buffers (mmap) that outlive this object. `ring` is None in a
    process that only looks at the control blocks.
    """

    cdef uint8_t* _control
    cdef uint8_t* _ring
    cdef object _keep
    cdef readonly Py_ssize_t count
    cdef readonly Py_ssize_t capacity
    cdef readonly Py_ssize_t processes

    def __cinit__(self, control, ring, Py_ssize_t lanes, Py_ssize_t capacity, Py_ssize_t processes):
        if not 0 < lanes <= LANES_MAX:
            raise ValueError(f"{lanes} lanes: 1 to {LANES_MAX} are possible")
        _pointer(control, lanes * FJ_CONTROL + processes * sizeof(fj_process), &self._control)
        self._ring = NULL
        if ring is not None:
            _pointer(ring, lanes * capacity, &self._ring)
        self._keep = (control, ring)
        self.count = lanes
        self.capacity = capacity
        self.processes = processes

    @staticmethod
    def control_bytes(Py_ssize_t lanes, Py_ssize_t processes):
        """Bytes of control memory for so many lanes and processes."""
        return lanes * FJ_CONTROL + processes * sizeof(fj_process)

    cdef fj_lane* lane(self, Py_ssize_t index) noexcept:
        return <fj_lane*>(self._control + index * FJ_CONTROL)

    cdef uint8_t* bytes_of(self, Py_ssize_t index) noexcept:
        return self._ring + index * self.capacity

    cdef fj_process* process(self, Py_ssize_t index) noexcept:
        return <fj_process*>(self._control + self.count * FJ_CONTROL + index * sizeof(fj_process))

    def _check(self, Py_ssize_t index):
        if not 0 <= index < self.count:
            raise IndexError(f"lane {index} of {self.count}")

    def lease(self, uint32_t owner):
        """Takes the first free lane for receiver `owner`; its index, or -1 when none is free."""
        cdef Py_ssize_t index
        for index in range(self.count):
            if self.lane(index).owner == 0 and fj_claim(&self.lane(index).owner, 0, owner + 1):
                return index
        return -1

    def lease_this(self, Py_ssize_t index, uint32_t owner):
        """Takes this lane, if it is free: True when it was."""
        self._check(index)
        return fj_claim(&self.lane(index).owner, 0, owner + 1) != 0

    def new_association(self):
        """The next association number: unique among all receivers, dead ones included."""
        return fj_next(&self.process(0).associations)

    @property
    def newest_association(self):
        """The last number that `new_association` gave: a larger one will have begun later."""
        return fj_load_u64(&self.process(0).associations)

    def give_back(self, Py_ssize_t index):
        """Ends a lease. The lane must be quiet: see `quiet`."""
        self._check(index)
        fj_store_u64(&self.lane(index).association, 0)
        fj_store_u32(&self.lane(index).owner, 0)

    def leased_by(self, uint32_t owner):
        """Indexes of the lanes that receiver `owner` holds."""
        return [i for i in range(self.count) if fj_load_u32(&self.lane(i).owner) == owner + 1]

    def quiet(self, Py_ssize_t index):
        """True when the lane's last instance has its status: no packer looks at it."""
        self._check(index)
        return fj_load_u32(&self.lane(index).done) == self.lane(index).begun

    def forget(self, Py_ssize_t index):
        """For a lane whose receiver died: its packer forgets the instance that was arriving.

        Returns the process to wake, or -1. The lane can be given back when it is `quiet`.
        """
        self._check(index)
        cdef fj_lane* lane = self.lane(index)
        if fj_load_u32(&lane.done) == lane.begun or fj_load_u32(&lane.ended) == lane.begun:
            return -1
        fj_store_u32(&lane.aborted, lane.begun)
        cdef uint32_t packer = fj_load_u32(&lane.packer)
        return <int64_t>packer if self.mark_pending(packer, index) else -1

    def is_backed(self, Py_ssize_t index):
        """Returns True when a lane's ring has memory."""
        self._check(index)
        return fj_load_u32(&self.lane(index).backed) != 0

    def set_backed(self, Py_ssize_t index, bint value):
        """Notes, for every process, whether a lane's ring has memory."""
        self._check(index)
        fj_store_u32(&self.lane(index).backed, value)

    def open(self, Py_ssize_t index, uint64_t association, uint32_t listener, bytes calling_ae,
             bytes facts=b""):
        """Announces the association that a leased lane carries.

        `facts` is the text of its facts. Raises ValueError for more than ASSOCIATION_FACTS_MAX
        bytes.
        """
        self._check(index)
        cdef fj_lane* lane = self.lane(index)
        cdef Py_ssize_t length = min(len(calling_ae), 16)
        if len(facts) > FJ_FACTS:
            raise ValueError(f"facts of {len(facts)} bytes; {FJ_FACTS} are possible")
        fj_fence()                      # `association` is 0, and seen to be so, before they change
        memcpy(lane.facts, <const char*>facts, len(facts))
        lane.facts_length = <uint32_t>len(facts)
        lane.arrived = 0
        lane.answered = lane.full = 0
        memset(lane.calling_ae, 32, 16)
        memcpy(lane.calling_ae, <const char*>calling_ae, length)
        lane.listener = listener
        fj_store_u64(&lane.association, association)

    def association(self, Py_ssize_t index):
        """The number of the association in a lane; 0 when there is none."""
        self._check(index)
        return fj_load_u64(&self.lane(index).association)

    def association_facts(self, Py_ssize_t index):
        """The text of the facts of the association in a lane, as `open` was given it; b"" when it
        changes meanwhile."""
        self._check(index)
        cdef fj_lane* lane = self.lane(index)
        cdef uint64_t association = fj_load_u64(&lane.association)
        cdef bytes facts = PyBytes_FromStringAndSize(
            lane.facts, min(fj_load_u32(&lane.facts_length), <uint32_t>FJ_FACTS))
        fj_fence()
        return facts if fj_load_u64(&lane.association) == association else b""

    def live(self):
        """The associations that lanes carry, from any process: (lane, number, facts, bytes so far,
        instances with a response, what it waits for: WAITS_FOR_…) of each.

        It reads and writes nothing else. An association that ends meanwhile is left out.
        """
        cdef list found = []
        cdef Py_ssize_t index
        cdef uint64_t association, arrived
        cdef uint32_t answered
        cdef fj_lane* lane
        for index in range(self.count):
            lane = self.lane(index)
            association = fj_load_u64(&lane.association)
            if not association:
                continue
            facts = self.association_facts(index)
            arrived = fj_load_u64(&lane.arrived)
            answered = fj_load_u32(&lane.answered)
            waits = self._awaited(lane)
            fj_fence()
            if fj_load_u64(&lane.association) == association:
                found.append((index, association, facts, arrived, answered, waits))
        return found

    cdef str _awaited(self, fj_lane* lane):
        cdef uint32_t done = fj_load_u32(&lane.done)    # first: the instance may get it meanwhile
        cdef uint32_t begun = fj_load_u32(&lane.begun)
        if begun != done and fj_load_u32(&lane.ended) == begun:
            return WAITS_FOR_DISK
        if fj_load_u32(&lane.full) or fj_load_u64(&lane.published) - fj_load_u64(
                &lane.taken) >= FJ_PIECES:
            return WAITS_FOR_PACKER
        return WAITS_FOR_PEER

    @property
    def leased(self):
        """How many lanes receivers hold."""
        cdef Py_ssize_t index, found = 0
        for index in range(self.count):
            found += fj_load_u32(&self.lane(index).owner) != 0
        return found

    def calling_ae(self, Py_ssize_t index):
        """The calling AE title of the association in a lane: 16 bytes, padded with spaces."""
        self._check(index)
        return PyBytes_FromStringAndSize(self.lane(index).calling_ae, 16)

    def associations(self, uint32_t listener, bytes calling_ae=None):
        """How many lanes carry an association of this listener (and calling AE title)."""
        cdef Py_ssize_t index, found = 0
        cdef bytes padded = None if calling_ae is None else calling_ae[:16].ljust(16)
        cdef fj_lane* lane
        for index in range(self.count):
            lane = self.lane(index)
            if fj_load_u64(&lane.association) and lane.listener == listener:
                if padded is None or memcmp(lane.calling_ae, <const char*>padded, 16) == 0:
                    found += 1
        return found

    def mark(self, Py_ssize_t process, Py_ssize_t lane):
        """Marks a lane for a process. True: it sleeps, and the caller must wake it."""
        self._check(lane)
        return self.mark_pending(process, lane)

    cdef bint mark_pending(self, Py_ssize_t process, Py_ssize_t lane) noexcept:
        cdef fj_process* words
        if not 0 <= process < self.processes:
            return False                # out of the shared memory, where anyone may have written
        words = self.process(process)
        fj_or(&words.pending_lanes[lane >> 6], <uint64_t>1 << (lane & 63))
        return self.must_wake(process)

    cdef bint must_wake(self, Py_ssize_t process) noexcept:
        """True once for each sleep: the one who sees it writes the eventfd."""
        fj_fence()
        if fj_load_u32(&self.process(process).asleep):
            return fj_exchange_u32(&self.process(process).asleep, 0) == 1
        return False

    def doze(self, Py_ssize_t process):
        """Says that a process is about to sleep. It must look at its work once more after this."""
        fj_exchange_u32(&self.process(process).asleep, 1)

    def rouse(self, Py_ssize_t process):
        """Says that a process is awake."""
        fj_exchange_u32(&self.process(process).asleep, 0)
