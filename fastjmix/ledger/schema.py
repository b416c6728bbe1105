"""The tables of the ledger, and the steps from earlier versions to this one.

`PRAGMA user_version` counts the steps that a file has had. A step is never changed once it was
released; a further version appends one. The largest table is `uids`: a row of some 20 bytes for
each SOP, Series and Study Instance UID of an envelope, by a key of 64 bits (terms.uid_key). The
UIDs themselves are in `provenance`, compressed; an answer is compared with them, so two UIDs of one
key are told apart.

Times are Unix seconds. `times` counts equal events in a row, from `at` (or `began`) to `last`: an
upstream that is away for a week is one attempt with a count, not ten thousand rows.
"""

from __future__ import annotations

import sqlite3
from typing import Final

APPLICATION: Final = 0x464A4C47
"""The file's application_id, "FJLG": no other program's database is taken for a ledger."""

_FIRST: Final = """
CREATE TABLE envelopes (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    at REAL NOT NULL,
    state TEXT NOT NULL,
    since REAL NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    origin TEXT NOT NULL DEFAULT '',
    pipeline TEXT NOT NULL DEFAULT '',
    upstream TEXT NOT NULL DEFAULT '',
    calling_ae TEXT NOT NULL DEFAULT '',
    peer TEXT NOT NULL DEFAULT '',
    sealed_at REAL,
    instances INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    studies TEXT NOT NULL DEFAULT '[]',
    accession_number TEXT NOT NULL DEFAULT '',
    patient_id TEXT NOT NULL DEFAULT '',
    patient_name TEXT NOT NULL DEFAULT '',
    patient_birth_date TEXT NOT NULL DEFAULT '',
    patient_sex TEXT NOT NULL DEFAULT '',
    study_date TEXT NOT NULL DEFAULT '',
    study_description TEXT NOT NULL DEFAULT '',
    modalities TEXT NOT NULL DEFAULT '[]'
);
CREATE INDEX envelopes_at ON envelopes (at);
CREATE INDEX envelopes_state ON envelopes (state, at, since, bytes);
CREATE INDEX envelopes_calling_ae ON envelopes (calling_ae, at);
CREATE INDEX envelopes_peer ON envelopes (peer, at);
CREATE INDEX envelopes_upstream ON envelopes (upstream, at);
CREATE INDEX envelopes_accession ON envelopes (accession_number, at) WHERE accession_number <> '';
CREATE INDEX envelopes_patient ON envelopes (patient_id, at) WHERE patient_id <> '';

CREATE TABLE uids (
    key INTEGER NOT NULL, envelope INTEGER NOT NULL, PRIMARY KEY (key, envelope)
) WITHOUT ROWID;
CREATE TABLE names (
    word TEXT NOT NULL, envelope INTEGER NOT NULL, PRIMARY KEY (word, envelope)
) WITHOUT ROWID;
CREATE TABLE provenance (envelope INTEGER PRIMARY KEY, data BLOB NOT NULL);

CREATE TABLE associations (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    calling_ae TEXT NOT NULL DEFAULT '',
    called_ae TEXT NOT NULL DEFAULT '',
    peer TEXT NOT NULL DEFAULT '',
    implementation_uid TEXT NOT NULL DEFAULT '',
    implementation_version TEXT NOT NULL DEFAULT '',
    began REAL NOT NULL,
    ended REAL,
    how TEXT NOT NULL DEFAULT '',
    stored INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    seconds REAL NOT NULL DEFAULT 0,
    pdu_bytes INTEGER NOT NULL DEFAULT 0,
    p50_ms REAL,
    p99_ms REAL,
    waits TEXT NOT NULL DEFAULT '{}',
    statuses TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX associations_began ON associations (began);
CREATE INDEX associations_empty ON associations (number) WHERE stored = 0 AND ended IS NOT NULL;
CREATE TABLE envelope_associations (
    envelope INTEGER NOT NULL, association INTEGER NOT NULL, PRIMARY KEY (envelope, association)
) WITHOUT ROWID;
CREATE INDEX envelope_associations_back ON envelope_associations (association);

CREATE TABLE attempts (
    number INTEGER PRIMARY KEY,
    envelope INTEGER NOT NULL,
    began REAL NOT NULL,
    last REAL NOT NULL,
    times INTEGER NOT NULL DEFAULT 1,
    upstream TEXT NOT NULL,
    seconds REAL NOT NULL,
    bytes INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    status INTEGER,
    reason TEXT NOT NULL,
    answer TEXT NOT NULL
);
CREATE INDEX attempts_envelope ON attempts (envelope);
CREATE TABLE moves (
    number INTEGER PRIMARY KEY,
    envelope INTEGER NOT NULL,
    at REAL NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL
);
CREATE INDEX moves_envelope ON moves (envelope);

CREATE TABLE actions (
    number INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    why TEXT NOT NULL,
    result TEXT NOT NULL,
    envelopes TEXT NOT NULL,
    more INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX actions_at ON actions (at);
CREATE TABLE action_envelopes (
    envelope INTEGER NOT NULL, action INTEGER NOT NULL, PRIMARY KEY (envelope, action)
) WITHOUT ROWID;

CREATE TABLE rejections (
    number INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    last REAL NOT NULL,
    times INTEGER NOT NULL DEFAULT 1,
    calling_ae TEXT NOT NULL,
    called_ae TEXT NOT NULL,
    peer TEXT NOT NULL,
    why TEXT NOT NULL
);
CREATE INDEX rejections_last ON rejections (last);
CREATE TABLE refusals (
    number INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    association TEXT NOT NULL,
    instance_key INTEGER NOT NULL,
    study_key INTEGER NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    sop_class_uid TEXT NOT NULL,
    study_instance_uid TEXT NOT NULL,
    status TEXT NOT NULL,
    why TEXT NOT NULL
);
CREATE INDEX refusals_at ON refusals (at);
CREATE INDEX refusals_instance ON refusals (instance_key);
CREATE INDEX refusals_study ON refusals (study_key);
CREATE INDEX refusals_association ON refusals (association);
CREATE TABLE errors (
    number INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    last REAL NOT NULL,
    times INTEGER NOT NULL DEFAULT 1,
    process TEXT NOT NULL,
    event TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX errors_last ON errors (last);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

_SECOND: Final = """
CREATE INDEX associations_calling_ae ON associations (calling_ae, began);
CREATE INDEX associations_peer ON associations (peer, began);
CREATE INDEX rejections_calling_ae ON rejections (calling_ae, last);
CREATE INDEX rejections_called_ae ON rejections (called_ae, last);
CREATE INDEX rejections_peer ON rejections (peer, last);
"""
"""An AE title or an address is a word that a person asks for."""

_THIRD: Final = """
CREATE TABLE upstreams (
    envelope INTEGER NOT NULL,
    upstream TEXT NOT NULL,
    place INTEGER NOT NULL,
    state TEXT NOT NULL,
    at REAL,
    reason TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (envelope, upstream)
) WITHOUT ROWID;
CREATE INDEX upstreams_upstream ON upstreams (upstream);
"""
"""How an envelope for several upstreams stands at each; `envelopes.upstream` has all names."""

_FOURTH: Final = """
ALTER TABLE envelopes ADD COLUMN rule TEXT NOT NULL DEFAULT '';
ALTER TABLE envelopes ADD COLUMN priority TEXT NOT NULL DEFAULT '';
ALTER TABLE envelopes ADD COLUMN tags TEXT NOT NULL DEFAULT '[]';
CREATE TABLE split_parts (
    part TEXT PRIMARY KEY, whole TEXT NOT NULL, place INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX split_parts_whole ON split_parts (whole, place);
"""
"""How an envelope was routed; `priority` is '' until its ticket was read, which the next
reconciliation does for those on the disk. `split_parts` has ids (parts.py)."""

STEPS: Final = (_FIRST, _SECOND, _THIRD, _FOURTH)
"""The statements that lead from each version to the next."""

VERSION: Final = len(STEPS)


def version_of(connection: sqlite3.Connection) -> int:
    """Returns the version of an open file; 0 for an empty one. Raises sqlite3.Error."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection) -> None:
    """Brings a file of this or an earlier version to this one, a transaction a step.

    Raises sqlite3.Error.
    """
    for number in range(version_of(connection), VERSION):
        connection.executescript(
            f"BEGIN IMMEDIATE; {STEPS[number]} PRAGMA application_id = {APPLICATION};"
            f" PRAGMA user_version = {number + 1}; COMMIT;"
        )
