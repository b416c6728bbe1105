"""Process: HTTP listeners. They serve envelopes, health and metrics; POST passes one on.

server.py        the listeners and their routes
study_index.py   the envelopes of a study: an index in memory over outbox/ and sent/
"""
