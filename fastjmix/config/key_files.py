"""Reads key files. The forms of a key are jmix/keys.py's.

Still wrong: the mode of a key file is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from fastjmix.errors import ConfigError

if TYPE_CHECKING:
    from fastjmix.jmix.keys import SigningKey
    from fastjmix.jmix.write.parties import Published

K = TypeVar("K")

KEY_FILE_BYTES_MAX: Final = 4096
"""A PEM key of either kind has about 120 bytes: a larger file is something else."""


def load(kind: Callable[[bytes, str], K], path: Path) -> K:
    """Returns the key in a file; `kind` is a function of jmix/keys.py. Raises ConfigError."""
    return kind(read_file(path), str(path))


def read_file(path: Path) -> bytes:
    """The bytes of a key file. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(KEY_FILE_BYTES_MAX + 1)
    except OSError as problem:
        raise ConfigError(
            f"{path}: the key cannot be read: {problem.strerror}",
            "Let the user that runs fastjmix own the file, with mode 0600.",
        ) from None
    if len(data) > KEY_FILE_BYTES_MAX:
        raise ConfigError(
            f"{path}: has more than {KEY_FILE_BYTES_MAX} bytes, which no key has",
            "A key is made by `fastjmix envelope keygen`.",
        )
    return data


def signing_keys(published: Published | None) -> dict[str, SigningKey]:
    """The keys that the parties name, by file. Raises ConfigError."""
    return {file: _key(file) for file in published.key_files()} if published else {}


@lru_cache
def _key(file: str) -> SigningKey:
    """Read once: a key file that goes away while we run is missed at the next start."""
    from fastjmix.jmix import keys  # cryptography costs some 60 ms: only who signs pays

    return load(keys.signing_key, Path(file))
