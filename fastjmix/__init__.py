"""fastjmix: DICOM instances in over C-STORE, JMIX envelopes out over HTTP.

The Python API is three functions over envelopes, as files:

    from fastjmix import build, open_envelope, verify

Each says in its docstring which exceptions it raises: branches of fastjmix.errors.FastjmixError and
OSError, and no others. Importing this package starts nothing, and imports nothing else: each
function imports what it needs when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastjmix._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from typing import BinaryIO

    from fastjmix.jmix.keys import RecipientKey
    from fastjmix.jmix.limits import Limits
    from fastjmix.jmix.read.container import Envelope
    from fastjmix.jmix.read.report import Report
    from fastjmix.tools.envelope.building import Built
    from fastjmix.tools.envelope.recipe import Recipe
    from fastjmix.tools.send import Skipped

__all__ = ["__version__", "build", "open_envelope", "verify"]


def open_envelope(source: Path | str, limits: Limits | None = None) -> Envelope:
    """Opens an envelope, a ZIP or a folder. Its structure is checked, its contents are not: see
    `verify`.

    Raises EnvelopeError when it has no manifest or its structure is not that of an envelope (of a
    folder it names everything in it that may not be there); OSError when it is not there or cannot
    be read; UsageError for a path that none can be.
    """
    from fastjmix.jmix.limits import DEFAULT_LIMITS
    from fastjmix.tools.envelope import opening

    return opening.open_envelope(source, limits or DEFAULT_LIMITS)


def verify(
    source: Path | str | BinaryIO,
    *,
    public_key: bytes | None = None,
    key: RecipientKey | None = None,
    limits: Limits | None = None,
    now: float | None = None,
    seen: Callable[[int], object] = lambda _: None,
) -> Report:
    """Verifies an envelope and the data sets in it: a ZIP, a folder, or an open file with a ZIP.

    `public_key` (Ed25519, 32 bytes): then manifest.jws must be there and be signed with it. `key`
    decrypts the payload. `now` (Unix seconds) is what expiries are compared with. `seen` hears how
    many bytes went by. Raises OSError when the source is not there or cannot be read, UsageError
    for a path or a key that is none; faults are in the report.
    """
    from fastjmix.jmix.limits import DEFAULT_LIMITS
    from fastjmix.tools.envelope import verifying

    return verifying.verify(
        source,
        public_key=public_key,
        key=key,
        limits=limits or DEFAULT_LIMITS,
        now=now,
        seen=seen,
    )


def build(
    paths: Path | str | Iterable[Path | str],
    out: Path | str,
    recipe: Recipe | None = None,
    *,
    force: bool = False,
    leave_out: bool = False,
    skipped: Callable[[Skipped], object] = lambda _: None,
    total: Callable[[int], object] = lambda _: None,
    seen: Callable[[int], object] = lambda _: None,
) -> list[Built]:
    """Makes an envelope of the DICOM files in these files and directories, or in this one.

    `out` is the envelope's path, or a directory: one that exists, or (with a slash at its end) one
    to be made. Then each study gets an envelope of its own there, <id>.zip. Without a `recipe` it
    is as the pipeline makes it. IncompleteError names everything that is met and not taken, unless
    `leave_out`; `skipped` hears of each in either case. `total` hears how many bytes will be
    packed, `seen` how many more were.

    Raises UsageError for a path that does not exist, BuildError for what makes no envelope,
    EnvelopeError naming a file that changed, OutputError when `out` cannot be written or is there
    (without `force`), ConfigError for a key that cannot be used, OSError.
    """
    from fastjmix.tools.envelope import building
    from fastjmix.tools.envelope.recipe import AS_PIPELINE

    return building.build(
        paths,
        out,
        recipe or AS_PIPELINE,
        force=force,
        leave_out=leave_out,
        skipped=skipped,
        total=total,
        seen=seen,
    )
