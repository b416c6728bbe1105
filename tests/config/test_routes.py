"""Routes in configuration files: what they become, their faults, and their warnings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastjmix import config
from fastjmix.config import DicomListener
from fastjmix.config.route_checks import AT_SEAL_BYTES_MAX
from fastjmix.config.tables_route import RULES_MAX, VALUE_CHARS_MAX, VALUES_MAX
from fastjmix.routing.rules import EnvelopeConditions, InstanceConditions
from tests.support.configs import faults, loaded, only, written

BEGIN = """
pipelines.dicom_to_jmix.middleware = ["routes", "jmix_builder"]
middleware.routes.type = "route"
backends.second = { service = "jmix_backend", options.base_url = "http://127.0.0.1:1" }
"""


def with_rules(*rules: str, more: str = "") -> str:
    return f"{BEGIN}\n{more}\nmiddleware.routes.options.rules = [{', '.join(rules)}]\n"


def listener(at: Path, *rules: str, more: str = "", without: str = "") -> DicomListener:
    (found,) = loaded(at, with_rules(*rules, more=more), without).dicom
    return found


def test_a_rule_with_everything(tmp_path: Path) -> None:
    rule = """{
        name = "all", calling_ae = ["CT*", "MR 1"], called_ae = "JMIX_RECEIVER",
        peer = ["10.0.0.0/8", "::1"], sop_class = ["CT Image Storage", "1.2.3"], modality = "CT",
        transfer_syntax = "explicitvrlittleendian", study_description = "*head*",
        accession_prefix = ["A", "A"], min_study_age_days = 0, max_study_age_days = 7,
        min_bytes = 1, max_bytes = 2, min_instances = 3, max_instances = 4, action = "accept",
        backends = ["backends.second", "jmix_upstream"], priority = "stat", tags = ["a", "b"] }"""
    found = listener(tmp_path, " ".join(rule.split()))
    assert found.route is not None
    (one,) = found.route.rules
    assert one.instance == InstanceConditions(
        ("CT*", "MR 1"),
        ("JMIX_RECEIVER",),
        ("10.0.0.0/8", "::1/128"),
        ("1.2.840.10008.5.1.4.1.1.2", "1.2.3"),
        ("CT",),
        ("1.2.840.10008.1.2.1",),
    )
    assert one.envelope == EnvelopeConditions(("*head*",), ("A",), 0, 7, 1, 2, 3, 4)
    assert (one.upstreams, one.priority, one.tags) == (
        ("second", "jmix_upstream"),
        "stat",
        ("a", "b"),
    )
    assert [up.name for up in found.routed] == ["second"]
    assert [up.name for up in found.every_upstream] == ["jmix_upstream", "second"]


def test_defaults(tmp_path: Path) -> None:
    found = listener(tmp_path, '{ modality = "CT" }', '{ action = "reject", modality = "US" }')
    assert found.route is not None
    first, second = found.route.rules
    assert (first.name, first.upstreams, first.priority) == (
        "routes 1",
        ("jmix_upstream",),
        "normal",
    )
    assert (second.status, second.comment) == (0xC000, "rejected by rule routes 2")
    assert second.upstreams == ()


def test_a_comment_is_ascii_whatever_the_middleware_is_called(tmp_path: Path) -> None:
    text = with_rules('{ action = "reject", modality = "US" }')
    text = text.replace("middleware.routes.", 'middleware."wegé\\\\".').replace(
        '"routes"', '"wegé\\\\"'
    )
    (found,) = loaded(tmp_path, text).dicom
    assert found.route is not None
    assert found.route.rules[0].comment == "rejected by rule weg?? 1"


def test_names_may_have_wildcards(tmp_path: Path) -> None:
    found = listener(tmp_path, '{ sop_class = "*SR Storage", action = "discard" }')
    assert found.route is not None
    classes = found.route.rules[0].instance.sop_class
    assert "1.2.840.10008.5.1.4.1.1.88.22" in classes  # Enhanced SR
    assert len(classes) > 5


def test_without_a_route_there_is_none(tmp_path: Path) -> None:
    (found,) = loaded(tmp_path).dicom
    assert (found.route, found.routed, found.other_profile) == (None, (), None)


def test_a_profile_makes_the_other_settings_of_each_calling_ae(tmp_path: Path) -> None:
    parties = """
    [middleware.jmix_builder.options]
    sender.id = "org:a"
    receivers = [{ id = "org:b" }]
    [endpoints.dicom_receiver.options.aet_table]
    CT1 = { quiet_secs = 5 }
    MR1 = { profile = "jmix-1.0" }
    """
    rules = (
        '{ calling_ae = "CT1", profile = "jmix-1.0" }',
        '{ calling_ae = "MR1", profile = "harmony" }',
    )
    text = with_rules(*rules) + parties
    (found,) = loaded(tmp_path, text).dicom
    assert found.calling is not None
    assert found.other_profile is not None
    scanner, other = found.calling["CT1"], found.calling["MR1"]
    assert scanner.other_profile is not None
    assert (scanner.builder.profile, scanner.other_profile.profile) == ("harmony", "jmix-1.0")
    assert scanner.other_profile.quiet_secs == 5
    assert scanner.other_profile.published is not None
    assert other.other_profile is not None
    assert (other.builder.profile, other.other_profile.profile) == ("jmix-1.0", "harmony")


# -- faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "key", "near"),
    [
        ('{ calling_ae = ["OK", "A\\\\B"] }', "calling_ae[1]", ""),
        ('{ calling_ae = "12345678901234567" }', "calling_ae[0]", ""),
        ('{ peer = "10.0.0.1/8" }', "peer[0]", ""),
        ('{ peer = "hospital" }', "peer[0]", ""),
        ('{ sop_class = "CT Imge Storage" }', "sop_class[0]", "CT Image Storage"),
        ('{ transfer_syntax = "JPEG 2001" }', "transfer_syntax[0]", ""),
        ('{ modality = "ct scan!" }', "modality[0]", ""),
        ('{ tags = "a\\nb" }', "tags[0]", ""),
        ('{ backends = ["nowhere"] }', "backends[0]", ""),
        ('{ backends = ["second", "second"] }', "backends[1]", ""),
        ('{ action = "reject", status = 0xB000 }', "status", ""),
        ('{ action = "reject", comment = "nö" }', "comment", ""),
        ('{ action = "reject", priority = "stat" }', "priority", ""),
        ('{ action = "discard", status = 0xC000 }', "status", ""),
        ('{ comment = "x" }', "comment", ""),
        ('{ min_bytes = 2, max_bytes = 1 }', "min_bytes", ""),
        ('{ min_bytes = 1, action = "discard" }', "action", ""),
        ('{ accession_prefix = "A", profile = "harmony" }', "profile", ""),
        ('{ calling_ae = [] }', "calling_ae", ""),
        ('{ action = "drop" }', "action", ""),
        ('{ priority = "urgent" }', "priority", ""),
        ('{ name = "a/b" }', "name", ""),
        ('{ callling_ae = "A" }', "callling_ae", "calling_ae"),
    ],
)  # fmt: skip
def test_faults_of_a_rule(tmp_path: Path, rule: str, key: str, near: str) -> None:
    fault = only(tmp_path, with_rules('{ modality = "ZZ" }', rule))
    place = f"{fault.table}.{fault.key}"
    assert place.endswith((f"rules[1].{key}", f"rules.{key}")), place
    assert near in fault.nearest


@pytest.mark.parametrize("late", ['action = "reject"', 'action = "discard"', 'profile = "harmony"'])
def test_what_comes_too_late_is_a_fault_that_says_why(tmp_path: Path, late: str) -> None:
    rules = (
        '{ name = "big", min_bytes = 5 }',
        '{ modality = "CT" }',
        f'{{ modality = "MR", {late} }}',
    )
    fault = only(tmp_path, with_rules(*rules))
    assert 'behind rule "big", which is decided at the seal' in fault.found
    assert "answered" in fault.allowed
    assert fault.table.endswith("rules[2]")


def test_two_routes_and_two_rules_of_one_name(tmp_path: Path) -> None:
    text = with_rules('{ name = "a", modality = "CT" }', '{ name = "a", modality = "MR" }')
    assert only(tmp_path, text).found == '"a" again'
    more = 'middleware.more = { type = "route", options.rules = [{ modality = "US" }] }'
    text = with_rules('{ modality = "CT" }', more=more)
    text = text.replace('["routes", ', '["routes", "more", ')
    assert only(tmp_path, text).found == "2 routes"


def test_a_route_without_rules(tmp_path: Path) -> None:
    assert only(tmp_path, with_rules()).key == "rules"
    assert {one.key for one in faults(tmp_path, BEGIN)} == {"options"}


def test_a_profile_without_its_parties(tmp_path: Path) -> None:
    found = faults(tmp_path, with_rules('{ modality = "CT", profile = "jmix-1.0" }'))
    assert {one.key for one in found} == {"sender", "receivers"}


# -- bounds ----------------------------------------------------------------------------------------


def test_bounds_of_rules_and_values(tmp_path: Path) -> None:
    most = [f'{{ calling_ae = "A{number}" }}' for number in range(RULES_MAX)]
    assert listener(tmp_path, *most).route is not None
    assert only(tmp_path, with_rules(*most, '{ calling_ae = "B" }')).key == "rules"
    titles = [f"A{number}" for number in range(VALUES_MAX)]
    assert listener(tmp_path, f"{{ calling_ae = {json.dumps(titles)} }}").route is not None
    assert only(tmp_path, with_rules(f"{{ calling_ae = {json.dumps([*titles, 'B'])} }}")).key
    text = "x" * VALUE_CHARS_MAX
    assert listener(tmp_path, f'{{ study_description = "{text}" }}').route is not None
    assert only(tmp_path, with_rules(f'{{ study_description = "{text}x" }}')).key


def test_rules_that_a_draft_keeps_are_bounded_in_bytes(tmp_path: Path) -> None:
    values = json.dumps([f"{number:0128d}" for number in range(900)])
    rules = [f'{{ accession_prefix = {values}, modality = "M{number}" }}' for number in range(3)]
    assert listener(tmp_path, *rules[:2]).route is not None
    fault = only(tmp_path, with_rules(*rules))
    assert str(AT_SEAL_BYTES_MAX) in fault.allowed


# -- warnings --------------------------------------------------------------------------------------


def warnings(at: Path, *rules: str, more: str = "") -> list[str]:
    return [one for one in loaded(at, with_rules(*rules, more=more)).warnings if "rule" in one]


def test_a_rule_behind_one_that_is_as_wide(tmp_path: Path) -> None:
    rules = (
        '{ name = "ct", calling_ae = "CT*" }',
        '{ name = "ct7", calling_ae = "CT7", modality = "CT" }',
    )
    (warning,) = warnings(tmp_path, *rules)
    assert warning == (
        'middleware.routes.options.rules[1], "ct7": never matches: rule "ct" before it matches all'
        " that it would"
    )
    assert warnings(tmp_path, *reversed(rules)) == []


def test_an_ae_title_that_no_endpoint_knows(tmp_path: Path) -> None:
    table = 'endpoints.dicom_receiver.options.aet_table = { CT1 = {}, MR1 = { ae_title = "MR_1" } }'
    rules = ('{ name = "a", calling_ae = "MR?1" }', '{ name = "b", calling_ae = ["CT2", "X*"] }')
    (warning,) = warnings(tmp_path, *rules, more=table)
    assert 'rule "b" never matches: no calling AE title in aet_table is CT2 or X*' in warning
    assert warnings(tmp_path, *rules) == []
    (warning,) = warnings(tmp_path, '{ name = "c", called_ae = "OTHER" }')
    assert 'rule "c" never matches: no called AE title that an endpoint has is OTHER' in warning


def test_a_rule_that_drops_everything_is_a_warning(tmp_path: Path) -> None:
    (warning,) = warnings(tmp_path, '{ action = "discard" }')
    assert "discards every instance that comes to it" in warning


def test_rules_of_a_pipeline_without_dicom(tmp_path: Path) -> None:
    text = with_rules('{ modality = "CT" }').replace(
        "dicom_to_jmix.middleware = [", "jmix_query.middleware = ["
    )
    text = text.replace('"jmix_builder"', '"passthru"')
    (warning,) = [one for one in loaded(tmp_path, text).warnings if "rule" in one]
    assert "without effect" in warning


# -- printed ---------------------------------------------------------------------------------------


def test_what_check_prints_can_be_pasted(tmp_path: Path) -> None:
    rules = (
        '{ name = "a", calling_ae = "CT*", backends = "second" }',
        '{ action = "reject", peer = "10.0.0.0/8", status = 0xA700 }',
    )
    main = written(tmp_path, with_rules(*rules))
    before, text = config.effective(main)
    assert (
        "2 rules of middleware.routes first; they name http://127.0.0.1:1/api/jmix (second)" in text
    )
    pasted = tmp_path / "pasted.toml"
    pasted.write_text(text)
    pasted.chmod(0o600)
    after = config.load(pasted)
    assert (after.dicom[0].route, after.dicom[0].routed) == (
        before.dicom[0].route,
        before.dicom[0].routed,
    )


def test_no_process_gets_credentials_of_an_upstream_that_a_rule_names(tmp_path: Path) -> None:
    more = 'authentications.x = { method = "bearer", options.token = "hush-hush" }'
    text = with_rules('{ modality = "CT", backends = "second" }', more=more)
    text = text.replace("options.base_url", 'options.authentication_ref = "x", options.base_url')
    found = loaded(tmp_path, text)
    assert found.dicom[0].routed[0].credentials is not None
    for blank in (found.without_secrets(), found.without_upstream_secrets()):
        credentials = blank.dicom[0].routed[0].credentials
        assert credentials is not None
        assert not credentials.token
