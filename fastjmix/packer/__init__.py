"""Process: lanes → archive → spool, and digests behind.

An instance goes through these parts:

    arrives     spill_writer.py        larger than its lane: its pieces go to a file
    is whole    arrivals.py            refused, joined, or appended at once
                routes.py              rejected or discarded by a rule, or which rules it goes by
                envelope_choice.py     the envelope of its study, or a new one; free space for it
    appended    appender.py            then counted; its digest is to be made, its status to come
                joiner.py              larger than its lane: from its file, on a thread
                open_envelope.py       one member of the archive
    committed   group_commit.py        fdatasync, then the statuses of all that it covers
                awaiting_upstream.py   or the upstream's answer (ack = "uploaded")
    status      statuses.py            C-STORE status, by way of its lane
    digested    background_digests.py  while there is nothing else to do
    sealed      seal_schedule.py       when its envelope is complete, or early
                sealer.py              documents, central directory, outbox/ (seal.py)

    loop.py                runs the parts in their order; parts.py makes them
    open_envelopes.py      those of one packer: by study, by association, and which is due next
    seal_timers.py         when an envelope is due
    draining.py            seals early while the supervisor drains
    senders.py             which associations send to which studies
    duplicates.py          instances whose bytes are there already
    origins.py             whence the instances of an envelope came: its provenance
    conflicts.py           instances that contradict others of their envelope
    spilled_instances.py   files of instances that are larger than their lanes
    digests.py             the digests that are still to be made
    refusals.py            instances that could not be stored
    failed_envelopes.py    envelopes that could not be written or sealed → recovery
    takeover.py            what earlier processes left → recovery
    recovery_queue.py      recovers drafts beside the loop, one at a time
    member_survey.py       whole and damaged members of a leftover archive
    recovery.py            what a crash or a failed sync left → an envelope, or nothing
    instances.py           which instance a member of a draft holds
    storage_health.py      stops the intake while the storage fails
    free_space.py          refuses what there is no space for
    reservation.py         bytes and inodes that are still to be taken
    adoption.py            a new configuration
    worker.py              a thread beside the loop
"""
