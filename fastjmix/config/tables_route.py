"""The tables of routes: `type = "route"` and its rules.

One model a table, one line of meaning a key: see tables.py.
"""

from typing import Annotated, Any, Final

from pydantic import BeforeValidator

from fastjmix.config import tree
from fastjmix.config.declare import REQUIRED, Part, Table, added
from fastjmix.routing.choices import Action

NAME_ALLOWED: Final = "1 to 40 letters, digits, blanks, and any of . _ -"
NAME: Final = r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}"
COMMENT_CHARS_MAX: Final = 64
"""Error Comment (0000,0902) is LO: 64 characters (PS3.5 §6.2)."""

RULES_MAX: Final = 256
VALUES_MAX: Final = 1000
VALUE_CHARS_MAX: Final = 128
TAGS_MAX: Final = 32


def _list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Values = Annotated[list[str], BeforeValidator(_list)]
"""A string, or an array of strings."""


def _condition(meaning: str, allowed: str) -> Any:
    """Declares a condition with values, of which one must fit."""
    return added(
        None,
        meaning,
        unset="any",
        allowed=f"{allowed}, or an array of them",
        min_length=1,
        max_length=VALUES_MAX,
    )


def _bound(meaning: str) -> Any:
    """Declares an inclusive bound of a number."""
    return added(None, meaning, unset="any", ge=0)


_AE: Final = "an AE title, in which * stands for any characters and ? for one"


class RouteRule(Table):
    name: str | None = added(
        None,
        "The rule's name: in the log, the ledger, the metrics and the ticket",
        unset="the middleware's name and the rule's number, from 1",
        allowed=NAME_ALLOWED,
        pattern=rf"^{NAME}$",
    )
    calling_ae: Values | None = _condition("The calling AE title", _AE)
    called_ae: Values | None = _condition("The called AE title", _AE)
    peer: Values | None = _condition(
        "The peer's address", 'an IPv4 or IPv6 network such as "10.1.0.0/16", or an address'
    )
    sop_class: Values | None = _condition(
        "The SOP class", "a UID, or a name of PS3.6, in which * stands for any characters"
    )
    modality: Values | None = _condition("The modality (0008,0060)", 'a code such as "MR"')
    transfer_syntax: Values | None = _condition(
        "The transfer syntax", "a UID, or a name of PS3.6, in which * stands for any characters"
    )
    study_description: Values | None = _condition(
        "At the seal: the study's description (0008,1030), whatever its case",
        "a text, in which * stands for any characters and ? for one",
    )
    accession_prefix: Values | None = _condition(
        "At the seal: the beginning of the accession number (0008,0050)", "a text"
    )
    min_study_age_days: int | None = _bound("At the seal: least days since the study's date")
    max_study_age_days: int | None = _bound("At the seal: most days since the study's date")
    min_bytes: int | None = _bound("At the seal: least bytes of its instances")
    max_bytes: int | None = _bound("At the seal: most bytes of its instances")
    min_instances: int | None = _bound("At the seal: least number of instances")
    max_instances: int | None = _bound("At the seal: most instances")
    action: Action = added(
        "accept",
        "The fate of an instance: it goes on; it is answered with `status`; or it is answered"
        " with Success and kept nowhere",
    )
    status: int | None = added(
        None,
        "The C-STORE status of a rejected instance",
        unset="0xC000 (a sender does not try again)",
        allowed="0xA700 to 0xA7FF, 0xA900 to 0xA9FF or 0xC000 to 0xCFFF",
    )
    comment: str | None = added(
        None,
        "The Error Comment of a rejected instance",
        unset="rejected by rule, and its name",
        allowed=f"1 to {COMMENT_CHARS_MAX} printable ASCII characters without a backslash",
    )
    backends: Values | None = added(
        None,
        "The [backends.*] that the envelope goes to, instead of the pipeline's",
        unset="the pipeline's",
        allowed="the name of a [backends.*], or an array of names",
        min_length=1,
        max_length=16,
    )
    priority: tree.Priority | None = added(
        None, "When the envelope's turn is at an upstream", unset="normal"
    )
    tags: Values | None = added(
        None,
        "Words that the envelope's ticket has",
        unset="none",
        allowed="a text, or an array of texts, each of 1 to 64 printable characters",
        min_length=1,
        max_length=TAGS_MAX,
    )
    profile: tree.ProfileName | None = added(
        None, "The envelope's profile, instead of the jmix_builder's", unset="the builder's"
    )


class RouteOptions(Table):
    rules: list[Part[RouteRule]] = added(
        REQUIRED,
        "The rules in their order; the first that matches applies",
        min_length=1,
        max_length=RULES_MAX,
        allowed="an array of one or more tables",
    )
