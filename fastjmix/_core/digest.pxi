# Digest and CRC-32 by turns on a block while it is in the cache: of lanes, of files read back.

cdef enum:
    BLOCK = 65536

cdef uint32_t _digest_all(hasher, crc32, uint8_t* data, uint64_t length, uint32_t value) except? 0:
    """By blocks, which both release the GIL for; `hasher` may be None. Returns the CRC-32."""
    cdef uint64_t block
    while length:
        block = min(length, <uint64_t>BLOCK)
        view = PyMemoryView_FromMemory(<char*>data, block, PyBUF_READ)
        if hasher is not None:
            hasher.update(view)
        value = crc32(view, value)
        # ISA-L's AVX-512 CRC leaves the upper halves of the vector registers dirty. Until they are
        # cleaned OpenSSL's SHA-256 takes 1.35 times as long (bench/bench_digest.py).
        fj_clean_vectors()
        data += block
        length -= block
    return value


def begin_writeback(int descriptor, uint64_t offset, uint64_t length):
    """Asks the kernel to begin writing a part of a file to the disk (sync_file_range(2)).

    No promise comes of it: only that an fsync(2) later has less to do. It reports the errors.
    """
    with nogil:
        sync_file_range(descriptor, <int64_t>offset, <int64_t>length, SYNC_FILE_RANGE_WRITE)


def finish_writeback(int descriptor, uint64_t offset, uint64_t length):
    """Waits until the disk has taken a part of a file (sync_file_range(2)). Raises OSError.

    No promise comes of it either: the file's metadata are not written. But an error that it reports
    is not reported again by fsync(2) of the same descriptor.
    """
    cdef int failed
    with nogil:
        failed = sync_file_range(
            descriptor, <int64_t>offset, <int64_t>length,
            SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER)
    if failed:
        PyErr_SetFromErrno(OSError)


def punch_hole(int descriptor, uint64_t offset, uint64_t length):
    """Gives the disk space of a part of a file back; zeros are read there. Raises OSError.

    fallocate(2) with FALLOC_FL_PUNCH_HOLE: EOPNOTSUPP where the file system cannot.
    """
    cdef int failed
    with nogil:
        failed = fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                           <int64_t>offset, <int64_t>length)
    if failed:
        PyErr_SetFromErrno(OSError)


cdef class FileDigest:
    """Reads files back to digest them: a block at a time, through one buffer of its own.

    `crc32(data, value)` continues a CRC-32. Not to be shared between threads.
    """

    cdef object _crc32
    cdef object _buffer

    def __cinit__(self, crc32):
        self._crc32 = crc32
        self._buffer = bytearray(BLOCK)

    def update(self, hasher, uint32_t crc, int descriptor, uint64_t offset, uint64_t length):
        """Feeds `length` bytes of a file from `offset` on to `hasher`; returns the continued CRC-32.

        Raises OSError: what pread(2) answers, or EIO when the file ends before that.
        """
        cdef uint8_t* data = <uint8_t*><char*>self._buffer
        cdef Py_ssize_t count
        while length:
            with nogil:
                count = pread(descriptor, data, min(length, <uint64_t>BLOCK), <int64_t>offset)
            if count < 0:
                if errno == EINTR:
                    continue
                PyErr_SetFromErrno(OSError)
            if count == 0:
                raise OSError(EIO, "the file is shorter than what was written to it")
            crc = _digest_all(hasher, self._crc32, data, count, crc)
            offset += count
            length -= count
        return crc
