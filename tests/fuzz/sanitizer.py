"""AddressSanitizer's own words, where it is there: memory that holds nothing may not be touched."""

from __future__ import annotations

import ctypes
from typing import Final

_process = ctypes.CDLL(None)
PRESENT: Final = hasattr(_process, "__asan_poison_memory_region")
"""True in a process that runs under AddressSanitizer."""


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
