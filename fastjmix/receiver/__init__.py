"""Process: sockets + associations → lanes. Never hashes, never writes a file.

Wanted: one process carries all associations at the speed of the network, and one peer's trouble is
its own.
Guaranteed: bytes are received into the association's lane and not moved again; a response leaves
in one send(2) with TCP_NODELAY, and acknowledgements are not delayed (TCP_QUICKACK is re-armed), so
that a sender with Nagle's algorithm on waits for nothing; every wait for a peer has a deadline,
and inside a message a peer must keep a pace (docs/limits.md).
A full lane stops the reading of that socket only.
Still wrong: DICOM over TLS is not offered (put stunnel in front); the C-STORE-RQ's priority is not
looked at.

    connection.py    one peer: its state, and the pace it must keep
    listener.py      one listening socket, and the connections without an association at it
    listeners.py     all of them: what is accepted of what comes
    associate.py     A-ASSOCIATE-RQ: from a connection to an association
    lane_pool.py     the lanes that a receiver holds
    displacement.py  which association ends for a newcomer when all places are taken
    messages.py      DIMSE: what each event of the PDV scanner asks for
    loop.py          sockets, timers, deadlines
"""
