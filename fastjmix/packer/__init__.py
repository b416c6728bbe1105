"""Process: lanes → archive → spool, and digests behind. Never sees a DICOM socket.

loop.py            takes instances out of the lanes, commits them, answers, seals in time
open_envelope.py   one envelope that is being packed: draft on disk, contents in memory, timers
open_envelopes.py  those of one packer: by study, by association, and which is due next
senders.py         which associations send to which studies
duplicates.py      an instance that came before: by length and CRC-32
conflicts.py       instances that contradict others of their envelope
spills.py          instances that are larger than their lanes
digests.py         SHA-256 or BLAKE3 of instances that are written
statuses.py        C-STORE statuses on their way to the lanes
seal.py            documents, central directory, the way to outbox/
recovery.py        what a crash or a failed sync left → an envelope, or nothing
member_survey.py   the whole and the damaged members of a leftover archive
recovery_queue.py  recovers drafts beside the loop, one at a time
instances.py       which instance a member of a draft holds
storage_health.py  stops the intake while storage fails
reservation.py     bytes and inodes that are still to be taken
worker.py          a thread beside the loop
"""
