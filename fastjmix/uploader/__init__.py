"""Process: outbox → upstream → sent. The only process that holds the upstreams' credentials.

loop.py             the process: wakes, starts, stops
pace.py             its bounds and intervals
outbox_watcher.py   finds new envelopes in outbox/
backlog.py          the envelopes that are known, each put into a queue
target.py           one upstream, with what is under way there
adoption.py         takes over another configuration while uploads run
queue.py            envelopes that wait for an upstream, oldest first
deliveries.py       uploads under way
attempt.py          one attempt to deliver an envelope
targets/            the kinds of targets, behind one contract
proxies.py          the proxy of a target
throttle.py         bytes a second to a target; schedule.py: when it may be sent to
steps.py            calls to a file system that may never answer
client.py           HTTP with one upstream; connections.py, request_body.py: its parts
content_coding.py   Content-Encoding of an answer, within a bound
answers.py          reads an upstream's answer
outcome.py          the outcome of an attempt, as a value
policy.py           decides what an answer means; conflict.py: what a 409 means
retry.py            when to try again; availability.py: whether an upstream may be tried now
size_limit.py       the size of envelope that an upstream takes, learnt from its 413
upstream_facts.py   what an upstream's answers have proved; upstream_memory.py: over restarts
integrity.py        checks an archive against what was sealed
hooking.py          leads an envelope through the hooks of its pipeline
finishing.py        brings an envelope to its place after an attempt; receipts.py: the records there
moves.py            moves in the spool, tried again until the disk lets them through
draining.py         says when nothing more can be delivered now
history.py          sends what happened to the ledger
reports.py          sends an outcome to the process that waits for it
maintenance.py      retention, the queue's age
disk_watch.py       logs when free space passes a mark
scrub.py            reads what has waited for long, to find damage in time
"""
