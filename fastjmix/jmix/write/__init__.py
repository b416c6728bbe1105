"""Bytes of an envelope that is being made.

archive.py       ZIP: member headers and central directory
envelope.py      the envelope as a value: its instances, and how they are described
described.py     merges what the instances say of study, series and patient
profiles.py      the profiles by name: harmony.py and published.py
listing.py       what the documents of both say of the payload's files
parties.py       parties, permissions and keys of a published envelope
payload_hash.py  hashes over the payload
signing.py       manifest.jws
assertions.py    who sender, requester and receiver are
encryption.py    the payload for one recipient; tarball.py: its plaintext as a tar
"""
