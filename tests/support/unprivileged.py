"""`fastjmix` without root's right to read every file, also where the tests run as root."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from tests.support.gateway import run_to_end

# PR_CAPBSET_DROP of CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: the next execve(2) lacks them
_DROP = """
import ctypes, os, sys
for capability in (1, 2):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def run_unprivileged(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """Runs `fastjmix` to its end; files without permissions are closed to it."""
    return run_python_unprivileged("-m", "fastjmix", *arguments, **more)


def run_python_unprivileged(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return run_to_end(sys.executable, "-c", _DROP, *arguments, **more)
