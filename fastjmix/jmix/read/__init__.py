"""Reads envelopes of any program: strictly, in pieces, within limits.

unzip.py              a ZIP: structure first, members on request; directory.py: its directory
container.py          the open envelope, a ZIP or a folder; member_file.py: one member as a file
documents.py          statements of manifest.json and metadata.json
listings.py           listed files, sizes and hashes; member_digests.py: compares them
rules.py              the form of the documents
admission.py          checks whether a ZIP is an envelope, at every POST
verify.py             finds everything that is wrong; report.py: the result
subject.py            the envelope that is verified, with its report
signatures.py         manifest.jws and assertions
plain_payload.py      a payload that is not encrypted; payload.py: checks common to both
encrypted_payload.py  an encrypted payload; inside.py: what is kept of it while it is decrypted
portable_names.py     names that some file systems cannot hold
"""
