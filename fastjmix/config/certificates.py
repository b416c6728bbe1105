"""Reads certificates and their keys as TLS will use them, before anything listens with them.

Wanted: a certificate and a key that do not belong together are a fault at the start. Else the API
would end and be started again, for ever.
Guaranteed: the API serves with `server_context` too, so a pair that passes here is accepted there.
Nobody is asked for a password: a key that needs one is refused.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final, Literal

NEEDS_PASSWORD: Final = "a key that needs a password, which nobody can type in here"
NO_CERTIFICATE: Final = "no certificate in PEM is in it"


class _NeedsPassword(Exception):
    """OpenSSL asks for the password of a key."""


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Returns a server's context, for TLS 1.2 or later. Raises OSError (ssl.SSLError is one)."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_refuse)
    except _NeedsPassword:
        raise OSError(f"{key}: {NEEDS_PASSWORD}") from None
    return context


def _refuse() -> bytes:
    raise _NeedsPassword


def server_fault(certificate: Path, key: Path) -> tuple[Literal["cert_path", "key_path"], str]:
    """Returns which of the two files is wrong, and how; "" for how when neither is."""
    try:
        server_context(certificate, key)
    except ssl.SSLError as problem:
        reason = problem.reason or ""
        if not holds_certificates(certificate):
            return "cert_path", NO_CERTIFICATE
        if "MISMATCH" in reason or reason == "NO_CERTIFICATE_ASSIGNED":  # of its kind
            return "key_path", "the key of another certificate"
        if reason.startswith(("EE_", "CA_")):  # a key or a digest that OpenSSL calls too weak
            return "cert_path", f"a certificate that TLS does not take ({reason})"
        return "key_path", f"no private key in PEM that TLS can use is in it ({reason or problem})"
    except OSError as problem:
        needs = NEEDS_PASSWORD in str(problem)
        return "key_path", NEEDS_PASSWORD if needs else problem.strerror or str(problem)
    return "cert_path", ""


def holds_certificates(path: Path) -> bool:
    """Returns whether it is a file of certificates in PEM. Raises OSError if it is unreadable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        return False
    return True
