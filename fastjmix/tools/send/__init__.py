"""A small Storage SCU: DICOM files to any Storage SCP, each data set byte for byte.

    walk.py          paths → files, and what is met and is none
    media.py         DICOMDIR → files
    files.py         files → instances: what can be sent, and what is skipped and why
    peer.py          whom we call, and the errors of the caller
    association.py   the requestor: one association on one blocking socket
    record.py        what a peer has accepted already, in a file
    report.py        outcomes and statuses in words
    run.py           instances → associations → report

Wanted: what a modality does, repeatable by a person at a terminal, by the demo and by the tests.
Guaranteed: nothing is decoded or transcoded. Each (SOP class, transfer syntax) pair in the files
is a presentation context of its own, so a peer can accept only the bytes that there are. Every
file is accounted for: skipped with a reason, or an outcome with the peer's status or with the
reason why there is none. An association that breaks costs the instance in flight, not the rest.
Why not pynetdicom's SCU: its reactor thread now and then takes the answer that send_c_store is
waiting for (3.0.4: about one instance in a thousand on a busy machine, then 60 s of silence).
Still wrong: UIDs come from the File Meta Information; a file in which the data set says otherwise
is refused by a careful SCP (0xA900). No TLS, no user identity, no asynchronous operations.
Nothing here prints: `on_outcome` is told, the report is returned.
"""

from fastjmix.dicom.requests import VERIFICATION
from fastjmix.errors import UsageError
from fastjmix.tools.send.association import echo
from fastjmix.tools.send.files import Instance, Names, Skipped, find
from fastjmix.tools.send.peer import NoAssociation, Peer
from fastjmix.tools.send.record import Record
from fastjmix.tools.send.report import (
    INTERRUPTED,
    Outcome,
    Report,
    category,
    describe,
    described,
    kind_of,
)
from fastjmix.tools.send.run import MAX_IN_VAIN, NOTHING, send, send_files

__all__ = [
    "INTERRUPTED",
    "MAX_IN_VAIN",
    "NOTHING",
    "VERIFICATION",
    "Instance",
    "Names",
    "NoAssociation",
    "Outcome",
    "Peer",
    "Record",
    "Report",
    "Skipped",
    "UsageError",
    "category",
    "describe",
    "described",
    "echo",
    "find",
    "kind_of",
    "send",
    "send_files",
]
