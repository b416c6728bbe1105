"""The configuration with its secrets, kept where only two children look.

Wanted: tokens and passwords are in the uploader and, for callers', in the API; nowhere else.
Guaranteed: the files are read by a child of its own, which writes the tree to unnamed memory files,
one a reader, and ends; the supervisor, from which every other process is forked, never has a secret
in its memory. Each child closes what it does not read before it serves anyone.
Still wrong: root, and anyone who may debug our processes, can read the files; a user of its own for
fastjmix is the operator's part.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import cast

from fastjmix.config import Config, load
from fastjmix.errors import FastjmixError


class Vault:
    """Pickled configurations with secrets: the uploader's, and the API's (callers' only)."""

    def __init__(self) -> None:
        self._files = {
            name: os.memfd_create(f"fastjmix-{name}", os.MFD_CLOEXEC)
            for name in ("uploader", "api")
        }

    def fill(self, config: Config) -> None:
        """Writes what each reader may know."""
        os.write(self._files["uploader"], pickle.dumps(config))
        os.write(self._files["api"], pickle.dumps(config.without_upstream_secrets()))

    def open(self, name: str) -> Config:
        """The configuration for that reader; everything is closed then, in this process."""
        descriptor = self._files[name]
        config = pickle.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
        self.close()
        return cast(Config, config)

    def close(self) -> None:
        """This process will not need it (again)."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}


def read(path: Path) -> tuple[Config, Vault]:
    """The configuration without its secrets, and the vault that has them.

    Raises ConfigError with every fault, as `config.load` does.
    """
    vault = Vault()
    answer = os.memfd_create("fastjmix-answer", os.MFD_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _read_and_exit(path, vault, answer)
    os.waitpid(pid, 0)
    with os.fdopen(answer, "rb") as file:
        file.seek(0)
        found = pickle.load(file)
    if isinstance(found, BaseException):
        vault.close()
        raise found
    return cast(Config, found), vault


def _read_and_exit(path: Path, vault: Vault, answer: int) -> None:
    """The child: both forms of the tree, or the error that `load` raised."""
    found: Config | FastjmixError
    try:
        whole = load(path)
        vault.fill(whole)
        found = whole.without_secrets()
    except FastjmixError as problem:
        found = problem
    except BaseException as problem:
        found = FastjmixError(f"{path}: cannot be read: {problem!r}")
    try:
        os.write(answer, pickle.dumps(found))
    finally:
        os._exit(0)  # whatever happens: this is not the process that was called
