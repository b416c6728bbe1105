"""The kinds of targets: how an envelope gets to each, behind one contract.

contract.py   what a kind of target offers: deliver one envelope, verify one that is there, close
opening.py    makes the client of a target from its configuration
jmix.py       a JMIX server, over HTTP
directory.py  a directory, or a share that is mounted there
s3.py         a bucket of an S3 service; s3_errors.py: its refusals; etag.py: its checksums

The queue, the policy of holds and pauses, and the moves in the spool know the contract only.
"""
