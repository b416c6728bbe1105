"""Looks at certificates, authorities, and the keys that sign and decrypt.

The configuration was loaded before: certificates and keys belong together then, and every key is
one of its kind. Here it is said, with the end of each certificate and the mode of each key.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fastjmix.config import Builder, Config
from fastjmix.config.certificates import Expiry, expiries
from fastjmix.tools.check.finding import Finding, State

OPEN_TO_OTHERS: Final = 0o027
"""Bits of a mode with which a private key is not private: only the owner's group may read it, as a
key of root's that the service reads has it."""


def keys(config: Config) -> Iterator[Finding]:
    """Yields what was found of each file."""
    yield from _listeners(config)
    yield from _authorities(config)
    yield from _signing(config)
    for file in sorted({h.decryption_key_file for h in config.http if h.decryption_key_file}):
        yield _private("decryption key", file, "an X25519 key, which opens posted envelopes")


def _listeners(config: Config) -> Iterator[Finding]:
    for certificate, key in sorted({(h.cert_file, h.key_file) for h in config.http if h.cert_file}):
        yield _expiring("certificate", certificate, expiries(certificate)[:1])
        if key is not None:
            yield _private("certificate key", key, f"belongs to {certificate}")


def _authorities(config: Config) -> Iterator[Finding]:
    upstreams = [to for one in config.listeners for to in one.every_upstream]
    for file in sorted({one.ca_file for one in upstreams if one.ca_file}):
        yield _expiring("authorities", file, expiries(file)[-1:])


def _expiring(what: str, file: Path, ends: list[Expiry]) -> Finding:
    where = str(file)
    if not ends:
        return Finding("warning", what, where, "when it expires cannot be read", "Is it in PEM?")
    end = ends[0]
    state: State = "fault" if end.days() < 0 else "warning" if end.soon() else "ok"
    todo = "" if state == "ok" else "Renew it, and start fastjmix again."
    return Finding(state, what, where, end.words(), todo)


def _signing(config: Config) -> Iterator[Finding]:
    published = [one.published for one in _builders(config) if one.published is not None]
    for file in sorted({file for one in published for file in one.key_files()}):
        yield _private("signing key", Path(file), "an Ed25519 key")
    for key in sorted({one.encryption.recipient_public_key for one in published if one.encryption}):
        found = "an X25519 key, to which payloads are encrypted"
        yield Finding("ok", "encryption key", key, found)


def _builders(config: Config) -> Iterator[Builder]:
    for listener in config.dicom:
        yield listener.builder
        for calling in (listener.calling or {}).values():
            yield calling.builder


def _private(what: str, file: Path, found: str) -> Finding:
    try:
        mode = file.stat().st_mode
    except OSError as problem:
        hint = "Let the user that runs fastjmix own the file, with mode 0600."
        return Finding("fault", what, str(file), problem.strerror or str(problem), hint)
    if mode & OPEN_TO_OTHERS:
        said = f"{found}; other users may use the file (mode {mode & 0o777:04o})"
        return Finding("warning", what, str(file), said, "Set its mode to 0600.")
    return Finding("ok", what, str(file), found)
