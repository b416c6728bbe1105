"""jmix/write/parties.py: parties are the same after a restart."""

from __future__ import annotations

import dataclasses
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from fastjmix.jmix.write import parties
from tests.jmix.test_published import everyone, filled

settings_of = st.builds(
    parties.AssertionSettings,
    key_file=filled,
    key_reference=st.none() | filled,
    expires_secs=st.none() | st.floats(1, 1e6),
    fields=st.lists(filled, max_size=2).map(tuple),
    attestation=st.none() | st.builds(parties.Attestation, filled, filled, filled, filled),
)


@given(
    everyone,
    st.none() | settings_of,
    st.none() | st.builds(parties.Signing, filled, st.booleans()),
    st.none() | st.builds(parties.Encryption, filled, st.sampled_from(["php", "js", "rs"])),
)
def test_parties_survive_a_draft(
    told: parties.Published, asserted: Any, signed: Any, encrypted: Any
) -> None:
    sender = dataclasses.replace(told.sender, assertion=asserted)
    told = dataclasses.replace(told, sender=sender, signing=signed, encryption=encrypted)
    assert parties.load(orjson.loads(orjson.dumps(told.dump()))) == told
    files = [one.key_file for one in (asserted, signed) if one is not None]
    assert list(told.key_files()) == list(dict.fromkeys(files))
    assert hash(told) == hash(parties.load(told.dump()))
