"""`fastjmix status`: how a node is.

reading.py   the status of a running node, over its local socket; of a stopped one from its files
show.py      status → lines
"""
