"""JMIX envelopes: the bytes of what is delivered, and of what others made.

    from fastjmix.jmix import open_envelope, verify, build

Each says in its docstring which exceptions it raises: branches of fastjmix.errors.FastjmixError and
OSError, and no others.

Sans-I/O for the gateway: what the processes of the data path use opens neither socket nor file, but
keys.py one with a key. For people's tools, opened.py and verifying.py open what they are asked to
look into; `build` and `verify` are a room above (fastjmix/envelope), where dicom and jmix are
introduced.
Importing this package imports nothing else: each of the three names is found when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fastjmix.envelope.building import build
    from fastjmix.envelope.verifying import verify
    from fastjmix.jmix.opened import open_envelope

__all__ = ["build", "open_envelope", "verify"]

_found_in: Final = {
    "build": "fastjmix.envelope.building",
    "open_envelope": "fastjmix.jmix.opened",
    "verify": "fastjmix.envelope.verifying",
}


def __dir__() -> list[str]:
    """Names what is here and what is found when it is used."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _found_in:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_found_in[name]), name)
