"""Says of a server's certificate by whom it was issued, and when it ends."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from fastjmix.config.certificates import Expiry
from fastjmix.tools.check.finding import Finding


@dataclass(frozen=True, slots=True)
class Certificate:
    """The subject, issuer and end of a certificate."""

    issuer: str
    end: Expiry

    def __str__(self) -> str:
        return f"{self.end.words()}, issued by {self.issuer}"


def certificate_in(spoken: ssl.SSLObject) -> Certificate:
    """Returns the certificate that the peer has shown, trusted or not. Raises OSError."""
    from cryptography import x509

    shown_by_peer = spoken.getpeercert(binary_form=True)
    try:
        read = x509.load_der_x509_certificate(shown_by_peer or b"")
        subject, issuer = read.subject.rfc4514_string(), read.issuer.rfc4514_string()
        at = read.not_valid_after_utc.timestamp()
    except ValueError as problem:
        raise OSError(f"the certificate cannot be read: {problem}") from None
    return Certificate(issuer or "no name", Expiry(at, subject or "no name"))


def shown(where: str, version: str, certificate: Certificate) -> Finding:
    """Returns the finding for a certificate that is trusted."""
    found = f"{version}, trusted; {certificate}"
    if certificate.end.soon():
        return Finding("warning", "TLS", where, found, "The upstream's operator must renew it.")
    return Finding("ok", "TLS", where, found)
