"""The ledger: what this node knows of associations, envelopes, attempts and actions, in SQLite.

It outlives the envelopes, and it is a cache: for each envelope that is still on the disk the files
count, and a ledger that is missing, damaged or behind is made right from them (reconcile.py). The
process that writes it is recorder/; everything else reads.

kinds.py        the events that processes send, and the facts of each
terms.py        the forms in which words are searched: UIDs, names, peers
schema.py       tables, and the migrations of earlier versions
database.py     opens, checks and moves away the file
parts.py        which envelopes were split, and into which
writer.py       events → rows; imports.py: files → rows; recording.py: rows of one kind
rebuild.py      makes all of it from the files, while no node runs
reconcile.py    compares the rows with the directories
expiry.py       deletes the oldest rows; privacy.py: takes the patients out
rows.py         the answers, as frozen values
queries.py      searches; story.py: the whole story of a word; reading.py: rows → values
"""
