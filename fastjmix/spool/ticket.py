"""What is known of a sealed envelope without opening it: the JSON beside its archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from fastjmix.claim import FORMAT
from fastjmix.errors import DamagedTicket


@dataclass(frozen=True, slots=True)
class Ticket:
    """What is known of a sealed envelope without opening it; JSON beside the archive.

    `size_bytes` is the archive's; `sealed_at` is Unix seconds; `origin` names the process that
    waits for the outcome when `ack` is "uploaded"; `crc32` is that of the whole archive, kept where
    it was received and not sealed here.
    """

    id: str
    pipeline: str
    upstream: str
    ack: str
    studies: tuple[str, ...]
    calling_ae: str
    instances: int
    size_bytes: int
    sealed_at: float
    origin: str
    crc32: int | None = None
    receipt: Mapping[str, Any] | None = None
    refusal: Mapping[str, Any] | None = None

    @property
    def awaited(self) -> bool:
        """True when `origin` waits for the outcome, and nothing has been promised.

        Not of one that was in rejected/ and was put back by a person: nobody waits for that.
        """
        return self.ack == "uploaded" and self.refusal is None

    def dump(self) -> bytes:
        """The ticket as JSON text."""
        shown = {key: value for key, value in asdict(self).items() if value is not None}
        return orjson.dumps({"format": FORMAT, **shown}, option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def load(cls, text: bytes, where: str) -> Ticket:
        """Reads what `dump` wrote. Raises DamagedTicket, naming `where`."""
        try:
            found = orjson.loads(text)
            if (number := found.pop("format")) != FORMAT:
                raise TypeError(f"its format is {number}, this version knows {FORMAT}")
            found["studies"] = tuple(found["studies"])
            ticket = cls(**found)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as problem:
            raise DamagedTicket(
                f"{where}: not a ticket of fastjmix ({problem})",
                "Move it and its archive to rejected/ by hand, and look at the disk.",
            ) from problem
        return ticket
