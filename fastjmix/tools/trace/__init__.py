"""`fastjmix trace`: the whole story of a word, from the ledger.

show.py   story → lines
"""
