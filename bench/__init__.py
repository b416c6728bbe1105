"""Measurements: goals P1 to P12 beside their floors and peers. `python -m bench.run` is the way in.

    run.py             the program: rows, micro suites, results.json, RESULTS.md, results.svg
    bench_pipeline.py  P1 to P12: whole receivers, measured in turns (rounds.py)
    bench_pdv.py, bench_lane.py, bench_digest.py, bench_archive.py, bench_ledger.py
                       parts, with pytest-benchmark
    ledger.py          ten million instances in the ledger: a program of its own
    forms.py           how much of everything: full, short
    study.py sender.py what is sent, and who sends it
    peers.py floor.c script_peer.py    receivers: fastjmix, its peers, the floors
    check.py           is the output what was sent?
    machine.py workspace.py report.py       facts and memory; processes and directories; the papers
    notes.toml         by what a goal that is not met is bounded

The gateway and the wire's bytes are driven by the helpers of the tests.
"""
