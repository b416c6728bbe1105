"""Counters and gauges of all processes: one shared page, one row for each process.

Guaranteed: adding needs no lock, because a row has one writer (the process that holds it, and its
successor after a restart); readers sum the rows. Values have 64 bits and start at zero with the
supervisor.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import Final

COUNTERS: Final[Mapping[str, str]] = {
    "associations_accepted_total": "Associations accepted.",
    "connections_turned_away_total": "Connections closed because max_half_open were reached.",
    "associations_rejected_total": "Associations rejected (A-ASSOCIATE-RJ).",
    "associations_rejected_full_total": "Of those: every place for an association was taken.",
    "associations_displaced_total": "Associations ended, storing nothing, for peers that waited.",
    "associations_aborted_total": "Associations that ended with A-ABORT or a lost connection.",
    "echoes_total": "C-ECHO requests answered.",
    "instances_received_total": "Instances answered with status 0000.",
    "instances_refused_total": "Instances answered with a failure status.",
    "instances_duplicate_total": "Instances that an open envelope already held, byte for byte.",
    "instances_conflicting_total": "Same SOP Instance UID, other bytes: both kept.",
    "instances_of_another_patient_total": "Instances whose patient is not their study's.",
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
    "receivers_down": "Receiver processes that died and are not back yet.",
    "packers_down": "Packer processes that died and are not back yet.",
    "intake_stopped": "Packers whose storage failed twice: no associations are accepted.",
    "upstreams_held": "Upstreams on hold after 401, 403 or a redirect.",
}
"""Names and meanings of the values that rise and fall; the API shows their sums."""

_INDEX: Final = {name: index for index, name in enumerate([*COUNTERS, *GAUGES])}
_ROW: Final = 64
_CELL_MAX: Final = 2**64 - 1
assert len(_INDEX) <= _ROW


class MetricsPage:
    """The shared page. Made by the supervisor before it forks; `row(n)` is for process n."""

    def __init__(self, rows: int) -> None:
        self._map = mmap.mmap(-1, max(rows, 1) * _ROW * 8)
        self._cells = memoryview(self._map).cast("Q")
        self.rows = rows

    def row(self, index: int) -> Metrics:
        """Returns the row of one process. Its gauges begin at zero, whatever a predecessor left."""
        cells = self._cells[index * _ROW : (index + 1) * _ROW]
        for name in GAUGES:
            cells[_INDEX[name]] = 0
        return Metrics(self, cells)

    def total(self, name: str) -> int:
        """Returns one counter or gauge, summed over the processes."""
        return sum(self._cells[_INDEX[name] :: _ROW])

    def totals(self) -> dict[str, int]:
        """Returns every counter and gauge, summed over the processes."""
        return {name: self.total(name) for name in _INDEX}


class Metrics:
    """One process's row."""

    def __init__(self, page: MetricsPage, cells: memoryview) -> None:
        self._page = page
        self._cells = cells

    def add(self, name: str, amount: int = 1) -> None:
        """Adds to a counter. Raises KeyError for a name that is not in COUNTERS or GAUGES.

        A gauge does not fall below zero: a wrong number must not end the process that counts.
        """
        value = self._cells[_INDEX[name]] + amount
        self._cells[_INDEX[name]] = value if 0 <= value <= _CELL_MAX else 0

    def set(self, name: str, value: int) -> None:
        """Sets a gauge of this process."""
        self._cells[_INDEX[name]] = value

    def total(self, name: str) -> int:
        """Returns one counter or gauge, summed over the processes."""
        return self._page.total(name)

    def totals(self) -> dict[str, int]:
        """Returns every counter and gauge, summed over the processes."""
        return self._page.totals()
