"""Memory and descriptors that processes share. All of it is unnamed, and inherited over fork(2).

lane.py          receiver → packer: a ring of bytes for each association
shared_lanes.py  the lanes, and an eventfd for each process that is to be woken
outcome.py       uploader → the process that waits for an envelope
actions.py       api → uploader and back: what a person asks for
requests.py      api → supervisor and back: what a person asks of the node itself
configuration.py  supervisor → each child: a configuration that replaces the one before
channels.py      descriptors that the supervisor hands to each child
drain.py         what the supervisor asks of the others while it drains
events.py        every process → the ledger: what happened, in one pipe
state_board.py   the latest state of a process, for the others to read
metrics.py       counters, gauges, histograms: one page, one row for each process
metric_families.py  their names, meanings, labels and buckets
ingest_rules.py  the rules that an instance falls under, as a number that fits in a lane
"""
