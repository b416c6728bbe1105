"""fastjmix: DICOM instances in over C-STORE, JMIX envelopes out over HTTP."""

from fastjmix._version import __version__

__all__ = ["__version__"]
