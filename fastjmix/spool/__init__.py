"""Passage 2, disk: building → outbox → sent | rejected. fsync and rename live only here.

State is place. Each step is one rename; each state and what a leftover of it means:

    S1 building/<id>/          being packed: envelope.zip (members so far), draft.json (how to
                               finish it), promised (which members were acknowledged, and what
                               their receiver noted of some: journal.py).
                               A crash may leave it: the packer cuts the tail that was never
                               acknowledged, and seals what is whole, or deletes it if nothing was.
                               What was acknowledged and is damaged goes to S4, loudly; the rest is
                               copied into a fresh draft (recovery.py).
       building/<id>/suspect   a sync of that archive failed: it is read, never written again.
       building/<id>/sealed.zip.new  the same envelope in another form (encrypted), being written:
                               of no worth, made anew.
       building/<id>/sealed.zip  that form, complete, its ticket.json beside it: only it counts.
                               The packer deletes envelope.zip, if that is still there, and moves it
                               to S2.
       building/<id>/damaged   bytes on their way to S4: goes with the draft.
       building/packer-*.draft/  a draft being made, or one whose promises stand in another draft:
                               deleted by the next packer of that number.
       building/packer-*.spill an instance larger than its lane, not yet whole: deleted likewise.
       building/<id>.upload    received by the API, not yet accepted: deleted at start.
    S2 outbox/<id>.zip         sealed, complete, promised. outbox/<id>.json, its ticket, is durable
                               before the archive arrives; a ticket alone is deleted at start,
                               unless its draft is in building/: then the seal is done again, to
                               the same bytes.
    S3 sent/<id>.zip           delivered; the ticket beside it holds the receipt. The receipt is
                               durable before the archive moves: a receipt in sent/ whose archive is
                               still in outbox/ is finished at start, without a second upload.
    S4 rejected/<id>.zip       refused for good, or damaged (perhaps only the damaged bytes:
                               its .json says which). Kept for a person; never deleted here.
       */*.new                 a file being made, to be renamed: deleted at start.

A draft that replaces another says so in its draft.json ("replaces"). While both are there the older
one counts and the newer is deleted; the older leaves by one rename when the newer is durable.

Names are made here, never taken from a peer. Directories are 0700, files 0600.
Knows no HTTP and no DICOM.

    states.py    Spool: the directories, the steps, what a crash left
    draft.py     Draft, Leftover: S1; spill.py: an instance that is larger than its lane
    place.py     is a file still where its path leads? What a deleted directory leaves open
    journal.py   building/<id>/promised
    ticket.py    what stands beside a sealed envelope
    remembered.py  <root>/upstreams.json: a hint that survives a restart
    root.py      the directory that was claimed, and another in its place
    room.py      free bytes and inodes: two marks of each
    ground.py    disk or memory? files.py: write all, or raise

Still wrong: a spool on a file system without atomic rename (some network mounts) is not detected.
"""

from fastjmix.spool.draft import Draft, Leftover
from fastjmix.spool.files import MISSING, OWN, SCARCE, sync_directory
from fastjmix.spool.journal import Promises
from fastjmix.spool.place import save
from fastjmix.spool.remembered import Remembered
from fastjmix.spool.room import DRAFT_INODES, OPEN_INODES, POST_INODES, Room, seal_bytes
from fastjmix.spool.spill import Remade, Spill
from fastjmix.spool.states import Spool, State
from fastjmix.spool.ticket import Ticket

__all__ = [
    "DRAFT_INODES",
    "MISSING",
    "OPEN_INODES",
    "OWN",
    "POST_INODES",
    "SCARCE",
    "Draft",
    "Leftover",
    "Promises",
    "Remade",
    "Remembered",
    "Room",
    "Spill",
    "Spool",
    "State",
    "Ticket",
    "save",
    "seal_bytes",
    "sync_directory",
]
