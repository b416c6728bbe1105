"""Checks the arguments of the Python API: paths and keys.

Guaranteed: a wrong argument is a UsageError before anything is opened, and never an exception of
the libraries below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastjmix.errors import UsageError, printable

ED25519_KEY_BYTES: Final = 32
"""Bytes of an Ed25519 public key (RFC 8032 §5.1.5)."""


def path_of(given: str | Path) -> Path:
    """Returns the path. Raises UsageError for an empty text, which would be the working directory,
    and for one with a NUL."""
    text = str(given)
    if not text:
        raise UsageError("an empty path names no file")
    if "\0" in text:
        raise UsageError(f"{printable(text)}: no file has a NUL character in its name")
    return Path(text)


def check_public_key(key: bytes | None) -> None:
    """Raises UsageError unless the key is an Ed25519 public key or None."""
    if key is not None and len(key) != ED25519_KEY_BYTES:
        raise UsageError(f"an Ed25519 public key has {ED25519_KEY_BYTES} bytes, not {len(key)}")
