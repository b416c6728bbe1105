"""Each condition: what meets it, and the sentence about what does not."""

from __future__ import annotations

from typing import Any

import pytest

from fastjmix.routing.conditions import in_network, why_not_envelope, why_not_instance
from fastjmix.routing.rules import (
    EnvelopeConditions,
    EnvelopeFacts,
    InstanceConditions,
    InstanceFacts,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
INSTANCE = InstanceFacts("CT1", "ARCHIVE", "10.1.2.3", CT, "CT", "1.2.840.10008.1.2.1")
ENVELOPE = EnvelopeFacts("Thorax mit KM", "A-1001", 3, 5_000_000, 120)


@pytest.mark.parametrize(
    ("name", "meets", "fails"),
    [
        ("calling_ae", ("CT1",), ("ct1",)),
        ("calling_ae", ("MR1", "CT?"), ("MR*", "CT")),
        ("called_ae", ("ARCH*",), ("OTHER",)),
        ("peer", ("10.1.0.0/16",), ("10.2.0.0/16", "fd00::/8")),
        ("sop_class", (CT,), (f"{CT}.1",)),
        ("modality", ("ct",), ("MR",)),
        ("transfer_syntax", ("1.2.840.10008.1.2.1",), ("1.2.840.10008.1.2",)),
    ],
)
def test_conditions_on_an_instance(name: str, meets: Any, fails: Any) -> None:
    assert why_not_instance(InstanceConditions(**{name: meets}), INSTANCE) == ""
    assert "; the rule's is " in why_not_instance(InstanceConditions(**{name: fails}), INSTANCE)
    unknown = InstanceFacts("", "", "", "", "", "")
    assert why_not_instance(InstanceConditions(**{name: meets}), unknown).endswith("is unknown")


@pytest.mark.parametrize(
    ("name", "meets", "fails"),
    [
        ("study_description", ("thorax*",), ("Thorax",)),
        ("accession_prefix", ("B-", "A-"), ("a-",)),
        ("min_study_age_days", 3, 4),
        ("max_study_age_days", 3, 2),
        ("min_bytes", 5_000_000, 5_000_001),
        ("max_bytes", 5_000_000, 4_999_999),
        ("min_instances", 120, 121),
        ("max_instances", 120, 119),
    ],
)
def test_conditions_on_an_envelope(name: str, meets: Any, fails: Any) -> None:
    assert why_not_envelope(EnvelopeConditions(**{name: meets}), ENVELOPE) == ""
    assert why_not_envelope(EnvelopeConditions(**{name: fails}), ENVELOPE)
    unknown = EnvelopeFacts("", "", None, None, None)
    assert "unknown" in why_not_envelope(EnvelopeConditions(**{name: meets}), unknown)


def test_all_conditions_must_hold_and_the_first_that_does_not_is_named() -> None:
    both = InstanceConditions(calling_ae=("CT1",), modality=("MR", "PT"), called_ae=("X",))
    assert why_not_instance(both, INSTANCE) == "the called AE title is ARCHIVE; the rule's is X"
    other = InstanceConditions(modality=("MR", "PT"))
    assert why_not_instance(other, INSTANCE) == "the modality is CT; the rule's is MR or PT"


def test_no_condition_always_holds() -> None:
    assert why_not_instance(InstanceConditions(), InstanceFacts("", "", "", "", "", "")) == ""
    assert why_not_envelope(EnvelopeConditions(), EnvelopeFacts("", "", None, None, None)) == ""


@pytest.mark.parametrize(
    ("network", "address", "expected"),
    [
        ("10.0.0.0/8", "10.9.9.9", True),
        ("10.0.0.0/8", "::ffff:10.9.9.9", True),
        ("fd00::/8", "fd00::1", True),
        ("fe80::/10", "fe80::1%eth0", True),
        ("fd00::/8", "10.9.9.9", False),
        ("10.0.0.7/32", "10.0.0.7", True),
        ("10.0.0.0/8", "no address", False),
    ],
)
def test_peers_and_networks(network: str, address: str, expected: bool) -> None:
    assert in_network(network, address) is expected
