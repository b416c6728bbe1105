"""The parties of a published envelope: from the builder's options and an AE title's overrides.

Each set of rules that makes published envelopes gets one value (jmix/write/parties.py).

Guaranteed: every key file that it names could be read when the configuration was loaded, and holds
a key of the right type; private keys are not kept. Parties that no envelope can name, because no
profile is jmix-1.0, are a fault.
Still wrong: a key file that is replaced while fastjmix runs counts from the next start on.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from fastjmix import errors
from fastjmix.config import key_files, tables_jmix, tree
from fastjmix.config.declare import Table
from fastjmix.config.references import References
from fastjmix.config.table_checks import Entry
from fastjmix.jmix.write import parties

PROFILE: Final = "jmix-1.0"
KEYS: Final = tuple(tables_jmix.Parties.model_fields)

_NONE: Final = Table.empty()
_NO_ID: Final = "00000000-0000-4000-8000-000000000000"
_NO_HASH: Final = f"sha256:{'0' * 64}"


class Given(NamedTuple):
    """A value of these keys, and its place: `key` below the table `of`."""

    of: Entry
    key: str
    value: Any


class Parties:
    """The parties of one jmix_builder, and of the AE titles that override them."""

    def __init__(self, references: References, builder: Entry, options: Table) -> None:
        self._references = references
        self._builder = builder
        self._given = _given(builder, "options", options)
        self._published = False

    def complete(
        self, rules: tree.Builder, of: Entry | None = None, key: str = "", overrides: Table = _NONE
    ) -> tree.Builder:
        """Returns these rules with their parties, where the profile has any.

        `overrides` is an entry of aet_table, which is at `key` in the endpoint `of`.
        """
        at = Given(of or self._builder, key or "options", overrides)
        mine = _given(at.of, at.key, overrides)
        if rules.profile != PROFILE:
            self._refuse(mine)
            return rules
        self._published = True
        if rules.digest != "sha256":
            allowed = f'"sha256": profile = "{PROFILE}" knows no other'
            self._references.fault(self._builder, "options.digest", f'"{rules.digest}"', allowed)
        return dataclasses.replace(
            rules, published=self._read(at, {**self._given, **mine}, rules.skip_hashing)
        )

    def finish(self) -> None:
        """Notes faults for the builder's parties, where no rules have a use for them."""
        if not self._published:
            self._refuse(self._given)

    def _refuse(self, unused: Mapping[str, Given]) -> None:
        for one in unused.values():
            found = "a value, and profile is not jmix-1.0"
            allowed = f'nothing: only envelopes of profile = "{PROFILE}" can say it'
            self._references.fault(one.of, one.key, found, allowed)

    def _read(
        self, at: Given, held: Mapping[str, Given], skip_hashing: bool
    ) -> parties.Published | None:
        """Returns the parties; None where there are faults, which are noted."""
        missing = [name for name in ("sender", "receivers") if name not in held]
        for name in missing:
            allowed = f'a value: profile = "{PROFILE}" needs one'
            self._references.fault(at.of, f"{at.key}.{name}", "nothing", allowed)
        reader = _Reader(self._references)
        found = {name: reader.read(one) for name, one in held.items()}
        if missing or self._references.findings.faults:
            return None
        published = parties.Published(**found)
        self._try_signing(at, published, skip_hashing=skip_hashing)
        return published

    def _try_signing(self, at: Given, published: parties.Published, *, skip_hashing: bool) -> None:
        """Signs a manifest without contents. A fault: an assertion signs a missing field."""
        if not published.key_files():
            return
        # These cost some 100 ms: needed only where something is signed.
        from fastjmix.jmix import keys
        from fastjmix.jmix.write.envelope import Options
        from fastjmix.jmix.write.published import root_documents

        try:
            held = {
                file: key_files.load(keys.signing_key, Path(file)) for file in published.key_files()
            }
            options = Options(_NO_ID, 0.0, published=published, keys=held)
            root_documents(options, None if skip_hashing else _NO_HASH)
        except errors.ConfigError as problem:
            self._references.fault(at.of, at.key, problem.message, problem.hint)


def _given(of: Entry, prefix: str, table: Table) -> dict[str, Given]:
    """Returns those of KEYS that a table has."""
    return {
        name: Given(of, f"{prefix}.{name}", value)
        for name in KEYS
        if (value := getattr(table, name, None)) is not None
    }


class _Reader:
    """Turns tables into parties, and reads every key file once."""

    def __init__(self, references: References) -> None:
        self._references = references

    def read(self, one: Given) -> Any:
        """Returns the value that parties.Published has under this key."""
        value = one.value
        if isinstance(value, list):
            return tuple(
                self.read(Given(one.of, f"{one.key}[{index}]", item))
                for index, item in enumerate(value)
            )
        if isinstance(value, tables_jmix.Entity):
            return self._entity(one, value)
        if isinstance(value, tables_jmix.Consent):
            return parties.Consent(value.status, tuple(value.scope), value.method, value.signed_on)
        if isinstance(value, tables_jmix.Deid):
            return tuple(value.keys)
        if isinstance(value, tables_jmix.Signing):
            return parties.Signing(self._private(one, value.key_file), value.audit)
        if isinstance(value, tables_jmix.Encryption):
            return self._encryption(one, value)
        return value

    def _entity(self, one: Given, entity: tables_jmix.Entity) -> parties.Entity:
        assertion = None
        if entity.assertion is not None:
            below = Given(one.of, f"{one.key}.assertion", entity.assertion)
            assertion = self._assertion(below, entity.assertion)
        return parties.Entity(entity.id, entity.name, entity.contact, assertion)

    def _assertion(self, one: Given, table: tables_jmix.Assertion) -> parties.AssertionSettings:
        if table.expires_at is not None and table.expires_secs is not None:
            allowed = "one of expires_at and expires_secs"
            self._references.fault(one.of, f"{one.key}.expires_at", "both", allowed)
        elif table.expires_at is not None and _is_past(table.expires_at):
            warning = "past: readers will refuse this assertion"
            self._references.findings.warn(f"{one.of.path}.{one.key}.expires_at: {warning}")
        attested = table.directory_attestation
        return parties.AssertionSettings(
            key_file=self._private(one, table.key_file),
            key_reference=table.key_reference,
            expires_secs=table.expires_secs,
            expires_at=table.expires_at,
            fields=tuple(table.fields or ()),
            attestation=parties.Attestation(**attested.model_dump()) if attested else None,
        )

    def _encryption(self, one: Given, table: tables_jmix.Encryption) -> parties.Encryption:
        text, file = table.recipient_public_key, table.recipient_key_file
        if (text is None) == (file is None):
            allowed = "one of recipient_public_key and recipient_key_file"
            found = "neither" if text is None else "both"
            self._references.fault(one.of, f"{one.key}.recipient_public_key", found, allowed)
        from fastjmix.jmix import keys

        key, public = f"{one.key}.recipient_public_key", b""
        with _key_faults(self._references, one.of, key, tables_jmix.PUBLIC_ALLOWED):
            if text is not None:
                public = keys.recipient_public(text.encode(), key)
        key = f"{one.key}.recipient_key_file"
        with _key_faults(self._references, one.of, key):
            if file is not None:
                public = key_files.load(keys.recipient_public, _beside(one.of, file))
        return parties.Encryption(base64.b64encode(public).decode(), table.dialect)

    def _private(self, one: Given, name: str) -> str:
        """Returns the absolute path of a signing key. Reads the key once, to see that it is one."""
        from fastjmix.jmix import keys

        path = _beside(one.of, name)
        with _key_faults(self._references, one.of, f"{one.key}.key_file"):
            key_files.load(keys.signing_key, path)
        return str(path)


def recipient_key(references: References, of: Entry, key: str, name: str | None) -> Path | None:
    """Returns the absolute path of a recipient's private key. Reads the key once, to see that it is
    one.
    """
    if name is None:
        return None
    from fastjmix.jmix import keys

    path = _beside(of, name)
    with _key_faults(references, of, key):
        key_files.load(keys.recipient_key, path)
    return path


@contextlib.contextmanager
def _key_faults(
    references: References, of: Entry, key: str, allowed: str = tables_jmix.KEY_ALLOWED
) -> Iterator[None]:
    """Turns an error in a key into a fault of the configuration."""
    try:
        yield
    except errors.ConfigError as problem:
        references.fault(of, key, problem.message, allowed)


def _is_past(time: str) -> bool:
    """Returns whether this RFC 3339 time is in the past."""
    return datetime.fromisoformat(time) < datetime.now(UTC)


def _beside(of: Entry, name: str) -> Path:
    """Returns the absolute path of a name that is relative to its configuration file."""
    return (Path(of.file).parent / name).absolute()
