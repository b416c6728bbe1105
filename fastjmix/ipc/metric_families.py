"""Names what all processes count and measure: the families of the shared page (metrics.py).

Wanted: a name, its meaning and its labels stand in one place, and docs/metrics.md agrees with it.
Guaranteed: the values of every label are listed here, so a peer cannot add one. Families whose
labels a site chooses (calling AE titles, upstreams) are counted in recorder/counters.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

COUNTERS: Final[Mapping[str, str]] = {
    "associations_accepted_total": "Associations accepted.",
    "connections_turned_away_total": "Connections closed because max_half_open were reached.",
    "associations_rejected_total": "Associations rejected (A-ASSOCIATE-RJ).",
    "associations_rejected_full_total": "Rejections: every place for an association was taken.",
    "associations_displaced_total": "Associations ended, storing nothing, for peers that waited.",
    "associations_aborted_total": "Associations that ended with A-ABORT or a lost connection.",
    "echoes_total": "C-ECHO requests answered.",
    "instances_received_total": "Instances answered with status 0000.",
    "instances_refused_total": "Instances answered with a failure status.",
    "instances_duplicate_total": "Instances that an open envelope already held, byte for byte.",
    "instances_conflicting_total": "Same SOP Instance UID, other bytes: both kept.",
    "instances_of_another_patient_total": "Instances whose patient is not their study's.",
    "instances_rejected_total": "Instances answered with the status of a rule.",
    "instances_discarded_total": "Instances answered with 0000 and kept nowhere, by a rule.",
    "returns_total": "Associations that came back for a study which their calling AE had left.",
    "instance_bytes_total": "Data set bytes of the instances answered with status 0000.",
    "envelopes_sealed_total": "Envelopes sealed and put in outbox/.",
    "envelopes_recovered_total": "Envelopes sealed from what a crash left.",
    "members_damaged_total": "Acknowledged instances that could not be read back: see rejected/.",
    "storage_failures_total": "Writes or syncs that failed for another reason than a full disk.",
    "envelopes_uploaded_total": "Envelopes delivered to the upstream.",
    "envelopes_rejected_total": "Envelopes moved to rejected/.",
    "uploads_failed_total": "Attempts to upload that will be repeated.",
    "upload_bytes_total": "Bytes of envelopes delivered.",
    "children_restarted_total": "Processes restarted after they died.",
    "provenances_unwritten_total": "Envelopes whose provenance could not be written.",
    "ledger_events_lost_total": "Events that the ledger will know from the files only, or never.",
    "storage_bytes_total": "Bytes of instances and posted envelopes written to the storage.",
    "storage_files_total": "Files and directories made there for them.",
}
"""Names and meanings of the values that only grow."""

GAUGES: Final[Mapping[str, str]] = {
    "associations_open": "Associations open now.",
    "envelopes_building": "Envelopes being packed now.",
    "bytes_to_encrypt": "Bytes that will stand there a second time while they are encrypted.",
    "bytes_reserved": "Bytes that joining, encrypting and sealing what is open will take.",
    "inodes_reserved": "Inodes that sealing and delivering what is open will take.",
    "outbox_envelopes": "Envelopes waiting for the upstream.",
    "outbox_unrouted": "Of these, envelopes with an upstream that is not configured.",
    "receivers_down": "Receiver processes that died and are not back yet.",
    "packers_down": "Packer processes that died and are not back yet.",
    "intake_stopped": "Packers whose storage failed twice: no associations are accepted.",
    "upstreams_held": "Upstreams on hold after 401, 403 or a redirect.",
}
"""Names and meanings of the values that rise and fall; the API shows their sums."""

OTHER: Final = "other"
"""The label of what has no label of its own."""


class Labelled(NamedTuple):
    """A counter with one label, and all values that it can have; OTHER is one more."""

    meaning: str
    label: str
    values: tuple[str, ...]


LABELLED: Final[Mapping[str, Labelled]] = {
    "rejections_total": Labelled(
        "Associations rejected (A-ASSOCIATE-RJ), by reason.",
        "reason",
        (
            "called_ae",
            "calling_ae",
            "application_context",
            "protocol_version",
            "listener_full",
            "calling_ae_full",
            "no_lane",
            "disk_space",
            "disk_inodes",
            "disk_unusable",
            "storage_failed",
            "shutting_down",
        ),
    ),
    "refusals_total": Labelled(
        "Instances answered with a failure, by C-STORE status.",
        "status",
        (
            "0117",
            "0122",
            "0124",
            "0210",
            "0211",
            "0212",
            "A700",
            "A900",
            "C000",
            "C001",
            "C002",
            "C003",
            "C0FF",
        ),
    ),
    "restarts_total": Labelled(
        "Processes restarted after they died, by kind.",
        "process",
        ("receiver", "packer", "uploader", "api", "ledger"),
    ),
}


class Measured(NamedTuple):
    """A histogram: its meaning, and the upper bounds of its buckets in seconds, rising."""

    meaning: str
    bounds: tuple[float, ...]


HISTOGRAMS: Final[Mapping[str, Measured]] = {
    # From the page cache of an idle node to a disk that is all but dead.
    "response_seconds": Measured(
        "Last byte of an instance's data set to its status.",
        (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    ),
    # From a cache that ignores flushes (0.1 ms) over SSDs (1 ms) and disks (10 ms) to a bad one.
    "commit_seconds": Measured(
        "One fdatasync of an envelope, which covers a group of instances.",
        (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
    ),
    # Some fsyncs for a small envelope, minutes for one of many GB that is encrypted.
    "seal_seconds": Measured(
        "Begin of a seal to the envelope in outbox/.",
        (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
    ),
    # From a local network to the time limit of a large envelope on a slow line.
    "upload_seconds": Measured(
        "One attempt to deliver an envelope, whatever came of it.",
        (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900),
    ),
    # From an upstream that answers at once to one that was away for a weekend.
    "delivery_seconds": Measured(
        "Seal of an envelope (or its POST) to its arrival in sent/: all waits and attempts.",
        (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400, 259200),
    ),
}
"""Times in seconds. A bound is about two to five times the one below it."""
