"""Prepares the supervisor's own process: its log, and how many descriptors it may have."""

from __future__ import annotations

import contextlib
import errno
import resource
from typing import Final

from fastjmix import log
from fastjmix.config import Config
from fastjmix.errors import PlatformError

WRONG_PATH: Final = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM,
    errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO,
)  # fmt: skip
"""Errors of open(2) for a log file whose path or rights are wrong: the configuration's fault."""

DESCRIPTORS_WANTED: Final = 2048
"""Descriptors of each process: a packer has two for each of 512 open envelopes, a receiver one for
each of max_half_open, CLOSING_MAX and max_associations. Every usual limit is higher."""


def begin_log(config: Config) -> None:
    """Opens the log. Raises PlatformError where the configured path cannot hold a log file."""
    try:
        own = config.log
        log.setup(own.level, own.file, "supervisor", own.format, own.study_uids)
    except OSError as problem:
        if problem.errno not in WRONG_PATH:  # a full or broken disk: the next start has it, too
            log.get().error("log_file_failed", file=config.log.file, why=problem.strerror)
            return
        raise PlatformError(
            f"{config.log.file}: the log file cannot be written: {problem.strerror}",
            "Check logging.log_file_path, or set log_to_file = false.",
        ) from problem


def raise_descriptor_limit() -> None:
    """Raises the soft limit to the hard one: each association and each envelope needs a descriptor.
    Logs a warning where that is not enough.
    """
    with contextlib.suppress(OSError, ValueError):  # then the soft limit must do
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < DESCRIPTORS_WANTED and most != resource.RLIM_INFINITY:
        hint = "raise LimitNOFILE= of the service (or `ulimit -n`): without descriptors connections"
        hint += " wait, and instances of new studies are refused (A700)"
        log.get().warning("few_descriptors", limit=most, wanted=DESCRIPTORS_WANTED, hint=hint)
