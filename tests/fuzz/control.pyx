# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Deliberate faults behind a word that a fuzzer must find first: see tests/fuzz/test_fuzz.py."""

from libc.stdlib cimport free, malloc

from tests.fuzz.sanitizer import exact, poison

cdef extern from *:
    """
    /* volatile: an optimizer must not notice that this is wrong */
    static int fuzz_read(const unsigned char *p, long at) { return ((const volatile unsigned char *)p)[at]; }
    static int fuzz_shift(volatile int bits) { return 1 << bits; }
    /* a branch a letter, so that each right letter is an input worth keeping */
    static int fuzz_says(const unsigned char *p, long n, const char *word) {
        return n >= 4 && p[0] == (unsigned char)word[0] && p[1] == (unsigned char)word[1]
            && p[2] == (unsigned char)word[2] && p[3] == (unsigned char)word[3];
    }
    """
    int fuzz_read(const unsigned char*, long)
    int fuzz_shift(int)
    int fuzz_says(const unsigned char*, long, const char*)


cdef bint _says(const unsigned char[::1] data, const char* word):
    return data.shape[0] and fuzz_says(&data[0], data.shape[0], word)


def behind_the_heap(const unsigned char[::1] data):
    """Reads one byte behind eight that were allocated."""
    cdef unsigned char* eight
    if _says(data, b"HEAP"):
        eight = <unsigned char*>malloc(8)
        fuzz_read(eight, 8)
        free(eight)


def behind_the_input(const unsigned char[::1] data):
    """Reads one byte behind its input, which stands in memory of its own as in the targets."""
    cdef unsigned char[::1] own
    if _says(data, b"READ"):
        own = exact(data)
        fuzz_read(&own[0], own.shape[0])


def poisoned(const unsigned char[::1] data):
    """Reads memory that was said to hold nothing."""
    cdef unsigned char[::1] memory
    if _says(data, b"LANE"):
        memory = bytearray(64)
        poison(memoryview(memory)[8:])
        fuzz_read(&memory[0], 8)


def undefined(const unsigned char[::1] data):
    """Shifts by more bits than there are."""
    if _says(data, b"BITS"):
        fuzz_shift(77)


def greedy(const unsigned char[::1] data):
    """Believes a length of a gigabyte."""
    if _says(data, b"SIZE"):
        bytearray(1 << 30)


def raising(const unsigned char[::1] data):
    """Breaks an invariant without breaking memory."""
    if _says(data, b"FAIL"):
        raise AssertionError("the invariant")
