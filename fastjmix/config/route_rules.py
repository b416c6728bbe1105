"""One rule of a route: its table → the rule, with every name in it looked up.

Guaranteed: a value that no instance or envelope can have is a fault, and so is a key that means
nothing beside the rule's action.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Final

from fastjmix.config import tables_route, tree
from fastjmix.config.faults import nearest, shown
from fastjmix.config.in_words import allowed
from fastjmix.config.references import References
from fastjmix.config.table_checks import Entry
from fastjmix.config.tables_route import RouteRule
from fastjmix.config.upstreams import upstream
from fastjmix.routing.rules import EnvelopeConditions, InstanceConditions, Rule

DEFAULT_STATUS: Final = 0xC000
_STATUSES: Final = (range(0xA700, 0xA800), range(0xA900, 0xAA00), range(0xC000, 0xD000))
_OF_REJECT: Final = ("status", "comment")
_OF_ACCEPT: Final = ("backends", "priority", "tags", "profile")
_BOUNDED: Final = ("study_age_days", "bytes", "instances")
_ENDS: Final = ("min", "max")

_CODE: Final = re.compile(r"[A-Z0-9_ ]{1,16}")
_UID: Final = re.compile(r"[0-9.]{1,64}")


def key_of(number: int, key: str) -> str:
    """Returns the key of a rule, below its middleware's table. `number` counts from 0."""
    return f"options.rules[{number}].{key}"


class RuleReader:
    """Reads the rule `number` of the route `entry`; `default` are the pipeline's upstreams.

    `upstreams` are those that the rule names.
    """

    def __init__(
        self,
        references: References,
        entry: Entry,
        number: int,
        given: RouteRule,
        default: tuple[str, ...],
    ) -> None:
        self._references = references
        self._entry = entry
        self._number = number
        self._given = given
        self._default = default
        self.upstreams: dict[str, tree.Upstream] = {}

    def rule(self) -> Rule:
        """Returns the rule. Its faults are noted."""
        name = self._given.name or f"{self._entry.name} {self._number + 1}"
        rejects = self._given.action == "reject"
        self._refuse_useless()
        self._check_bounds()
        return Rule(
            name=name,
            action=self._given.action,
            instance=self._of_instance(),
            envelope=self._of_envelope(),
            status=self._status() if rejects else 0,
            comment=self._comment(name) if rejects else "",
            upstreams=self._backends() if self._given.action == "accept" else (),
            priority=self._given.priority or "normal",
            tags=self._texts("tags", _tag),
            profile=self._given.profile or "",
        )

    def _of_instance(self) -> InstanceConditions:
        return InstanceConditions(
            calling_ae=self._texts("calling_ae", _ae_pattern),
            called_ae=self._texts("called_ae", _ae_pattern),
            peer=self._texts("peer", _network),
            sop_class=self._uids("sop_class"),
            modality=self._texts("modality", _code),
            transfer_syntax=self._uids("transfer_syntax"),
        )

    def _of_envelope(self) -> EnvelopeConditions:
        names = [f"{end}_{name}" for name in _BOUNDED for end in _ENDS]
        bounds = {name: getattr(self._given, name) for name in names}
        return EnvelopeConditions(
            study_description=self._texts("study_description", _text),
            accession_prefix=self._texts("accession_prefix", _text),
            **bounds,
        )

    def _texts(self, key: str, read: Callable[[str], str]) -> tuple[str, ...]:
        """Returns the values of a key, each as `read` gives it. A fault: it raises ValueError."""
        found = []
        for place, value in enumerate(getattr(self._given, key) or ()):
            try:
                found.append(read(value))
            except ValueError:
                self._fault(f"{key}[{place}]", shown(value), _allowed(key))
        return tuple(dict.fromkeys(found))

    def _uids(self, key: str) -> tuple[str, ...]:
        """Returns the UIDs of a key whose values are UIDs or names."""
        found: list[str] = []
        for place, value in enumerate(getattr(self._given, key) or ()):
            if _UID.fullmatch(value):
                found.append(value)
                continue
            from fastjmix.dicom import uid_names  # pydicom's table: only where a name is used

            kind: uid_names.Kind = "SOP Class" if key == "sop_class" else "Transfer Syntax"
            uids = uid_names.uids_named(kind, value)
            if not uids:
                near = nearest(value, uid_names.known_names(kind))
                self._fault(f"{key}[{place}]", shown(value), _allowed(key), near)
            found += uids
        return tuple(dict.fromkeys(found))

    def _backends(self) -> tuple[str, ...]:
        if self._given.backends is None:
            return self._default
        names = []
        for place, name in enumerate(self._given.backends):
            key = key_of(self._number, f"backends[{place}]")
            entry = self._references.find(self._entry, key, "backends", name)
            found = upstream(self._references, entry) if entry is not None else None
            if found is None:
                continue
            if found.name in names:
                self._fault(f"backends[{place}]", f"{shown(name)} again", "each name once")
            names.append(found.name)
            self.upstreams[found.name] = found
        return tuple(names)

    def _status(self) -> int:
        status = DEFAULT_STATUS if self._given.status is None else self._given.status
        if not any(status in one for one in _STATUSES):
            found = f"0x{status:04X}" if 0 <= status < 1 << 16 else str(status)
            self._fault("status", found, _allowed("status"))
        return status

    def _comment(self, name: str) -> str:
        if self._given.comment is None:
            ascii_name = "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in name)
            return f"rejected by rule {ascii_name}"[: tables_route.COMMENT_CHARS_MAX]
        plain = self._given.comment.isascii() and self._given.comment.isprintable()
        fits = 1 <= len(self._given.comment) <= tables_route.COMMENT_CHARS_MAX
        if not (plain and fits) or "\\" in self._given.comment:
            self._fault("comment", shown(self._given.comment), _allowed("comment"))
        return self._given.comment

    # -- faults ------------------------------------------------------------------------------------

    def _fault(self, key: str, found: str, right: str, near: str = "") -> None:
        self._references.fault(self._entry, key_of(self._number, key), found, right, near)

    def _refuse_useless(self) -> None:
        """Notes a fault for a key that means nothing beside the rule's action."""
        for key in (*_OF_REJECT, *_OF_ACCEPT):
            fits = self._given.action == ("reject" if key in _OF_REJECT else "accept")
            if getattr(self._given, key) is not None and not fits:
                wanted = "reject" if key in _OF_REJECT else "accept"
                found = f'a value, and action is "{self._given.action}"'
                self._fault(key, found, f'nothing, or action = "{wanted}"')

    def _check_bounds(self) -> None:
        for name in _BOUNDED:
            low, high = (getattr(self._given, f"{end}_{name}") for end in _ENDS)
            if low is not None and high is not None and low > high:
                right = f"{high} or less, as max_{name} is"
                self._fault(f"min_{name}", str(low), right)


def _allowed(key: str) -> str:
    return allowed(RouteRule.model_fields[key])


# -- values ----------------------------------------------------------------------------------------


def _ae_pattern(text: str) -> str:
    pattern = text.strip(" ")
    plain = pattern.isascii() and pattern.isprintable() and "\\" not in pattern
    if not plain or not pattern or len(pattern.replace("*", "")) > 16:
        raise ValueError("not an AE title")
    return _text(pattern)


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text))


def _code(text: str) -> str:
    if not _CODE.fullmatch(text):
        raise ValueError("not a code string")
    return text


def _text(text: str) -> str:
    if not text.isprintable() or not 1 <= len(text) <= tables_route.VALUE_CHARS_MAX:
        raise ValueError("not a text")
    return text


def _tag(text: str) -> str:
    if len(text) > 64:
        raise ValueError("too long")
    return _text(text)
