"""The spool: an envelope's states on disk, building → outbox → sent | rejected.

The state of an envelope is the directory that holds it, and each step is one rename. The states,
and the meaning of what a crash leaves in each:

    S1 building/<id>/          being packed: envelope.zip (members so far), draft.json (how to
                               finish it), promised (which members were acknowledged, whence they
                               came, and what their receiver noted of some: journal.py).
                               After a crash the packer cuts the tail that was never acknowledged
                               and seals the whole members, or deletes the draft if there are none.
                               Damage to acknowledged members is logged and kept in S4; the other
                               members are copied into a fresh draft (packer/recovery.py).
       building/<id>/suspect   a sync of that archive failed: it is read, never written again.
       building/<id>/sealed.zip.new  the same envelope in another form (encrypted), being written:
                               it is deleted and made anew.
       building/<id>/sealed.zip  that form, complete, its ticket.json beside it: only it counts.
                               The packer deletes envelope.zip, if that is still there, and moves it
                               to S2.
       building/<process>-<uuid>.draft/  a draft being made, or one whose promises another draft
                               keeps: deleted by the next process of that name.
       building/<process>-<uuid>.spill   an instance larger than its lane, not yet whole: likewise.
       building/<process>-<uuid>.upload  received by the API, not yet accepted: likewise. With the
                               id of its envelope as the uuid it is on its way to S2.
    S2 outbox/<id>.zip         sealed, complete, promised. outbox/<id>.json, its ticket, is durable
                               before the archive arrives; a ticket alone is deleted by the next
                               uploader or API, unless its id is in building/: then it is being
                               taken in, or the seal is done again, to the same bytes. An archive
                               alone, or with a ticket that cannot be read, waits for a person.
       outbox/<id>.hold        a person has put the envelope on hold: it is not sent until that file
                               is gone. Without its archive it is deleted at the next start.
       outbox/<id>.<n>.hold    the same for the n-th of several upstreams only.
       outbox/<id>.<n>.ended   the n-th of several upstreams has taken or refused the envelope: its
                               receipt or refusal. The archive stays until the last has. An end
                               without its archive is deleted by the next uploader.
    S3 sent/<id>.zip           delivered; the ticket beside it holds the receipt, or those of all
                               upstreams. The receipt is durable before the archive moves: a receipt
                               in sent/ whose archive is still in outbox/ is finished by the next
                               uploader, without a second upload; one without any archive is left by
                               retention, and deleted.
    S4 rejected/<id>.zip       refused for good, or damaged (perhaps only the damaged bytes:
                               its .json says which), by one of several upstreams at the least:
                               its .json has the end at each. Kept for a person; never deleted here.
                               A person may have it moved back to S2, for those that have not
                               taken it.
                               One that was split has the ids of its parts in its refusal.
                               Also an archive whose name in S3 or S4 is taken, under another id;
                               "envelope" in its refusal is its own.
    provenance/<id>.json       whence the instances of an envelope came, and when; it is durable
                               before the archive is in S2, stays here in every later state, and is
                               deleted with the envelope. One without an envelope in any state is
                               deleted by the next start. An envelope may lack it: it was sealed by
                               an earlier version, or the disk had failed.
       */<process>-<uuid>.new  a file being made, to be renamed: deleted by the next process of
                               that name.

No rename replaces a file (rename.py). A name is ours when it is exactly one of the above
(names.py). Files with other names are foreign: they are never moved or deleted, and the start names
them in one warning. A file with a name of ours that cannot be read, or that we did not write,
concerns its own envelope only.

A draft that replaces another names it in its draft.json ("replaces"). While both are there the
older one counts and the newer is deleted; one rename removes the older when the newer is durable.

Names are made here, never taken from a peer. Directories are 0700, files 0600. The package has no
HTTP and no DICOM in it.

    states.py       Spool: every step between the directories
    standing.py     where an envelope stands: its state, since when, and why
    tally.py        how many envelopes are in each state
    outbox_listing.py  the envelopes that wait in outbox/, by age
    directories.py  the directories under the storage path
    drafts.py       S1: the drafts in building/, new ones and those left by a crash
    prepare.py      makes the directories ready at a start
    lock.py         one fastjmix at a time, of a version that can read the spool
    root.py         the claim on the storage directory
    move.py         moves an archive and its record from one state to the next
    drop.py         deletes a draft
    sweep.py        the unfinished work of a process that ended: cut_off_moves.py ends its moves,
                    findings.py collects what is foreign or cannot be read
    holds.py        outbox/<id>.hold
    ends.py         outbox/<id>.<n>.ended; ending.py: what the last of them does
    retention.py    keeps sent/ within its bounds; aging.py: what upstreams set for themselves
    draft.py        Draft, Leftover: S1; spill.py: an instance that is larger than its lane
    linked.py       does a path still lead to an open file?
    shown.py        puts an archive back that a command has removed
    rescue.py       saves a draft whose directory was deleted
    recipe.py       building/<id>/draft.json; journal.py: building/<id>/promised
    ticket.py       the JSON beside a sealed envelope
    provenance.py   provenance/<id>.json
    association_facts.py  what is kept of an association
    names.py        which names are ours
    reading.py      opens regular files only; rename.py: renames, never replaces
    remembered.py   <root>/upstreams.json, <root>/calling_aes.json: hints that survive a restart
    calling_aes.py  which calling AE titles come back for a study
    free_space.py   free bytes and inodes: two marks of each
    elsewhere.py    writes a file into a directory that is not ours
    conditions.py   what to warn of before instances come
    files.py        writes all bytes, or raises

Still wrong: a spool on a file system without atomic rename (some network mounts) is not detected.
"""

from fastjmix.spool.association_facts import AssociationFacts
from fastjmix.spool.directories import State
from fastjmix.spool.draft import Draft, Leftover
from fastjmix.spool.ending import Ends
from fastjmix.spool.files import sync_directory
from fastjmix.spool.free_space import (
    DRAFT_INODES,
    OPEN_INODES,
    POST_INODES,
    SENT_INODES,
    FreeSpace,
    seal_bytes,
)
from fastjmix.spool.journal import Promises
from fastjmix.spool.provenance import Provenance
from fastjmix.spool.recipe import Recipe
from fastjmix.spool.remembered import Remembered
from fastjmix.spool.rescue import save
from fastjmix.spool.retention import Retention
from fastjmix.spool.spill import Remade, Spill
from fastjmix.spool.states import Spool
from fastjmix.spool.ticket import Ticket

__all__ = [
    "DRAFT_INODES",
    "OPEN_INODES",
    "POST_INODES",
    "SENT_INODES",
    "AssociationFacts",
    "Draft",
    "Ends",
    "FreeSpace",
    "Leftover",
    "Promises",
    "Provenance",
    "Recipe",
    "Remade",
    "Remembered",
    "Retention",
    "Spill",
    "Spool",
    "State",
    "Ticket",
    "save",
    "seal_bytes",
    "sync_directory",
]
