"""Writes envelopes: names, documents, and bytes of archive and ciphertext.

archive.py       ZIP: member headers and central directory
envelope.py      the contents of an envelope: its instances, and how they are described
described.py     merges the instances' descriptions of study, series and patient
profiles.py      the profiles by name: harmony.py and published.py
listing.py       the payload's files and instances as entries of documents
parties.py       parties, permissions and keys of a published envelope
payload_hash.py  hashes over the payload
signing.py       manifest.jws
assertions.py    signed statements about sender, requester and receiver
encryption.py    the payload for one recipient; tarball.py: its plaintext as a tar
"""
