"""The route of a pipeline: its rules, with every name in them looked up.

Guaranteed: a rule that rejects, discards, or has a profile of its own stands before those that the
envelope decides: an instance has been answered, and its member named, before its envelope is known.
A rule that can never match is a warning.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from fastjmix.config import tables_route, tree
from fastjmix.config.faults import nearest, shown
from fastjmix.config.in_words import allowed
from fastjmix.config.pipelines import Pipeline
from fastjmix.config.references import References
from fastjmix.config.table_checks import Entry
from fastjmix.config.tables_pipeline import DicomEndpoint, RouteMiddleware
from fastjmix.config.tables_route import RouteRule
from fastjmix.config.upstreams import upstream
from fastjmix.routing import at_seal, coverage
from fastjmix.routing.glob import matches
from fastjmix.routing.rules import EnvelopeConditions, InstanceConditions, Route, Rule

AT_SEAL_BYTES_MAX: Final = 1 << 18
"""Bytes of the rules that are decided at the seal, as JSON. draft.json has 1 MB at most."""

DEFAULT_STATUS: Final = 0xC000
_STATUSES: Final = (range(0xA700, 0xA800), range(0xA900, 0xAA00), range(0xC000, 0xD000))
_OF_REJECT: Final = ("status", "comment")
_OF_ACCEPT: Final = ("backends", "priority", "tags", "profile")

_CODE: Final = re.compile(r"[A-Z0-9_ ]{1,16}")
_UID: Final = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True, slots=True)
class Routed:
    """A pipeline's route, and the upstreams that its rules name."""

    route: Route
    upstreams: tuple[tree.Upstream, ...]


class Routes:
    """The routes of all pipelines."""

    def __init__(self, references: References) -> None:
        self._references = references
        self._found: dict[str, Routed | None] = {}

    def of(self, pipeline: Pipeline) -> Routed | None:
        """Returns the route of a pipeline; None where it has none, or one with faults."""
        name = pipeline.entry.name
        if name not in self._found:
            self._found[name] = self._resolve(pipeline)
        return self._found[name]

    def _resolve(self, pipeline: Pipeline) -> Routed | None:
        found = [
            one
            for one in pipeline.middleware
            if one is not None and isinstance(one.value, RouteMiddleware)
        ]
        if len(found) > 1:
            self._references.fault(
                pipeline.entry, "middleware", f"{len(found)} routes", "one: its rules have an order"
            )
        if not found:
            return None
        endpoints = [one.value for one in pipeline.endpoints if one is not None]
        if not any(isinstance(one, DicomEndpoint) for one in endpoints):
            self._references.findings.warn(
                f"{pipeline.entry.path}: {found[0].path} is without effect: its rules are for"
                " instances that come over C-STORE, and no endpoint here is a dicom_scp"
            )
        return _Resolver(self._references, found[0], pipeline).routed()


class _Resolver:
    """Resolves the route `entry` of one pipeline."""

    def __init__(self, references: References, entry: Entry, pipeline: Pipeline) -> None:
        self._references = references
        self._entry = entry
        self._upstreams: dict[str, tree.Upstream] = {}
        self._default = tuple(one.name for one in pipeline.upstreams(references))

    def routed(self) -> Routed:
        """Returns the route. Its faults and warnings are noted."""
        assert isinstance(self._entry.value, RouteMiddleware)
        given = self._entry.value.options.rules
        rules = tuple(self._rule(number, one) for number, one in enumerate(given))
        self._check_names(rules)
        self._check_order(rules)
        self._check_size(rules)
        self._warn(rules)
        return Routed(Route(self._entry.name, rules), tuple(self._upstreams.values()))

    # -- one rule ----------------------------------------------------------------------------------

    def _rule(self, number: int, given: RouteRule) -> Rule:
        name = given.name or f"{self._entry.name} {number + 1}"
        rejects = given.action == "reject"
        self._refuse_useless(number, given)
        self._check_bounds(number, given)
        return Rule(
            name=name,
            action=given.action,
            instance=self._of_instance(number, given),
            envelope=self._of_envelope(number, given),
            status=self._status(number, given) if rejects else 0,
            comment=self._comment(number, given, name) if rejects else "",
            upstreams=self._backends(number, given) if given.action == "accept" else (),
            priority=given.priority or "normal",
            tags=self._texts(number, given, "tags", _tag),
            profile=given.profile or "",
        )

    def _of_instance(self, number: int, given: RouteRule) -> InstanceConditions:
        return InstanceConditions(
            calling_ae=self._texts(number, given, "calling_ae", _ae_pattern),
            called_ae=self._texts(number, given, "called_ae", _ae_pattern),
            peer=self._texts(number, given, "peer", _network),
            sop_class=self._uids(number, given, "sop_class"),
            modality=self._texts(number, given, "modality", _code),
            transfer_syntax=self._uids(number, given, "transfer_syntax"),
        )

    def _of_envelope(self, number: int, given: RouteRule) -> EnvelopeConditions:
        names = ("study_age_days", "bytes", "instances")
        bounds = {
            f"{end}_{name}": getattr(given, f"{end}_{name}") for name in names for end in _ENDS
        }
        return EnvelopeConditions(
            study_description=self._texts(number, given, "study_description", _text),
            accession_prefix=self._texts(number, given, "accession_prefix", _text),
            **bounds,
        )

    def _texts(
        self, number: int, given: RouteRule, key: str, read: Callable[[str], str]
    ) -> tuple[str, ...]:
        """Returns the values of a key, each as `read` gives it. A fault: it raises ValueError."""
        found = []
        for place, value in enumerate(getattr(given, key) or ()):
            try:
                found.append(read(value))
            except ValueError:
                self._fault(number, f"{key}[{place}]", shown(value), _allowed(key))
        return tuple(dict.fromkeys(found))

    def _uids(self, number: int, given: RouteRule, key: str) -> tuple[str, ...]:
        """Returns the UIDs of a key whose values are UIDs or names."""
        found: list[str] = []
        for place, value in enumerate(getattr(given, key) or ()):
            if _UID.fullmatch(value):
                found.append(value)
                continue
            from fastjmix.dicom import uid_names  # pydicom's table: only where a name is used

            kind: uid_names.Kind = "SOP Class" if key == "sop_class" else "Transfer Syntax"
            uids = uid_names.uids_named(kind, value)
            if not uids:
                near = nearest(value, uid_names.known_names(kind))
                self._fault(number, f"{key}[{place}]", shown(value), _allowed(key), near)
            found += uids
        return tuple(dict.fromkeys(found))

    def _backends(self, number: int, given: RouteRule) -> tuple[str, ...]:
        if given.backends is None:
            return self._default
        names = []
        for place, name in enumerate(given.backends):
            key = _key(number, f"backends[{place}]")
            entry = self._references.find(self._entry, key, "backends", name)
            found = upstream(self._references, entry) if entry is not None else None
            if found is None:
                continue
            if found.name in names:
                self._fault(number, f"backends[{place}]", f"{shown(name)} again", "each name once")
            names.append(found.name)
            self._upstreams[found.name] = found
        return tuple(names)

    def _status(self, number: int, given: RouteRule) -> int:
        status = DEFAULT_STATUS if given.status is None else given.status
        if not any(status in one for one in _STATUSES):
            found = f"0x{status:04X}" if 0 <= status < 1 << 16 else str(status)
            self._fault(number, "status", found, _allowed("status"))
        return status

    def _comment(self, number: int, given: RouteRule, name: str) -> str:
        if given.comment is None:
            return f"rejected by rule {name}"[: tables_route.COMMENT_CHARS_MAX]
        plain = given.comment.isascii() and given.comment.isprintable()
        fits = 1 <= len(given.comment) <= tables_route.COMMENT_CHARS_MAX
        if not (plain and fits) or "\\" in given.comment:
            self._fault(number, "comment", shown(given.comment), _allowed("comment"))
        return given.comment

    # -- faults ------------------------------------------------------------------------------------

    def _fault(self, number: int, key: str, found: str, right: str, near: str = "") -> None:
        self._references.fault(self._entry, _key(number, key), found, right, near)

    def _refuse_useless(self, number: int, given: RouteRule) -> None:
        """Notes a fault for a key that means nothing beside the rule's action."""
        for key in (*_OF_REJECT, *_OF_ACCEPT):
            fits = given.action == ("reject" if key in _OF_REJECT else "accept")
            if getattr(given, key) is not None and not fits:
                wanted = "reject" if key in _OF_REJECT else "accept"
                found = f'a value, and action is "{given.action}"'
                self._fault(number, key, found, f'nothing, or action = "{wanted}"')

    def _check_bounds(self, number: int, given: RouteRule) -> None:
        for name in ("study_age_days", "bytes", "instances"):
            low, high = (getattr(given, f"{end}_{name}") for end in _ENDS)
            if low is not None and high is not None and low > high:
                right = f"{high} or less, as max_{name} is"
                self._fault(number, f"min_{name}", str(low), right)

    def _check_names(self, rules: Sequence[Rule]) -> None:
        for number, rule in enumerate(rules):
            if rule.name in (one.name for one in rules[:number]):
                self._fault(number, "name", f"{shown(rule.name)} again", "each name once")

    def _check_order(self, rules: Sequence[Rule]) -> None:
        """Notes a fault for a rule that comes too late: see this module's docstring."""
        decider: Rule | None = None
        for number, rule in enumerate(rules):
            if rule.at_seal and decider is None:
                decider = rule
            if decider is None or (rule.action == "accept" and not rule.profile):
                continue
            key, value = (
                ("action", rule.action) if rule.action != "accept" else ("profile", rule.profile)
            )
            if rule.at_seal:
                why = "conditions on the envelope, which is known when it is sealed"
                found = f'"{value}", and the rule has {why}'
                self._fault(number, key, found, _TOO_LATE)
            else:
                found = (
                    f'"{value}", behind rule {shown(decider.name)}, which is decided at the seal'
                )
                self._fault(number, key, found, f"{_TOO_LATE}: put it before that rule")

    def _check_size(self, rules: Sequence[Rule]) -> None:
        """Notes a fault for more rules at the seal than the file of a draft should hold."""
        size = len(orjson.dumps(at_seal.dump(one for one in rules if one.at_seal)))
        if size > AT_SEAL_BYTES_MAX:
            found = f"{size} bytes of rules that are decided at the seal"
            right = f"{AT_SEAL_BYTES_MAX} or fewer: each envelope that is packed keeps them"
            self._references.fault(self._entry, "options.rules", found, right)

    # -- warnings ----------------------------------------------------------------------------------

    def _warn(self, rules: Sequence[Rule]) -> None:
        for number, rule in enumerate(rules):
            place = f"{self._entry.path}.{_key(number, '')[:-1]}, {shown(rule.name)}"
            wide = coverage.covering(rules, number)
            if wide is not None:
                self._references.findings.warn(
                    f"{place}: never matches: rule {shown(wide.name)} before it matches all that it"
                    " would"
                )
            elif rule.action != "accept" and rule.instance == InstanceConditions():
                self._references.findings.warn(
                    f"{place}: it has no condition, and {rule.action}s every instance that comes"
                    " to it"
                )


_ENDS: Final = ("min", "max")
_TOO_LATE: Final = (
    '"accept" without profile: an instance is answered, and named in its envelope, before the seal'
)


def warn_of_callers(
    references: References,
    pipeline: Pipeline,
    route: Route,
    listeners: Iterable[tree.DicomListener],
) -> None:
    """Warns of rules for AE titles that no listener of the pipeline accepts."""
    every = list(listeners)
    titles = {title for one in every for title in one.calling or ()}
    called = {one.ae_title for one in every}
    anyone = any(one.calling is None for one in every)
    any_called = any(one.accept_any_called_aet for one in every)
    for rule in route.rules:
        for noun, wanted, known, free in (
            ("calling AE title", rule.instance.calling_ae, titles, anyone),
            ("called AE title", rule.instance.called_ae, called, any_called),
        ):
            if free or not wanted or any(matches(one, title) for one in wanted for title in known):
                continue
            where = "in aet_table" if known is titles else "that an endpoint has"
            references.findings.warn(
                f"{pipeline.entry.path}: rule {shown(rule.name)} never matches: no {noun} {where}"
                f" is {' or '.join(wanted)}"
            )


def _key(number: int, key: str) -> str:
    return f"options.rules[{number}].{key}"


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
