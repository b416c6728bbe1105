"""The unnamed memory files that hold a configuration, each for its readers.

Guaranteed: only the process that read the configuration writes what is secret, and only the process
it is for opens it. Each other process closes these files before it serves anyone.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from typing import Final, Literal, cast

from fastjmix.config import Config
from fastjmix.ipc import configuration
from fastjmix.ipc.ingest_rules import IngestRulesTable

Reader = Literal["uploader", "api", "others", "environment"]

READERS: Final[tuple[Reader, ...]] = ("uploader", "api", "others", "environment")
"""The uploader has the whole tree, the api the secrets that it needs, the others none. The last
file has the values of environment variables, for the process that reads the next configuration."""

PREFIX: Final = "fastjmix-"


class MemoryFiles:
    """The files of one configuration. `files` maps each reader to a descriptor."""

    def __init__(self, files: Mapping[Reader, int]) -> None:
        self._files = dict(files)

    @classmethod
    def new(cls) -> MemoryFiles:
        """Makes empty files. Raises OSError."""
        return cls({n: os.memfd_create(f"{PREFIX}{n}", os.MFD_CLOEXEC) for n in READERS})

    @property
    def descriptors(self) -> list[int]:
        """The descriptors, in the order of READERS."""
        return [self._files[name] for name in READERS]

    def of(self, reader: Reader) -> int:
        """Returns the descriptor of a file."""
        return self._files[reader]

    def fill(self, config: Config, environment: Mapping[str, str]) -> None:
        """Writes what is secret: the part of the configuration that each reader may know, and the
        variables that it named."""
        configuration.write(self._files["uploader"], config)
        configuration.write(self._files["api"], config.without_upstream_secrets())
        os.write(self._files["environment"], pickle.dumps(dict(environment)))

    def fill_for_others(self, config: Config, rules: IngestRulesTable) -> None:
        """Writes the configuration without secrets, and the rules of instances by number."""
        configuration.write(self._files["others"], config, rules)

    def environment(self) -> dict[str, str]:
        """Returns the variables that the configuration named, with their values."""
        file = self._files["environment"]
        return cast("dict[str, str]", pickle.loads(os.pread(file, os.fstat(file).st_size, 0)))

    def open(self, reader: Reader) -> Config:
        """Returns the configuration for a reader, and closes all files."""
        config, _ = configuration.read(self._files[reader])
        self.close()
        return config

    def close(self) -> None:
        """Closes all files in this process."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}
