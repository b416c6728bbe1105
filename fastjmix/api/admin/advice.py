"""Says what a person can do about an error of the log, by its event's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fastjmix.control.node_status import AdvisedError
from fastjmix.ledger.rows import ErrorRow

ADVICE: Final[Mapping[str, str]] = {
    # The storage.
    "append_failed": "look at the disk and its kernel messages (dmesg); what was promised is safe",
    "commit_failed": "look at the disk and its kernel messages (dmesg); what was promised is safe",
    "disk_below_mark": "free some space, give it a larger disk, or shorten retention",
    "expiry_failed": "look at the rights and the disk under sent/: delivered envelopes stay there",
    "instance_lost": "send that study again from the modality or the PACS, and look at the disk",
    "intake_stopped": "look at the disk: reception begins again by itself when it is well",
    "intake_still_stopped": "look at the disk: reception begins again by itself when it is well",
    "action_failed": "report it with the lines behind it: the envelope is as it was",
    "leftovers_unreadable": "look at the rights and the disk under building/, then restart",
    "outbox_unreadable": "look at the rights and the disk under outbox/: nothing is delivered",
    "provenance_names_patient": "delete the file that the line names, if nothing of the patient may"
    " stay; its envelope does not need it",
    "provenance_failed": "look at the rights and the disk under provenance/; the images are safe",
    "recovery_failed": "look at building/ and the disk; it is tried again by itself",
    "scrub_failed": "look at the disk: an envelope that waits cannot be read back",
    "seal_failed": "look at the disk and the keys; the draft stays in building/ and is tried again",
    "spill_failed": "look at the disk; the modality was told, and sends that instance again",
    "spool_step_failed": "look at the file that the line names, its rights and the disk",
    "storage_unready": "look at the storage directory: nothing is taken until it can be used",
    "digest_failed": "look at the disk: an instance that was written cannot be read back",
    # Envelopes.
    "catalogue_unreadable": "look at the rights and the disk under outbox/ and sent/",
    "envelope_damaged": "see rejected/: what is whole was delivered; send the study again",
    "envelope_rejected": "fastjmix outbox list --rejected says why; put it right, then fastjmix"
    " outbox requeue",
    "envelope_unreadable": "look at the file in outbox/ and the disk; move it away if foreign",
    "key_unreadable": "put the key file back, or correct its rights: the draft waits for it",
    "envelope_lost": "look who deleted it, and at the disk; send the study again",
    "member_damaged": "send that study again, and look at the disk; the bytes are in rejected/",
    "name_taken": "two archives have one id: look at both in rejected/, and delete one by hand",
    "queue_is_old": "see what the upstream answers; then fastjmix outbox retry",
    "ticket_unreadable": "look at the .json beside the archive, and at the disk",
    "ticket_damaged": "look at the .json beside the archive, and at the disk",
    "upload_abandoned": "restart fastjmix if it comes again, and report it: it is a fault of ours",
    "upload_fault": "the envelope is tried again; report it: it is a fault of ours",
    "hook_failed": "see what the hook wrote, and put it right; then fastjmix outbox release",
    # Upstreams.
    "upstream_held": "correct the credentials, the URL or what answers there, or mount the"
    " directory; then fastjmix outbox retry",
    "upstream_limit_learnt": "fastjmix outbox split makes parts of what was refused; lower the"
    " jmix_builder's max_envelope_bytes",
    "upstream_unknown": "configure an upstream of that name, or put the old name back; then"
    " fastjmix reload",
    "upstream_paused": "see whether the upstream runs and can be reached",
    # Alerts.
    "alert_dropped": "see whether the webhook runs: too many alerts have waited for it",
    "alerts_failed": "report it: it is a fault of ours; reception and delivery go on",
    "webhook_failed": "correct [alerts] webhook_url, or see what answers there",
    # Processes.
    "action_unreadable": "report it: it is a fault of ours; ask for the action again",
    "child_died": "it was started again; if it comes again, look at memory (dmesg) and report it",
    "child_failed": "it was started again; if it comes again, look at the lines before, and report"
    " it",
    "child_not_handled": "report it: it is a fault of ours; reception and delivery go on",
    "child_not_started": "raise the limit of processes or memory; it is tried again by itself",
    "configuration_not_taken": "raise LimitNOFILE= of the service: the new configuration is sent to"
    " that process again",
    "connection_failed": "report it: it is a fault of ours; that association was aborted",
    "control_unavailable": "look at control.sock in the storage directory: commands need it",
    "proxy_header_refused": "turn the PROXY protocol on for this port at the proxy, or take its"
    " address out of proxy_protocol_from",
    "http_handler_failed": "report it: it is a fault of ours; other requests go on",
    "http_listener_failed": "correct its certificate, its key or its authentication, then fastjmix"
    " reload; until then it goes on as before, or is not served where it is new",
    "log_file_failed": "correct the path and the rights of the log file; lines go to stderr",
    "not_reloaded": "fastjmix check names each fault; the configuration before it stays in force",
    "request_unreadable": "report it: it is a fault of ours; ask for it again",
    "supervisor_failed": "report it: it is a fault of ours; reception and delivery go on",
    "upkeep_failed": "look at the disk; retention is tried again by itself",
    # The ledger.
    "ledger_damaged": "nothing: it was made anew from the files; look at the disk",
    "ledger_failing": "free some space under ledger/, and look at the disk; images are taken and"
    " delivered all the same",
    "ledger_fault": "report it: it is a fault of ours; images are taken and delivered all the same",
}

OTHERWISE: Final = "see the log of fastjmix"


def advised(row: ErrorRow) -> AdvisedError:
    """Returns an error of the ledger as JSON, with what to do about it."""
    return {
        "at": row.at,
        "last": row.last,
        "times": row.times,
        "process": row.process,
        "event": row.event,
        "text": row.text,
        "what_to_do": advice(row.event),
    }


def advice(event: str) -> str:
    """Returns what to do about an event."""
    return ADVICE.get(event, OTHERWISE)
