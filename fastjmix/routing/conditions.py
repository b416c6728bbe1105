"""Says why a rule's conditions do not hold for an instance or for an envelope.

Guaranteed: "" where they hold, else one sentence about the first that does not. A fact that is
unknown meets no condition on it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from functools import lru_cache

from fastjmix.routing import glob
from fastjmix.routing.rules import (
    EnvelopeConditions,
    EnvelopeFacts,
    InstanceConditions,
    InstanceFacts,
)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def why_not_instance(conditions: InstanceConditions, facts: InstanceFacts) -> str:
    """Returns why an instance does not meet these conditions; "" when it does."""
    tried = (
        _among("calling AE title", conditions.calling_ae, facts.calling_ae, glob.matches),
        _among("called AE title", conditions.called_ae, facts.called_ae, glob.matches),
        _among("peer", conditions.peer, facts.peer, in_network),
        _among("SOP class", conditions.sop_class, facts.sop_class, _same),
        _among("modality", conditions.modality, facts.modality, _same_word),
        _among("transfer syntax", conditions.transfer_syntax, facts.transfer_syntax, _same),
    )
    return next(filter(None, tried), "")


def why_not_envelope(conditions: EnvelopeConditions, facts: EnvelopeFacts) -> str:
    """Returns why an envelope does not meet these conditions; "" when it does."""
    given, age = conditions, facts.study_age_days
    described, accession = facts.study_description, facts.accession_number
    tried = (
        _among("study description", given.study_description, described, _fits_word),
        _among("accession number", given.accession_prefix, accession, _begins),
        _between("study's age in days", given.min_study_age_days, given.max_study_age_days, age),
        _between("bytes", given.min_bytes, given.max_bytes, facts.bytes),
        _between("instances", given.min_instances, given.max_instances, facts.instances),
    )
    return next(filter(None, tried), "")


# -- values ----------------------------------------------------------------------------------------


def _among(noun: str, wanted: Sequence[str], found: str, fits: Callable[[str, str], bool]) -> str:
    if not wanted or (found and any(fits(one, found) for one in wanted)):
        return ""
    if not found:
        return f"the {noun} is unknown"
    verb = "begins with" if fits is _begins else "is"
    return f"the {noun} is {found}; the rule's {verb} {' or '.join(wanted)}"


def _between(noun: str, low: int | None, high: int | None, found: int | None) -> str:
    if low is None and high is None:
        return ""
    if found is None:
        return f"the {noun}: unknown"
    if low is not None and found < low:
        return f"the {noun}: {found}, fewer than {low}"
    if high is not None and found > high:
        return f"the {noun}: {found}, more than {high}"
    return ""


def _same(wanted: str, found: str) -> bool:
    return wanted == found


def _same_word(wanted: str, found: str) -> bool:
    return wanted.casefold() == found.casefold()


def _fits_word(pattern: str, found: str) -> bool:
    return glob.matches(pattern.casefold(), found.casefold())


def _begins(prefix: str, found: str) -> bool:
    return found.startswith(prefix)


# -- networks --------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def network(text: str) -> Network:
    """Returns a network, or one address as a network of its own. Raises ValueError."""
    return ipaddress.ip_network(text)


def in_network(text: str, address: str) -> bool:
    """Returns whether an address is in a network. An IPv4 address inside an IPv6 one
    (::ffff:192.0.2.1) counts as the IPv4 address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    inner = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (inner or found) in network(text)
