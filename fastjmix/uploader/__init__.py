"""Process: outbox → upstream → sent. The only process that holds the upstreams' credentials.

loop.py             deliveries under way, waiting, and their ends
outbox_watcher.py   finds new envelopes in outbox/
queue.py            envelopes that wait for an upstream, oldest first
attempt.py          one attempt to deliver an envelope
client.py           HTTP with one upstream
content_coding.py   Content-Encoding of an answer, within a bound
answers.py          what an upstream answered
policy.py           what that answer means, and when to ask again
upstream_facts.py   what an upstream has shown of itself; upstream_memory.py: over restarts
integrity.py        is the archive still what was sealed?
outcomes.py         tells the process that waits for an envelope its outcome
maintenance.py      retention, the marks of the disk, a scrub of what waits
"""
