"""The node itself over HTTP, for the page and the commands: /api/node (routes.py).

routes.py     the routes, for a TCP listener and for the local socket
callers.py    who may act, and in whose name
local.py      the local socket (control/): served while the process runs
parameters.py the parameters of a query → a selection of envelopes, a search in the ledger
uploader.py   actions on envelopes, passed to the uploader
supervisor.py reload and drain, passed to the supervisor
status.py     how the node is, as one object: its parts are
  envelopes.py    envelopes by state
  associations.py open associations, and how fast each is
  rates.py        what was received and delivered in the last hour
  advice.py       what a person can do about an error
feed.py       the status each second, as server-sent events
"""
