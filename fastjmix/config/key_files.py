"""Reads key files. jmix/keys.py knows the forms of a key.

Still wrong: the mode of a key file is not checked.
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
"""An Ed25519 or X25519 key in PEM has about 120 bytes: a larger file is something else."""


def load(parse: Callable[[bytes, str], K], path: Path) -> K:
    """Returns the key in a file; `parse` is a function of jmix/keys.py. Raises ConfigError."""
    return parse(read_file(path), str(path))


def read_file(path: Path) -> bytes:
    """Returns the bytes of a key file. Raises ConfigError."""
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
    """Returns the keys that the parties name, by file. Raises ConfigError."""
    return {file: _key(file) for file in published.key_files()} if published else {}


@lru_cache
def _key(file: str) -> SigningKey:
    """Reads a key once. A file that is removed while fastjmix runs is missed at the next start."""
    from fastjmix.jmix import keys  # cryptography takes some 60 ms: only for signed envelopes

    return load(keys.signing_key, Path(file))
