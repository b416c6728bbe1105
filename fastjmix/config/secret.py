"""A secret as a value, and the credentials that are made of secrets.

Guaranteed: a secret is in no repr, str or format; only reveal() returns it.
Still wrong: a Secret is an ordinary string in memory, and in the pickle of a tree with secrets.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Final, Literal

Method = Literal["bearer", "basic", "api_key", "s3"]

REDACTED: Final = "(redacted)"


class Secret:
    """A string that does not show itself. Equal to a Secret of the same value."""

    __slots__ = ("_value",)

    def __init__(self, value: str = "") -> None:
        self._value = value

    def reveal(self) -> str:
        """Returns the value, for code that sends or compares it."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __repr__(self) -> str:
        return f"Secret({REDACTED if self._value else ''!r})"

    def __str__(self) -> str:
        return REDACTED if self._value else ""


NO_SECRET: Final = Secret()


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials that an upstream gets, or a caller must present, in one header field.

    Method "s3" has no header field of its own: `username` is the access key's id, `password` the
    secret access key that signs each request, `token` the session token.
    """

    method: Method
    token: Secret = NO_SECRET
    username: Secret = NO_SECRET
    password: Secret = NO_SECRET
    api_key: Secret = NO_SECRET
    header_name: str = "Authorization"

    def header(self) -> tuple[str, str]:
        """Returns name and value: Bearer (RFC 6750 §2.1), Basic (RFC 7617 §2, UTF-8), or a key."""
        if self.method == "bearer":
            return self.header_name, f"Bearer {self.token.reveal()}"
        if self.method == "basic":
            pair = f"{self.username.reveal()}:{self.password.reveal()}".encode()
            return self.header_name, f"Basic {base64.b64encode(pair).decode()}"
        return self.header_name, self.api_key.reveal()

    def repeatable(self) -> tuple[str, ...]:
        """Returns the strings of them that a server may repeat in an answer, longest first, for
        code that takes them out of it. One of fewer than four characters is no secret."""
        held = (self.token, self.username, self.password, self.api_key)
        value = self.header()[1]
        strings = {secret.reveal() for secret in held} | {value, value.rpartition(" ")[2]}
        return tuple(sorted((one for one in strings if len(one) >= 4), key=len, reverse=True))
