"""Memory as AddressSanitizer watches it: none behind an input, and none that holds nothing."""

from __future__ import annotations

import array
import ctypes
from typing import Final

_process = ctypes.CDLL(None)
PRESENT: Final = hasattr(_process, "__asan_poison_memory_region")
"""True in a process that runs under AddressSanitizer."""


def exact(data: bytes | memoryview) -> array.array[int]:
    """Return the bytes in memory of their own that ends with the last of them.

    An array that is made of bytes, or of a buffer, has space to grow: 3 bytes, and a sixteenth of
    its length. To AddressSanitizer a read there is no fault. A copy of an array has no such space.
    """
    return array.array("B", array.array("B", data))


def _tell(word: str, memory: memoryview) -> None:
    if PRESENT and memory:
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        _process[word](ctypes.c_void_p(address), ctypes.c_size_t(len(memory)))


def poison(memory: memoryview) -> None:
    """From now on a compiled read or write of this memory ends the process."""
    _tell("__asan_poison_memory_region", memory)


def unpoison(memory: memoryview) -> None:
    """It may be touched again."""
    _tell("__asan_unpoison_memory_region", memory)
