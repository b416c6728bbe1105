"""Process: HTTP listeners. They serve envelopes, health and metrics; POST passes one on.

server.py       the process: sets up its parts, ends them
listeners.py    the HTTP listeners: they come, go, and change while they serve
adoption.py     takes over another configuration
routes.py       the routes of one listener
serving.py      GET: envelopes of a study, an archive, a manifest
lookup.py       one envelope by its id, in any state
posting.py      POST: receives an envelope, and passes it on
study_index.py  the envelopes of a study: an index in memory over the spool's directories
listings.py     the ids in these directories
outcomes.py     the uploader's outcomes, for the requests that wait
node_state.py   is this node ready?
warnings.py     what a person should look at, though it is
exposition.py   what this node counts, measures and is, for Prometheus
board_families.py  the same of upstreams and of the ledger
shared.py       what the listeners share
admin/          the node itself: status, search, actions; the local socket
"""
