"""Envelopes in a person's hands: `fastjmix envelope` and the same verbs for Python.

    commands.py    arguments → the verbs below; error → exit code
    building.py    build: DICOM files → an envelope
    converting.py  convert: another envelope → an envelope
    decrypting.py  decrypt: the same envelope, its payload open
    extracting.py  extract: members → files
    output.py      a new file or folder, as a whole or not at all
    zipping.py     an archive, written as the packer writes it
    fetch.py       an envelope from an HTTP server
    summary.py     what the documents say, as a value; show.py for a person

Wanted: look into, prove, make and take apart any envelope, of either profile, a ZIP or a folder.
Guaranteed: what a verb writes is there as a whole or not at all, and never outside the target; what
stands there is left alone unless `force` says otherwise. Nothing is logged.
Still wrong: verify is in jmix/read/verify.py, as the doors share it. One envelope at a time.
"""
