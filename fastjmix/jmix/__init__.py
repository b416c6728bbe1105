"""JMIX envelopes: write/ makes the bytes that are delivered, read/ reads envelopes of any program.

No module in here opens a file or a socket, and none knows DICOM: read/unzip.py reads from a file
that its caller opened. fastjmix/tools/envelope and the processes open files and bring envelopes and
DICOM together.

The three functions of the Python API are kept here under their earlier names.
"""

from fastjmix import build, open_envelope, verify

__all__ = ["build", "open_envelope", "verify"]
