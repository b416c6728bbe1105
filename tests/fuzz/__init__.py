"""Fuzzing with sanitizers: four targets, one driver.

    target_pdu.py        P-DATA-TF framing, in arbitrary splits, through a lane to its packer
    target_associate.py  A-ASSOCIATE-RQ items, through the whole negotiation
    target_command.py    command sets, and the responses to them
    target_head.py       the head of a data set, deflated ones too
    control.pyx          deliberate faults: that they are found is why a silent run is believed
    build.py             the core and the controls with AddressSanitizer, UBSan and coverage
    run.py               libFuzzer (atheris) over one target; keeps and shrinks what it finds
    seeds.py             writes the first inputs into corpus/
    corpus/<target>/     inputs kept for ever: seeds, and one for each finding

The first line of a target's docstring is its invariant. A target is a module with
`one(data)`, which raises when it is broken; it runs with the ordinary core too (fuzz/test_fuzz.py).
"""
