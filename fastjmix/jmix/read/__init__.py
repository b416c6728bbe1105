"""Envelopes that others made, read as a stranger's: strictly, in pieces, within limits.

unzip.py           a ZIP: structure first, members on request; directory.py: its directory
container.py       ZIP or folder, with the documents in it
admission.py       is this ZIP an envelope? The check of every POST
verify.py          everything that can be said against an envelope; report.py: as values
rules.py           the form of the documents
inside.py          what is remembered of a payload as it goes by
member_file.py     a member as a file object
portable_names.py  names that some file systems cannot hold
"""
