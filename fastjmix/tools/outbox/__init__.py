"""`fastjmix outbox`: the envelopes that have not arrived, and what a person does with them.

choosing.py   arguments and options → envelopes, read from the directories
acting.py     retry, hold, release, requeue: asked of the running node
exporting.py  archives with their tickets, for another node
splitting.py  parts of an envelope that was too large for its upstream
show.py       one envelope, with all that is known of it
"""
