"""A program that logs values which cannot be shown: 14, in four ways, and one line more.

Its arguments: the log file, the format. It ends with "logged" on stdout.
"""

LOGS_ODD_VALUES = """
import os, sys
from pathlib import Path
from fastjmix import log
log.setup("debug", Path(sys.argv[1]), "x", sys.argv[2])
class Evil:
    def __str__(self): raise OSError("no")
    __repr__ = __str__
class Worse(Exception):
    def __repr__(self): raise RecursionError
    __str__ = __repr__
values = [
    Evil(), "\\udc80", "\\0\\n\\x1b[2J", "x" * 50_000_000, 10 ** 5000, b"\\xff", float("nan"), None,
    [Evil()], {"a": Worse()}, Worse(), memoryview(b"a"), os.fsdecode(b"/tmp/\\xff"), ...
]
for value in values:
    log.get().info("event", key=value, other=value)
    log.get().error(value)
    log.get().warning("event", **{"a\\nb\\udc80": value})
    try:
        raise Worse(value)
    except Worse:
        log.get().exception("event", why=value)
os.close(2)
log.get().info("last")
print("logged")
"""
