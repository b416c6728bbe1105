"""Process "ledger": events → the ledger. The ledger itself is ledger/, for whoever reads it.

loop.py      the process: wakes, writes, stops
store.py     the open file, and what happens when the disk or the file fails
chores.py    comparison with the directories, and expiry, a step at a time
counters.py  labelled counters for /metrics
report.py    the ledger's row on the board
"""
