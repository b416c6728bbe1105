"""Routes: ordered rules that say what becomes of an instance, and where its envelope goes.

    choices.py    the actions and priorities of rules
    rules.py      a route, its rules and their conditions, as frozen data; the facts of an instance
    glob.py       patterns with * and ?
    conditions.py why a condition does not hold
    router.py     the first rule that matches an instance; the rules that its envelope decides
    at_seal.py    the first of those rules that matches the envelope; their form in draft.json
    coverage.py   rules that can never match

Guaranteed: nothing here opens a file or a socket, or looks at a clock. The same facts give the same
decision, in any process. A fact that is unknown meets no condition.
"""
