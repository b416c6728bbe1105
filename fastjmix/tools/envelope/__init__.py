"""Commands for envelopes: `fastjmix envelope`, and the same functions for Python.

    commands.py    arguments → the functions below; error → exit code
    building.py    build: DICOM files → an envelope
    converting.py  convert: another envelope → an envelope
    decrypting.py  decrypt: the same envelope, its payload decrypted
    extracting.py  extract: members → files
    output.py      a new file or folder, complete or absent
    zipping.py     an archive, written as the packer writes it
    fetch.py       an envelope from an HTTP server
    summary.py     the contents of the documents, as a value; show.py prints it

Wanted: inspect, verify, make and extract any envelope, of either profile, a ZIP or a folder.
Guaranteed: an output is complete or absent, and never outside the target; an existing target is
left alone unless `force` is given. Nothing is logged.
Still wrong: one envelope at a time.
"""
