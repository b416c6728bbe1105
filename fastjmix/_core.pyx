# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Hot loops on raw memory. A table of contents; the chapters are in _core/.

Wanted: the work that is done per byte or per fragment, without an interpreter between the bytes.
Guaranteed: every read of a peer's bytes is inside what has arrived; every length is compared before
it is used; nothing here opens a socket or a file, logs, or decides policy (`receive` reads from a
socket that the receiver opened and watches, FileDigest from the packer's file).
Each function has a slow twin in tests/reference.py that gives the same answer for any split of the
input.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBUF_SIMPLE, PyObject_GetBuffer, PyBuffer_Release
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_SetFromErrno
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport EAGAIN, EINTR, EIO, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

from zlib import decompressobj as _decompressobj
from zlib import error as _zlib_error

from fastjmix.failpoints import reach

cdef extern from "<sys/socket.h>":
    Py_ssize_t recv(int, void*, size_t, int) noexcept
    int setsockopt(int, int, int, const void*, unsigned int) noexcept
    int MSG_DONTWAIT

cdef extern from "<fcntl.h>":
    int sync_file_range(int, int64_t, int64_t, unsigned int) noexcept nogil
    int fallocate(int, int, int64_t, int64_t) noexcept nogil
    unsigned int SYNC_FILE_RANGE_WAIT_BEFORE
    unsigned int SYNC_FILE_RANGE_WRITE
    unsigned int SYNC_FILE_RANGE_WAIT_AFTER
    int FALLOC_FL_KEEP_SIZE
    int FALLOC_FL_PUNCH_HOLE

cdef extern from "<unistd.h>":
    Py_ssize_t pread(int, void*, size_t, int64_t) noexcept nogil

cdef extern from "<netinet/in.h>":
    int IPPROTO_TCP

cdef extern from "<netinet/tcp.h>":
    int TCP_QUICKACK

cdef extern from "Python.h":
    int PyBUF_READ
    int PyBUF_WRITE

include "_core/memory.pxi"     # the shared layout of a lane, atomics
include "_core/head.pxi"       # the data set: its head and its soundness, from element to element (PS3.5 §7)
include "_core/command.pxi"    # command sets (PS3.7 §6.3.1)
include "_core/lane.pxi"       # the receiver's end of a lane: reserve, commit, publish
include "_core/pdv.pxi"        # P-DATA-TF: stepping over PDU and PDV headers (PS3.8 §9.3.5)
include "_core/digest.pxi"     # files: digest and CRC-32 of what was written
include "_core/intake.pxi"     # the packer's end: peek, digest + CRC, grant, release
