"""Facts about an upstream: the coding of its next body, and what a restart keeps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastjmix.spool import Remembered
from fastjmix.spool.remembered import REMEMBERED_BYTES_MAX
from fastjmix.uploader.upstream_facts import TRIAL_PAUSE_SECS, UNCLEAR_MAX, Coding, UpstreamFacts

NOW = 1_700_000_000.0
V11, V10 = (1, 1), (1, 0)


def proved() -> UpstreamFacts:
    facts = UpstreamFacts("auto")
    facts.record_answer(V11, named=True, now=NOW)
    assert facts.choose_coding(first=True, now=NOW) is Coding.CHUNKED
    facts.record_proof()
    return facts


@pytest.mark.fault("F82")
def test_a_body_goes_by_its_length_until_an_answer_has_named_our_id() -> None:
    facts = UpstreamFacts("auto")
    for version, named in ((V11, False), (V10, True), (V11, False)):
        assert facts.choose_coding(first=True, now=NOW) is Coding.LENGTH
        facts.record_answer(version, named=named, now=NOW)
    facts.record_answer(V11, named=True, now=NOW)
    assert facts.choose_coding(first=False, now=NOW) is Coding.LENGTH
    assert facts.choose_coding(first=True, now=NOW) is Coding.CHUNKED  # the trial
    assert facts.choose_coding(first=True, now=NOW) is Coding.LENGTH  # while it is under way
    facts.record_proof()
    assert facts.choose_coding(first=True, now=NOW) is Coding.CHUNKED
    assert facts.choose_coding(first=False, now=NOW) is Coding.LENGTH


@pytest.mark.fault("F82")
@pytest.mark.parametrize("how", ["no proof", "unclear", "HTTP/1.0"])
def test_any_contrary_answer_withdraws_the_proof_for_a_long_time(how: str) -> None:
    facts = proved()
    if how == "no proof":
        facts.record_no_proof(NOW)
    elif how == "unclear":
        for _ in range(UNCLEAR_MAX):
            assert facts.choose_coding(first=True, now=NOW) is Coding.CHUNKED
            facts.record_unclear(NOW)
    else:
        facts.record_answer(V10, named=True, now=NOW)
    facts.record_proof()  # of a body that was under way
    facts.record_answer(V11, named=True, now=NOW)
    for later in (0.0, TRIAL_PAUSE_SECS - 1):
        assert facts.choose_coding(first=True, now=NOW + later) is Coding.LENGTH
    assert facts.choose_coding(first=True, now=NOW + TRIAL_PAUSE_SECS) is Coding.CHUNKED


@pytest.mark.fault("F82")
def test_a_trial_that_breaks_off_is_no_proof_and_one_that_was_not_sent_is_none() -> None:
    facts = UpstreamFacts("auto")
    facts.record_answer(V11, named=True, now=NOW)
    assert facts.choose_coding(first=True, now=NOW) is Coding.CHUNKED
    facts.record_unsent()
    assert facts.choose_coding(first=True, now=NOW) is Coding.CHUNKED
    facts.record_unclear(NOW)
    assert facts.choose_coding(first=True, now=NOW) is Coding.LENGTH


@pytest.mark.parametrize("setting", [coding.value for coding in Coding])
def test_a_coding_by_name_is_kept_whatever_the_answers(setting: str) -> None:
    facts = UpstreamFacts(setting)
    for named in (False, True):
        facts.record_answer(V10, named=named, now=NOW)
        facts.record_no_proof(NOW)
        assert facts.choose_coding(first=named, now=NOW) is Coding(setting)


@pytest.mark.fault("F82")
def test_a_restart_begins_by_length_and_goes_on_as_it_was() -> None:
    facts = UpstreamFacts("auto", proved().dump())
    assert facts.names_ours
    assert facts.choose_coding(first=True, now=NOW) is Coding.LENGTH
    facts.record_answer(V11, named=True, now=NOW)
    assert facts.choose_coding(first=True, now=NOW) is Coding.CHUNKED
    assert facts.choose_coding(first=True, now=NOW) is Coding.CHUNKED
    facts.record_no_proof(NOW)
    facts = UpstreamFacts("auto", facts.dump())
    facts.record_answer(V11, named=True, now=NOW)
    assert facts.choose_coding(first=True, now=NOW + 1) is Coding.LENGTH
    assert UpstreamFacts("auto").dump() == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(
        st.sampled_from(["names_ours", "takes_chunked", "doubted_at", "x"]), inner, max_size=4
    ),
    max_leaves=5,
)


@pytest.mark.fault("F82")
@given(st.dictionaries(st.sampled_from(["names_ours", "takes_chunked", "doubted_at"]), JSON))
def test_whatever_is_remembered_the_first_body_goes_by_length(known: dict[str, object]) -> None:
    facts = UpstreamFacts("auto", known)
    assert facts.choose_coding(first=True, now=NOW) is Coding.LENGTH
    facts.record_answer(V11, named=True, now=NOW)
    facts.choose_coding(first=True, now=NOW)
    facts.dump()


# -- the file --------------------------------------------------------------------------------------

FACTS = {"http://u/api/jmix": {"names_ours": True, "doubted_at": NOW}}


def test_what_was_saved_is_loaded_and_replaced(tmp_path: Path) -> None:
    file = Remembered(tmp_path / "upstreams.json")
    assert file.load() == {}
    for facts in (FACTS, {}, FACTS):
        assert file.save(facts)
        assert Remembered(tmp_path / "upstreams.json").load() == facts
    assert [path.name for path in tmp_path.iterdir()] == ["upstreams.json"]
    assert (tmp_path / "upstreams.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.fault("F82")
def test_a_file_that_a_power_cut_emptied_or_a_kill_left_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "upstreams.json").touch()
    (tmp_path / ".upstreams.json.new").write_bytes(b'{"fastjm')
    file = Remembered(tmp_path / "upstreams.json")
    assert file.load() == {}
    assert file.save(FACTS)
    assert file.load() == FACTS


@pytest.mark.fault("F82")
@pytest.mark.parametrize(
    "kind",
    ["folder", "pipe", "link", "words", "list", "another form", "too large", "deep", "binary"],
)
def test_a_foreign_file_in_its_place_is_left_alone(tmp_path: Path, kind: str) -> None:
    """There are no facts then, and none are kept: no error, no wait, no loss of a person's file."""
    path = tmp_path / "upstreams.json"
    texts = {
        "words": b"my upstreams",
        "list": b"[1]",
        "another form": b'{"fastjmix": 2, "entries": {"u": {"names_ours": true}}}',
        "too large": b'{"fastjmix": 1, "entries": {}}'.ljust(REMEMBERED_BYTES_MAX + 1),
        "deep": b"[" * 9999,
        "binary": bytes(range(256)),
    }
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.write_bytes(texts[kind])
    before = path.lstat()
    file = Remembered(path)
    assert file.load() == {}
    assert not file.save(FACTS)
    assert path.lstat()[:9] == before[:9]
    assert [each.name for each in tmp_path.iterdir()] == ["upstreams.json"]


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_bytes_that_are_remembered_of_upstreams(tmp_path: Path, off: int) -> None:
    file = Remembered(tmp_path / "upstreams.json")
    assert file.save({"": {}})
    empty = (tmp_path / "upstreams.json").stat().st_size
    name = "u" * (REMEMBERED_BYTES_MAX - empty + off)
    assert file.save({name: {}}) is (off <= 0)
    assert file.load() == ({name: {}} if off <= 0 else {"": {}})
