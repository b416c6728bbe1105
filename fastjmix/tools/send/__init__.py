"""A small Storage SCU: DICOM files to any Storage SCP, each data set byte for byte.

    walk.py          paths → files, and a reason for each entry that is no file
    media.py         DICOMDIR → files
    files.py         files → instances, and a reason for each file that cannot be sent
    peer.py          the address, titles and timeouts of an association
    association.py   the requestor: one association on one blocking socket
    echo.py          C-ECHO
    other_servers.py  names a server that is no DICOM acceptor
    record.py        the instances that a peer has accepted already, in a file
    report.py        outcomes and statuses in words
    run.py           instances → associations → report

Guaranteed: nothing is decoded or transcoded. Each (SOP class, transfer syntax) pair in the files
is a presentation context of its own, so a peer can accept only the bytes that there are. Every
file is accounted for: skipped with a reason, or an outcome with the peer's status or with the
reason why there is none. An association that breaks costs the instance in flight, not the rest.
pynetdicom's SCU is not used: its reactor thread now and then takes the answer that send_c_store
waits for (3.0.4: about one instance in a thousand on a busy machine, then 60 s of silence).
Still wrong: UIDs come from the File Meta Information; a file in which the data set says otherwise
is refused by a careful SCP (0xA900). No TLS, no user identity, no asynchronous operations.
Nothing here prints: `on_outcome` is called, and the report is returned.
"""

from fastjmix.dicom.requests import VERIFICATION
from fastjmix.errors import UsageError
from fastjmix.tools.send.echo import Echo, echo
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
    "Echo",
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
