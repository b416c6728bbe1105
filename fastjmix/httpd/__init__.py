"""Parts of every HTTP server of ours: the API's listeners and the embedded store.

server.py            negotiation, conditions, ranges, credentials, errors, one log line a request
connection_limit.py  how many connections there may be
upload_body.py       a request body on its way to a file
archive_checks.py    checks posted archives, a few at a time
manifest.py          GET …/manifest
parts.py             says that an answer is one of several envelopes of a study
"""
