"""Tools beside the gateway. No process of the gateway imports them; fastjmix/cli/ has the commands.

envelope/   build, convert, decrypt, extract, inspect, verify
send/       a Storage SCU
store/      an embedded JMIX server over a directory
tune/       measures the cost of each setting
launch.py   a fastjmix command in a process of its own, for demo and tune
drain.py    has a running node drained, and follows it
demo/       the whole pipeline on one machine, in some seconds
"""
