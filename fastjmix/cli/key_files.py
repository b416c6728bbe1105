"""Keys and tokens in files that an option names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fastjmix.jmix.keys import RecipientKey


def recipient_key(path: Path | None) -> RecipientKey | None:
    """Returns the X25519 private key in a file, if one is named. Raises ConfigError."""
    if path is None:
        return None
    from fastjmix.config import key_files
    from fastjmix.jmix import keys

    return key_files.load(keys.recipient_key, path)


def signing_public(path: Path | None) -> bytes | None:
    """Returns the Ed25519 public key in a file, if one is named. Raises ConfigError."""
    if path is None:
        return None
    from fastjmix.config import key_files
    from fastjmix.jmix import keys

    return key_files.load(keys.signing_public, path)


def read_token(path: Path) -> str:
    """Returns the token in a file. Raises BadParameter."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise click.BadParameter(f"--token-file {path}: {error.strerror}") from None
    if not token:
        raise click.BadParameter(f"--token-file {path} is empty")
    return token
