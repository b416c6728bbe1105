"""The memory of the lanes: rings of bytes from a receiver to a packer. Knows no DICOM.

Wanted: the bytes of an association cross from its receiver to its packer without being copied.
Guaranteed: nothing here has a name in the file system, so nothing is left behind, however the
processes end. A lane's ring gets its memory before the first byte (posix_fallocate): too little
memory is a return value, never a SIGBUS. The size is sealed (F_SEAL_SHRINK), so that no process can
take memory from another that has mapped it. A lane that has been idle for IDLE_SECS gives its
memory back (receiver/lane_pool.py).
The layout and the cursors are in _core/memory.pxi.

Still wrong: memory is given by whole lanes, so 64 open associations hold 64 × lane_bytes until
they have been idle for IDLE_SECS, even if each used a little of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from typing import Final

from fastjmix._core import Lanes
from fastjmix.errors import PlatformError

IDLE_SECS: Final = 10.0
"""Seconds that a free lane keeps its memory: modalities often come back within seconds."""

FLAGS: Final = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Passage:
    """The shared memory of all lanes; made by the supervisor before it forks.

    `processes` is the number of receivers and packers. A process is named by its number: receivers
    first, then packers. Raises PlatformError when the memory cannot be had.
    """

    def __init__(self, lanes: int, capacity: int, processes: int) -> None:
        control = Lanes.control_bytes(lanes, processes)
        self._capacity = capacity
        self._control_file = os.memfd_create("fastjmix-control", FLAGS)
        self._ring_file = os.memfd_create("fastjmix-lanes", FLAGS)
        try:
            os.posix_fallocate(self._control_file, 0, control)
            os.ftruncate(self._ring_file, lanes * capacity)
            self._control = mmap.mmap(self._control_file, control)
            self._ring = mmap.mmap(self._ring_file, lanes * capacity)
        except OSError as problem:
            raise PlatformError(
                f"{control + lanes * capacity} bytes of shared memory for {lanes} lanes cannot be "
                f"had: {problem.strerror}",
                "Lower max_associations or lane_bytes, or give this node more memory.",
            ) from problem
        for descriptor in (self._control_file, self._ring_file):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
        self.lanes = Lanes(self._control, self._ring, lanes, capacity, processes)

    def close(self) -> None:
        """Unmaps the memory: `lanes` must not be used any more in this process."""
        self._control.close()
        self._ring.close()
        os.close(self._control_file)
        os.close(self._ring_file)

    def only_look(self) -> Lanes:
        """Returns the lanes for a process that only looks at them (live_lanes.py).

        Unmaps the rings: `lanes` must not be used any more in this process.
        """
        count, capacity, processes = self.lanes.count, self.lanes.capacity, self.lanes.processes
        self._ring.close()
        os.close(self._control_file)
        os.close(self._ring_file)
        return Lanes(self._control, None, count, capacity, processes)

    def back(self, index: int) -> bool:
        """Gives a leased lane its memory. Returns False when there is none."""
        if self.lanes.is_backed(index):
            return True
        try:
            os.posix_fallocate(self._ring_file, index * self._capacity, self._capacity)
        except OSError:  # ENOSPC, ENOMEM: the lane stays usable
            return False
        self.lanes.set_backed(index, True)
        return True

    def unback(self, index: int) -> None:
        """Gives the memory of a leased lane back to the system, by a hole in the file."""
        self.lanes.set_backed(index, False)
        with contextlib.suppress(OSError):  # then the lane keeps its memory until the next time
            self._ring.madvise(mmap.MADV_REMOVE, index * self._capacity, self._capacity)
