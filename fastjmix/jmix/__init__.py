"""JMIX envelopes: the bytes of what is delivered (write/), and of what others made (read/).

Sans-I/O: no module in here opens a file or a socket, and none knows DICOM. fastjmix/tools/envelope
and the processes open files and bring the two together.

The three functions of the Python API were here before they were in `fastjmix` itself.
"""

from fastjmix import build, open_envelope, verify

__all__ = ["build", "open_envelope", "verify"]
