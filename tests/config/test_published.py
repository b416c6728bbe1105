"""Profile jmix-1.0 in the configuration: parties, keys, overrides, and their faults."""

from __future__ import annotations

import base64
import tomllib
from pathlib import Path

import pytest

from fastjmix import config
from fastjmix.jmix import keys
from fastjmix.jmix.write import parties
from tests.support.configs import faults, loaded, only

BUILDER = "middleware.jmix_builder.options"
NEW = "2030-01-01T00:00:00Z"
CALLERS = "endpoints.dicom_receiver.options.aet_table"

LEAST = f"""
[{BUILDER}]
profile = "jmix-1.0"
sender = {{ id = "org:a" }}
receivers = [{{ id = "org:b" }}]
"""


def builder_of(found: config.Config) -> config.Builder:
    return found.dicom[0].builder


def parties_of(found: config.Config) -> parties.Published:
    published = builder_of(found).published
    assert published is not None
    return published


def test_harmony_has_no_parties(tmp_path: Path) -> None:
    builder = builder_of(loaded(tmp_path))
    assert (builder.profile, builder.payload_hash, builder.published) == ("harmony", "tree", None)


def test_the_least(tmp_path: Path) -> None:
    found = loaded(tmp_path, LEAST)
    assert parties_of(found) == parties.Published(
        parties.Entity("org:a"), (parties.Entity("org:b"),)
    )
    assert hash(builder_of(found))


def test_everything(tmp_path: Path) -> None:
    """Key files are relative to the file that names them: the builder's is in pipelines/."""
    key = keys.new_signing_key()
    (tmp_path / "signing.pem").write_bytes(key.pem())
    found = loaded(
        tmp_path,
        f"""
        [{BUILDER}]
        profile = "jmix-1.0"
        payload_hash = "stream"
        requester = {{ id = "org:r" }}
        receivers = [
            {{ id = "org:b", contact = {{ system = "phone", value = "+49 1" }} }},
            {{ id = "org:c", assertion = {{ key_file = "../signing.pem", expires_at = "{NEW}" }} }},
        ]
        classification = "de-identified"
        custom_tags = ["teaching", "Lehre"]
        consent.status = "granted"
        consent.scope = ["research"]
        consent.method = "paper"
        consent.signed_on = "2026-01-31"
        deid = {{ keys = ["PatientName"] }}
        signing = {{ key_file = "{tmp_path}/signing.pem", audit = true }}
        [{BUILDER}.sender]
        id = "org:a"
        name = "Ä"
        contact = "a@example.org"
        [{BUILDER}.sender.assertion]
        key_file = "../signing.pem"
        key_reference = "https://example.org/key"
        expires_secs = 86400
        fields = ["sender.id", "timestamp"]
        [{BUILDER}.sender.assertion.directory_attestation]
        provider = "directory"
        attestation_signature = "sig"
        attestation_timestamp = "2025-06-07T14:01:00Z"
        attestation_public_key = "key"
        """,
    )
    beside = str(tmp_path / "pipelines" / "../signing.pem")
    assert builder_of(found).payload_hash == "stream"
    assert parties_of(found) == parties.Published(
        sender=parties.Entity(
            "org:a",
            "Ä",
            "a@example.org",
            parties.AssertionSettings(
                beside,
                "https://example.org/key",
                86400,
                None,
                ("sender.id", "timestamp"),
                parties.Attestation("directory", "sig", "2025-06-07T14:01:00Z", "key"),
            ),
        ),
        receivers=(
            parties.Entity("org:b", contact=parties.ContactPoint("phone", "+49 1")),
            parties.Entity(
                "org:c",
                assertion=parties.AssertionSettings(beside, expires_at=NEW),
            ),
        ),
        requester=parties.Entity("org:r"),
        classification="de-identified",
        custom_tags=("teaching", "Lehre"),
        consent=parties.Consent("granted", ("research",), "paper", "2026-01-31"),
        deid=("PatientName",),
        signing=parties.Signing(f"{tmp_path}/signing.pem", audit=True),
    )
    text = config.effective(tmp_path / "config.toml")[1]
    shown = tomllib.loads(text)["middleware"]["jmix_builder"]["options"]
    assert shown["sender"]["assertion"]["fields"] == ["sender.id", "timestamp"]
    assert [one["id"] for one in shown["receivers"]] == ["org:b", "org:c"]
    assert key.pem().splitlines()[1].decode() not in text
    assert found.without_secrets() == found


def test_an_ae_title_has_its_own(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        LEAST
        + f"""
        [{CALLERS}.CT]
        sender = {{ id = "org:ct" }}
        payload_hash = "stream"
        [{CALLERS}.OLD]
        profile = "harmony"
        [{CALLERS}.US]
        classification = "sensitive"
        """,
    )
    rows = {title: entry.builder for title, entry in (found.dicom[0].calling or {}).items()}
    assert rows["CT"].published == parties.Published(
        parties.Entity("org:ct"), (parties.Entity("org:b"),)
    )
    assert rows["CT"].payload_hash == "stream"
    assert (rows["OLD"].profile, rows["OLD"].published) == ("harmony", None)
    assert rows["US"].published == parties.Published(
        parties.Entity("org:a"), (parties.Entity("org:b"),), classification="sensitive"
    )


def test_parties_for_one_ae_title_only(tmp_path: Path) -> None:
    """The builder's profile is harmony; its parties are for the entry's profile."""
    found = loaded(
        tmp_path,
        f"""
        [{BUILDER}]
        sender = {{ id = "org:a" }}
        [{CALLERS}.NEW]
        profile = "jmix-1.0"
        receivers = [{{ id = "org:b" }}]
        [{CALLERS}.OLD]
        """,
    )
    rows = {title: entry.builder for title, entry in (found.dicom[0].calling or {}).items()}
    assert builder_of(found).published is rows["OLD"].published is None
    assert rows["NEW"].published == parties.Published(
        parties.Entity("org:a"), (parties.Entity("org:b"),)
    )


# -- faults ----------------------------------------------------------------------------------


def test_sender_and_receivers_are_required(tmp_path: Path) -> None:
    found = faults(tmp_path, f'{BUILDER}.profile = "jmix-1.0"')
    assert [(f.table, f.key, f.found) for f in found] == [
        (BUILDER, "sender", "nothing"),
        (BUILDER, "receivers", "nothing"),
    ]
    assert "jmix-1.0" in found[0].allowed


def test_an_entry_that_needs_them(tmp_path: Path) -> None:
    found = only(
        tmp_path,
        f"""
        [{BUILDER}]
        sender = {{ id = "org:a" }}
        [{CALLERS}.NEW]
        profile = "jmix-1.0"
        """,
    )
    assert (found.table, found.key) == (f"{CALLERS}.NEW", "receivers")


@pytest.mark.parametrize(
    "given",
    [
        'sender = { id = "x" }',
        'requester = { id = "x" }',
        'receivers = [{ id = "x" }]',
        'classification = "confidential"',
        'custom_tags = ["x"]',
        'consent = { status = "granted" }',
        'deid = { keys = ["x"] }',
        'signing = { key_file = "x" }',
        'encryption = { recipient_public_key = "x" }',
    ],
)
def test_harmony_cannot_say_it(tmp_path: Path, given: str) -> None:
    key = given.partition(" ")[0]
    found = only(tmp_path, f"[{BUILDER}]\n{given}")
    assert (found.table, found.key) == (BUILDER, key)
    assert "jmix-1.0" in found.allowed
    found = only(tmp_path, f'{LEAST}\n[{CALLERS}.CT]\nprofile = "harmony"\n{given}')
    assert (found.table, found.key) == (f"{CALLERS}.CT", key)


def test_blake3_is_not_published(tmp_path: Path) -> None:
    found = only(tmp_path, LEAST + 'digest = "blake3"')
    assert (found.table, found.key, found.found) == (BUILDER, "digest", '"blake3"')


@pytest.mark.parametrize(
    ("change", "table", "key"),
    [
        ('sender = { name = "A" }', ".sender", "id"),
        ('sender = { id = "" }', ".sender", "id"),
        ('sender = { id = "a\\u001b" }', ".sender", "id"),
        ("sender = { id = 7 }", ".sender", "id"),
        ('sender = { id = "a", nmae = "b" }', ".sender", "nmae"),
        ('sender = { id = "a", contact = {} }', ".sender", "contact"),
        ('sender = { id = "a", contact = { system = "phone" } }', ".sender", "contact"),
        ('sender = { id = "a", contact = "" }', ".sender", "contact"),
        ("receivers = []", "", "receivers"),
        ('receivers = { id = "a" }', "", "receivers"),
        ('receivers = [{ id = "a" }, { name = "b" }]', ".receivers[1]", "id"),
        ('receivers = [{ id = "a", nam = "b" }]', ".receivers[0]", "nam"),
        ('receivers = ["a"]', "", "receivers[0]"),
        ('classification = "secret"', "", "classification"),
        ("custom_tags = [7]", "", "custom_tags[0]"),
        ("consent = {}", ".consent", "status"),
        ('consent = { status = "yes" }', ".consent", "status"),
        ('consent = { status = "granted", scope = ["all"] }', ".consent", "scope[0]"),
        ('consent = { status = "granted", signed_on = "31.1.2026" }', ".consent", "signed_on"),
        ('consent = { status = "granted", signed_on = "2026-02-30" }', ".consent", "signed_on"),
        ("deid = { keys = [] }", ".deid", "keys"),
        ("signing = {}", ".signing", "key_file"),
        ('signing = { key_file = "none.pem" }', ".signing", "key_file"),
        ('payload_hash = "tar"', "", "payload_hash"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: str, table: str, key: str) -> None:
    kept = [line for line in LEAST.splitlines() if not line.startswith(change.split()[0])]
    found = only(tmp_path, "\n".join([*kept, change]))
    assert (found.table, found.key) == (f"{BUILDER}{table}", key)
    assert found.allowed


@pytest.mark.parametrize("time", ["2026-01-31", "2026-01-31T12:00:00", "2026-13-01T00:00:00Z", ""])
def test_times_have_a_zone(tmp_path: Path, time: str) -> None:
    (tmp_path / "k").write_bytes(keys.new_signing_key().pem())
    given = f'sender.assertion = {{ key_file = "../k", expires_at = "{time}" }}'
    changes = f"{LEAST}\n{given}".replace('sender = { id = "org:a" }', 'sender.id = "a"')
    found = only(tmp_path, changes)
    assert (found.table, found.key) == (f"{BUILDER}.sender.assertion", "expires_at")


def assertion(tmp_path: Path, settings: str) -> str:
    (tmp_path / "k").write_bytes(keys.new_signing_key().pem())
    given = f'sender.assertion = {{ key_file = "../k", {settings} }}'
    return LEAST.replace('sender = { id = "org:a" }', f'sender.id = "a"\n{given}')


def test_an_assertion_is_made_on_trial(tmp_path: Path) -> None:
    """Else the first envelope would fail, because a signed field is missing."""
    found = only(tmp_path, assertion(tmp_path, 'fields = ["sender.id", "sender.name"]'))
    assert (found.table, found.key) == ("middleware.jmix_builder", "options")
    assert "sender.name" in found.found
    hashed = assertion(tmp_path, 'fields = ["security.payload_hash"]')
    assert loaded(tmp_path, f"{hashed}\nskip_hashing = false")
    assert "security.payload_hash" in only(tmp_path, f"{hashed}\nskip_hashing = true").found


def test_an_expiry_that_is_past_is_a_warning(tmp_path: Path) -> None:
    """It is no fault: a node must start on the day after, too."""
    found = loaded(tmp_path, assertion(tmp_path, 'expires_at = "2020-01-01T00:00:00+01:00"'))
    (warning,) = [one for one in found.warnings if "expires_at" in one]
    assert "middleware.jmix_builder.options.sender.assertion.expires_at" in warning
    assert not any("expires_at" in one for one in loaded(tmp_path, LEAST).warnings)


def test_one_expiry(tmp_path: Path) -> None:
    given = 'expires_at = "2030-01-01T00:00:00Z", expires_secs = 60'
    assert only(tmp_path, assertion(tmp_path, given)).key == "expires_at"


def test_a_key_is_read_and_never_shown(tmp_path: Path) -> None:
    material = base64.b64encode(b"not a key, and secret").decode()
    (tmp_path / "k").write_text(material)
    found = only(tmp_path, f'{LEAST}\nsigning = {{ key_file = "../k" }}')
    assert (found.table, found.key) == (f"{BUILDER}.signing", "key_file")
    assert str(tmp_path / "pipelines" / "../k") in found.found
    assert material not in str(found)
    (tmp_path / "k").write_bytes(keys.new_recipient_key().pem())
    assert "Ed25519" in only(tmp_path, f'{LEAST}\nsigning = {{ key_file = "../k" }}').found
