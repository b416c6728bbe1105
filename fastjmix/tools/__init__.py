"""Commands beside the gateway: none of them is imported by a process of it.

envelope/   build, convert, decrypt, extract, inspect, verify
send/       a Storage SCU
store/      an embedded JMIX server over a directory
tune/       measures which setting costs what
demo.py     the whole pipeline on one machine, in some seconds
"""
