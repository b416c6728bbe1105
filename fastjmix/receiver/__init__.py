"""Process: sockets + associations → lanes. Never hashes, never writes a file.

Wanted: one process carries all associations at the speed of the network, and one peer's trouble is
its own.
Guaranteed: bytes are received into the association's lane and not moved again. A response leaves in
one send(2) with TCP_NODELAY, and acknowledgements are not delayed (TCP_QUICKACK is re-armed), so
that a sender with Nagle's algorithm on waits for nothing. Every wait for a peer has a deadline, and
inside a message a peer must keep a pace (docs/limits.md). A full lane stops the reading of its
socket only.
Still wrong: DICOM over TLS is not offered (put stunnel in front); the C-STORE-RQ's priority is not
looked at.

    loop.py           the process: what happened, and which part handles it; deadlines; the drain
    establishment.py  Sta2 and Sta3: from an accepted connection to an association
    states.py         the states of a connection, as PS3.8 §9.2 has them: one table
    upper_layer.py    the connections' sockets and states; the only place that sends and closes
    data_transfer.py  Sta6: from the socket into the lane, from the packer's status to a response
    messages.py       DIMSE: what each finding of the PDV scanner asks for
    associate.py      decides about A-ASSOCIATE-RQs
    connection.py     a connection, its association, and the pace that it must keep
    listener.py       one listening socket
    listeners.py      all of them: accepts, within bounds
    half_open.py      bounds the connections that have no association yet
    draining.py       ends the intake while the supervisor drains
    displacement.py   which association ends for a newcomer when all places are taken
    lane_pool.py      the lanes that the receiver holds
    poller.py         waits for sockets and packers: spins for a moment, then sleeps
    reports.py        what the ledger learns of associations, rejections and refusals
    peer_log.py       log lines about peers without an association, so many a second
"""
