"""Bytes and meaning of the DICOM wire. Sans-I/O: no socket, no file, no clock.

associate_rq.py  an A-ASSOCIATE-RQ, read
association.py   the acceptor's answer to it
dimse.py         DIMSE statuses and responses, written
refusals.py      the reason of a refused data set, in words
foreign.py       other protocols, by their first bytes
requests.py, responses.py  the requestor's half, for `send`, `tune` and bench/
syntaxes.py      the encoding of a data set, by its transfer syntax
head.py          the head of a data set and its faults, read from a file
dataset.py       File Meta Information; descriptive elements
charsets.py      text by Specific Character Set
"""
